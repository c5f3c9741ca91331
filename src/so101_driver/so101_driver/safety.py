"""What the servos may be told: the gate between commands and the arm. No bus, no ROS.

Every command and every reading passes through one `Guard`. It refuses what must not be carried out,
moves the goal no faster than the arm may go, and reacts to what the servos report. The conditions and
reactions are listed for people in docs/explanation/safety.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .bus import ServoState
from .calibration import GRIPPER

CONFIRM = 3  # readings in a row that a condition takes to be believed: one may be damaged
TOLERANCE = 0.01  # rad that a target may lie outside a limit: rounding; it is clipped
LONGEST_STEP = 0.05  # s of motion that one goal may make up for when a cycle came late

# Reactions to a condition, mildest first.
REPORT, SLOW, HOLD, OFF = range(4)


class Refused(ValueError):
    """A command that is not carried out: the arm holds. The message is one sentence."""


@dataclass(frozen=True)
class Thresholds:
    """When the guard steps in.

    Attributes:
        max_joint_speed: rad/s of the fastest joint's goal.
        watchdog: s after which an arm without commands holds; also how late a command may be carried out
            because it asks for more than max_joint_speed.
        temperature_warn: °C from which the arm goes slowly.
        temperature_critical: °C from which torque is switched off.
        slow: Share of max_joint_speed that is left to an arm that is too warm.
        current_max: A that a servo may draw.
        voltage_min: V that a servo needs.
        strain_time: s that overload or over-current may last before torque is switched off.
        lost_after: s without a good reading after which contact counts as lost.
        emergency_torque_off: Whether an emergency stop switches torque off; else the arm holds.
    """

    max_joint_speed: float = 3.0
    watchdog: float = 0.25
    temperature_warn: float = 55.0
    temperature_critical: float = 65.0
    slow: float = 0.3
    current_max: float = 2.0
    voltage_min: float = 4.5
    strain_time: float = 2.0
    lost_after: float = 0.25
    emergency_torque_off: bool = False


@dataclass(frozen=True)
class ArmState:
    """One reading of the arm; joint vectors are in the order of the calibration's names.

    Attributes:
        stamp: time.monotonic() just before the request went out, s.
        position: Joint positions [n], rad; NaN where unknown.
        velocity: Joint velocities [n], rad/s; NaN where unknown.
        load: Share of the stall torque [n] in [-1, 1]; NaN where unknown.
        servos: What the servos reported, by joint.
        errors: Why a joint has no reading, by joint, one sentence each.
    """

    stamp: float
    position: np.ndarray
    velocity: np.ndarray
    load: np.ndarray
    servos: Mapping[str, ServoState] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every joint has a reading."""
        return not self.errors


@dataclass(frozen=True)
class Problem:
    """A condition of the arm.

    Attributes:
        joint: Joint that has it.
        reaction: REPORT, SLOW, HOLD or OFF.
        text: One sentence for a person.
        lost: Whether it is that there is no contact.
        strain: Whether the joint pushes against something.
    """

    joint: str
    reaction: int
    text: str
    lost: bool = False
    strain: bool = False


class Guard:
    """Decides what the servos get, from commands, readings and time.

    Safe to use from several threads: commands come from one, readings from another.

    Attributes:
        names: Joint names [n].
        limits: Lowest and highest target of each joint [n, 2], rad.
        problems: Conditions of the newest readings.
        fault: Why torque was switched off and stays off; "" while there is no reason.
        stopped: Whether an emergency stop is in force.
    """

    def __init__(
        self,
        names: Sequence[str],
        limits: np.ndarray,
        thresholds: Thresholds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.names, self.limits = tuple(names), np.array(limits, float)
        self.thresholds = thresholds or Thresholds()
        self.problems: tuple[Problem, ...] = ()
        self.fault, self.stopped = "", False
        self._clock = clock
        self._lock = threading.Lock()
        self._torque = False  # what was asked for
        self._seen: dict[tuple[str, str], tuple[int, float]] = {}  # condition: readings in a row, since
        self._present: np.ndarray | None = None
        self._goal: np.ndarray | None = None
        self._plan: tuple[np.ndarray, np.ndarray] | None = None  # times [k], points [k, n]
        self._stepped = 0.0

    # --- from commands ---

    def torque(self, on: bool) -> None:
        """Ask for torque on or off. On forgets a fault whose reason is gone."""
        with self._lock:
            self._torque, self._plan = on, None
            if on:
                self.fault = ""

    def emergency_stop(self, on: bool) -> None:
        """Stop where the arm is, until it is called with False."""
        with self._lock:
            self.stopped = on
            self._freeze()

    def command(self, points: np.ndarray, times: Sequence[float] = (0.0,)) -> None:
        """Take targets; replaces what was commanded before.

        The goal runs from where it is to each point in a straight line that ends at the point's time.

        Args:
            points: Joint targets [k, n] or [n], rad.
            times: s from now [k] at which each is due, not descending. 0 is as fast as the arm may go.

        Raises:
            Refused: A target has the wrong size, is not finite, out of range or too far to be reached in
                time, or the arm takes no commands now. It holds.
        """
        with self._lock:
            try:
                self._plan = self._checked(points, times)
            except Refused:
                self._plan = None
                raise

    def _checked(self, points: np.ndarray, times: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        reason = self._closed()
        if reason:
            raise Refused(f"command refused: {reason}")
        points, times = np.atleast_2d(np.array(points, float)), np.array(times, float)
        if points.ndim != 2 or points.shape[1] != len(self.names) or len(points) != len(times):
            raise Refused(
                f"command refused: targets of shape {points.shape} at {len(times)} times, "
                f"expected {len(self.names)} joints at each"
            )
        if not len(times) or not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) < 0).any():
            raise Refused(
                f"command refused: times {times.tolist()} must be numbers from 0 that do not descend"
            )
        if not np.isfinite(points).all():
            raise Refused(f"command refused: targets must be finite, not {points.tolist()}")
        low, high = self.limits.T
        outside = np.maximum(low - points, points - high)
        if outside.max() > TOLERANCE:
            k, i = np.unravel_index(outside.argmax(), outside.shape)
            raise Refused(
                f"command refused: {self.names[i]} at {points[k, i]:.3f} rad is out of its range "
                f"{low[i]:.3f} to {high[i]:.3f}"
            )
        points = np.clip(points, low, high)
        before, arrival = self._goal, 0.0
        for point, due in zip(points, times, strict=True):
            way = np.abs(point - before)
            arrival = max(due, arrival + way.max() / self.thresholds.max_joint_speed)
            if arrival - due > self.thresholds.watchdog:
                raise Refused(
                    f"command refused: {self.names[way.argmax()]} shall move {way.max():.3f} rad by {due:.2f} s, "
                    f"too far at {self.thresholds.max_joint_speed:g} rad/s"
                )
            before = point
        start = self._clock()
        return np.append(start, start + times), np.vstack([self._goal, points])

    def _closed(self) -> str:
        """Return why no command is taken; "" if one is."""
        if self.stopped:
            return "the emergency stop is in force"
        if self.fault:
            return f"torque is off: {self.fault}"
        if not self._torque:
            return "torque is off and nobody asked for it"
        if self._goal is None:
            return "torque is not on yet"
        return next((p.text for p in self.problems if p.reaction >= HOLD), "")

    # --- from the arm ---

    @property
    def wants_torque(self) -> bool:
        """Whether torque should be on."""
        limp = self.stopped and self.thresholds.emergency_torque_off
        return self._torque and not self.fault and not limp

    @property
    def lost(self) -> bool:
        """Whether contact with a servo counts as lost."""
        return any(p.lost for p in self.problems)

    @property
    def status(self) -> str:
        """What the arm does and why, for people."""
        with self._lock:
            reason = self._closed()
            return f"holds: {reason}" if reason and self.wants_torque else reason or "follows commands"

    def engage(self, position: np.ndarray) -> None:
        """Torque goes on: the first goal is the present position [n], rad."""
        with self._lock:
            self._goal, self._plan, self._stepped = np.array(position, float), None, self._clock()

    def fail(self, reason: str) -> None:
        """Switch torque off, until it is asked for again."""
        with self._lock:
            self.fault, self._plan = reason, None

    def observe(self, state: ArmState) -> None:
        """Take a reading, and react to what it says."""
        with self._lock:
            now, strained = self._clock(), any(p.strain for p in self.problems)
            self.problems = tuple(self._judge(state, now))
            if state.complete:
                self._present = state.position
            if any(p.reaction >= HOLD for p in self.problems):
                self._plan = None
            if any(p.strain for p in self.problems) and not strained:
                self._freeze()  # no more pushing
            critical = next((p for p in self.problems if p.reaction == OFF), None)
            if critical and self._torque:
                self.fault = self.fault or critical.text

    def step(self) -> np.ndarray:
        """Return the goal [n] in rad that is due now, at most max_joint_speed away from the last one."""
        with self._lock:
            now, limits = self._clock(), self.thresholds
            elapsed, self._stepped = min(max(now - self._stepped, 0.0), LONGEST_STEP), now
            if self._plan is None:
                return self._goal.copy()
            times, points = self._plan
            if now > times[-1] + limits.watchdog:
                self._plan = None
                return self._goal.copy()
            pace = limits.slow if any(p.reaction == SLOW for p in self.problems) else 1.0
            if now < times[-1]:
                times += elapsed * (1.0 - pace)  # the whole trajectory takes longer
            wanted = np.array([np.interp(now, times, column) for column in points.T])
            way = wanted - self._goal
            reach = limits.max_joint_speed * pace * elapsed
            self._goal = self._goal + way * min(1.0, reach / max(np.abs(way).max(), 1e-9))
            return self._goal.copy()

    def _freeze(self) -> None:
        """Make the present position the goal."""
        self._plan = None
        if self._goal is not None and self._present is not None:
            self._goal = self._present.copy()

    def _judge(self, state: ArmState, now: float) -> Iterator[Problem]:
        limits = self.thresholds
        for joint in self.names:
            servo = state.servos.get(joint)
            silent = self._lasted(joint, "silent", servo is None, now)
            if servo is None:
                if silent >= limits.lost_after:
                    yield Problem(joint, HOLD, state.errors[joint], lost=True)
                continue
            hot = servo.temperature >= limits.temperature_critical or "overheat" in servo.faults
            warm = servo.temperature >= limits.temperature_warn
            current = servo.current > limits.current_max or "over-current" in servo.faults
            overload = "overload" in servo.faults
            # A gripper that holds something is overloaded; its servo lowers the torque by itself.
            pushes = self._lasted(joint, "strain", current or (overload and joint != GRIPPER), now)
            if self._lasted(joint, "hot", hot, now) >= 0:
                yield Problem(joint, OFF, f"{joint} is too hot ({servo.temperature} °C); let it cool down")
            elif self._lasted(joint, "warm", warm, now) >= 0:
                yield Problem(joint, SLOW, f"{joint} is warm ({servo.temperature} °C), the arm goes slowly")
            if pushes >= 0:
                what = f"draws {servo.current:.1f} A" if current else "is overloaded"
                off = pushes >= limits.strain_time
                yield Problem(
                    joint, OFF if off else HOLD, f"{joint} {what}; free the arm if it is stuck", strain=True
                )
            elif overload and joint == GRIPPER:
                yield Problem(joint, REPORT, f"{joint} is overloaded; its servo lowers the torque by itself")
            low = servo.voltage < limits.voltage_min or "voltage" in servo.faults
            if self._lasted(joint, "voltage", low, now) >= 0:
                yield Problem(joint, HOLD, f"{joint} has {servo.voltage:.1f} V; check the power supply")
            if self._lasted(joint, "angle", "angle" in servo.faults, now) >= 0:
                yield Problem(joint, HOLD, f"{joint} reports a fault of its angle sensor; check the servo")

    def _lasted(self, joint: str, condition: str, present: bool, now: float) -> float:
        """Return how long a condition has lasted, s; -1 while it is absent or not yet believed."""
        key = joint, condition
        if not present:
            self._seen.pop(key, None)
            return -1.0
        count, since = self._seen.get(key, (0, now))
        self._seen[key] = count + 1, since
        return now - since if count + 1 >= CONFIRM else -1.0
