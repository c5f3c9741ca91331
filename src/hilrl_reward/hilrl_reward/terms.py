"""Reward terms by name. A task composes them in YAML: `{term, weight, …}`; each is logged under its own name.

A term is a class whose fields are its settings; it is called with a `Situation` and returns a number, of which the
range is stated. Adding a term is adding a class here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hilrl_ros.contract import ContractError, Task


@dataclass
class Situation:
    """What a term may look at.

    Attributes:
        state: Named state entries after the step, SI units.
        before: The same before the step.
        action: Executed action, normalised.
        success: Whether the task's success condition holds after the step.
    """

    state: dict[str, float]
    before: dict[str, float]
    action: np.ndarray
    success: bool


@dataclass(frozen=True)
class Above:
    """1 while a state entry is above a threshold (in its unit), else 0: a cube lifted, a drawer open."""

    state: str
    threshold: float

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return float(s.state[self.state] > self.threshold)


@dataclass(frozen=True)
class Near:
    """1 while the norm of the named state entries is below a threshold (in their unit), else 0."""

    states: list[str]
    threshold: float

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return float(_norm(s.state, self.states) < self.threshold)


@dataclass(frozen=True)
class Success:
    """1 in the step in which the task is solved, else 0."""

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return float(s.success)


@dataclass(frozen=True)
class Distance:
    """1 - tanh(norm of the named entries / scale): 1 when there, 0 far away. `scale` in the entries' unit."""

    states: list[str]
    scale: float = 0.1

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return 1.0 - math.tanh(_norm(s.state, self.states) / self.scale)


@dataclass(frozen=True)
class Progress:
    """How much nearer to zero the norm of the named entries came in this step, in their unit (signed)."""

    states: list[str]

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return _norm(s.before, self.states) - _norm(s.state, self.states)


@dataclass(frozen=True)
class Time:
    """1 in every step: with a negative weight, a price on time."""

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return 1.0


@dataclass(frozen=True)
class ActionSize:
    """Mean square of the executed action, 0 to 1: with a negative weight, calm motion."""

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return float(np.mean(np.square(s.action))) if len(s.action) else 0.0


CONDITIONS = {"above": Above, "near": Near}
TERMS = {
    **CONDITIONS,
    "success": Success,
    "distance": Distance,
    "progress": Progress,
    "time": Time,
    "action_size": ActionSize,
}


def _norm(state: dict[str, float], names: list[str]) -> float:
    return math.sqrt(sum(state[name] ** 2 for name in names))


def make_term(
    where: str, settings: dict[str, Any], known: dict[str, type], state_names: tuple[str, ...]
) -> Any:
    """Make a term from its YAML settings (`term` and its own keys).

    Raises:
        ContractError: The term, one of its keys, or a state entry is unknown.
    """
    term = settings.get("term") if isinstance(settings, dict) else settings
    if not isinstance(settings, dict) or not isinstance(term, str) or term not in known:
        raise ContractError(f"{where}.term: is {term!r}, expected one of {', '.join(known)}")
    kind = known[settings["term"]]
    given = {k: v for k, v in settings.items() if k != "term"}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in given:
        if key not in fields:
            raise ContractError(
                f"{where}.{key}: unknown key of term '{settings['term']}'; allowed: {', '.join(fields) or 'none'}"
            )
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in given]
    if missing:
        raise ContractError(f"{where}: term '{settings['term']}' needs {', '.join(missing)}")
    for key, given_value in given.items():
        _check_setting(f"{where}.{key}", key, given_value)
    for key in ("state", "states"):
        for name in [given[key]] if isinstance(given.get(key), str) else given.get(key, []):
            if name not in state_names:
                raise ContractError(
                    f"{where}.{key}: '{name}' is no state entry; there are {', '.join(state_names)}"
                )
    return kind(**given)


def _check_setting(where: str, key: str, value: Any) -> None:
    if key == "state" and not isinstance(value, str):
        raise ContractError(f"{where}: is {value!r}, expected the name of a state entry")
    if key == "states" and not (isinstance(value, list) and value):
        raise ContractError(f"{where}: is {value!r}, expected a list of state entries")
    if key in ("threshold", "scale") and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ContractError(f"{where}: is {value!r}, expected a number")
    if key == "scale" and value <= 0:
        raise ContractError(f"{where}: is {value!r}, expected a positive number")


class RewardFunction:
    """The reward of a task: success condition and weighted terms.

    Args:
        task: The task.
        state_names: Names of what is observed, in order: the contract's `entry_names`.

    Raises:
        ContractError: The task's YAML does not fit.
    """

    def __init__(self, task: Task, state_names: tuple[str, ...]):
        self.names = state_names
        self.truth = (
            make_term(f"{task.name}.truth", task.truth, CONDITIONS, state_names) if task.truth else None
        )
        self.condition = make_term(f"{task.name}.success", task.success, CONDITIONS, state_names)
        self.terms = {}
        for name, settings in task.reward.items():
            where = f"{task.name}.reward.{name}"
            weight = settings.get("weight") if isinstance(settings, dict) else None
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise ContractError(f"{where}.weight: is {weight!r}, expected a number")
            rest = {k: v for k, v in settings.items() if k != "weight"}
            self.terms[name] = (float(weight), make_term(where, rest, TERMS, state_names))

    def __call__(
        self, before: dict[str, float], action: np.ndarray, after: dict[str, float]
    ) -> tuple[dict[str, float], bool]:
        """Judge one step.

        Args:
            before: What was observed before the step, by name, SI units.
            action: Executed action [A], normalised.
            after: What was observed after the step, by name.

        Returns:
            Weighted value of each term by name, and whether the task is solved.

        Raises:
            ContractError: A term looks at a privileged entry that is not observed here.
        """
        situation = Situation(state=after, before=before, action=action, success=False)
        try:
            situation.success = self.condition(situation) > 0
            values = {name: weight * term(situation) for name, (weight, term) in self.terms.items()}
        except KeyError as e:
            raise ContractError(
                f"the reward looks at '{e.args[0]}', which is privileged and not observed here: only a simulator "
                "publishes it; give the task a success that cameras or joints tell"
            ) from None
        return values, situation.success

    def solved(self, after: dict[str, float]) -> bool | None:
        """Return whether the task is solved in truth after a step; None where that cannot be told."""
        if self.truth is None:
            return None
        try:
            return self.truth(Situation(after, after, np.zeros(0), False)) > 0
        except KeyError:
            return None
