"""Moves the tip to a point."""

from __future__ import annotations

import numpy as np

from .base import Expert


class ReachExpert(Expert):
    """Moves the tip to the object."""

    def act(self, state: dict[str, float]) -> np.ndarray:
        """See `Expert.act`."""
        return self._stick(self.thing(state) + self.aim - self.tip(state), self.pace)

    def progress(self, state: dict[str, float]) -> float:
        """See `Expert.progress`."""
        return -float(np.abs((self.thing(state) - self.tip(state)) / self._scale).max())
