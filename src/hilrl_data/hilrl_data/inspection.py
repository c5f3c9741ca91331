"""What an episode source holds, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hilrl_msgs.msg import Action

from hilrl_data.episodes import Recorded
from hilrl_ros.contract import Contract
from hilrl_ros.messages import Step, nanoseconds

_FROZEN = 10  # steps of one and the same picture while the arm moves
_MOVED = 0.01  # of any state entry, between these steps
_DARK = 8  # of 255: a picture whose brightest pixel is darker shows nothing
_LATE = 0.5  # control periods


@dataclass
class Range:
    """Extremes and mean of a vector's entries."""

    low: np.ndarray
    high: np.ndarray
    total: np.ndarray
    count: int = 0

    @classmethod
    def of(cls, size: int) -> Range:
        """Return the range of nothing yet."""
        return cls(np.full(size, np.inf), np.full(size, -np.inf), np.zeros(size))

    def add(self, values: np.ndarray) -> None:
        """Take a vector."""
        self.low, self.high = np.minimum(self.low, values), np.maximum(self.high, values)
        self.total += values
        self.count += 1


@dataclass
class Report:
    """What was found.

    Attributes:
        contract: Of the source.
        findings: What is wrong, one sentence each.
        lengths: Steps of each episode.
        successes: Episodes that succeeded.
        person_steps: Steps that a person did.
        rewards: Sum of all rewards.
        lost: Steps that are missing.
        tasks: Episodes of each task text.
        state: Range of the state.
        action: Range of the actions.
    """

    contract: Contract
    findings: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    successes: int = 0
    person_steps: int = 0
    rewards: float = 0.0
    lost: int = 0
    tasks: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self.state = Range.of(len(self.contract.state))
        self.action = Range.of(len(self.contract.action.names))

    @property
    def steps(self) -> int:
        """Steps of all episodes."""
        return sum(self.lengths)

    def summary(self) -> dict[str, Any]:
        """Return the figures, for people and as JSON."""
        rate = self.contract.control_rate
        return {
            "episodes": len(self.lengths), "steps": self.steps, "seconds": round(self.steps / rate, 1), "rate_hz": rate,
            "steps_per_episode": [min(self.lengths), max(self.lengths)] if self.lengths else [0, 0],
            "successes": self.successes, "person_share": round(self.person_steps / max(self.steps, 1), 4),
            "return_per_episode": round(self.rewards / max(len(self.lengths), 1), 4), "lost_steps": self.lost,
            "tasks": dict(self.tasks), "cameras": {n: list(c.size) for n, c in self.contract.cameras.items()},
        }  # fmt: skip


def inspect(episodes: Iterable[Recorded], contract: Contract, seen: Callable[[Step], None]) -> Report:
    """Read episodes and say what they hold and what is wrong with them.

    Args:
        episodes: Of a source.
        contract: That they fit.
        seen: Called with each step.
    """
    report = Report(contract)
    for episode in episodes:
        look = _Look(report, f"episode {episode.info.episode}")
        for step in episode.steps:
            look.add(step)
            seen(step)
        look.end(episode.info.text)
    _judge(report)
    return report


@dataclass
class _Look:
    """Looks at one episode."""

    report: Report
    name: str
    count: int = 0
    last: Step | None = None
    still: dict[str, tuple[Any, np.ndarray, int]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def say(self, kind: str, text: str) -> None:
        """Note a finding, each kind once an episode."""
        if kind not in self.said:
            self.said.add(kind)
            self.report.findings.append(f"{self.name}: {text}")

    def add(self, step: Step) -> None:
        report, observation = self.report, step.observation
        state, action = np.array(observation.state), np.array(step.executed.action)
        if not (np.isfinite(state).all() and np.isfinite(action).all() and np.isfinite(step.reward.reward)):
            self.say("finite", f"step {observation.step} holds a value that is not finite")
        report.state.add(state)
        report.action.add(action)
        report.rewards += step.reward.reward
        report.person_steps += step.executed.controller == Action.PERSON
        if self.last is not None:
            self._follow(self.last.observation, observation)
        self._look_at_images(observation, state)
        self.count, self.last = self.count + 1, step

    def end(self, text: str) -> None:
        """Note what is known of the whole episode."""
        report = self.report
        report.tasks[text] += 1
        report.lengths.append(self.count)
        if self.last is None:
            self.say("empty", "has no steps")
            return
        reward = self.last.reward
        report.successes += reward.success
        if not (reward.terminated or reward.truncated):
            self.say("end", "does not say how it ended: nothing is learnt from its last step")

    def _follow(self, before: Any, now: Any) -> None:
        gap, period = now.step - before.step - 1, 1e9 / self.report.contract.control_rate
        self.report.lost += gap
        if gap:
            self.say("gap", f"{gap} steps are missing after step {before.step}")
        late = (nanoseconds(now.header.stamp) - nanoseconds(before.header.stamp)) / period - gap - 1
        if abs(late) > _LATE:
            self.say("rate", f"step {now.step} came {late:+.1f} control periods off")

    def _look_at_images(self, observation: Any, state: np.ndarray) -> None:
        for name, image in zip(self.report.contract.cameras, observation.images, strict=False):
            pixels = np.frombuffer(image.data, np.uint8)
            if pixels.max(initial=0) < _DARK:
                self.say(f"dark {name}", f"camera {name} shows nothing (black) at step {observation.step}")
            data, where, count = self.still.get(name, (None, state, 0))
            if data is None or not np.array_equal(np.frombuffer(data, np.uint8), pixels):
                where, count = state, 0
            self.still[name] = image.data, where, count + 1
            if count >= _FROZEN and np.abs(state - where).max() > _MOVED:
                self.say(
                    f"frozen {name}",
                    f"camera {name} shows one and the same picture up to step {observation.step}",
                )


def _judge(report: Report) -> None:
    """Note what only all episodes together show."""
    contract = report.contract
    if not report.steps:
        report.findings.append("holds no steps")
        return
    for name, low, high in zip(contract.action.names, report.action.low, report.action.high, strict=True):
        if low < -1 or high > 1:
            report.findings.append(f"action {name} goes from {low:.3g} to {high:.3g}, expected -1 to 1")
        elif low == high:
            report.findings.append(f"action {name} is always {low:.3g}")
    for entry, low, high in zip(contract.state, report.state.low, report.state.high, strict=True):
        if low == high:
            report.findings.append(f"state {entry.name} is always {low:.4g}")
    if not report.successes:
        report.findings.append("no episode succeeded")
