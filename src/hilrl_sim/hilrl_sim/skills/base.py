"""What the skills of the scripted person share: what it sees, the stick, and an unsteady hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hilrl_ros.contract import Contract, ContractError, Task

from ..objects import SceneObject, scene_objects


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
        self.object = self.choose(scene_objects(task))
        reader = StateReader(contract)
        self._tip = reader.point("joint_states", "tip")
        self._thing = reader.point(f"{self.object.name}/pose", "pose.position")
        self._xyz = [action.names.index(axis) for axis in "xyz"]
        self._scale = np.array([action.scale[i] for i in self._xyz])
        self.reset()

    def choose(self, objects: dict[str, SceneObject]) -> SceneObject:
        """Return the object that the expert is about: the first.

        Raises:
            ContractError: There is none.
        """
        return self.first(objects, "an object", lambda item: True)

    def first(
        self, objects: dict[str, SceneObject], what: str, fits: Callable[[SceneObject], bool]
    ) -> SceneObject:
        """Return the first of the objects that fits.

        Raises:
            ContractError: None does.
        """
        for item in objects.values():
            if fits(item):
                return item
        raise ContractError(f"{self.task.name}.scene.objects: the expert {self.task.expert} needs {what}")

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
