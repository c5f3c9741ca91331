"""Sorts the messages of a run into one bag per episode, without ROS communication."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from hilrl_msgs.msg import Action, Episode, Observation, Recording, Reward
from rclpy.serialization import serialize_message

from hilrl_data.bags import STEP_TOPICS, EpisodeInfo, EpisodeWriter
from hilrl_ros.contract import Contract, Task
from hilrl_ros.messages import nanoseconds

# messages that are kept while no bag is open: more than come between the start of an episode and its announcement
_ASIDE = 200


def recorded_types(contract: Contract) -> dict[str, str]:
    """Return the message type of each topic (relative) that an episode's bag holds besides its announcement.

    They are what the observer reads, and what a step is joined from: played to an observer, a bag gives the same
    observations again.
    """
    types = {entry.topic: entry.type for entry in contract.entries}
    types |= {camera.topic: "sensor_msgs/msg/Image" for camera in contract.cameras.values()}
    return types | {topic: f"hilrl_msgs/msg/{kind.__name__}" for topic, kind in STEP_TOPICS.items()}


@dataclass
class Message:
    """A serialised message on its way into a bag; `part` is what it says, if it is part of a step."""

    topic: str
    type_name: str
    stamp_ns: int
    data: bytes
    part: Observation | Action | Reward | None = None


@dataclass
class EpisodeRecorder:
    """Opens a bag when an episode begins, closes it when all of its messages are there.

    Messages of different topics overtake each other, so what comes before the announcement of an episode is kept
    aside and written if its stamp belongs to it; and the bag is closed only when the last observation, executed
    action and reward have come.

    Attributes:
        contract: Contract whose hash the episode carries.
        task: Task of the episode.
        phases: Phases (constants of Episode) that are recorded.
    """

    contract: Contract
    task: Task
    phases: tuple[int, ...]
    writer: EpisodeWriter | None = None
    episode: Episode | None = None
    start_ns: int = 0
    end: Reward | None = None
    aside: deque[Message] = field(default_factory=lambda: deque(maxlen=_ASIDE))
    seen: dict[type, set[int]] = field(default_factory=dict)

    def begin(self, msg: Episode, folder: Path, topic: str = "/episode") -> Recording | None:
        """Take the announcement of an episode; `folder` will hold its bag, which begins with it.

        Returns:
            What became of the bag, if all of the episode was there before its announcement.
        """
        if self.episode and msg.episode == self.episode.episode and msg.phase == self.episode.phase:
            return None
        self.discard()
        self.episode = None
        if msg.status != Episode.RUNNING or msg.phase not in self.phases:
            self.aside.clear()
            return None
        self.episode, self.start_ns = msg, nanoseconds(msg.header.stamp)
        self.end, self.seen = None, {Observation: set(), Action: set(), Reward: set()}
        self.writer = EpisodeWriter(folder)
        self.writer.write(
            topic, "hilrl_msgs/msg/Episode", self.start_ns, serialize_message(msg), latched=True
        )
        early = list(self.aside)
        self.aside.clear()
        results = [self.add(message) for message in early]
        return next((result for result in results if result), None)

    def add(self, message: Message) -> Recording | None:
        """Write a message of a recorded topic to the open bag; return what became of the bag if it ends the episode."""
        if self.writer is None:
            self.aside.append(message)
            return None
        if message.stamp_ns < self.start_ns:
            return None
        self.writer.write(message.topic, message.type_name, message.stamp_ns, message.data)
        return self._note(message.part) if message.part else None

    def _note(self, msg: Observation | Action | Reward) -> Recording | None:
        if msg.episode != self.episode.episode:
            return None
        self.seen[type(msg)].add(msg.step)
        if isinstance(msg, Reward) and (msg.terminated or msg.truncated):
            self.end = msg
        if self.end is None or self.end.step + 1 not in self.seen[Observation]:
            return None
        if self.end.step not in self.seen[Action]:
            return None
        steps = self.end.step + 1
        complete = (len(self.seen[Observation]), len(self.seen[Action]), len(self.seen[Reward])) == (
            steps + 1,
            steps,
            steps,
        )
        keep = complete and (self.end.success or self.episode.phase != Episode.DEMONSTRATE)
        result = Recording(episode=self.episode.episode, complete=complete, folder=self.writer.folder.name)
        if not keep:
            self.discard()
            return result
        info = EpisodeInfo(
            episode=self.episode.episode,
            seed=self.episode.seed,
            task=self.task.name,
            text=self.task.text,
            contract=self.contract.hash(),
            success=self.end.success,
            steps=steps,
        )
        writer, self.writer = self.writer, None
        writer.finish(info)
        return result

    def discard(self) -> None:
        """Delete the open bag, if any."""
        if self.writer is not None:
            writer, self.writer = self.writer, None
            writer.discard()
