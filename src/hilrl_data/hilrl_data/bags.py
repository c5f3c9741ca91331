"""Episodes as rosbag2 bags (MCAP): written so that `ros2 bag` can read them, read back as joined steps."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from hilrl_msgs.msg import Action, Observation, Reward
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import Image

from hilrl_ros.messages import Joiner, Step, nanoseconds

# unfinished bags lie here, beside the finished ones
_PARTIAL = ".partial"
EPISODE_FILE = "episode.json"
# what an episode's steps are joined from, in the order of a step
STEP_TOPICS = {"observation": Observation, "executed_action": Action, "reward": Reward}
# What an announcement of an episode was published with, and must be played with: the observer asks for the newest one.
_UNLIMITED = QosTime(9223372036, 854775807)
_LATCHED = Qos(
    QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
    _UNLIMITED, _UNLIMITED, QosLiveliness.AUTOMATIC, _UNLIMITED, False,
)  # fmt: skip


class BagError(ValueError):
    """A bag that cannot be read or does not hold an episode; the message names it and says why."""


@dataclass(frozen=True)
class EpisodeInfo:
    """What is known of a recorded episode besides its messages.

    Attributes:
        episode: Its number in the run.
        seed: Seed of its scene.
        task: Name of the task.
        text: Instruction in words.
        contract: Hash of the robot contract.
        success: Whether it was solved.
        steps: Number of its steps.
    """

    episode: int
    seed: int
    task: str
    text: str
    contract: str
    success: bool
    steps: int


class EpisodeWriter:
    """Writes one episode as a rosbag2 bag of its own.

    It lies in `.partial` beside its final place until `finish`: a killed recorder leaves nothing that looks whole.

    Args:
        folder: Folder of the finished bag; must not exist.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.partial = folder.parent / _PARTIAL / folder.name
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self.writer = Writer(self.partial, version=9, storage_plugin=StoragePlugin.MCAP)
        self.writer.open()
        self.connections: dict[str, Connection] = {}

    def write(self, topic: str, type_name: str, stamp_ns: int, data: bytes, latched: bool = False) -> None:
        """Add a serialised message (CDR) of type `package/msg/Name`; `ros2 bag play` latches it as it was."""
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(
                topic,
                type_name,
                typestore=typestore_for(type_name),
                offered_qos_profiles=[_LATCHED] if latched else [],
            )
        self.writer.write(self.connections[topic], stamp_ns, data)

    def finish(self, info: EpisodeInfo) -> Path:
        """Close the bag and give it its final name; return that folder."""
        self.writer.close()
        (self.partial / EPISODE_FILE).write_text(json.dumps(info.__dict__, indent=1) + "\n")
        self.partial.rename(self.folder)
        self._tidy()
        return self.folder

    def discard(self) -> None:
        """Close the bag and delete it."""
        self.writer.close()
        shutil.rmtree(self.partial)
        self._tidy()

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):  # another recorder's bag may lie there
            self.partial.parent.rmdir()


_typestores: dict[str, object] = {}


def typestore_for(type_name: str):
    """Return a rosbags type store that knows a message type, from the interface files of this installation."""
    if type_name not in _typestores:
        store = get_typestore(Stores.ROS2_JAZZY)
        _register(store, type_name)
        _typestores[type_name] = store
    return _typestores[type_name]


def _register(store, type_name: str) -> None:
    if type_name in store.fielddefs:
        return
    package, _, name = type_name.partition("/msg/")
    definition = Path(get_package_share_directory(package)) / "msg" / f"{name}.msg"
    types = get_types_from_msg(definition.read_text(), type_name)
    for _, fields in types.values():
        for _, (kind, of) in fields:
            while kind in (3, 4):  # arrays and sequences: look at what they hold
                kind, of = of[0]
            if kind == 2:  # another message
                _register(store, of)
    store.register({k: v for k, v in types.items() if k not in store.fielddefs})


def finished_episodes(folder: Path) -> list[Path]:
    """Return the finished episode bags in a folder, in order of their names; none where there is no such folder."""
    return sorted(file.parent for file in folder.glob("*/metadata.yaml"))


def episode_folders(folder: Path) -> list[Path]:
    """Return the finished episode bags in a folder, in order of their names.

    Raises:
        BagError: There is no such folder, or no finished episode in it.
    """
    if not folder.is_dir():
        raise BagError(f"{folder}: no such folder; record demonstrations first")
    found = finished_episodes(folder)
    if not found:
        raise BagError(f"{folder}: holds no finished episode (a folder with metadata.yaml and an .mcap file)")
    return found


def read_info(folder: Path, contract: str = "") -> EpisodeInfo:
    """Return what is known of a recorded episode.

    Args:
        folder: Of its bag.
        contract: Hash of the contract that it must have been recorded under; empty: any.

    Raises:
        BagError: The episode's file is missing or damaged, or it was recorded under another contract.
    """
    try:
        info = EpisodeInfo(**json.loads((folder / EPISODE_FILE).read_text()))
    except (OSError, ValueError, TypeError) as e:
        raise BagError(
            f"{folder / EPISODE_FILE}: cannot be read ({e}); it is written by the recorder"
        ) from None
    if contract and info.contract != contract:
        raise BagError(
            f"{folder}: recorded under contract {info.contract} (task {info.task}), this run's is {contract}: "
            "record again, or name the robot and task of the recording"
        )
    return info


def write_steps(folder: Path, info: EpisodeInfo, steps: Iterable[Step]) -> EpisodeInfo:
    """Write an episode's steps as a bag of their own.

    Args:
        folder: Of the bag; must not exist.
        info: What is known of the episode; `steps` and `success` are counted here.
        steps: Read one by one; none at all makes no bag.

    Returns:
        The information that stands beside the bag.
    """
    writer, count, success = EpisodeWriter(folder), 0, False
    try:
        for step in steps:
            count += 1
            for topic, msg in zip(STEP_TOPICS, (step.observation, step.executed, step.reward), strict=True):
                _write(writer, topic, msg)
            if step.final:
                _write(writer, "observation", step.final)
            success = step.reward.success
    except BaseException:
        writer.discard()
        raise
    info = replace(info, steps=count, success=success)
    if count:
        writer.finish(info)
    else:
        writer.discard()
    return info


def _write(writer: EpisodeWriter, topic: str, msg: Observation | Action | Reward) -> None:
    name = f"hilrl_msgs/msg/{STEP_TOPICS[topic].__name__}"
    writer.write(f"/{topic}", name, nanoseconds(msg.header.stamp), serialize_message(msg))


def read_steps(folder: Path, rewarded: bool = True) -> Iterator[Step]:
    """Yield the steps of a bag in order, joined as the actor joins them live.

    Args:
        folder: The bag: one episode, as the recorder writes it, or several one after another.
        rewarded: Whether the topic `reward` must be there; without it, steps of a bag that lacks it earn nothing.

    Raises:
        BagError: The bag is cut off or damaged, or lacks observation, executed action or reward.
    """
    joiner = Joiner()
    try:
        with Reader(folder) as reader:
            found = [c for c in reader.connections if _is_step_topic(c)]
            topics = {name: sorted({c.topic for c in found if _name(c) == name}) for name in STEP_TOPICS}
            pay = not topics["reward"] and not rewarded
            missing = sorted(
                name for name, there in topics.items() if not there and (name != "reward" or not pay)
            )
            if missing:
                raise BagError(
                    f"{folder}: has no topic {', '.join(missing)}; record with the suite's recorder"
                )
            for there in topics.values():
                if len(there) > 1:
                    raise BagError(
                        f"{folder}: holds {' and '.join(there)}; record each arm in a bag of its own"
                    )
            for connection, _, data in reader.messages(found):
                msg = deserialize_message(data, STEP_TOPICS[_name(connection)])
                yield from joiner.add(msg)
                if pay and isinstance(msg, Action):
                    yield from joiner.add(
                        Reward(
                            header=msg.header, episode=msg.episode, step=msg.step, controller=msg.controller
                        )
                    )
    except BagError:
        raise
    except Exception as e:  # the readers raise whatever the damaged bytes lead them to
        why = " ".join(str(e).split()) or type(e).__name__
        raise BagError(f"{folder}: the bag is cut off or damaged ({why})") from None


def read_episode(folder: Path, info: EpisodeInfo) -> Iterator[Step]:
    """Yield the steps of one recorded episode in order.

    Raises:
        BagError: See `read_steps`; or not all steps are there.
    """
    count = 0
    for step in read_steps(folder):
        count += 1
        yield step
    if count != info.steps:
        raise BagError(f"{folder}: {count} of {info.steps} steps are whole; the bag lacks messages")


def read_images(folder: Path, topic: str) -> list[Image]:
    """Return the images of a topic (relative name) in one recorded episode, in order; none where it has no such topic.

    Raises:
        BagError: The bag is cut off or damaged.
    """
    try:
        with Reader(folder) as reader:
            found = [
                c for c in reader.connections if f"/{c.topic.lstrip('/')}".endswith(f"/{topic.lstrip('/')}")
            ]
            images = [c for c in found if c.msgtype == "sensor_msgs/msg/Image"]
            return (
                [deserialize_message(data, Image) for _, _, data in reader.messages(images)] if images else []
            )
    except Exception as e:  # the readers raise whatever the damaged bytes lead them to
        why = " ".join(str(e).split()) or type(e).__name__
        raise BagError(f"{folder}: the bag is cut off or damaged ({why})") from None


def _name(connection: Connection) -> str:
    return connection.topic.split("/")[-1]


def _is_step_topic(connection: Connection) -> bool:
    return _name(connection) in STEP_TOPICS and connection.msgtype.startswith("hilrl_msgs/")
