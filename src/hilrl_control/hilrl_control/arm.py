"""Arm controller: normalised actions in, safe joint targets out. Knows no particular arm, no ROS.

Every action type ends in the same gate: joint limits, joint speed, and the tip's box. What leaves
the gate is what is reported as executed, so the learner sees the motion that happened.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from hilrl_ros.contract import EE_AXES, Contract
from hilrl_ros.kinematics import Kinematics, matrix_rpy, rpy_matrix

LEASH_PERIODS = 2.0  # a target runs at most this many full actions ahead of what was measured
GRIPPER_LEASH_PERIODS = 1.0  # less for the gripper: enough to squeeze, and it opens again at once
LEAD_BACK = 0.05  # m/s with which a tip outside the box is led back
TURN_BACK = 1.0  # rad/s with which an orientation nobody commands returns to its reference
TRACKING = 1e-3  # m, inverse kinematics this near to the target counts as there


@dataclass(frozen=True)
class Executed:
    """What one step commanded.

    Attributes:
        target: Joint targets [n], rad, in the order of the contract's joints.
        action: Executed action [A] in [-1, 1]: the commanded motion in the contract's action space
            after all limits.
    """

    target: np.ndarray
    action: np.ndarray


def _slower(action: np.ndarray, tip: np.ndarray) -> np.ndarray:
    """Return an action [A] shortened to [-1, 1]; where `tip` [A] holds all alike, so the tip's way is kept."""
    action = action.copy()
    action[tip] /= np.abs(action[tip]).max(initial=1.0)
    return np.clip(action, -1.0, 1.0)


class ArmController:
    """Turns actions of the contract's action space into joint targets.

    The controller integrates what it commanded, not what was measured, so friction and sag do not
    swallow small actions; a leash to the measurement (`LEASH_PERIODS` full actions) keeps it from
    winding up when the arm is held by the table or by a person.

    With `ee_delta`, x, y, z move the tip along the axes of the base frame, and roll, pitch, yaw turn it
    about them, relative to the orientation that the tip has in the home pose. Angles that the action
    does not name are held at the home pose's: the gripper keeps its heading in the base frame while the
    pan joint swings, as a person who looks through a fixed camera expects, and a cube's yaw relative to
    the jaws does not depend on where it lies. An arm with fewer than six joints comes as near as it can.
    In the same way a gripper that the action does not name goes to its home position, and squeezes what is
    in between.

    Attributes:
        box: Bounds of the tip [2, 3] in the base frame, lower and upper, m: the contract's, or those of `set_box`.
    """

    def __init__(self, contract: Contract):
        """Load the arm's kinematics; raises `ContractError` if the model does not fit the contract."""
        self.contract = contract
        self.kinematics = Kinematics(contract)
        self._type = contract.action.type
        self._names = contract.action.names
        self._scale = np.array(contract.action.scale)
        self._low, self._high = self.kinematics.joint_limits.T
        self._reach = np.array(contract.joint_speeds) * contract.period  # rad or m per step
        self.box = np.array([contract.box_min, contract.box_max])
        self._home_R = self.kinematics.forward(np.array(contract.home))[1]
        self._gripper = contract.joints.index(contract.gripper_joint)
        axes = ("x", "y", "z", "roll", "pitch", "yaw")
        if self._type == "ee_delta":
            self._ee_scale = np.array(
                [dict(zip(self._names, self._scale, strict=True)).get(a, 0.0) for a in axes]
            )
            self._slots = [(i, axes.index(n)) for i, n in enumerate(self._names) if n in axes]
        else:
            self._index = np.array([contract.joints.index(n) for n in self._names])
            # a person moves the tip, whatever the policy's action space is
            self._hand = ArmController(dataclasses.replace(contract, action=contract.motion))
        self._target: np.ndarray | None = None
        self._pose = np.zeros(6)  # ee_delta: commanded x, y, z and roll, pitch, yaw relative to home

    def set_box(self, low: np.ndarray, high: np.ndarray) -> None:
        """Let the tip go elsewhere from now on; where it is outside, its next steps lead back.

        Args:
            low: Lower bounds [3] in the base frame, m.
            high: Upper bounds [3] in the base frame, m.

        Raises:
            ValueError: Not three finite numbers each, or a lower bound is not below the upper one; nothing was
                changed.
        """
        box = np.array([self._check("box min", low, 3), self._check("box max", high, 3)])
        for axis, lower, upper in zip("xyz", *box, strict=True):
            if lower >= upper:
                raise ValueError(f"box {axis}: min {lower:g} m is not below max {upper:g} m")
        self.box = box
        if self._type != "ee_delta":
            self._hand.box = box

    def reset(self, q_measured: np.ndarray) -> None:
        """Anchor the targets at the measured joints [n], rad: at a new episode or after a pause.

        Raises:
            ValueError: Not n finite numbers.
        """
        q = self._check("measured joints", q_measured, len(self.contract.joints))
        self._target = np.clip(q, self._low, self._high)
        if self._type == "ee_delta" and "gripper" not in self._names:
            self._target[self._gripper] = self._gripper_home(self._target)
        self._pose = self._pose_of(self._target)

    def hold(self) -> np.ndarray:
        """Return the last joint targets [n], rad.

        Raises:
            ValueError: `reset` was never called.
        """
        if self._target is None:
            raise ValueError(
                "the arm controller has no target yet; call reset with the measured joints first"
            )
        return self._target.copy()

    def still(self) -> Executed:
        """Return the last targets again, with the action of this contract that means standing still.

        Raises:
            ValueError: `reset` was never called.
        """
        target = self.hold()
        if self._type == "ee_delta":
            return Executed(target, np.zeros(len(self._names)))
        return Executed(target, self._joint_action(target, target))

    def move(self, q_measured: np.ndarray, motion: np.ndarray) -> Executed:
        """Command one control period by a person's motion of the tip.

        Args:
            q_measured: Measured joint positions [n], rad.
            motion: x, y, z, roll, pitch, yaw, gripper [7] in [-1, 1], in units of the contract's `motion`;
                components that it does not name do nothing, nor does what no action of the contract can do.

        Returns:
            See `step`: the person commands an action of the contract's own space like the policy.

        Raises:
            ValueError: See `step`.
        """
        motion = np.clip(self._check("motion", motion, len(EE_AXES)), -1.0, 1.0)
        action = motion[[EE_AXES.index(name) for name in self.contract.motion.names]]
        own = self._own_ee(action) if self._type == "ee_delta" else self._own_joints(q_measured, action)
        return self.step(q_measured, own)

    def follow(self, q_measured: np.ndarray, joints: np.ndarray) -> Executed:
        """Command one control period towards a person's joint positions, as a leader arm gives them.

        With `ee_delta` the tip goes where these joints would bring it, as far as the contract's action can.

        Args:
            q_measured: Measured joint positions [n], rad.
            joints: Wanted positions of the contract's joints [n], -1 and 1 are a joint's limits.

        Returns:
            See `step`: the person commands an action of the contract's own space like the policy.

        Raises:
            ValueError: See `step`.
        """
        wanted = np.clip(self._check("joint positions", joints, len(self.contract.joints)), -1.0, 1.0)
        wanted = self._low + (wanted + 1.0) / 2.0 * (self._high - self._low)
        old = self.hold()
        if self._type == "ee_delta":
            own = self._ee_action(old, self._pose, wanted, self._pose_of(wanted))
            own = _slower(own, np.array([name != "gripper" for name in self._names]))
        else:
            own = self._own_joint_action(old, wanted)
        return self.step(q_measured, own)

    def _own_ee(self, action: np.ndarray) -> np.ndarray:
        """Return the contract's action [A] (ee_delta) nearest to an action of its `motion`."""
        if self.contract.action == self.contract.motion:
            return action
        motion = self.contract.motion
        wanted = dict(zip(motion.names, action * motion.scale, strict=True))
        own = np.array([wanted.get(name, 0.0) for name in self._names]) / self._scale
        return _slower(own, np.array([name != "gripper" for name in self._names]))

    def _own_joints(self, q_measured: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return the contract's action [A] (joint types) nearest to an action of its `motion`."""
        old, hand = self.hold(), self._hand
        hand._target, hand._pose = old, hand._pose_of(old)
        return self._own_joint_action(old, hand.step(q_measured, action).target)

    def _own_joint_action(self, old: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return the contract's action [A] (joint types) that comes nearest to leading from old to target."""
        if self._type == "joint_position":
            return self._joint_action(old, target)
        return _slower((target - old)[self._index] / self._scale, self._index != self._gripper)

    def step(self, q_measured: np.ndarray, action: np.ndarray) -> Executed:
        """Command one control period.

        Args:
            q_measured: Measured joint positions [n], rad.
            action: Action [A]; what lies outside [-1, 1] is clipped.

        Raises:
            ValueError: A wrong size, NaN or infinity; nothing was changed, the caller holds.
        """
        old = self.hold()
        q = self._check("measured joints", q_measured, len(self.contract.joints))
        a = np.clip(self._check("action", action, len(self._names)), -1.0, 1.0)
        if self._type == "ee_delta":
            return self._step_ee(old, q, a)
        return self._step_joints(old, q, a)

    def _step_ee(self, old: np.ndarray, q: np.ndarray, a: np.ndarray) -> Executed:
        delta = np.zeros(6)
        for i, slot in self._slots:
            delta[slot] = a[i] * self._ee_scale[slot]
        pose = self._pose.copy()
        named = self._ee_scale > 0
        reach = np.where(named, self._ee_scale, 0.0)
        # Leash first, box second, step last: each later limit may only shorten the motion.
        measured = self._pose_of(q)
        offset = measured - pose
        offset[3:] = (offset[3:] + np.pi) % (2 * np.pi) - np.pi
        leash = LEASH_PERIODS * reach
        delta = np.where(named, np.clip(delta, offset - leash, offset + leash), 0.0)
        delta = np.clip(delta, -reach, reach)
        delta[:3] = self._into_box(pose[:3], delta[:3])
        turn = TURN_BACK * self.contract.period
        delta[3:] = np.where(named[3:], delta[3:], np.clip(-pose[3:], -turn, turn))
        pose += delta

        new = self.kinematics.step_ik(old, pose[:3], rpy_matrix(pose[3:]) @ self._home_R)
        if "gripper" in self._names:
            i = self._names.index("gripper")
            new[self._gripper] = self._leashed(old, q, self._gripper, a[i] * self._scale[i], self._scale[i])
        else:
            new[self._gripper] = self._gripper_home(old)
        back = LEAD_BACK * self.contract.period
        target = self._gate(old, new, np.maximum(reach[:3], back))
        pose = self._reached(pose, target)
        executed = self._ee_action(old, self._pose, target, pose)
        self._target, self._pose = target, pose
        return Executed(target.copy(), np.clip(executed, -1.0, 1.0))

    def _ee_action(
        self, old: np.ndarray, old_pose: np.ndarray, target: np.ndarray, pose: np.ndarray
    ) -> np.ndarray:
        """Return the action [A] that leads from old joints and pose to the new ones (ee_delta)."""
        executed = np.zeros(len(self._names))
        moved = pose - old_pose
        moved[3:] = (moved[3:] + np.pi) % (2 * np.pi) - np.pi
        for i, slot in self._slots:
            executed[i] = moved[slot] / self._ee_scale[slot]
        for i, name in enumerate(self._names):
            if name == "gripper":
                executed[i] = (target[self._gripper] - old[self._gripper]) / self._scale[i]
        return executed

    def _joint_action(self, old: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return the action [A] in [-1, 1] that leads from old joints to the targets (joint types)."""
        if self._type == "joint_delta":
            executed = (target - old)[self._index] / self._scale
        else:
            span = (self._high - self._low)[self._index]
            executed = 2.0 * (target - self._low)[self._index] / span - 1.0
        return np.clip(executed, -1.0, 1.0)

    def _step_joints(self, old: np.ndarray, q: np.ndarray, a: np.ndarray) -> Executed:
        new = old.copy()
        for i, joint in enumerate(self._index):
            if self._type == "joint_delta":
                new[joint] = self._leashed(old, q, joint, a[i] * self._scale[i], self._scale[i])
            else:
                wanted = self._low[joint] + (a[i] + 1.0) / 2.0 * (self._high[joint] - self._low[joint])
                new[joint] = self._leashed(old, q, joint, wanted - old[joint], self._reach[joint])
        pos, R = self.kinematics.forward(old)
        if self._outside(pos) > TRACKING:
            back = self.kinematics.step_ik(old, pos + self._into_box(pos, np.zeros(3)), R)
            arm = np.intersect1d(self._index, self.kinematics.arm)
            new[arm] = back[arm]
        target = self._gate(old, new)
        executed = self._joint_action(old, target)
        self._target, self._pose = target, self._pose_of(target)
        return Executed(target.copy(), executed)

    def _leashed(self, old: np.ndarray, q: np.ndarray, joint: int, delta: float, scale: float) -> float:
        """Return the joint's target moved by delta, at most so many scales away from the measured."""
        scale = abs(scale)
        leash = (GRIPPER_LEASH_PERIODS if joint == self._gripper else LEASH_PERIODS) * scale
        delta = np.clip(delta, q[joint] - leash - old[joint], q[joint] + leash - old[joint])
        return old[joint] + np.clip(delta, -scale, scale)

    def _gripper_home(self, old: np.ndarray) -> float:
        """Return the gripper's target on its way from `old` [n] to home."""
        way = self.contract.home[self._gripper] - old[self._gripper]
        return old[self._gripper] + np.clip(way, -self._reach[self._gripper], self._reach[self._gripper])

    def _into_box(self, pos: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """Shorten delta [3] so pos + delta stays in the box; outside it, lead back and never further out."""
        low, high = self.box
        back = LEAD_BACK * self.contract.period
        floor = np.minimum(low, pos + back)  # inside: the bound; below it: a little above where we are
        ceiling = np.maximum(high, pos - back)
        return np.clip(pos + delta, floor, ceiling) - pos

    def _outside(self, pos: np.ndarray) -> float:
        """Return how far pos [3] lies outside the box, m (0 inside)."""
        return float(np.max(np.maximum(self.box[0] - pos, pos - self.box[1]), initial=0.0))

    def _gate(self, old: np.ndarray, new: np.ndarray, reach: np.ndarray | float = np.inf) -> np.ndarray:
        """Return the joint targets that may leave, on the way from old to new: limits, speed, box.

        `reach` [3] (m) bounds how far the tip may move along each axis: inverse kinematics of a pose
        that cannot be reached may swing the arm.
        """
        new = np.clip(new, self._low, self._high)
        change = new - old
        arm = self.kinematics.arm
        fastest = (np.abs(change[arm]) / self._reach[arm]).max(initial=0.0)
        if fastest > 1.0:
            change[arm] /= fastest  # all joints alike, so the direction is kept
        change[self._gripper] = np.clip(
            change[self._gripper], -self._reach[self._gripper], self._reach[self._gripper]
        )
        start, _ = self.kinematics.forward(old)
        allowed = max(self._outside(start), TRACKING)

        def fits(share: float) -> bool:
            tried = old.copy()
            tried[arm] += share * change[arm]
            pos, _ = self.kinematics.forward(tried)
            return self._outside(pos) <= allowed and bool(np.all(np.abs(pos - start) <= reach + TRACKING))

        if not fits(1.0):
            low, high = 0.0, 1.0
            for _ in range(10):
                middle = (low + high) / 2
                low, high = (middle, high) if fits(middle) else (low, middle)
            change[arm] *= low
        return old + change

    def _reached(self, pose: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return the commanded pose, or where the targets really lead if that is somewhere else.

        Re-anchoring only then keeps the millimetre fractions of inverse kinematics from adding up.
        """
        actual = self._pose_of(target)
        if np.linalg.norm(actual[:3] - pose[:3]) > TRACKING:
            pose = pose.copy()
            pose[:3] = actual[:3]
        return pose

    def _pose_of(self, q: np.ndarray) -> np.ndarray:
        """Return x, y, z and roll, pitch, yaw relative to the home orientation [6] for joints q [n]."""
        pos, R = self.kinematics.forward(q)
        return np.concatenate([pos, matrix_rpy(R @ self._home_R.T)])

    @staticmethod
    def _check(what: str, values: np.ndarray, size: int) -> np.ndarray:
        array = np.asarray(values, dtype=float)
        if array.shape != (size,):
            raise ValueError(f"{what}: shape {array.shape}, expected ({size},)")
        if not np.isfinite(array).all():
            raise ValueError(
                f"{what}: holds NaN or infinity at {np.flatnonzero(~np.isfinite(array)).tolist()}"
            )
        return array
