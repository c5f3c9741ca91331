"""Messages to numpy and back, fields by path, and the joining of a step's messages into transitions."""

from __future__ import annotations

import array
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from hilrl_msgs.msg import Action, Episode, Observation, Reward
from trajectory_msgs.msg import JointTrajectory

from hilrl_ros.contract import Contract
from hilrl_ros.images import to_rgb

CONTROLLER_NAMES = {Action.POLICY: "policy", Action.PERSON: "person", Action.NOBODY: "nobody"}
PHASE_NAMES = {
    "label": Episode.LABEL,
    "demonstrate": Episode.DEMONSTRATE,
    "pretrain": Episode.PRETRAIN,
    "baseline": Episode.BASELINE,
    "train": Episode.TRAIN,
    "evaluate": Episode.EVALUATE,
    "showcase": Episode.SHOWCASE,
}

_INDEXED = re.compile(r"(\w+)\[([^\]]+)\]$")


def seconds(stamp: Time) -> float:
    """Return a time stamp in seconds."""
    return stamp.sec + stamp.nanosec * 1e-9


def nanoseconds(stamp: Time) -> int:
    """Return a time stamp in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_time(ns: int) -> Time:
    """Return nanoseconds as a time stamp."""
    return Time(sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000)


def message_class(type_name: str) -> type:
    """Return the class of a message type named as `package/msg/Name`.

    Raises:
        ValueError: There is no such type in this installation.
    """
    package, _, name = type_name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        raise ValueError(f"message type '{type_name}' is not installed; expected package/msg/Name") from None


def read_trajectory(
    msg: JointTrajectory, joints: Sequence[str], now_ns: int, max_age: float
) -> tuple[np.ndarray, list[float]]:
    """Return the joint targets of a trajectory and when each is due.

    Args:
        msg: The trajectory, its joints in any order.
        joints: Joint names [n] in the order that is wanted.
        now_ns: Time of the arm's clock, ns.
        max_age: How far a stamp may be from it, s; a trajectory without a stamp means from now on.

    Returns:
        Targets [k, n] (rad) and seconds from now [k].

    Raises:
        ValueError: It is too old, or is not of these joints.
    """
    age = (now_ns - nanoseconds(msg.header.stamp)) * 1e-9
    if nanoseconds(msg.header.stamp) and abs(age) > max_age:
        raise ValueError(
            f"trajectory refused: its stamp is {abs(age):.2f} s in the {'past' if age > 0 else 'future'}, expected "
            f"at most {max_age:g} s (max_age); is a node late, or do clocks differ?"
        )
    if sorted(msg.joint_names) != sorted(joints):
        raise ValueError(f"trajectory refused: it names {list(msg.joint_names)}, expected {list(joints)}")
    order = [msg.joint_names.index(name) for name in joints]
    if any(len(point.positions) != len(order) for point in msg.points):
        raise ValueError(f"trajectory refused: each of its points needs {len(order)} positions")
    points = np.array([point.positions for point in msg.points], float).reshape(-1, len(order))
    return points[:, order], [seconds(point.time_from_start) for point in msg.points]


def floats(values) -> array.array:
    """Return values as array.array('f'), the type that rclpy takes for float32[] without a check per item."""
    return array.array("f", values)


def read_field(msg: Any, path: str) -> float:
    """Return one number of a message.

    Args:
        msg: Any message.
        path: Attributes joined by dots; `name[i]` is the i-th item and, on a JointState, `name[joint]` is
            that joint's item.

    Raises:
        ValueError: No such field, joint or item.
    """
    value = msg
    for part in path.split("."):
        indexed = _INDEXED.match(part)
        name = indexed[1] if indexed else part
        if not hasattr(value, name):
            raise ValueError(f"field '{path}': {type(value).__name__} has no '{name}'")
        value = getattr(value, name)
        if indexed:
            key = indexed[2]
            # a joint's name first: there are arms whose joints are named "1" to "6"
            named = key in getattr(msg, "name", [])
            index = int(key) if key.isdigit() and not named else _joint_index(msg, key, path)
            if index >= len(value):
                raise ValueError(f"field '{path}': '{name}' has {len(value)} items")
            value = value[index]
    if not isinstance(value, int | float):
        raise ValueError(f"field '{path}' is a {type(value).__name__}, expected a number")
    return float(value)


def _joint_index(msg: Any, joint: str, path: str) -> int:
    names = list(getattr(msg, "name", []))
    if joint not in names:
        raise ValueError(f"field '{path}': joint '{joint}' is not among {', '.join(names)}")
    return names.index(joint)


def joint_vector(msg: Any, joints: tuple[str, ...]) -> np.ndarray:
    """Return a JointState's positions in the order of `joints`, rad [n].

    Raises:
        ValueError: A joint is missing.
    """
    index = {name: i for i, name in enumerate(msg.name)}
    missing = [j for j in joints if j not in index or index[j] >= len(msg.position)]
    if missing:
        raise ValueError(
            f"joint_states lacks {', '.join(missing)}; it has {', '.join(msg.name)}: "
            "name the joints of the contract as the driver does"
        )
    return np.array([msg.position[index[j]] for j in joints])


def observation_arrays(msg: Observation, contract: Contract) -> dict[str, Any]:
    """Return an observation as the agents take it: {"state": float32 [S], "images": {name: uint8 [H, W, C]}}.

    C is 3 for each frame of the camera's stack, the newest last.

    Raises:
        ValueError: The message does not fit the contract.
    """
    if len(msg.state) != len(contract.state):
        raise ValueError(
            f"observation has a state of {len(msg.state)}, the contract of '{contract.robot}' names "
            f"{len(contract.state)}"
        )
    if len(msg.images) != len(contract.cameras):
        raise ValueError(
            f"observation has {len(msg.images)} images, the contract names {list(contract.cameras)}"
        )
    images = {}
    for (name, camera), image in zip(contract.cameras.items(), msg.images, strict=True):
        pixels = to_rgb(image)
        if camera.stack > 1:
            frames = pixels.reshape(camera.stack, -1, *pixels.shape[1:])
            pixels = np.concatenate(frames, axis=2)
        images[name] = pixels
    return {"state": np.array(msg.state, np.float32), "images": images}


def named_entries(msg: Observation, contract: Contract) -> dict[str, float]:
    """Return the numbers of an observation by name: the state's and, where they are observed, the privileged ones.

    Raises:
        ValueError: The message does not fit the contract.
    """
    if len(msg.state) != len(contract.state) or len(msg.privileged) not in (0, len(contract.privileged)):
        raise ValueError(
            f"observation has {len(msg.state)} state and {len(msg.privileged)} privileged entries, the contract of "
            f"'{contract.robot}' names {len(contract.state)} and {len(contract.privileged)}"
        )
    return dict(zip(contract.entry_names, [*msg.state, *msg.privileged], strict=False))


@dataclass
class Step:
    """One complete step: what was seen, executed, earned; `final` only where the episode ended."""

    observation: Observation
    executed: Action
    reward: Reward
    final: Observation | None = None


@dataclass
class Joiner:
    """Joins observation, executed action and reward of the same step, live and from bags alike.

    The messages may arrive in any order. A step of which one message never comes is left out when a later
    step is complete; it is never paired with a neighbour's message. A step that was offered again is yielded once.
    """

    observations: dict[tuple[int, int], Observation] = field(default_factory=dict)
    executed: dict[tuple[int, int], Action] = field(default_factory=dict)
    rewards: dict[tuple[int, int], Reward] = field(default_factory=dict)
    done: tuple[int, int] = (-1, -1)

    def add(self, msg: Observation | Action | Reward) -> Iterator[Step]:
        """Take a message; yield the steps that it completes (none or one)."""
        key = (msg.episode, msg.step)
        if key[0] == self.done[0] and key[1] <= self.done[1]:
            return
        if isinstance(msg, Observation):
            self.observations[key] = msg
            # it may also be the final observation that the step before waits for
            candidates = [key, (msg.episode, msg.step - 1)]
        elif isinstance(msg, Action):
            self.executed[key] = msg
            candidates = [key]
        else:
            self.rewards[key] = msg
            candidates = [key]
        for candidate in candidates:
            step = self._complete(candidate)
            if step:
                self._forget(candidate)
                yield step

    def _complete(self, key: tuple[int, int]) -> Step | None:
        observation, executed, reward = (
            self.observations.get(key),
            self.executed.get(key),
            self.rewards.get(key),
        )
        if observation is None or executed is None or reward is None:
            return None
        final = None
        if reward.terminated or reward.truncated:
            final = self.observations.get((key[0], key[1] + 1))
            if final is None:
                return None
        return Step(observation, executed, reward, final)

    def _forget(self, key: tuple[int, int]) -> None:
        self.done = key
        for store in (self.observations, self.executed, self.rewards):
            for old in [k for k in store if k <= key]:
                del store[old]
