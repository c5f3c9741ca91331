"""Opens a drawer by its handle."""

from __future__ import annotations

import numpy as np

from hilrl_ros.contract import Contract, Task

from ..objects import SceneObject
from .base import StateReader, value
from .grasp import GraspExpert

BEYOND = 0.01  # m, how much further than success asks the drawer is pulled


class OpenDrawerExpert(GraspExpert):
    """Grasps the first part of the object that slides on another, and pulls it along the joint."""

    def __init__(self, contract: Contract, task: Task, rng: np.random.Generator, variation: float = 1.0):
        """Needs the slide's position and its pose's turn (orientation.z) in the state; see `GraspExpert`."""
        super().__init__(contract, task, rng, variation)
        reader, name = StateReader(contract), self.object.name
        self._opening = reader.find(f"{name}/joint_states", f"position[{name}]")
        self._turn = reader.find(f"{name}/pose", "pose.orientation.z")
        # the handle is held firmly wherever along its length
        self._slack = 0.4 * self.object.parts[0].half_extent[1], self._slack[1]
        low, high = self.object.joint.range
        self._end = high if abs(high) > abs(low) else low
        if task.success.get("term") == "above" and task.success["state"] == self._opening[0]:
            self._end = min(high, float(task.success["threshold"]) + BEYOND)

    def choose(self, objects: dict[str, SceneObject]) -> SceneObject:
        """The first object on a slide."""
        return self.first(
            objects,
            "an object with joint.type: slide",
            lambda item: bool(item.joint and item.joint.type == "slide"),
        )

    def carry(self, state: dict[str, float]) -> np.ndarray:
        """Along the slide, as far as it is not yet open."""
        half = np.arcsin(np.clip(value(state, self._turn), -1.0, 1.0))
        c, s = np.cos(2 * half), np.sin(2 * half)
        axis = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ np.array(self.object.joint.axis)
        return (self._end - value(state, self._opening)) * axis / np.linalg.norm(axis)
