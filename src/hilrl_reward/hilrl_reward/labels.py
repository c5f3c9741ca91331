"""Labelled frames: what a person told of recorded episodes, live, while training, or afterwards."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hilrl_msgs.msg import Observation, Reward

from hilrl_data.bags import finished_episodes, read_info, read_steps
from hilrl_reward.terms import SuccessCondition
from hilrl_ros.contract import Contract, Task
from hilrl_ros.messages import Step, named_entries, observation_arrays

LABELS_FILE = "labels.csv"
_TOLD = "told_*.npz"
# a person presses the button that ends a demonstration this late: what was seen just before is not labelled
_REACTION_S = 0.3


class LabelError(ValueError):
    """Labels that cannot be used; the message says which and what would be right."""


@dataclass(frozen=True)
class _Labelled:
    images: dict[str, np.ndarray]
    state: dict[str, float]
    success: bool
    step: int


@dataclass(frozen=True)
class Frames:
    """Labelled frames.

    Attributes:
        images: Of each camera, uint8 [N, H, W, 3], as `Observation.images` holds them.
        success: Whether each frame shows the task solved, bool [N].
        possible: Whether the other conditions of the task's `success` (`and`) hold there, bool [N]. Where they do not,
            a classifier decides nothing.
        episode: Index into `names` of each frame's episode [N].
        step: Step of each frame in its episode [N].
        names: Names of the episodes.
    """

    images: dict[str, np.ndarray]
    success: np.ndarray
    possible: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.success)

    def chosen(self, which: np.ndarray) -> Frames:
        """Return the frames of a mask or of indices."""
        images = {name: pixels[which] for name, pixels in self.images.items()}
        rows = (row[which] for row in (self.success, self.possible, self.episode, self.step))
        return Frames(images, *rows, self.names)

    def split(self, every: int = 5) -> tuple[Frames, Frames]:
        """Return the frames of most episodes and, held out, those of every `every`-th: no episode is in both."""
        held_out = self.episode % every == every - 1
        return self.chosen(~held_out), self.chosen(held_out)


def run_folders(run: Path) -> list[Path]:
    """Return the folders with labels of a run (`labels`, `demos`); of any other folder, itself."""
    return [run / kind for kind in ("labels", "demos") if (run / kind).is_dir()] or [run]


def read_frames(folders: Iterable[Path], contract: Contract, task: Task) -> Frames:
    """Read all labelled frames of folders with recorded episodes.

    Args:
        folders: Of episodes and of what `keep_told` wrote.
        contract: Names the cameras.
        task: Its `success` says which frames a classifier decides.

    Raises:
        LabelError: There is no labelled frame, or none of success, or none of anything else.
        BagError: An episode is damaged or was recorded under another contract.
    """
    if not contract.cameras:
        raise LabelError("a reward classifier looks at images: name `cameras` in the task file")
    folders, condition = (
        list(folders),
        SuccessCondition(f"{task.name}.success", task.success, contract.entry_names),
    )
    images: dict[str, list[np.ndarray]] = {name: [] for name in contract.cameras}
    rows: list[tuple[bool, bool, int, int]] = []
    names: list[str] = []

    def add(name: str, labelled: Iterable[_Labelled]) -> None:
        for frame in labelled:
            if name not in names[-1:]:
                names.append(name)
            for camera, pixels in frame.images.items():
                images[camera].append(pixels)
            rows.append((frame.success, condition.possible(frame.state), len(names) - 1, frame.step))

    for folder in folders:
        for path in finished_episodes(folder):
            add(path.name, _episode_frames(path, contract))
        for path in sorted(folder.glob(_TOLD)):
            add(path.stem, _told_frames(path, contract))
    where = ", ".join(map(str, folders))
    solved = sum(row[0] for row in rows)
    if not 0 < solved < len(rows):
        raise LabelError(
            f"{where}: {solved} of {len(rows)} labelled frames show success, a classifier needs both kinds: "
            "record some with labels:=200, or label recorded episodes with `hilrl reward label`"
        )
    stacked = {camera: np.stack(pixels) for camera, pixels in images.items()}
    return Frames(stacked, *(np.array(column) for column in zip(*rows, strict=True)), tuple(names))


def _episode_frames(path: Path, contract: Contract) -> Iterator[_Labelled]:
    read_info(path, contract.hash())
    steps = list(read_steps(path))
    given = read_labels(path)
    told = episode_labels(steps, contract) if given is None else given
    for seen in observations(steps):
        if seen.step in told:
            images = observation_arrays(seen, contract)["images"]
            yield _Labelled(images, named_entries(seen, contract), told[seen.step], seen.step)


def observations(steps: Sequence[Step]) -> list[Observation]:
    """Return all observations of an episode, the final one included."""
    return [step.observation for step in steps] + [step.final for step in steps if step.final]


def episode_labels(steps: Sequence[Step], contract: Contract) -> dict[int, bool]:
    """Return what the recorded rewards tell of an episode's frames: success by step, only where it is known.

    - Phase LABEL: the person judged every frame.
    - Ended by the person: the frame that the person saw is labelled; no frame before it was success.
    - Ended by hand-written terms: the final frame is success, none before it.
    - Anything else, a classifier's own opinion too, labels nothing.
    """
    if not steps:
        return {}
    rewards = [step.reward for step in steps]
    if all(reward.source == Reward.PERSON for reward in rewards):
        return {reward.step: reward.success for reward in rewards}
    last = rewards[-1]
    if not last.terminated or last.source == Reward.CLASSIFIER:
        return {}
    if last.source == Reward.PERSON:
        sure = last.step - round(_REACTION_S * contract.control_rate)
        return {r.step: False for r in rewards if r.step < sure} | {last.step: last.success}
    return {r.step: False for r in rewards} | {last.step + 1: last.success}


def read_labels(episode: Path) -> dict[int, bool] | None:
    """Return the labels that a person gave an episode afterwards, success by step; None without `labels.csv`.

    They replace what the recorded rewards tell: a step that is not listed has no label.

    Raises:
        LabelError: The file does not hold `step,success` rows of whole numbers and 0 or 1.
    """
    path = episode / LABELS_FILE
    if not path.exists():
        return None
    try:
        with path.open(newline="") as file:
            rows = [(int(row["step"]), row["success"]) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError):
        rows = [(0, "")]
    if not all(success in ("0", "1") for _, success in rows):
        raise LabelError(f"{path}: expected the columns step,success with whole numbers and 0 or 1")
    return {step: success == "1" for step, success in rows}


def write_labels(episode: Path, labels: dict[int, bool]) -> None:
    """Write the labels that a person gave an episode afterwards."""
    new = episode / f"{LABELS_FILE}.new"
    with new.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "success"))
        writer.writerows((step, int(success)) for step, success in sorted(labels.items()))
    os.replace(new, episode / LABELS_FILE)


def keep_told(folder: Path, seen: Sequence[Observation], success: bool, contract: Contract) -> Path:
    """Keep frames of which a person told the classifier that it was wrong; return their file.

    Args:
        folder: Of the run's labels; made if missing.
        seen: Observations of one episode, at least one.
        success: What all of them show.
        contract: Names the cameras.
    """
    arrays = [observation_arrays(observation, contract)["images"] for observation in seen]
    content = {f"camera.{name}": np.stack([images[name] for images in arrays]) for name in contract.cameras}
    content["state"] = np.array([[*observation.state, *observation.privileged] for observation in seen])
    content["step"] = np.array([observation.step for observation in seen])
    content["success"] = np.full(len(seen), success)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"told_{seen[-1].episode:06d}_{seen[-1].step:06d}.npz"
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        np.savez_compressed(file, **content)
    os.replace(new, path)
    return path


def _told_frames(path: Path, contract: Contract) -> Iterator[_Labelled]:
    try:
        with np.load(path, allow_pickle=False) as content:
            images = {name: content[f"camera.{name}"] for name in contract.cameras}
            state, steps, success = content["state"], content["step"], content["success"]
    except (OSError, ValueError, KeyError) as error:
        raise LabelError(
            f"{path}: is damaged or has other cameras ({' '.join(str(error).split())})"
        ) from None
    for name, camera in contract.cameras.items():
        if images[name].shape[1:3] != camera.size:
            raise LabelError(
                f"{path}: camera '{name}' has frames of {images[name].shape[1:3]}, the contract's are {camera.size}"
            )
    for i, step in enumerate(steps):
        entries = dict(zip(contract.entry_names, map(float, state[i]), strict=False))
        pixels = {name: stack[i] for name, stack in images.items()}
        yield _Labelled(pixels, entries, bool(success[i]), int(step))
