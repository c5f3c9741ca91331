"""Puts what the gripper holds into a hole."""

from __future__ import annotations

import numpy as np

from hilrl_ros.contract import Contract, ContractError, Task

from ..objects import SceneObject, scene_objects
from .base import Expert, StateReader, value

HOVER = 0.006  # m, of the peg's lower end over the hole's rim on the way there
ALIGNED = 0.0007  # m beside the hole's middle within which the peg goes down


class InsertPegExpert(Expert):
    """Carries the held object over the first fixed one, lines them up, and lowers it to where the task's success is.

    The success is `near` over the way from the hole to the peg, with the inserted peg's place as `target`.
    """

    def __init__(self, contract: Contract, task: Task, rng: np.random.Generator, variation: float = 1.0):
        """Also needs a success of that kind; see `Expert`."""
        super().__init__(contract, task, rng, variation)
        if len(task.success.get("target") or ()) != 3:
            raise ContractError(f"expert {task.expert}: needs a success 'near' with a target [x, y, z]")
        hole = self.first(scene_objects(task), "an object with fixed: true", lambda item: item.fixed)
        reader = StateReader(contract)
        self._hole = reader.point(f"{hole.name}/pose", "pose.position")
        self._inserted = np.array(task.success["target"], float)
        rim = max(part.position[2] + part.half_extent[2] for part in hole.parts)
        self._hover = rim + self.object.parts[0].half_extent[2] + HOVER - self._inserted[2]

    def choose(self, objects: dict[str, SceneObject]) -> SceneObject:
        """The first object that the gripper holds."""
        return self.first(objects, "an object with held: true", lambda item: item.held)

    def reset(self) -> None:
        """See `Expert.reset`."""
        super().reset()
        self.aim *= 0.1  # a person looks closely here

    def _way(self, state: dict[str, float]) -> np.ndarray:
        """Return the way [3] (m) from where the peg is to where it is inserted."""
        hole = np.array([value(state, e) for e in self._hole])
        return hole + self._inserted - self.thing(state)

    def act(self, state: dict[str, float]) -> np.ndarray:
        """See `Expert.act`."""
        way = self._way(state)
        motion = way + np.append(self.aim[:2], 0.0)
        beside = float(np.hypot(*motion[:2]))
        inside = -way[2] < self._hover - 1.5 * HOVER
        if beside > ALIGNED and not inside:
            motion[2] += self._hover
            if motion[2] > HOVER:
                motion[:2] = 0.0  # too low to move sideways
        return self._stick(motion, self.pace)

    def progress(self, state: dict[str, float]) -> float:
        """See `Expert.progress`."""
        way = np.abs(self._way(state)) / self._scale
        return -float(way[:2].max() + way[2])
