"""Makes observations: the clock of the loop, without ROS communication."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from hilrl_msgs.msg import Observation

from hilrl_ros.contract import Contract, StateEntry
from hilrl_ros.images import crop_and_resize, from_rgb, to_rgb
from hilrl_ros.kinematics import Kinematics
from hilrl_ros.messages import floats, joint_vector, nanoseconds, read_field, to_time

JOINT_STATES = "joint_states"
EXECUTED = "executed_action"
# a joint state this much before a tick counts as the tick's: drivers are not exact
_EARLY_NS = 1_000_000


class Observer:
    """Joins the newest joint state, poses and camera frames into one observation per control period.

    It ticks on the stamps of the joint states, not on a timer of its own: live, in simulation at any speed and
    when a bag is played, the same messages give the same observations. The step number follows from the time since
    the episode began, so a lost tick is a jump that everyone sees.
    """

    def __init__(self, contract: Contract, max_age: float, privileged: bool = True):
        """Make an observer for a contract.

        Args:
            contract: What the observation holds.
            max_age: Seconds that a pose or an image may be older than the joint state; an older one is waited for.
            privileged: Whether the contract's privileged entries can be observed (and are waited for) here.
        """
        self.contract = contract
        self.entries = contract.entries if privileged else contract.state
        self.kinematics = Kinematics(contract)
        self.max_age_ns = round(max_age * 1e9)
        self.period_ns = round(1e9 / contract.control_rate)
        self.newest: dict[str, Any] = {}
        self.executed: dict[tuple[int, int], Any] = {}  # by episode and step, since the last observation's
        self.frames: dict[str, deque[np.ndarray]] = {}
        self.past: dict[str, deque[float]] = {}
        self.episode: int | None = None
        self.start_ns = 0
        self.last: Observation | None = None
        self.paused = self.resumed = False

    def begin(self, episode: int, start_ns: int) -> Observation | None:
        """Begin an episode whose first observation has a stamp of at least `start_ns`, or go on after a pause."""
        if episode != self.episode:
            self.episode, self.start_ns, self.last = episode, start_ns, None
            self.paused = False
        self.resumed, self.paused = self.paused, False
        return self.last if self.resumed and self._offered_again() else self._tick()

    def end(self, episode: int) -> None:
        """Make no more observations of an episode that has ended: what comes next is the next one's scene."""
        if episode == self.episode:
            self.paused = True

    def pause(self) -> None:
        """Make no observations until `begin` is called again."""
        self.paused = True

    def add(self, topic: str, msg: Any) -> Observation | None:
        """Take a message of one of the contract's topics.

        Returns:
            The observation that is due with it; the last one again if the same joint state was offered again
            (the simulator waits for an action that got lost), else None.
        """
        self.newest[topic] = msg
        if topic == EXECUTED:  # when a bag is played, the next step's may come before this step's images
            self.executed[msg.episode, msg.step] = msg
        if topic == JOINT_STATES and self._offered_again():
            return None if self.paused else self.last
        return self._tick()

    def _offered_again(self) -> bool:
        joints = self.newest.get(JOINT_STATES)
        if joints is None or self.last is None or joints.header.stamp != self.last.header.stamp:
            return False
        self.resumed = False  # nothing moved since: the pause, if there was one, cost no tick
        return True

    def _tick(self) -> Observation | None:
        joints = self.newest.get(JOINT_STATES)
        if joints is None or self.episode is None or self.paused:
            return None
        stamp = nanoseconds(joints.header.stamp)
        if self.resumed and self.last is not None:
            # the pause counts as one lost tick: steps around it are not neighbours, and no time was used up
            self.start_ns = stamp - (self.last.step + 2) * self.period_ns
            self.resumed = False
        step = (stamp - self.start_ns + _EARLY_NS) // self.period_ns
        if stamp < self.start_ns or (self.last is not None and step <= self.last.step):
            return None
        sources = {e.topic for e in self.entries} | {c.topic for c in self.contract.cameras.values()}
        for topic in sources - {JOINT_STATES, EXECUTED}:
            msg = self.newest.get(topic)
            if msg is None or nanoseconds(msg.header.stamp) < stamp - self.max_age_ns:
                return None
        # where nobody acts, no action comes, but the observation must: half a period is long enough
        late = stamp - self.start_ns - step * self.period_ns > self.period_ns // 2
        if EXECUTED in sources and self.last is not None and self._executed() is None and not late:
            return None
        self.last = self._observe(stamp, step, joints)
        self.executed = {key: msg for key, msg in self.executed.items() if key >= (self.episode, step)}
        return self.last

    def _observe(self, stamp: int, step: int, joints: Any) -> Observation:
        msg = Observation(episode=self.episode, step=step)
        msg.header.stamp = to_time(stamp)
        msg.header.frame_id = self.contract.model.base_frame
        tip = self._tip(joints) if any(e.field.startswith("tip.") for e in self.entries) else {}
        values: dict[str, float] = {}
        for entry in self.entries:
            value = self._value(entry, tip)
            if entry.ago:
                if self.last is None:  # before an episode's first observation it was the same
                    self.past[entry.name] = deque([value] * entry.ago, entry.ago + 1)
                self.past[entry.name].append(value)
                value = self.past[entry.name][0]
            values[entry.name] = value - (values[entry.minus] if entry.minus else 0.0)
        numbers = floats(values.values())
        msg.state, msg.privileged = numbers[: len(self.contract.state)], numbers[len(self.contract.state) :]
        for name, camera in self.contract.cameras.items():
            source = self.newest[camera.topic]
            pixels = crop_and_resize(to_rgb(source), camera.crop, camera.size)
            if camera.stack > 1:
                if self.last is None:  # before an episode's first frame it looked the same
                    self.frames[name] = deque([pixels] * camera.stack, camera.stack)
                self.frames[name].append(pixels)
                pixels = np.concatenate(self.frames[name])
            msg.images.append(from_rgb(pixels, source.header.stamp, source.header.frame_id))
        return msg

    def _executed(self) -> Any:
        """Return the executed action of the last observation; None if it has not come."""
        return self.executed.get((self.last.episode, self.last.step)) if self.last is not None else None

    def _value(self, entry: StateEntry, tip: dict[str, float]) -> float:
        if entry.field.startswith("tip."):
            return tip[entry.field.removeprefix("tip.")]
        if entry.field == "gripper.width":
            joint = read_field(self.newest[entry.topic], f"position[{self.contract.gripper_joint}]")
            return float(np.interp(joint, *zip(*self.contract.gripper_width, strict=True)))
        if entry.field.startswith("action["):
            msg = self._executed()
            component = entry.field.removeprefix("action[").removesuffix("]")
            # nobody acted, or it was told to hold still
            return (
                float(msg.action[self.contract.action.names.index(component)]) if msg and msg.action else 0.0
            )
        return read_field(self.newest[entry.topic], entry.field)

    def _tip(self, joints: Any) -> dict[str, float]:
        position, rotation = self.kinematics.forward(joint_vector(joints, self.contract.joints))
        roll, pitch, yaw = roll_pitch_yaw(rotation)
        return {
            "x": position[0],
            "y": position[1],
            "z": position[2],
            "roll": roll,
            "pitch": pitch,
            "yaw": yaw,
        }


def roll_pitch_yaw(rotation: np.ndarray) -> tuple[float, float, float]:
    """Return fixed-axis roll, pitch, yaw (rad, REP 103) of a rotation matrix [3, 3]."""
    pitch = math.asin(float(np.clip(-rotation[2, 0], -1.0, 1.0)))
    return math.atan2(rotation[2, 1], rotation[2, 2]), pitch, math.atan2(rotation[1, 0], rotation[0, 0])
