"""Learning curves of runs: success, intervention and return against robot steps, as one picture."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class RunError(ValueError):
    """A folder that is not a run, or has nothing to show; the message names it and says what is missing."""


@dataclass(frozen=True)
class Curve:
    """Training episodes of a run, oldest first.

    Attributes:
        name: The run's folder.
        steps: Robot steps when each episode ended [N].
        success: 1 where an episode succeeded without any intervention [N].
        person: Share of each episode's steps that a person acted [N].
        returns: Sum of each episode's rewards [N].
        bc_rate: Success of the imitation policy before training, or None.
        evaluations: Robot steps and success of the policy without exploration, each time it was measured.
    """

    name: str
    steps: np.ndarray
    success: np.ndarray
    person: np.ndarray
    returns: np.ndarray
    bc_rate: float | None
    evaluations: list[tuple[int, float]]


def _rows(folder: Path) -> list[dict[str, str]]:
    path = folder / "episodes.csv"
    if not path.is_file():
        raise RunError(f"{folder}: is no run: it has no episodes.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _evaluations(rows: list[dict[str, str]], *phases: str) -> list[tuple[int, float]]:
    """Robot steps and share of successes of each measurement."""
    groups = itertools.groupby(
        (r for r in rows if r["phase"] in phases), lambda r: (r["phase"], int(r["robot_steps"]))
    )
    return [(steps, float(np.mean([r["success"] == "True" for r in group]))) for (_, steps), group in groups]


def read_curve(folder: Path) -> Curve:
    """Read the training curve of a run.

    Raises:
        RunError: It is no run, or it has no training episodes.
    """
    rows = _rows(folder)
    train = [r for r in rows if r["phase"] == "train"]
    baseline = [r["success"] == "True" for r in rows if r["phase"] == "baseline"]
    if not train:
        raise RunError(f"{folder}: has no training episodes yet")
    return Curve(
        name=folder.name,
        steps=np.array([int(r["robot_steps"]) for r in train]),
        success=np.array([float(r["success"] == "True" and r["autonomous"] == "True") for r in train]),
        person=np.array([int(r["person_steps"]) / max(1, int(r["steps"])) for r in train]),
        returns=np.array([float(r["episode_return"]) for r in train]),
        bc_rate=float(np.mean(baseline)) if baseline else None,
        evaluations=_evaluations(rows, "evaluate"),
    )


def read_measured(folder: Path) -> list[tuple[int, float]]:
    """Read how good the policy alone was over a run: robot steps and success, first what training began with.

    Raises:
        RunError: It is no run, or its policy was never measured.
    """
    found = _evaluations(_rows(folder), "baseline", "evaluate")
    if not found:
        raise RunError(f"{folder}: its policy was never measured: it has no episodes of baseline or evaluate")
    return found


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a finished run, or its present status.

    Raises:
        RunError: It is no run, or its files are damaged.
    """
    for name in ("summary.json", "status.json"):
        path = folder / name
        if path.is_file():
            try:
                summary = json.loads(path.read_text())
            except ValueError as e:
                raise RunError(f"{path}: is damaged ({e})") from None
            if not isinstance(summary, dict):
                raise RunError(f"{path}: is damaged (it holds no mapping)")
            return summary
    raise RunError(f"{folder}: is no run: it has neither summary.json nor status.json")


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean over the newest `window` values at each point [N]; fewer at the beginning."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(curves: Sequence[Curve], path: Path, window: int = 20) -> None:
    """Draw curves into one PNG: success, intervention share and return against robot steps.

    Args:
        curves: One or several runs.
        path: PNG to write.
        window: Episodes over which each point is the mean.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(8, 9), sharex=True, constrained_layout=True)
    panels = (
        ("success", "autonomous success"),
        ("person", "share of steps by the person"),
        ("returns", "return"),
    )
    for index, curve in enumerate(curves):
        color = f"C{index % 10}"
        for axis, (field, _) in zip(axes, panels, strict=True):
            values = getattr(curve, field)
            axis.plot(curve.steps, moving_mean(values, window), color=color, label=curve.name)
            if len(curves) == 1:
                axis.plot(curve.steps, values, ".", color=color, alpha=0.25, markersize=4)
        if curve.evaluations:
            measured = curve.evaluations
            if len(measured) > 1 and curve.bc_rate is not None:
                measured = [(0, curve.bc_rate), *measured]
            line = "-" if len(measured) > 1 else "none"
            axes[0].plot(
                *zip(*measured, strict=True), marker="D", linestyle=line, color=color, markeredgecolor="black"
            )
        if curve.bc_rate is not None:
            label = f"imitation alone {curve.bc_rate:.0%}"
            axes[0].axhline(curve.bc_rate, color=color, linestyle="--", linewidth=1, label=label)
    if any(curve.evaluations for curve in curves):
        axes[0].plot([], [], "D", color="none", markeredgecolor="black", label="evaluation, policy alone")
    axes[2].set_ylim(bottom=min(0.0, axes[2].get_ylim()[0]))
    for axis, (_, title) in zip(axes, panels, strict=True):
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    for axis in axes[:2]:
        axis.set_ylim(-0.05, 1.05)
        axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes[0].legend(loc="lower right", fontsize=8)
    axes[0].set_title(f"mean over the last {window} training episodes")
    axes[-1].set_xlabel("robot steps")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_measured(
    lines: Mapping[str, Sequence[Sequence[tuple[int, float]]]], path: Path, title: str = ""
) -> None:
    """Draw the success of the policy alone against robot steps into one PNG, one line for each method.

    A line is the mean over the method's runs, its band reaches from the worst to the best of them. A run that ended
    counts with its last measurement from there on; a mark is where the last run ended.

    Args:
        lines: Of each method, its runs: robot steps and success of each measurement.
        path: PNG to write.
        title: Above the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5), constrained_layout=True)
    for name, runs in lines.items():
        steps = np.unique(np.concatenate([[s for s, _ in run] for run in runs]))
        rates = np.stack([np.interp(steps, *zip(*run, strict=True)) for run in runs])  # holds the last one
        label = f"{name} ({len(runs)} runs)" if len(runs) > 1 else name
        (line,) = axis.plot(steps, rates.mean(0), marker="o", markersize=4, markevery=[-1], label=label)
        axis.fill_between(steps, rates.min(0), rates.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    axis.set_ylim(-0.03, 1.03)
    axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axis.set_xlabel("robot steps")
    axis.set_ylabel("success of the policy alone")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
