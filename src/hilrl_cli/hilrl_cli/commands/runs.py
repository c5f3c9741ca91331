"""hilrl runs: what runs there are, how good they are and how quick."""

from __future__ import annotations

import argparse
from pathlib import Path

from hilrl_cli import environment
from hilrl_cli.errors import UserError

_NAME, _WIDE = 20, 400  # least width of the runs' names; width where no terminal cuts lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="folder of the runs")


def run(arguments: argparse.Namespace) -> int:
    """List the runs: success rates, and beside each the mean robot time of a success."""
    environment.enter()
    from rich.console import Console
    from rich.table import Table

    from hilrl_actor.curves import RunError, read_summary

    if not arguments.folder.is_dir():
        raise UserError(f"{arguments.folder}: no such folder; `hilrl train` makes runs below ./runs")
    table = Table(box=None, header_style="bold")
    columns = ("run", "task", "agent", "seed", "state", "success", "imitation", "steps", "wall s")
    for column in columns:
        words = column in ("run", "task", "agent", "state")
        # a run's name is what other commands want
        table.add_column(
            column, justify="left" if words else "right", no_wrap=not words, overflow="fold",
            min_width=_NAME if column == "run" else None,
        )  # fmt: skip
    count = 0
    for folder in sorted(arguments.folder.iterdir()):
        try:
            summary = read_summary(folder)
        except (RunError, NotADirectoryError):
            continue
        try:
            table.add_row(*_row(folder, summary))
        except (KeyError, TypeError):
            continue  # not what a run writes
        count += 1
    if not count:
        raise UserError(f"{arguments.folder}: holds no runs")
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table)
    return 0


def _row(folder: Path, summary: dict) -> list[str]:
    """Return a run's cells."""
    finished = (folder / "summary.json").exists()
    success = summary["success_rate"] if finished else summary["autonomous_success"]
    return [
        folder.name, Path(summary["task"]).stem, Path(summary["agent"]).stem, str(summary["seed"]),
        "finished" if finished else summary["phase"],
        _figure(success, summary.get("cycle_time_s")),
        _figure(summary.get("bc_rate"), summary.get("bc_cycle_time_s")),
        str(summary["robot_steps"]), f"{summary['wall_s']:.0f}",
    ]  # fmt: skip


def _figure(rate: float | None, cycle: float | None) -> str:
    """Return a success rate and the mean robot time of a success, as far as they are known."""
    return " ".join(([] if rate is None else [f"{rate:.0%}"]) + ([] if cycle is None else [f"{cycle:.1f} s"]))
