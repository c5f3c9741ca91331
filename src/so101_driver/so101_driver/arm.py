"""The SO-101 in radians: its servo bus, its calibration, and the guard between commands and servos.

    >>> from so101_driver.arm import Arm
    >>> with Arm(Bus("/dev/so101_follower", range(1, 7)), Calibration.find("my_arm")) as arm:
    ...     arm.connect()
    ...     print(arm.read().position)

`connect` and `cycle` do all that goes over the bus and belong to one thread; commands may come from another.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator

import numpy as np

from . import registers as reg
from .bus import Bus, BusError, PortError
from .calibration import GRIPPER, Calibration
from .safety import ArmState, Guard, Thresholds

NEAR = 0.1  # rad that a joint may stand outside its range when torque goes on
CHECK_EVERY = 0.2  # s between two looks at whether a servo still has torque: it loses it with its power
AGAIN = 1.0  # s between two looks at whether the right arm is plugged in
SOFT_STEPS = 20  # in which torque fades
INSIST = 1.0  # s for which a servo that does not answer is told again that its torque shall go off
FIRST_IDS = range(1, 11)  # where a servo that does not answer is looked for

# What LeRobot sets too: no pause before replies, position mode, gains that do not shake.
CONFIGURATION = {
    reg.RETURN_DELAY: 0,
    reg.MODE: 0,
    reg.P_GAIN: 16,
    reg.I_GAIN: 0,
    reg.D_GAIN: 32,
    reg.ACCELERATION: 254,
}
# Half the torque and current, a quarter when overloaded: a gripper that holds something must not burn.
GRIPPER_CONFIGURATION = {
    reg.MAX_TORQUE: 500,
    reg.PROTECTION_CURRENT: 250,
    reg.OVERLOAD_TORQUE: 25,
}
MULTI_TURN = 0x10  # bit of PHASE with which positions leave 0..4095


class ArmError(Exception):
    """The arm is not in a state to be used; the message is one sentence for a person."""


class Arm:
    """An arm on a servo bus.

    Attributes:
        calibration: Its calibration; joint vectors are in the order of its names.
        guard: What decides about commands; give commands to it.
        trouble: What went wrong on the bus in the newest cycle; "" if nothing did.
    """

    def __init__(
        self,
        bus: Bus,
        calibration: Calibration,
        limits: np.ndarray | None = None,
        thresholds: Thresholds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Put bus and calibration together; nothing is sent.

        Args:
            bus: The servo bus; it reads the calibration's ids.
            calibration: Of all joints of the arm.
            limits: Lowest and highest target of each joint [n, 2], rad, within the calibrated ranges.
            thresholds: When the guard steps in.
            clock: Time in s.

        Raises:
            ValueError: The bus has other ids than the calibration, or limits leave a joint no range.
        """
        if set(bus.ids) != set(calibration.ids):
            raise ValueError(f"the bus has servos {bus.ids}, the calibration {calibration.ids}")
        self.bus, self.calibration, self._clock = bus, calibration, clock
        low, high = calibration.limits.T
        if limits is not None:
            low, high = np.maximum(low, limits[:, 0]), np.minimum(high, limits[:, 1])
        for name, a, b in zip(calibration.names, low, high, strict=True):
            if a >= b:
                raise ValueError(f"{name}: its limits and its calibrated range have nothing in common")
        self.guard = Guard(calibration.names, np.stack([low, high], axis=1), thresholds, clock)
        self.trouble = ""
        self._servos = list(zip(calibration.names, calibration.ids, strict=True))
        self._range = np.array([(j.range_min, j.range_max) for j in calibration.joints.values()]).T
        self._verified = False  # that this is the arm of the calibration
        self._stranger, self._verify_again = "", 0.0
        self._on: bool | None = None  # torque; None: unknown
        self._check_at, self._checks = 0.0, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- setting up ---

    def connect(self) -> None:
        """See that this is the arm of the calibration, and configure its servos.

        Only registers that differ are written. An arm that holds its position, for a driver died, goes on
        holding it unless EEPROM registers differ.

        Raises:
            ArmError: A servo is missing, is another model, or holds another calibration.
            BusError: The bus failed.
        """
        self._verify()
        self._configure()

    def _verify(self) -> None:
        """Raise ArmError unless every servo answers and holds this calibration."""
        for name, id_ in self._servos:
            if not self.bus.ping(id_):
                others = [i for i in FIRST_IDS if i not in self.calibration.ids and self.bus.ping(i)]
                found = f"; servo {others} does, is its id wrong?" if others else ""
                raise ArmError(
                    f"servo {id_} ({name}) does not answer on {self.bus.port}{found or '; check cable and power'}"
                )
            model = self.bus.read_register(id_, reg.MODEL)
            if model != reg.MODEL_STS3215:
                raise ArmError(
                    f"servo {id_} ({name}) is model {model}, expected an STS3215 ({reg.MODEL_STS3215})"
                )
            for register, what, wanted in self._calibrated(name):
                value = self.bus.read_register(id_, register)
                if value != wanted:
                    raise ArmError(
                        f"servo {id_} ({name}) holds {what} {value}, its calibration says {wanted}: another arm? "
                        "Plug in the right one, name its calibration, or write the calibration to the servos"
                    )
        self._verified = True

    def _calibrated(self, name: str) -> Iterator[tuple[reg.Register, str, int]]:
        joint = self.calibration.joints[name]
        yield reg.HOMING_OFFSET, "homing offset", joint.homing_offset
        yield reg.MIN_POSITION, "lowest position", joint.range_min
        yield reg.MAX_POSITION, "highest position", joint.range_max

    def write_calibration(self) -> None:
        """Write the calibration to the servos. Torque goes off first: positions change.

        Raises:
            BusError: The bus failed; some servos may have it, some not.
        """
        self._switch_off()
        for name, id_ in self._servos:
            with self._unlocked(id_):
                for register, _, value in self._calibrated(name):
                    self.bus.write_register(id_, register, value)

    def _configure(self) -> None:
        for name, id_ in self._servos:
            wanted = dict(CONFIGURATION)
            wanted |= GRIPPER_CONFIGURATION if name == GRIPPER else {}
            wanted[reg.PHASE] = self.bus.read_register(id_, reg.PHASE) & ~MULTI_TURN
            wanted = {r: v for r, v in wanted.items() if self.bus.read_register(id_, r) != v}
            if any(register.address < reg.EEPROM_END for register in wanted):
                self.bus.write_register(id_, reg.TORQUE_ENABLE, 0)
                self._on = None
                with self._unlocked(id_):
                    for register, value in wanted.items():
                        self.bus.write_register(id_, register, value)
            else:
                for register, value in wanted.items():
                    self.bus.write_register(id_, register, value)

    @contextlib.contextmanager
    def _unlocked(self, id_: int) -> Iterator[None]:
        """Let a servo's EEPROM be written."""
        self.bus.write_register(id_, reg.LOCK, 0)
        try:
            yield
        finally:
            self.bus.write_register(id_, reg.LOCK, 1)

    # --- running ---

    @property
    def torque_on(self) -> bool | None:
        """Whether all servos have torque (True), none has (False), or that is not known (None)."""
        return self._on

    def read(self) -> ArmState:
        """Read the arm. Faults of the bus or a servo are in the state's errors."""
        stamp, states = time.monotonic(), {}
        try:
            reading = self.bus.sync_read_state()
            errors = {name: reading.errors[id_] for name, id_ in self._servos if id_ in reading.errors}
            errors = {name: f"no contact with {name}: {error}" for name, error in errors.items()}
            if not self._verified and not errors:
                self._look_again()
            if self._verified:
                states = {name: reading.states[id_] for name, id_ in self._servos if id_ in reading.states}
            else:  # another arm's positions would be wrong here
                reason = next(iter(errors.values()), self._stranger or "the arm is being looked at again")
                errors = {name: errors.get(name, reason) for name, _ in self._servos}
        except PortError as error:
            self._forget()
            self._stranger, self._verify_again = "", 0.0
            errors = {name: str(error) for name, _ in self._servos}
        raw = np.full((3, len(self._servos)), np.nan)
        for i, (name, _) in enumerate(self._servos):
            if name in states:
                servo = states[name]
                raw[:, i] = servo.position, servo.velocity, servo.load
                stamp = servo.stamp
        return ArmState(
            stamp=stamp,
            position=self.calibration.to_radians(raw[0]),
            velocity=raw[1] * self.calibration.scale,
            load=raw[2] * np.sign(self.calibration.scale),
            servos=states,
            errors=errors,
        )

    def cycle(self) -> ArmState:
        """Read the arm, react, and move its goals on; called at the driver's rate. Returns the reading."""
        state = self.read()
        self.guard.observe(state)
        self.trouble = ""
        if self.guard.lost:
            self._forget()
        try:
            if not self.guard.wants_torque:
                if self._on is not False and not self._stranger:
                    self._switch_off()
            elif self._on is not True:
                if state.complete:
                    self._switch_on(state)
            else:
                self._write(self.guard.step())
                self._check_torque()
        except ArmError as error:
            self.guard.fail(str(error))
        except BusError as error:
            self.trouble = str(error)
            if isinstance(error, PortError):
                self._forget()
        return state

    def _forget(self) -> None:
        """Contact was lost: what comes back may be another arm, and may have lost its power."""
        self._verified, self._on = False, None

    def _look_again(self) -> None:
        if self._clock() < self._verify_again:
            return
        try:
            self.connect()
            self._stranger = ""
        except PortError:
            self._forget()
        except (ArmError, BusError) as error:
            self._verified, self._stranger = False, str(error)
            self._verify_again = self._clock() + AGAIN

    def _switch_on(self, state: ArmState) -> None:
        """Torque on, with the present position as goal: an old one would make the arm jump."""
        low, high = self.calibration.limits.T
        outside = np.maximum(low - state.position, state.position - high)
        if outside.max() > NEAR:
            name = self.calibration.names[outside.argmax()]
            raise ArmError(
                f"{name} stands {np.degrees(outside.max()):.0f}° outside its calibrated range: move it inside by "
                "hand, or calibrate again"
            )
        self._on = None
        goals = self._ticks(state.position)
        try:
            for _, id_ in self._servos:
                self.bus.write_register(id_, reg.TORQUE_LIMIT, self.bus.read_register(id_, reg.MAX_TORQUE))
                self.bus.write_register(id_, reg.GOAL_POSITION, goals[id_])
            for _, id_ in self._servos:
                self.bus.write_register(id_, reg.TORQUE_ENABLE, 1)
        except BusError:
            self._switch_off()  # not half an arm
            raise
        self.guard.engage(state.position)
        self._on = True

    def _switch_off(self) -> None:
        """Torque off: first all at once, then until each has acknowledged it."""
        self._on = None
        self.bus.sync_write(reg.TORQUE_ENABLE, {id_: 0 for _, id_ in self._servos})
        failed = []
        for name, id_ in self._servos:
            try:
                self.bus.write_register(id_, reg.TORQUE_ENABLE, 0)
            except PortError:
                raise
            except BusError as error:
                failed.append(f"{name}: {error}")
        if failed:
            raise BusError(f"torque may still be on: {'; '.join(failed)}")
        self._on = False

    def _write(self, goal: np.ndarray) -> None:
        self.bus.sync_write_positions(self._ticks(goal))

    def _ticks(self, position: np.ndarray) -> dict[int, int]:
        """Servo goals by id of joint positions [n] in rad, never outside the calibrated ranges."""
        ticks = np.clip(self.calibration.to_ticks(position), *self._range)
        return {id_: int(tick) for (_, id_), tick in zip(self._servos, ticks, strict=True)}

    def _check_torque(self) -> None:
        """See, one servo after another, whether torque is still on."""
        if self._clock() < self._check_at:
            return
        self._check_at = self._clock() + CHECK_EVERY
        name, id_ = self._servos[self._checks % len(self._servos)]
        self._checks += 1
        if not self.bus.read_register(id_, reg.TORQUE_ENABLE):
            self._forget()
            raise BusError(f"{name} lost its torque; was its power interrupted?")

    # --- ending ---

    def release(self, seconds: float = 0.0) -> None:
        """Switch torque off, after it has faded over some seconds so that the arm sinks and does not fall.

        Where it cannot fade, for a reply is missing, it goes off at once; and that is tried for a while.

        Raises:
            BusError: The bus failed; torque may still be on.
        """
        self.guard.torque(False)
        limits: dict[int, int] = {}
        if seconds > 0 and self._on:
            with contextlib.suppress(BusError):
                limits = {id_: self.bus.read_register(id_, reg.TORQUE_LIMIT) for _, id_ in self._servos}
                for share in np.linspace(1, 0, SOFT_STEPS):
                    self.bus.sync_write(reg.TORQUE_LIMIT, {id_: int(v * share) for id_, v in limits.items()})
                    time.sleep(seconds / SOFT_STEPS)
        _insist(self._switch_off)
        for id_, limit in limits.items():
            _insist(functools.partial(self.bus.write_register, id_, reg.TORQUE_LIMIT, limit))

    def close(self) -> None:
        """Close the port. Torque stays as it is: servos hold the last goal until they lose power."""
        self.bus.close()


def _insist(call: Callable[[], None]) -> None:
    """Call until it succeeds; raise its BusError if it does not within `INSIST` or the port is gone."""
    end = time.monotonic() + INSIST
    while True:
        try:
            return call()
        except PortError:
            raise
        except BusError:
            if time.monotonic() > end:
                raise
