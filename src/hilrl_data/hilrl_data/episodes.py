"""Episodes of any source (a run, episode bags, other bags, LeRobot datasets), one at a time and step by step."""

from __future__ import annotations

import contextlib
import copy
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hilrl_msgs.msg import Action, Reward

from hilrl_data.bags import (
    EPISODE_FILE,
    BagError,
    EpisodeInfo,
    finished_episodes,
    read_episode,
    read_info,
    read_steps,
    write_steps,
)
from hilrl_ros.contract import Contract
from hilrl_ros.messages import Step

PARTIAL = ".partial"
ONLY = ("person", "success")


@dataclass
class Recorded:
    """One episode of a source.

    Attributes:
        info: What is known of it; `steps` and `success` may be known only when its steps were read.
        steps: Its steps in order, read one by one.
    """

    info: EpisodeInfo
    steps: Iterable[Step]


class Source(Protocol):
    """Where episodes come from.

    Attributes:
        count: Number of episodes, 0 where it is not known before they are read.
        notes: What a person should know of what was read, one sentence each; complete after reading.
    """

    count: int
    notes: list[str]

    def episodes(self) -> Iterator[Recorded]:
        """Yield the episodes; the steps of one are to be read before the next one is asked for."""


class BagSource:
    """Bags: those of the suite's recorder, or of `ros2 bag record` with one or several episodes each.

    Args:
        bags: Folders of bags.
        contract: What their messages must fit.
        task: Name and text of the task of bags that do not say theirs.
        rewarded: Whether the topic `reward` must be there.
    """

    def __init__(self, bags: list[Path], contract: Contract, task: tuple[str, str], rewarded: bool = True):
        self.bags, self.contract, self.task, self.rewarded = bags, contract, task, rewarded
        own = all((bag / EPISODE_FILE).is_file() for bag in bags)
        self.count, self.notes = len(bags) if own else 0, []

    def episodes(self) -> Iterator[Recorded]:
        """Yield the episodes of all bags, in order."""
        for bag in self.bags:
            if (bag / EPISODE_FILE).is_file():
                info = read_info(bag, self.contract.hash())
                yield Recorded(info, map(self._checked(bag), read_episode(bag, info)))
                continue
            steps = map(self._checked(bag), read_steps(bag, self.rewarded))
            empty = True
            for number, of_episode in itertools.groupby(steps, lambda step: step.observation.episode):
                empty = False
                yield Recorded(new_info(number, *self.task, self.contract), of_episode)
            if empty:
                raise BagError(
                    f"{bag}: holds no step whose observation, executed action and reward are all there"
                )

    def _checked(self, bag: Path) -> Callable[[Step], Step]:
        contract = self.contract
        shapes = [(camera.stack * camera.size[0], camera.size[1]) for camera in contract.cameras.values()]

        def check(step: Step) -> Step:
            observation, action = step.observation, step.executed.action
            found = [(image.height, image.width) for image in observation.images]
            for what, value, expected in (
                ("a state of", len(observation.state), len(contract.state)),
                ("an action of", len(action), len(contract.action.names)),
                ("images (height, width)", found, shapes),
            ):
                if value != expected:
                    raise BagError(
                        f"{bag}: episode {observation.episode}, step {observation.step} has {what} {value}, the "
                        f"contract of '{contract.robot}' has {expected}: name the robot and task of the recording"
                    )
            return step

        return check


def new_info(episode: int, task: str, text: str, contract: Contract, seed: int = 0) -> EpisodeInfo:
    """Return what is known of an episode before its steps are read."""
    return EpisodeInfo(episode, seed, task, text, contract.hash(), success=False, steps=0)


def succeeding(episodes: Iterable[Recorded], pay: float) -> Iterator[Recorded]:
    """Yield episodes whose last step is declared a success that earns `pay`; all other steps earn nothing."""

    def steps(of_episode: Iterable[Step]) -> Iterator[Step]:
        for step, following in itertools.pairwise(itertools.chain(of_episode, [None])):
            last = following is None
            old = step.reward
            reward = Reward(
                header=old.header, episode=old.episode, step=old.step, controller=old.controller,
                source=Reward.PERSON, reward=pay if last else 0.0, terminated=last, success=last,
            )  # fmt: skip
            yield Step(
                step.observation, step.executed, reward, (step.final or repeated(step)) if last else None
            )

    for episode in episodes:
        yield replace(episode, steps=steps(episode.steps))


def repeated(step: Step):
    """Return a step's observation as the one that followed it: for ends whose true one is unknown and not needed."""
    old = step.observation
    return type(old)(
        header=step.reward.header, episode=old.episode, step=old.step + 1, state=old.state,
        privileged=old.privileged, images=old.images,
    )  # fmt: skip


def only(what: str, episodes: Iterable[Recorded]) -> Iterator[Recorded]:
    """Yield what a person did (each take-over as an episode of its own), or the episodes that succeeded.

    Args:
        what: One of `ONLY`.
        episodes: The source's.
    """
    number = itertools.count()
    for episode in episodes:
        steps = list(episode.steps)
        succeeded = [steps] if steps and steps[-1].reward.success else []
        for piece in succeeded if what == "success" else _corrections(steps):
            yield Recorded(replace(episode.info, episode=next(number)), piece)


def _corrections(steps: list[Step]) -> Iterator[list[Step]]:
    """Yield the pieces of an episode that a person drove; the end of each is cut off, or the episode's own."""
    piece: list[Step] = []
    for step, following in itertools.pairwise([*steps, None]):
        if step.executed.controller != Action.PERSON:
            continue
        neighbour = following is not None and following.observation.step == step.observation.step + 1
        goes_on = neighbour and following.executed.controller == Action.PERSON
        if neighbour and not goes_on:
            step = Step(step.observation, step.executed, _truncated(step.reward), following.observation)
        piece.append(step)
        if not goes_on:
            yield piece
            piece = []


def _truncated(old: Reward) -> Reward:
    new = copy.copy(old)
    new.truncated = True
    return new


def write_episodes(
    out: Path, episodes: Iterable[Recorded], seen: Callable[[Step], None], done: Callable[[EpisodeInfo], None]
) -> int:
    """Write episodes as one bag each into a new folder, which gets its name when all of it is there.

    Args:
        out: The folder; must not exist.
        episodes: What to write.
        seen: Called with each step.
        done: Called with each finished episode.

    Returns:
        Number of episodes.
    """

    def watched(steps: Iterable[Step]) -> Iterator[Step]:
        for step in steps:
            seen(step)
            yield step

    count = 0
    partial = begin_partial(out)
    for episode in episodes:
        info = write_steps(partial / f"episode_{count + 1:06d}", episode.info, watched(episode.steps))
        count += info.steps > 0
        done(info)
    end_partial(out, count)
    return count


def begin_partial(out: Path) -> Path:
    """Make the folder in which `out` is written until it is whole.

    Raises:
        BagError: There is something at `out` already.
    """
    if out.exists():
        raise BagError(f"{out}: exists already; name another folder, or remove it")
    partial = out.parent / PARTIAL / out.name
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def end_partial(out: Path, count: int) -> None:
    """Give a finished folder its name.

    Raises:
        BagError: Nothing was written into it.
    """
    partial = out.parent / PARTIAL / out.name
    if count:
        partial.rename(out)
    else:
        shutil.rmtree(partial)
    with contextlib.suppress(OSError):  # something else may be written there
        partial.parent.rmdir()
    if not count:
        raise BagError(f"{out}: there is nothing to write: no episode was left")


def bags_of(path: Path) -> list[Path]:
    """Return the bags at a path: a run's, a folder's, or the path itself.

    Raises:
        BagError: There is none.
    """
    if not path.exists():
        raise BagError(f"{path}: there is nothing")
    if path.is_file():
        hint = f"name its folder, {path.parent}" if (path.parent / "metadata.yaml").exists() else (
            "it lacks the metadata.yaml that lies beside a bag's file: run `ros2 bag reindex` on its folder"
        )  # fmt: skip
        raise BagError(f"{path}: is a file; {hint}")
    if (path / "metadata.yaml").exists():
        return [path]
    found = finished_episodes(path / "demos") + finished_episodes(path / "episodes") or finished_episodes(
        path
    )
    if not found:
        raise BagError(
            f"{path}: is neither a LeRobot dataset (no meta/info.json) nor a bag (no metadata.yaml), nor a folder or "
            "run that holds bags"
        )
    return found
