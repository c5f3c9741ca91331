"""The simulated person: scripted experts, and the operator who decides when to take over.

An expert sees what a person at the pad sees (the contract's named state entries) and answers
with a stick position. It keeps almost no memory, so it resumes from whatever mess a policy left.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from hilrl_ros.contract import Contract, ContractError, Task
from hilrl_ros.kinematics import Kinematics

from .scene import scene_objects

MODES = ("demonstrate", "watch", "off")
LIFT = 0.05  # m, how high a thing is lifted where the task's success names no height


class StateReader:
    """Finds poses in the contract's named state entries, whatever their names.

    Entries are recognised by topic and field. One that is relative (`minus`) is made absolute again.
    """

    def __init__(self, contract: Contract):
        """Remember the contract's entries."""
        self._entries = contract.entries

    def find(self, topic: str, field: str) -> tuple[str, str]:
        """Return the names of the entry for a field of a topic and of what is subtracted from it ("").

        Raises:
            ContractError: The state vector has no such entry, so a person could not see it either.
        """
        found = [e for e in self._entries if e.topic.lstrip("/") == topic and e.field == field]
        if not found:
            raise ContractError(
                f"state: the scripted expert needs an entry with topic {topic}, field {field}"
            )
        entry = min(found, key=lambda e: e.minus != "")
        return entry.name, entry.minus

    def point(self, topic: str, prefix: str) -> list[tuple[str, str]]:
        """Return `find` for x, y and z of a point."""
        return [self.find(topic, f"{prefix}.{axis}") for axis in "xyz"]


def value(state: dict[str, float], entry: tuple[str, str]) -> float:
    """Return the absolute value of an entry of `StateReader.find`."""
    name, minus = entry
    return state[name] + (state[minus] if minus else 0.0)


class Expert:
    """What experts share: the tip, the stick, and a person's unsteady hand.

    Attributes:
        variation: 0 is a machine, 1 a person: pace, aim and tremor differ between episodes.
    """

    def __init__(self, contract: Contract, task: Task, rng: np.random.Generator, variation: float = 1.0):
        """Find the entries that the expert looks at.

        Raises:
            ContractError: The action space is not ee_delta with x, y and z, the scene has no object, or
                the state vector lacks an entry.
        """
        action = contract.action
        if action.type != "ee_delta" or any(axis not in action.names for axis in "xyz"):
            raise ContractError(
                f"action: the scripted expert {task.expert} moves the tip by ee_delta with x, y and z, "
                f"not by {action.type} {', '.join(action.names)}"
            )
        self.contract, self.task, self.rng, self.variation = contract, task, rng, variation
        objects = scene_objects(task)
        if not objects:
            raise ContractError(f"{task.name}.scene.objects: the scripted expert needs an object")
        self.object = next(iter(objects.values()))
        reader = StateReader(contract)
        self._tip = reader.point("joint_states", "tip")
        self._thing = reader.point(f"{self.object.name}/pose", "pose.position")
        self._xyz = [action.names.index(axis) for axis in "xyz"]
        self._scale = np.array([action.scale[i] for i in self._xyz])
        self.reset()

    def reset(self) -> None:
        """Start an episode: draw this attempt's pace and aim."""
        self.pace = 1.0 - self.variation * self.rng.uniform(0.2, 0.6)
        self.aim = self.variation * self.rng.uniform(-0.0025, 0.0025, 3)  # m, within what a grasp forgives
        self._tremor = np.zeros(3)

    def tip(self, state: dict[str, float]) -> np.ndarray:
        """Return the tip's position [3], m."""
        return np.array([value(state, e) for e in self._tip])

    def thing(self, state: dict[str, float]) -> np.ndarray:
        """Return the object's position [3], m."""
        return np.array([value(state, e) for e in self._thing])

    def _stick(self, motion: np.ndarray, pace: float) -> np.ndarray:
        """Return an action [A] that moves the tip by motion [3] (m), or as far as one step goes that way."""
        self._tremor = 0.7 * self._tremor + self.variation * self.rng.normal(0.0, 0.06, 3)
        stick = motion / self._scale
        stick *= pace / max(1.0, np.abs(stick).max())
        action = np.zeros(len(self.contract.action.names))
        action[self._xyz] = stick + self._tremor * min(1.0, 2.0 * np.abs(stick).max())
        return np.clip(action, -1.0, 1.0)

    def act(self, state: dict[str, float]) -> np.ndarray:
        """Return the action [A] in [-1, 1] for the named state entries."""
        raise NotImplementedError

    def progress(self, state: dict[str, float]) -> float:
        """Return minus the number of full-speed steps that are still to go, about; larger is nearer."""
        raise NotImplementedError


class ReachExpert(Expert):
    """Moves the tip to the object."""

    def act(self, state: dict[str, float]) -> np.ndarray:
        """See `Expert.act`."""
        return self._stick(self.thing(state) + self.aim - self.tip(state), self.pace)

    def progress(self, state: dict[str, float]) -> float:
        """See `Expert.progress`."""
        return -float(np.abs((self.thing(state) - self.tip(state)) / self._scale).max())


class PickExpert(Expert):
    """Puts the open jaws around the object, closes them, lifts.

    Distances come from the object's size and the robot file's `sim.grasp`.
    """

    def __init__(self, contract: Contract, task: Task, rng: np.random.Generator, variation: float = 1.0):
        """Also needs `gripper` in the action and `sim.grasp` of the robot; see `Expert`."""
        super().__init__(contract, task, rng, variation)
        if "gripper" not in contract.action.names or "grasp" not in contract.sim:
            raise ContractError(
                f"expert {task.expert}: needs 'gripper' in the action and sim.grasp in the robot file"
            )
        grasp = contract.sim["grasp"]
        self._open, self._closed = float(grasp["open"]), float(grasp["closed"])
        # The controller holds the home orientation, so the jaws' middle is at a fixed offset from the tip.
        R = Kinematics(contract).forward(np.array(contract.home))[1]
        self._offset = R @ np.array(grasp["offset"], float)
        across = np.array([self._offset[0], self._offset[1], 0.0])
        self._half_gap = float(np.linalg.norm(across))
        self._across = across / self._half_gap
        self._width = min(self.object.size) * (2.0 if self.object.shape != "box" else 1.0)
        self._gripper = StateReader(contract).find("joint_states", f"position[{contract.gripper_joint}]")
        self._grip = contract.action.names.index("gripper")
        self._grip_scale = contract.action.scale[self._grip]
        success = task.truth or task.success
        height = success["threshold"] if success.get("term") == "above" else self.object.height + LIFT
        self._goal = float(height) + 0.3 * self._width

    def reset(self) -> None:
        """See `Expert.reset`."""
        super().reset()
        self._last_grip: float | None = None

    def _look(self, state: dict[str, float]) -> tuple[np.ndarray, bool, float]:
        """Return the way [3] (m) for the jaws to be around the object, whether they are, and the opening.

        The opening is 0 (closed) to 1 (open).
        """
        way = self.thing(state) - self.tip(state) - self._offset
        opening = (value(state, self._gripper) - self._closed) / (self._open - self._closed)
        along = float(way @ self._across)  # + towards the moving jaw
        aside = float(np.hypot(*(way - along * self._across)[:2]))
        # Jaws that have begun to close shift and turn the object: no reason to let go again.
        slack = 1.0 if opening > 0.9 else 2.0
        around = (
            -self._half_gap < along < self._half_gap - 0.3 * self._width
            and aside < slack * 0.2 * self._width
            and abs(way[2]) < slack * 0.16 * self._width
        )
        return way, around, opening

    def act(self, state: dict[str, float]) -> np.ndarray:
        """See `Expert.act`."""
        way, around, opening = self._look(state)
        grip = value(state, self._gripper)
        # Closing jaws that stopped before they met hold something.
        step = np.inf if self._last_grip is None else abs(grip - self._last_grip)
        self._last_grip = grip
        held = around and opening < 0.9 and step < 0.1 * self._grip_scale
        if held:
            action = self._stick(np.array([0.0, 0.0, self._goal - self.thing(state)[2]]), self.pace)
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
        clearance = self.object.height * 2.0 + 0.01  # of the jaws' tips over the object's top
        above = np.clip(3.0 * (beside - 0.2 * self._width), 0.0, clearance)
        if opening < 0.85:
            above = clearance
        motion = way + np.array([0.0, 0.0, above])
        if motion[2] > 0.3 * clearance and beside > 0.3 * self._width:
            motion[:2] = 0.0  # too low to move sideways without pushing the object along
        action = self._stick(motion, self.pace)
        action[self._grip] = np.clip(
            (1.0 - opening) * (self._open - self._closed) / self._grip_scale, -1.0, 1.0
        )
        return action

    def progress(self, state: dict[str, float]) -> float:
        """See `Expert.progress`."""
        way, around, opening = self._look(state)
        grip_steps = abs(self._open - self._closed) / self._grip_scale
        lift = max(0.0, self._goal - self.thing(state)[2]) / self._scale[2]
        if around:
            return -float(lift + max(0.0, opening) * grip_steps)
        travel = np.abs(way[:2] / self._scale[:2]).max() + abs(way[2]) / self._scale[2]
        return -float(lift + travel + grip_steps * (1.0 + max(0.0, 1.0 - opening)))


EXPERTS: dict[str, type[Expert]] = {"pick": PickExpert, "reach": ReachExpert}


def make_expert(contract: Contract, task: Task, rng: np.random.Generator, variation: float = 1.0) -> Expert:
    """Return the task's expert.

    Raises:
        ContractError: The task names none, or one that does not exist or fit.
    """
    if task.expert not in EXPERTS:
        raise ContractError(f"{task.name}.expert: is {task.expert!r}, expected one of {', '.join(EXPERTS)}")
    return EXPERTS[task.expert](contract, task, rng, variation)


class Operator:
    """The simulated person with the pad: who is in control, and what the stick says.

    Modes: `demonstrate` is always in control; `watch` lets the policy act, takes over when it gets
    nowhere or makes things worse, and lets go again; `off` never touches the pad.

    Attributes:
        patience: Steps without progress after which the person takes over.
        gain: Progress (full-speed steps to go) that counts as getting somewhere within `patience`.
        setback: Loss of progress at which the person takes over at once.
        turn: Steps that the person keeps control.
    """

    patience = 18
    gain = 0.7
    setback = 10.0
    turn = 20

    def __init__(
        self, contract: Contract, task: Task, seed: int, mode: str = "watch", variation: float = 1.0
    ):
        """Get the task's expert; raises `ContractError` for an unknown mode or expert."""
        if mode not in MODES:
            raise ContractError(f"operator mode: is {mode!r}, expected one of {', '.join(MODES)}")
        self.mode = mode
        self.expert = make_expert(contract, task, np.random.default_rng(seed), variation)
        self.reset()

    def reset(self) -> None:
        """Start an episode with the pad untouched."""
        self.expert.reset()
        self._left = 0
        self._seen: deque[float] = deque(maxlen=self.patience + 1)

    def decide(self, step: int, state: dict[str, float]) -> tuple[bool, np.ndarray]:
        """Decide one control period.

        Args:
            step: Index within the episode; 0 starts a new one.
            state: The contract's named state entries.

        Returns:
            Whether the person is in control, and the person's action [A] in [-1, 1] (zero if not).
        """
        if step == 0:
            self.reset()
        in_control = self.mode == "demonstrate" or (self.mode == "watch" and self._takes(state))
        if in_control:
            return True, self.expert.act(state)
        return False, np.zeros(len(self.expert.contract.action.names))

    def _takes(self, state: dict[str, float]) -> bool:
        if self._left:
            self._left -= 1
            return True
        self._seen.append(self.expert.progress(state))
        now, best = self._seen[-1], max(self._seen)
        stuck = len(self._seen) > self.patience and best < self._seen[0] + self.gain
        if stuck or now < best - self.setback:
            self._seen.clear()
            self._left = self.turn - 1
            return True
        return False
