"""Puts what the gripper holds into a hole."""

from __future__ import annotations

import numpy as np

from hilrl_ros.contract import Contract, ContractError, Task

from ..objects import SceneObject, scene_objects
from .base import Expert, StateReader, value

HOVER = 0.006  # m, of the peg's lower end over the hole's rim on the way there
FUNNEL = 4.0  # m of that for each m that it is still beside the hole
CONTACT = 0.001  # m below the rim at which it may be in the hole, or above it at which it is about to touch
ALIGNED = 0.0008  # m beside the hole's middle within which the peg goes down
ASKEW = 0.002  # m beside it at which its lower end is not in the hole, and does not go in
ALARM = 12.0  # steps of progress lost with that: the person takes over at once


class InsertPegExpert(Expert):
    """Carries the held object over the first fixed one, lines them up, and lowers it to where the task's success is.

    The success is `near` over the way from the hole to the peg, with the inserted peg's place as `target`.
    """

    def __init__(self, contract: Contract, task: Task, rng: np.random.Generator, variation: float = 1.0):
        """Also needs a success of that kind, and the peg's tilt (orientation.x and y) in the state; see `Expert`."""
        super().__init__(contract, task, rng, variation)
        if len(task.success.get("target") or ()) != 3:
            raise ContractError(f"expert {task.expert}: needs a success 'near' with a target [x, y, z]")
        hole = self.first(scene_objects(task), "an object with fixed: true", lambda item: item.fixed)
        reader = StateReader(contract)
        self._hole = reader.point(f"{hole.name}/pose", "pose.position")
        self._tilt = [reader.find(f"{self.object.name}/pose", f"pose.orientation.{axis}") for axis in "xy"]
        self._inserted = np.array(task.success["target"], float)
        self._below = max(float(part.half_extent[2] - part.position[2]) for part in self.object.parts)
        rim = max(part.position[2] + part.half_extent[2] for part in hole.parts)
        self._over_rim = (
            rim + self._below - self._inserted[2]
        )  # m, of the inserted peg's place when it is on the rim

    def choose(self, objects: dict[str, SceneObject]) -> SceneObject:
        """The first object that the gripper holds."""
        return self.first(objects, "an object with held: true", lambda item: item.held)

    def reset(self) -> None:
        """See `Expert.reset`."""
        super().reset()
        self.aim *= 0.1  # a person looks closely here

    def _look(self, state: dict[str, float]) -> tuple[np.ndarray, bool]:
        """Return the way [3] (m) to where the peg is inserted, and whether it is in the hole already.

        Outside it is the way of the peg's lower end, which enters the hole. That end also tells what is in: the middle
        of a peg that tilts, jammed on the rim, comes as low.
        """
        hole = np.array([value(state, e) for e in self._hole])
        way = hole + self._inserted - self.thing(state)
        roll, pitch = (2 * np.arcsin(np.clip(value(state, e), -1.0, 1.0)) for e in self._tilt)
        lower = way[:2] - self._below * np.array([-np.sin(pitch), np.sin(roll)])
        depth = self._over_rim + way[2] - self._below * (1.0 - np.cos(roll) * np.cos(pitch))
        inside = depth > CONTACT and float(np.hypot(*lower)) < ASKEW
        if not inside:
            way[:2] = lower
        return way, inside

    def act(self, state: dict[str, float]) -> np.ndarray:
        """See `Expert.act`."""
        motion, inside = self._look(state)
        motion[:2] += self.aim[:2]
        beside = float(np.hypot(*motion[:2]))
        if not inside and beside > ALIGNED:
            motion[2] += self._over_rim + min(HOVER, FUNNEL * (beside - ALIGNED))
            if motion[2] > 0.5 * HOVER:
                motion[:2] = 0.0  # too low to move sideways
        return self._stick(motion, self.pace)

    def progress(self, state: dict[str, float]) -> float:
        """See `Expert.progress`."""
        way, inside = self._look(state)
        hits = not inside and -way[2] < self._over_rim + CONTACT and np.hypot(*way[:2]) > ASKEW
        steps = np.abs(way) / self._scale
        return -float(steps[:2].max() + steps[2] + ALARM * hits)
