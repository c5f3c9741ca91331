"""A picture of some episodes of a dataset: what the cameras saw, what was done, what it earned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

EPISODES, FRAMES = 6, 8  # of a dataset, of an episode


def write(out: Path, episodes: Iterable[Any], contract: Any, count: int, seen: Callable[[Any], None]) -> None:
    """Draw episodes from all over a dataset, one a row.

    Args:
        out: Picture to write.
        episodes: Of a source.
        contract: That they fit.
        count: Number of the episodes; 0: unknown, then the first ones are drawn.
        seen: Called with each step that was read.
    """
    from matplotlib.figure import Figure

    chosen = (
        set(np.linspace(0, count - 1, min(EPISODES, count)).astype(int)) if count else set(range(EPISODES))
    )
    rows = []
    for number, episode in enumerate(episodes):
        if number in chosen:
            rows.append((episode.info, _read(episode.steps, contract, seen)))
        if number >= max(chosen):
            break
    columns = FRAMES if contract.cameras else 0
    height = 1.1 * max(1, len(contract.cameras)) + 0.5
    figure = Figure(figsize=(1.1 * columns + 5, height * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (info, (frames, actions, rewards)) in zip(parts, rows, strict=True):
        title = f"episode {info.episode}: {len(rewards)} steps, return {sum(rewards):.3g}   {info.text}"
        part.suptitle(title, fontsize=8, x=0.01, ha="left")
        axes = part.subplots(
            max(1, len(contract.cameras)), columns + 1, squeeze=False, width_ratios=[1] * columns + [4]
        )
        for axis in axes.flat:
            axis.axis("off")
        picked = np.unique(np.linspace(0, len(rewards) - 1, FRAMES).astype(int))
        for row, name in enumerate(contract.cameras):
            for column, k in enumerate(picked):
                axes[row, column].imshow(frames[k][name])
                axes[row, column].set_title(f"{name} {k}", fontsize=6, pad=2)
        graph = part.add_subplot(axes[0, 0].get_gridspec()[:, -1])
        graph.plot(actions, linewidth=0.8, label=contract.action.names)
        graph.plot(rewards, color="black", linewidth=1.2, label="reward")
        graph.tick_params(labelsize=6)
        graph.legend(fontsize=5, loc="upper left", ncols=4)
    figure.savefig(out, dpi=110)


def _read(
    steps: Iterable[Any], contract: Any, seen: Callable[[Any], None]
) -> tuple[list, np.ndarray, list[float]]:
    """Return images by camera, actions [N, A] and rewards of an episode."""
    from hilrl_ros.images import to_rgb

    frames, actions, rewards = [], [], []
    for step in steps:
        sizes = ((name, camera.size[0]) for name, camera in contract.cameras.items())
        pictures = zip(sizes, step.observation.images, strict=True)
        frames.append({name: to_rgb(picture)[-height:] for (name, height), picture in pictures})
        actions.append(step.executed.action)
        rewards.append(step.reward.reward)
        seen(step)
    return frames, np.array(actions), rewards
