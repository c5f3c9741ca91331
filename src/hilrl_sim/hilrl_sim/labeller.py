"""The simulated person who shows a reward classifier what success looks like, and what only looks like it."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from .skills import Expert

Motion = Generator[np.ndarray, tuple[dict[str, float], bool], None]


class Labeller:
    """Does the task again and again: near misses before it, a moment of success, and the undoing of it.

    A near miss is the same motion beside the object, with the gripper closed and lifted on nothing: what a policy that
    learns from the classifier will try. Action spaces without a gripper or z leave those parts out.

    Args:
        expert: Does the task.
        rng: Of what is varied.
    """

    def __init__(self, expert: Expert, rng: np.random.Generator):
        self.expert, self.rng = expert, rng
        self.names = expert.contract.action.names
        self.seen: tuple[dict[str, float], bool] = ({}, False)
        self.motion = self._repeat()
        next(self.motion)

    def act(self, state: dict[str, float], success: bool) -> np.ndarray:
        """Return the action [A] in [-1, 1] for the named state entries; `success`: they show the task solved."""
        return np.clip(self.motion.send((state, success)), -1.0, 1.0)

    def _repeat(self) -> Motion:
        self.seen = yield np.zeros(len(self.names))
        while True:
            for _ in range(self.rng.integers(0, 3)):
                yield from self._miss()
            yield from self._solve()
            yield from self._undo()

    def _do(self, action: np.ndarray) -> Motion:
        self.seen = yield action

    def _move(self, steps: int, **axes: float) -> Motion:
        action = np.zeros(len(self.names))
        for name, value in axes.items():
            if name in self.names:
                action[self.names.index(name)] = value
        for _ in range(steps):
            yield from self._do(action + self.rng.normal(0.0, 0.1, len(action)) * (action == 0.0))

    def _solve(self) -> Motion:
        self.expert.reset()
        self.expert.pace = 1.0  # at the edge of success no button is right: quickly past it
        while not self.seen[1]:
            yield from self._do(self.expert.act(self.seen[0]))
        yield from self._move(self.rng.integers(1, 3), z=1.0, gripper=-0.5)
        yield from self._move(self.rng.integers(1, 4), **self._aside(0.7), gripper=-0.5)

    def _undo(self) -> Motion:
        if self.rng.random() < 0.7:
            yield from self._move(self.rng.integers(3, 6), z=-1.0, gripper=-0.5)
        yield from self._move(self.rng.integers(2, 5), gripper=1.0)
        yield from self._move(self.rng.integers(1, 4), **self._aside(1.0), z=0.8)

    def _miss(self) -> Motion:
        self.expert.reset()
        angle = self.rng.uniform(0.0, 2.0 * np.pi)
        self.expert.aim[:2] = self.rng.uniform(0.025, 0.05) * np.array([np.cos(angle), np.sin(angle)])
        for _ in range(self.rng.integers(8, 14)):
            yield from self._do(self.expert.act(self.seen[0]))
        yield from self._move(self.rng.integers(2, 5), gripper=-1.0)
        yield from self._move(self.rng.integers(3, 6), z=0.8, gripper=-0.5)
        yield from self._move(self.rng.integers(0, 3), gripper=1.0)

    def _aside(self, most: float) -> dict[str, float]:
        return {axis: self.rng.uniform(-most, most) for axis in "xy"}
