"""Reward terms by name. A task composes them in YAML: `{term, weight, …}`; each is logged under its own name.

A term is a class whose fields are its settings; it is called with a `Situation` and returns a number, of which
`range` and the docstring state range and unit. Adding a term is adding a class here. Beside its own settings,
each term of a reward has a `weight` and may have

- `change: true`: paid is how much it rose in the step. Over an episode that is at most its range, however long the
  episode lasts, so that nobody earns by lingering (potential-based shaping, Ng et al., ICML 1999);
- `while: {term: …}`: it is paid only in steps that end in this condition.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from hilrl_ros.contract import ContractError, Task

# Settings of these types are checked against the contract.
StateName = str
ActionName = str


@dataclass
class Situation:
    """What a term may look at.

    Attributes:
        state: Named state entries after the step, SI units.
        before: The same before the step.
        action: Named entries of the executed action, normalised to [-1, 1].
        action_before: The same of the step before; in an episode's first step `action` itself.
        success: Whether the task's success condition holds after the step.
        probability: Of success, as the classifier tells from the images after the step; -1 where none judges.
        threshold: Probability above which that classifier, by its own evaluation, takes it for success.
        person: Whether a person acted in the step.
    """

    state: dict[str, float]
    before: dict[str, float] = field(default_factory=dict)
    action: dict[str, float] = field(default_factory=dict)
    action_before: dict[str, float] = field(default_factory=dict)
    success: bool = False
    probability: float = -1.0
    threshold: float = 1.0
    person: bool = False


class Term:
    """A number that a step is judged by.

    Attributes:
        range: Lowest and highest value.
    """

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        raise NotImplementedError


class StateTerm(Term):
    """A term of the state after the step alone, so that its change in the step can be paid too."""


class Condition(StateTerm):
    """1 where something holds, else 0. May also be a task's `success`, and what another term pays `while`."""


@dataclass(frozen=True)
class Above(Condition):
    """1 while a state entry is above a threshold (in its unit), else 0: a cube lifted, a drawer open."""

    state: StateName
    threshold: float

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return float(s.state[self.state] > self.threshold)


@dataclass(frozen=True)
class Near(Condition):
    """1 while the named state entries are nearer than `threshold` (in their unit) to `target` (zeros if left out)."""

    states: list[StateName]
    threshold: float
    target: list[float] | None = None

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return float(_distance(s.state, self.states, self.target) < self.threshold)


@dataclass(frozen=True)
class Grasp(Condition):
    """1 while something is between the jaws, else 0.

    The jaws (`gripper`, rad) have closed to below `around`, but not to `empty` where they meet with nothing between
    them, and the thing is there: the entries `states` are nearer than `threshold` (in their unit) to `target`.
    """

    gripper: StateName
    around: float
    empty: float
    states: list[StateName]
    threshold: float
    target: list[float] | None = None

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        closed = self.empty < s.state[self.gripper] < self.around
        return float(closed and _distance(s.state, self.states, self.target) < self.threshold)


@dataclass(frozen=True)
class Classifier(Condition):
    """1 while a trained classifier of the camera images takes them for success, else 0. For `success` alone.

    `threshold` is the probability that it takes; left out: the one that its evaluation chose.
    """

    threshold: float | None = None

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return float(s.probability > (s.threshold if self.threshold is None else self.threshold))


@dataclass(frozen=True)
class Success(Term):
    """1 in the step in which the task is solved, else 0. The episode ends there: it is paid once."""

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return float(s.success)


@dataclass(frozen=True)
class Distance(StateTerm):
    """1 - tanh(distance / scale), 0 far away to 1 when there: of the named entries to `target` (zeros if left out).

    `target` and `scale` are in the entries' unit.
    """

    states: list[StateName]
    scale: float = 0.1
    target: list[float] | None = None

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return 1.0 - math.tanh(_distance(s.state, self.states, self.target) / self.scale)


@dataclass(frozen=True)
class Lift(StateTerm):
    """How far a state entry has come from `rest` to `top` (in its unit), as a share, 0 to 1: the height of a thing."""

    state: StateName
    rest: float
    top: float

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return _share(s.state[self.state], self.rest, self.top)


@dataclass(frozen=True)
class Opening(StateTerm):
    """How far a drawer or door has come from `closed` to `open` (in the entry's unit), as a share, and more at the end.

    0 to 1, and 1 + `bonus` once it is open.
    """

    state: StateName
    closed: float
    open: float
    bonus: float = 0.0

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return (0.0, 1.0 + self.bonus)

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        share = _share(s.state[self.state], self.closed, self.open)
        return share + self.bonus * (share >= 1.0)


@dataclass(frozen=True)
class Pull(Term):
    """How far a motion strayed from a direction, 0 for the right way or no motion to -2 for the wrong way.

    (m · d - |m|) / scale for the motion m of the named entries in this step and the unit vector d along `direction`;
    at `scale` (in the entries' unit), the motion of one step at full speed, the wrong way costs 2.
    """

    states: list[StateName]
    direction: list[float]
    scale: float

    range: ClassVar[tuple[float, float]] = (-2.0, 0.0)

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        motion = np.array([s.state[name] - s.before[name] for name in self.states])
        along = motion @ np.array(self.direction) / np.linalg.norm(self.direction)
        return max(-2.0, float(along - np.linalg.norm(motion)) / self.scale)


@dataclass(frozen=True)
class Time(Term):
    """1 in every step: with a negative weight, a price on time."""

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return 1.0


@dataclass(frozen=True)
class ActionSize(Term):
    """Mean square of the executed action, 0 to 1: with a negative weight, calm motion."""

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return _mean_square(s.action.values())


@dataclass(frozen=True)
class Smoothness(Term):
    """Mean square of half the change of the action since the step before, 0 to 1: with a negative weight, no jerks."""

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return _mean_square((s.action[name] - s.action_before[name]) / 2 for name in s.action)


@dataclass(frozen=True)
class Gripper(Term):
    """1 in a step that toggles the gripper, else 0: with a negative weight, no dithering grasp (HIL-SERL).

    The entry `action` says to close (below -0.5) a gripper that is open (`state` above `open`, rad), or to open
    (above 0.5) one that is not.
    """

    action: ActionName
    state: StateName
    open: float

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        command, is_open = s.action[self.action], s.before[self.state] > self.open
        return float(command < -0.5 if is_open else command > 0.5)


@dataclass(frozen=True)
class Intervention(Term):
    """1 in a step in which a person acted, else 0: with a negative weight, the policy avoids what makes people help."""

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        return float(s.person)


TERMS: dict[str, type[Term]] = {
    "above": Above,
    "near": Near,
    "grasp": Grasp,
    "success": Success,
    "distance": Distance,
    "lift": Lift,
    "opening": Opening,
    "pull": Pull,
    "time": Time,
    "action_size": ActionSize,
    "smoothness": Smoothness,
    "gripper": Gripper,
    "intervention": Intervention,
}
CONDITIONS = {name: kind for name, kind in TERMS.items() if issubclass(kind, Condition)}
SUCCESS_CONDITIONS = {**CONDITIONS, "classifier": Classifier}


def _distance(state: dict[str, float], names: list[str], target: list[float] | None) -> float:
    return math.dist([state[name] for name in names], target or [0.0] * len(names))


def _share(value: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (value - start) / (end - start)))


def _mean_square(values: Iterable[float]) -> float:
    squares = [v * v for v in values]
    return sum(squares) / max(1, len(squares))


def make_term(
    where: str,
    settings: Any,
    known: Mapping[str, type[Term]],
    state_names: tuple[str, ...],
    action_names: tuple[str, ...] = (),
) -> Any:
    """Make a term from its YAML settings (`term` and its own keys).

    Raises:
        ContractError: The term, one of its keys, or a state or action entry is unknown.
    """
    term = settings.get("term") if isinstance(settings, dict) else settings
    if not isinstance(settings, dict) or not isinstance(term, str) or term not in known:
        raise ContractError(f"{where}.term: is {term!r}, expected one of {', '.join(known)}")
    kind = known[term]
    given = {k: v for k, v in settings.items() if k != "term"}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in given:
        if key not in fields:
            raise ContractError(
                f"{where}.{key}: unknown key of term '{term}'; allowed: {', '.join(fields) or 'none'}"
            )
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in given]
    if missing:
        raise ContractError(f"{where}: term '{term}' needs {', '.join(missing)}")
    for key, value in given.items():
        _check_setting(f"{where}.{key}", fields[key].type, value, state_names, action_names)
    made = kind(**given)
    _check_together(where, made)
    return made


def _check_setting(
    where: str, kind: str, value: Any, state_names: tuple[str, ...], action_names: tuple[str, ...]
) -> None:
    if kind == "StateName" and not isinstance(value, str):
        raise ContractError(f"{where}: is {value!r}, expected the name of a state entry")
    if kind == "list[StateName]" and not (isinstance(value, list) and value):
        raise ContractError(f"{where}: is {value!r}, expected a list of state entries")
    if kind.partition(" |")[0] == "float" and not _is_number(value):
        raise ContractError(f"{where}: is {value!r}, expected a number")
    if kind.startswith("list[float]") and not (isinstance(value, list) and all(map(_is_number, value))):
        raise ContractError(f"{where}: is {value!r}, expected a list of numbers")
    if kind == "ActionName" and value not in action_names:
        raise ContractError(f"{where}: {value!r} is no action entry; there are {', '.join(action_names)}")
    if kind in ("StateName", "list[StateName]"):
        for name in [value] if isinstance(value, str) else value:
            if name not in state_names:
                raise ContractError(
                    f"{where}: '{name}' is no state entry; there are {', '.join(state_names)}"
                )


def _check_together(where: str, term: Any) -> None:
    for key in ("target", "direction"):
        point = getattr(term, key, None)
        if point is not None and len(point) != len(term.states):
            raise ContractError(
                f"{where}.{key}: is {point}, expected {len(term.states)} numbers, one for each state"
            )
    if getattr(term, "scale", 1.0) <= 0:
        raise ContractError(f"{where}.scale: is {term.scale}, expected a positive number")
    if isinstance(term, Pull) and not any(term.direction):
        raise ContractError(f"{where}.direction: is {term.direction}, expected one that is not zero")
    for start, end in (("rest", "top"), ("closed", "open")):
        if hasattr(term, start) and getattr(term, start) == getattr(term, end):
            raise ContractError(
                f"{where}.{end}: is {getattr(term, end)} as {start} is, expected another number"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class SuccessCondition:
    """A task's `success`: a condition, further ones that must hold in the same step (`and`), for some steps (`hold`).

    `hold: [k, n]`: it counts when all of them held in k of the newest n steps; left out: in this one.

    Attributes:
        needs_classifier: Whether a classifier has to be there.

    Raises:
        ContractError: The settings do not fit.
    """

    def __init__(self, where: str, settings: Any, state_names: tuple[str, ...]):
        own = dict(settings) if isinstance(settings, dict) else {}
        others, hold = own.pop("and", []), own.pop("hold", [1, 1])
        if not isinstance(others, list):
            raise ContractError(f"{where}.and: is {others!r}, expected a list of conditions {{term, …}}")
        whole = isinstance(hold, list) and len(hold) == 2 and all(type(v) is int for v in hold)
        if not whole or not 1 <= hold[0] <= hold[1]:
            raise ContractError(f"{where}.hold: is {hold!r}, expected [k, n]: k of the newest n steps")
        self.conditions = [make_term(where, own, SUCCESS_CONDITIONS, state_names)] + [
            make_term(f"{where}.and[{i}]", other, CONDITIONS, state_names) for i, other in enumerate(others)
        ]
        self.needs_classifier = isinstance(self.conditions[0], Classifier)
        self.least, self.recent = hold[0], deque(maxlen=hold[1])

    def reset(self) -> None:
        """Begin an episode: what held in the one before no longer counts."""
        self.recent.clear()

    def possible(self, state: dict[str, float]) -> bool:
        """Return whether the further conditions hold after a step: elsewhere the first one decides nothing."""
        return all(condition(Situation(state)) > 0 for condition in self.conditions[1:])

    def __call__(self, s: Situation) -> bool:
        """Take the next step and return whether it counts as success."""
        self.recent.append(all(condition(s) > 0 for condition in self.conditions))
        return sum(self.recent) >= self.least


@dataclass(frozen=True)
class WeightedTerm:
    """One term of a reward.

    Attributes:
        term: What is evaluated.
        weight: What it is multiplied by.
        change: Whether its change in the step is paid.
        condition: What must hold after the step for it to be paid.
    """

    term: Term
    weight: float
    change: bool = False
    condition: Condition | None = None

    def __call__(self, s: Situation) -> float:
        """Evaluate."""
        if self.condition and not self.condition(s):
            return 0.0
        return self.weight * (self.term(s) - (self.term(Situation(s.before)) if self.change else 0.0))

    def largest_sum(self, steps: int) -> float:
        """Return the most that it can earn in an episode of so many steps."""
        low, high = self.term.range
        if self.change:
            return abs(self.weight) * (high - low)
        return max(0.0, self.weight * low, self.weight * high) * (
            1 if isinstance(self.term, Success) else steps
        )


class RewardFunction:
    """The reward of a task: success condition and weighted terms.

    The weights count relative to each other: the sum is scaled such that no episode can earn more than 1. An agent's
    settings (bound on the return, weight of imitation, temperature) thus fit every task, and a reward that pays for
    lingering shows in how little is left for success.

    Args:
        task: The task.
        state_names: Names of what is observed, in order: the contract's `entry_names`.
        action_names: Names of the action's entries, in order.

    Raises:
        ContractError: The task's YAML does not fit.
    """

    def __init__(self, task: Task, state_names: tuple[str, ...], action_names: tuple[str, ...]):
        self.action_names = action_names
        self.condition = SuccessCondition(f"{task.name}.success", task.success, state_names)
        self.truth = (
            make_term(f"{task.name}.truth", task.truth, CONDITIONS, state_names) if task.truth else None
        )
        self.terms = {
            name: _weighted(f"{task.name}.reward.{name}", settings, state_names, action_names)
            for name, settings in task.reward.items()
        }
        largest = sum(term.largest_sum(task.max_episode_steps) for term in self.terms.values())
        self.scale = 1.0 / largest if largest else 1.0

    def __call__(
        self,
        before: dict[str, float],
        action: np.ndarray,
        after: dict[str, float],
        action_before: np.ndarray | None = None,
        **more: Any,
    ) -> tuple[dict[str, float], bool]:
        """Judge one step.

        Args:
            before: What was observed before the step, by name, SI units.
            action: Executed action [A], normalised.
            after: What was observed after the step, by name.
            action_before: Executed action of the step before [A]; None in an episode's first.
            more: `probability`, `threshold` and `person` of the `Situation`, where they are known.

        Returns:
            Weighted and scaled value of each term by name, and whether the task is solved.

        Raises:
            ContractError: A term looks at a privileged entry that is not observed here.
        """
        named, named_before = (
            dict(zip(self.action_names, map(float, values), strict=False))
            for values in (action, action if action_before is None else action_before)
        )
        situation = Situation(after, before, named, named_before, **more)
        try:
            situation.success = self.condition(situation)
            values = {name: self.scale * term(situation) for name, term in self.terms.items()}
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
            return self.truth(Situation(after)) > 0
        except KeyError:
            return None


def _weighted(
    where: str, settings: Any, state_names: tuple[str, ...], action_names: tuple[str, ...]
) -> WeightedTerm:
    own = dict(settings) if isinstance(settings, dict) else {}
    weight, change, condition = own.pop("weight", None), own.pop("change", False), own.pop("while", None)
    if not _is_number(weight):
        raise ContractError(f"{where}.weight: is {weight!r}, expected a number")
    term = make_term(where, own, TERMS, state_names, action_names)
    if not isinstance(change, bool) or (change and not isinstance(term, StateTerm)):
        fitting = ", ".join(name for name, kind in TERMS.items() if issubclass(kind, StateTerm))
        raise ContractError(f"{where}.change: is {change!r}, expected true or false; true fits {fitting}")
    if condition is not None:
        if change:
            raise ContractError(f"{where}.while: does not go with change: true, which is paid in every step")
        condition = make_term(f"{where}.while", condition, CONDITIONS, state_names)
    return WeightedTerm(term, float(weight), change, condition)
