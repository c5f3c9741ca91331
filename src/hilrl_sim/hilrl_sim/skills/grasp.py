"""Grasps a thing from above and takes it somewhere."""

from __future__ import annotations

import numpy as np

from hilrl_ros.contract import Contract, ContractError, Task
from hilrl_ros.kinematics import Kinematics

from ..scene import read_grasp
from .base import Expert, StateReader, value

LIFT = 0.05  # m, how high a thing is lifted where the task's success names no height


class GraspExpert(Expert):
    """Puts the open jaws around the object, closes them, and carries it as `carry` says.

    Distances come from the object's first part and the robot file's `sim.grasp`.
    """

    def __init__(self, contract: Contract, task: Task, rng: np.random.Generator, variation: float = 1.0):
        """Also needs `gripper` in the action and `sim.grasp` of the robot; see `Expert`."""
        super().__init__(contract, task, rng, variation)
        grasp = read_grasp(contract)
        if "gripper" not in contract.action.names or grasp is None:
            raise ContractError(
                f"expert {task.expert}: needs 'gripper' in the action and sim.grasp in the robot file"
            )
        self._open, self._closed = grasp.open, grasp.closed
        # The controller holds the home orientation, so the jaws' middle is at a fixed offset from the tip.
        R = Kinematics(contract).forward(np.array(contract.home))[1]
        self._offset, gap = R @ grasp.offset, R @ grasp.gap
        self._half_gap = float(np.hypot(*gap[:2])) / 2
        if self._half_gap < 0.001:
            raise ContractError(
                f"{contract.robot}.sim.grasp: the jaws close up and down in the home pose; the expert {task.expert} "
                "grasps from above, so home must be a pose whose jaws close sideways"
            )
        self._across = np.array([gap[0], gap[1], 0.0]) / (2 * self._half_gap)
        extent = 2 * self.object.parts[0].half_extent
        self._width = float(extent[:2].min())
        self._slack = 0.2 * self._width, 0.16 * extent[2]  # m, aside and up or down, for a good grasp
        self._clearance = extent[2] + 0.01  # of the jaws' tips on the way to the object
        self._gripper = StateReader(contract).find("joint_states", f"position[{contract.gripper_joint}]")
        self._grip = contract.action.names.index("gripper")
        self._grip_scale = contract.action.scale[self._grip]

    def reset(self) -> None:
        """See `Expert.reset`."""
        super().reset()
        self._last_grip: float | None = None

    def carry(self, state: dict[str, float]) -> np.ndarray:
        """Return the way [3] (m) that the held object still has to go."""
        raise NotImplementedError

    def _look(self, state: dict[str, float]) -> tuple[np.ndarray, bool, float]:
        """Return the way [3] (m) for the jaws to be around the object, whether they are, and the opening.

        The opening is 0 (closed) to 1 (open).
        """
        way = self.thing(state) - self.tip(state) - self._offset
        opening = (value(state, self._gripper) - self._closed) / (self._open - self._closed)
        along = float(way @ self._across)  # + towards the moving jaw
        aside = float(np.hypot(*(way - along * self._across)[:2]))
        # Jaws that have begun to close shift and turn the object: no reason to let go again.
        patience = 1.0 if opening > 0.9 else 2.0
        around = (
            -self._half_gap < along < self._half_gap - 0.3 * self._width
            and aside < patience * self._slack[0]
            and abs(way[2]) < patience * self._slack[1]
        )
        return way, around, opening

    def act(self, state: dict[str, float]) -> np.ndarray:
        """See `Expert.act`."""
        way, around, opening = self._look(state)
        grip = value(state, self._gripper)
        # Closing jaws that stopped before they met hold something.
        step = np.inf if self._last_grip is None else abs(grip - self._last_grip)
        self._last_grip = grip
        held = around and opening < 0.9 and step < 0.1 * abs(self._grip_scale)
        if held:
            action = self._stick(self.carry(state), self.pace)
            action[self._grip] = -0.5
        elif around:
            action = self._stick(np.zeros(3), self.pace)
            action[self._grip] = -1.0
        else:
            action = self._approach(way + np.append(self.aim[:2], 0.0), opening)
        return action

    def _approach(self, way: np.ndarray, opening: float) -> np.ndarray:
        """Come from above: over the object first, down a funnel, with the jaws open before the way down."""
        beside = float(np.hypot(*way[:2]))
        above = np.clip(3.0 * (beside - 0.2 * self._width), 0.0, self._clearance)
        if opening < 0.85:
            above = self._clearance
        motion = way + np.array([0.0, 0.0, above])
        if motion[2] > 0.3 * self._clearance and beside > 0.3 * self._width:
            motion[:2] = 0.0  # too low to move sideways without pushing the object along
        action = self._stick(motion, self.pace)
        action[self._grip] = np.clip(
            (1.0 - opening) * (self._open - self._closed) / self._grip_scale, -1.0, 1.0
        )
        return action

    def progress(self, state: dict[str, float]) -> float:
        """See `Expert.progress`."""
        way, around, opening = self._look(state)
        grip_steps = abs((self._open - self._closed) / self._grip_scale)
        carry = float(np.abs(self.carry(state) / self._scale).max())
        if around:
            return -float(carry + max(0.0, opening) * grip_steps)
        travel = np.abs(way[:2] / self._scale[:2]).max() + abs(way[2]) / self._scale[2]
        return -float(carry + travel + grip_steps * (1.0 + max(0.0, 1.0 - opening)))


class PickExpert(GraspExpert):
    """Lifts the object."""

    def carry(self, state: dict[str, float]) -> np.ndarray:
        """Up, to a little more than the height that the task's success names."""
        success = self.task.truth or self.task.success
        height = success["threshold"] if success.get("term") == "above" else self.object.height + LIFT
        goal = float(height) + 0.3 * self._width
        return np.array([0.0, 0.0, max(0.0, goal - self.thing(state)[2])])
