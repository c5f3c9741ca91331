"""The simulated person: the operator who decides when to take over, and whose hands are one of the `skills`."""

from __future__ import annotations

from collections import deque

import numpy as np

from hilrl_ros.contract import Contract, ContractError, Task

from .skills import make_expert

MODES = ("demonstrate", "watch", "off")


class Operator:
    """The simulated person with the pad: who is in control, and what the stick says.

    Modes: `demonstrate` is always in control; `watch` lets the policy act, takes over when it gets
    nowhere or makes things worse, and lets go again; `off` never touches the pad.

    Attributes:
        patience: Steps without progress after which the person takes over; a second at 10 Hz.
        gain: Progress (full-speed steps to go) that counts as getting somewhere within `patience`.
        setback: Loss of progress at which the person takes over at once.
        turn: Steps that the person keeps control.
    """

    patience = 10
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
