"""A leader arm as a person's device: when it is in control, and what it asks for, without a snap.

The tie between the two arms is an offset: where the leader stands when the person takes over means where the
follower stands. The offset is renewed for as long as another hand moves the follower (the policy, another device,
a reset), and gives way where the follower cannot follow, so that at no time a target lies farther from the
follower than the leash.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hilrl_msgs.msg import Action

from hilrl_ros.contract import EE_AXES, Contract
from hilrl_ros.kinematics import Kinematics, matrix_rpy
from so101_driver import registers as reg
from so101_driver.bus import Bus, BusError
from so101_driver.calibration import Calibration
from so101_driver.identity import strangers

LEASH_PERIODS = 2.0  # a target is at most this many of the fastest steps away from the follower
GAIN = 0.5  # share of the way to the target that a tip action asks for: the follower answers a step later
FADE = 0.5  # rad/s at which the offset of an aligned leader goes away
DRIVE_SPEED = 1.0  # rad/s at which the leader is driven to the follower
DRIVE_TORQUE = 250  # 0.1 %: a hand is stronger
PUSH = 0.2  # rad that a hand must push a driven leader away from where it should be


class LeaderError(Exception):
    """The leader arm is not one that can be used; the message is one sentence for a person."""


class LeaderArm:
    """Joint positions of a leader arm, whose torque is off unless it is driven.

    Attributes:
        goal: Where a driven leader should be by now [n], rad; None while its torque is off.

    Args:
        port: Serial port.
        calibration: Of the leader.
        joints: Joint names of the calibration in the order of every vector.

    Raises:
        LeaderError: The calibration has other joints, or another arm is plugged in.
        BusError: The bus failed.
    """

    def __init__(self, port: str, calibration: Calibration, joints: tuple[str, ...]):
        if set(joints) != set(calibration.names):
            raise LeaderError(
                f"the leader's calibration has {', '.join(calibration.names)}, the robot contract {', '.join(joints)}"
            )
        self.calibration = calibration
        self._order = [calibration.names.index(name) for name in joints]
        self._back = [joints.index(name) for name in calibration.names]
        self.goal: np.ndarray | None = None
        self._limits = calibration.limits[self._order].T
        self.bus = Bus(port, calibration.ids)
        try:
            other = strangers(self.bus, calibration)
            if other:
                raise LeaderError(
                    f"the servos of {', '.join(other)} on {port} hold other homing offsets than the calibration: "
                    "plug in the leader that it belongs to, or run `hilrl calibrate --role leader`"
                )
            self.release()
        except (LeaderError, BusError):
            self.bus.close()
            raise

    def read(self) -> np.ndarray:
        """Return the joint positions [n], rad.

        Raises:
            BusError: A servo did not answer, or the port is gone; the next call tries again.
        """
        reading = self.bus.sync_read_state()
        if reading.errors:
            id_, why = next(iter(reading.errors.items()))
            raise BusError(f"servo {id_} of the leader arm: {why}")
        ticks = [reading.states[id_].position for id_ in self.calibration.ids]
        return self.calibration.to_radians(ticks)[self._order]

    def drive(self, present: np.ndarray, pose: np.ndarray, elapsed: float) -> None:
        """Move softly towards a pose; call it at every reading.

        Args:
            present: Joint positions [n] just read, rad.
            pose: Where to go [n], rad.
            elapsed: Time since the last call, s.
        """
        started = self.goal is None
        step = DRIVE_SPEED * elapsed
        goal = present if started else self.goal + np.clip(pose - self.goal, -step, step)
        self.goal = np.clip(goal, *self._limits)
        ticks = self.calibration.to_ticks(self.goal[self._back])
        self.bus.sync_write_positions(dict(zip(self.calibration.ids, ticks.tolist(), strict=True)))
        if started:
            self.bus.sync_write(reg.TORQUE_LIMIT, dict.fromkeys(self.calibration.ids, DRIVE_TORQUE))
            self.bus.sync_write(reg.TORQUE_ENABLE, dict.fromkeys(self.calibration.ids, 1))

    def release(self) -> None:
        """Take the torque off. BusError if a servo does not acknowledge it."""
        self.goal = None
        for id_ in self.calibration.ids:
            self.bus.write_register(id_, reg.TORQUE_ENABLE, 0)

    def close(self) -> None:
        """Take the torque off and close the port."""
        try:
            if self.goal is not None:
                self.release()
        finally:
            self.bus.close()


class Stirring:
    """Notices that the leader is being moved.

    Args:
        threshold: Way of any joint from where it came to rest that counts as moved, rad.
        rest: Time without such a way after which the leader counts as still, s.
    """

    def __init__(self, threshold: float, rest: float):
        self.threshold, self.rest = threshold, rest
        self._mark: np.ndarray | None = None
        self._moved = -np.inf

    def moved(self, joints: np.ndarray, now: float) -> bool:
        """Take a reading [n] at a time (s); return whether the leader is being moved."""
        if self._mark is None:
            self._mark = joints
        elif np.abs(joints - self._mark).max() > self.threshold:
            self._mark, self._moved = joints, now
        return now - self._moved <= self.rest

    def begin(self, joints: np.ndarray, now: float) -> None:
        """Count the leader [n] as being moved since now."""
        self._mark, self._moved = joints, now

    def forget(self) -> None:
        """Start over: the leader rests where it is read next."""
        self._mark, self._moved = None, -np.inf


@dataclass
class Tie:
    """Ties the follower's vector to the leader's by an offset.

    Attributes:
        leash: How far a target may be from the follower, per component [n].
        low: Lowest target [n].
        high: Highest target [n].
        fade: Speed at which the offset goes away, per second; 0 keeps it.
        angles: Which components are angles that wrap at pi [n].
    """

    leash: np.ndarray
    low: np.ndarray
    high: np.ndarray
    fade: float
    angles: np.ndarray
    offset: np.ndarray | None = None

    def hold(self, leader: np.ndarray, follower: np.ndarray) -> np.ndarray:
        """Take the offset anew; the target is where the follower stands [n]."""
        self.offset = self._wrap(follower - leader)
        return follower.copy()

    def target(self, leader: np.ndarray, follower: np.ndarray, elapsed: float) -> np.ndarray:
        """Return where the leader wants the follower [n]; the offset gives way at leash and limits."""
        step = self.fade * elapsed
        self.offset = self.offset - np.clip(self.offset, -step, step)
        ahead = self._wrap(leader + self.offset - follower)
        target = np.clip(follower + np.clip(ahead, -self.leash, self.leash), self.low, self.high)
        self.offset = self._wrap(target - leader)
        return target

    def _wrap(self, difference: np.ndarray) -> np.ndarray:
        wrapped = (difference + np.pi) % (2 * np.pi) - np.pi
        return np.where(self.angles, wrapped, difference)


class Leader:
    """What the leader asks for, in joints or of the tip.

    Joint mode asks for positions of all joints (Action.JOINT_POSITION); tip mode for motions of the tip
    (Action.EE_DELTA), so that the two arms may stand in different postures, or be different arms.

    Attributes:
        space: Action.JOINT_POSITION or Action.EE_DELTA.
    """

    def __init__(self, contract: Contract, mode: str, fade: bool):
        """Prepare for a contract.

        Args:
            contract: Of the follower; the leader has its joints.
            mode: "joint" or "tip".
            fade: In joint mode let the offset go away, so that the follower ends up in the leader's pose.
        """
        self._kinematics = Kinematics(contract)
        self._gripper = contract.joints.index(contract.gripper_joint)
        self._low, self._high = self._kinematics.joint_limits.T
        if mode == "joint":
            self.space = Action.JOINT_POSITION
            leash = LEASH_PERIODS * np.array(contract.joint_speeds) * contract.period
            self._tie = Tie(leash, self._low, self._high, FADE if fade else 0.0, np.zeros(len(leash), bool))
        else:
            self.space = Action.EE_DELTA
            self._home_R = self._kinematics.forward(np.array(contract.home))[1]
            scale = dict(zip(contract.motion.names, contract.motion.scale, strict=True))
            self._scale = np.array([scale.get(axis, 0.0) for axis in EE_AXES])
            angles = np.array([axis in ("roll", "pitch", "yaw") for axis in EE_AXES])
            anywhere = np.full(len(EE_AXES), np.inf)  # the arm controller keeps the tip in its box
            self._tie = Tie(LEASH_PERIODS / GAIN * np.abs(self._scale), -anywhere, anywhere, 0.0, angles)

    def hold(self, leader: np.ndarray, follower: np.ndarray) -> np.ndarray:
        """Tie the two poses [n] (rad) to each other; return the action that leaves the follower where it is."""
        self._tie.hold(self._vector(leader), self._vector(follower))
        if self.space == Action.JOINT_POSITION:
            return self._shares(follower)
        return np.zeros(len(EE_AXES))

    def follow(self, leader: np.ndarray, follower: np.ndarray, elapsed: float) -> np.ndarray:
        """Return the action in [-1, 1] for the leader's and the follower's joints [n], rad.

        Args:
            leader: The leader's pose.
            follower: The follower's pose.
            elapsed: Time since the last call of `hold` or `follow`, s.
        """
        at = self._vector(follower)
        target = self._tie.target(self._vector(leader), at, elapsed)
        if self.space == Action.JOINT_POSITION:
            return self._shares(target)
        ahead = GAIN * (target - at)
        return np.clip(
            np.divide(ahead, self._scale, where=self._scale != 0, out=np.zeros(len(EE_AXES))), -1, 1
        )

    def _vector(self, q: np.ndarray) -> np.ndarray:
        """Return what is tied: the joints [n], or the tip and the gripper [7] in the order of EE_AXES."""
        if self.space == Action.JOINT_POSITION:
            return q
        pos, R = self._kinematics.forward(q)
        return np.array([*pos, *matrix_rpy(R @ self._home_R.T), q[self._gripper]])

    def _shares(self, q: np.ndarray) -> np.ndarray:
        """Return joint positions [n] as shares of their limits, -1 to 1."""
        return np.clip(2.0 * (q - self._low) / (self._high - self._low) - 1.0, -1.0, 1.0)
