"""A file for the viewer rerun (`rerun-sdk`): what the cameras saw, state, actions and rewards over time."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hilrl_cli.errors import UserError


def write(out: Path, episodes: Iterable[Any], contract: Any, count: int, seen: Callable[[Any], None]) -> None:
    """Write all episodes, one after another on the time line `step`.

    Args:
        out: File to write.
        episodes: Of a source.
        contract: That they fit.
        count: Number of the episodes; not needed here.
        seen: Called with each step.

    Raises:
        UserError: rerun is not installed.
    """
    try:
        rerun = importlib.import_module("rerun")  # not among the suite's dependencies
    except ImportError:
        raise UserError(f"{out}: needs the package rerun-sdk: pip install rerun-sdk") from None
    from hilrl_ros.images import to_rgb

    recording = rerun.RecordingStream("hilrl")
    recording.save(out)
    number = 0
    for episode in episodes:
        recording.set_time("step", sequence=number)
        recording.log("task", rerun.TextLog(f"episode {episode.info.episode}: {episode.info.text}"))
        for step in episode.steps:
            recording.set_time("step", sequence=number)
            for (name, camera), picture in zip(
                contract.cameras.items(), step.observation.images, strict=True
            ):
                recording.log(f"cameras/{name}", rerun.Image(to_rgb(picture)[-camera.size[0] :]))
            for kind, names, values in (
                ("state", contract.state_names, step.observation.state),
                ("action", contract.action.names, step.executed.action),
                ("reward", ("reward",), (step.reward.reward,)),
                ("person", ("person",), (step.executed.controller,)),
            ):
                for name, value in zip(names, values, strict=True):
                    recording.log(f"{kind}/{name}", rerun.Scalars(value))
            number += 1
            seen(step)
    recording.flush()
