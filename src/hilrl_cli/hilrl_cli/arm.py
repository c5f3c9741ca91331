"""What the commands that meet an arm share: its port, real or emulated, and its servos by name.

An emulated arm has a hand, which moves the joints where the person would: whoever has no arm can try a command.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .errors import UserError

IDS = {"shoulder_pan": 1, "shoulder_lift": 2, "elbow_flex": 3, "wrist_flex": 4, "wrist_roll": 5, "gripper": 6}
EMULATED = "emulated"
# Between which positions (ticks) the stops hold the joints of the emulated arm, which was put together a little off.
STOPS = {1: (900, 3400), 2: (850, 3130), 3: (1010, 3210), 4: (940, 3100), 5: (200, 3980), 6: (1900, 3150)}
PATIENCE = 0.1  # s for a servo's reply: nothing moves by it, and on a busy machine one may be late
HAND_SPEED = 1800.0  # ticks/s
HAND_REST = 0.2  # s at each pose


def add_port(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which arm is meant."""
    parser.add_argument(
        "--port",
        help="serial port (default: /dev/so101_follower or _leader), or emulated to try without an arm",
    )
    parser.add_argument(
        "--role", choices=("follower", "leader"), default="follower", help="which arm (default: follower)"
    )


def serial_ports() -> list[str]:
    """Serial ports that there are; by the adapter's own name where it has one, for that stays."""
    named = sorted(glob.glob("/dev/serial/by-id/*"))
    return named or sorted(glob.glob("/dev/ttyACM*") + glob.glob("/dev/ttyUSB*"))


def permission_advice(path: str) -> str:
    """What to do where a device may not be opened; "" where it may."""
    if os.access(path, os.R_OK | os.W_OK):
        return ""
    import grp

    try:
        group = grp.getgrgid(os.stat(path).st_gid).gr_name
    except KeyError:
        group = "dialout"
    return f"no permission for {path}: run `sudo usermod -aG {group} $USER`, then log out and in again"


def find_port(port: str | None, role: str) -> str:
    """Return the serial port that is meant.

    Raises:
        UserError: It is not there, or may not be opened.
    """
    port = port or f"/dev/so101_{role}"
    if not os.path.exists(port):
        there = serial_ports()
        found = (
            f"there are {', '.join(there)}: name one with --port" if there else "no serial port is plugged in"
        )
        raise UserError(f"there is no {port}; {found} (or try --port {EMULATED})")
    advice = permission_advice(port)
    if advice:
        raise UserError(advice)
    if not Path(port).is_char_device():
        raise UserError(f"{port} is no serial port; there are: {', '.join(serial_ports()) or 'none'}")
    return port


@contextlib.contextmanager
def open_port(arguments: argparse.Namespace) -> Iterator[tuple[str, Hand | None]]:
    """Yield the path of the serial port, and the hand of an emulated arm or None; bus errors end the command.

    Raises:
        UserError: See `find_port`; or the bus failed.
    """
    from so101_driver.bus import BusError

    try:
        if arguments.port == EMULATED:
            with Hand() as hand:
                yield hand.emulated.port, hand
        else:
            yield find_port(arguments.port, arguments.role), None
    except BusError as error:
        raise UserError(str(error)) from None


class Hand:
    """An emulated arm, and a hand that moves it.

    Attributes:
        emulated: The servos behind a serial port.
    """

    def __init__(self):
        from so101_driver.emulator import EmulatedBus

        self.emulated = EmulatedBus(IDS.values(), speed=None)
        self._servos = dict(self.emulated.servos)
        for id_, (low, high) in STOPS.items():
            self._servos[id_].actual = low + 0.3 * (high - low)
        self._way: list[dict[int, float]] = []
        self._running = True
        self._thread = threading.Thread(target=self._run, name="hand", daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._running = False
        self._thread.join()
        self.emulated.close()

    def plug(self, ids: Sequence[int]) -> None:
        """Leave only these servos (by the id that they had at first) on the bus."""
        with self.emulated.lock:
            self.emulated.servos = {id_: self._servos[id_] for id_ in ids}

    def factory_new(self) -> None:
        """Give every servo the id that it has when it is new."""
        from so101_driver import registers as reg

        for servo in self._servos.values():
            servo.set(reg.ID, 1)

    def move(self, way: Sequence[Mapping[int, float]]) -> None:
        """Move along poses (ticks before any homing offset, by id), without waiting for the end."""
        with self.emulated.lock:
            self._way = [dict(pose) for pose in way]

    def go(self, pose: Mapping[int, float]) -> None:
        """Move to a pose (ticks, by id) and wait until it is there."""
        self.move([pose])
        while self._way:
            time.sleep(0.01)

    def to_middle(self) -> None:
        """Move every joint to the middle of its range, and wait."""
        self.go({id_: sum(stops) / 2 for id_, stops in STOPS.items()})

    def sweep(self) -> None:
        """Move all joints from stop to stop and back to the middle, without waiting."""
        lows, highs = ({id_: stops[end] for id_, stops in STOPS.items()} for end in (0, 1))
        self.move([lows, highs, {id_: sum(stops) / 2 for id_, stops in STOPS.items()}])

    def _run(self) -> None:
        before, rested = time.monotonic(), 0.0
        while self._running:
            time.sleep(0.01)
            # where the machine stood still the hand did too: who watches it must see it rest
            now = time.monotonic()
            elapsed, before = min(now - before, 0.05), now
            step = HAND_SPEED * elapsed
            with self.emulated.lock:
                if not self._way:
                    continue
                left = 0.0
                for id_, goal in self._way[0].items():
                    servo = self._servos[id_]
                    servo.actual += min(max(goal - servo.actual, -step), step)
                    left = max(left, abs(goal - servo.actual))
                rested = rested + elapsed if left < 0.5 else 0.0
                if rested > HAND_REST:
                    self._way.pop(0)
