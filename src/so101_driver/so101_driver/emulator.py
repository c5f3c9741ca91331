"""Emulated STS3215 servos behind a pseudo-terminal, for a machine without the arm.

    >>> from so101_driver.emulator import EmulatedBus
    >>> emulated = EmulatedBus(ids=range(1, 7))
    >>> bus = Bus(emulated.port, ids=range(1, 7))

Servos follow their goal at a limited speed, or whoever sets `Servo.actual` moves them. Faults are
injected one by one (`inject`), or stay until they are taken away (`silent`, `Servo.faults`, `unplug`).
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import tempfile
import threading
import time
import tty
from collections.abc import Iterable
from pathlib import Path

from . import registers as reg

PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE = 1, 2, 3, 4, 5, 0x82, 0x83
BROADCAST = 0xFE
FAULTS = ("late", "silent", "checksum", "truncated", "noise", "wrong_id", "garbled", "twice")


def _packet(id_: int, instruction: int, parameters: bytes) -> bytes:
    body = bytes([id_, len(parameters) + 2, instruction]) + parameters
    return b"\xff\xff" + body + bytes([~sum(body) & 0xFF])


class Servo:
    """One servo: its registers, and a motor that follows the goal.

    Attributes:
        memory: The registers' bytes.
        actual: Position before the homing offset, ticks; set it to move the servo from outside.
        speed: Ticks/s at which it follows its goal with torque on; None leaves it where it is put, and
            PRESENT_VELOCITY and MOVING as they are set.
        faults: Bits of registers.FAULTS that it reports.
    """

    def __init__(self, id_: int, actual: float = reg.MIDDLE, speed: float | None = 3000.0):
        self.memory = bytearray(256)
        self.actual, self.speed, self.faults = float(actual), speed, 0
        self._pending: tuple[int, bytes] | None = None  # REG_WRITE waiting for ACTION
        self._time = time.monotonic()
        factory = {
            reg.MODEL: reg.MODEL_STS3215,
            reg.ID: id_,
            reg.RETURN_DELAY: 250,
            reg.MAX_POSITION: reg.TICKS - 1,
            reg.MAX_TEMPERATURE: 70,
            reg.MAX_VOLTAGE: 80,
            reg.MIN_VOLTAGE: 40,
            reg.MAX_TORQUE: 1000,
            reg.PHASE: 12,
            reg.P_GAIN: 32,
            reg.D_GAIN: 32,
            reg.PROTECTION_CURRENT: 500,
            reg.PROTECTIVE_TORQUE: 20,
            reg.PROTECTION_TIME: 200,
            reg.OVERLOAD_TORQUE: 80,
        }
        for register, value in factory.items():
            self.set(register, value)
        self._eeprom = bytes(self.memory[: reg.EEPROM_END])
        self.power_cycle()

    def get(self, register: reg.Register) -> int:
        """Value of a register."""
        return register.decode(bytes(self.memory[register.address : register.address + register.size]))

    def set(self, register: reg.Register, value: int) -> None:
        """Set a register, read-only ones too."""
        self.memory[register.address : register.address + register.size] = register.encode(value)

    @property
    def id(self) -> int:
        """Id that it answers to."""
        return self.memory[reg.ID.address]

    @property
    def position(self) -> int:
        """Present position as the bus reads it, ticks."""
        return round(self.actual) - self.get(reg.HOMING_OFFSET)

    def power_cycle(self) -> None:
        """Lose what was written to SRAM, or to EEPROM while LOCK was on; torque is off."""
        self.memory[:] = self._eeprom + bytes(256 - reg.EEPROM_END)
        self.set(reg.TORQUE_LIMIT, self.get(reg.MAX_TORQUE))
        self.set(reg.LOCK, 1)
        self.set(reg.PRESENT_VOLTAGE, 74)
        self.set(reg.PRESENT_TEMPERATURE, 30)
        self._pending = None

    def write(self, address: int, data: bytes) -> None:
        """Take a write from the bus. What lies beyond the goal's registers and the lock is read-only."""
        for at, value in enumerate(data, address):
            if 5 <= at <= reg.LOCK.address:
                self.memory[at] = value
        if address < reg.EEPROM_END and not self.get(reg.LOCK):
            self._eeprom = bytes(self.memory[: reg.EEPROM_END])

    def hold(self, address: int, data: bytes) -> None:
        """Keep a write until action()."""
        self._pending = address, data

    def action(self) -> None:
        """Do the write that hold() kept."""
        if self._pending is not None:
            self.write(*self._pending)
            self._pending = None

    def update(self) -> None:
        """Move towards the goal by the time since the last call, and renew the present registers."""
        if self.speed is not None:
            self._move()
        self.set(reg.PRESENT_POSITION, self.position)
        self.set(reg.STATUS, self.faults)

    @property
    def goal(self) -> int:
        """Goal within its limits, before the homing offset as `actual` is, ticks."""
        low, high = self.get(reg.MIN_POSITION), self.get(reg.MAX_POSITION)
        return min(max(self.get(reg.GOAL_POSITION), low), high) + self.get(reg.HOMING_OFFSET)

    def _move(self) -> None:
        now = time.monotonic()
        elapsed, self._time = now - self._time, now
        moved = 0.0
        if self.get(reg.TORQUE_ENABLE) == 1:
            speed = min(self.speed, abs(self.get(reg.GOAL_VELOCITY)) or self.speed)
            step = speed * elapsed
            moved = min(max(self.goal - self.actual, -step), step)
            self.actual += moved
        self.set(reg.PRESENT_VELOCITY, round(moved / elapsed) if elapsed > 0 else 0)
        self.set(reg.MOVING, int(moved != 0))


class EmulatedBus:
    """Servos on a serial port of their own, in a thread of this process.

    Args:
        ids: Ids of the servos.
        latency: s between a request and its answer, on top of the servos' return delay.
        speed: See Servo.
        seed: Of the random choices that faults make.
        port: Path to open, a link that is made here, in place of a link to another pseudo-terminal that is left
            there; None for one in a folder of its own. FileExistsError if something else is there.

    Attributes:
        port: Path to open; the same after replug().
        servos: Servos by the id that they started with.
        silent: Servos (by that id) that do not answer until they are taken out of the set.
        delays: Shortest and longest delay of a late reply, s.
        lock: Held while a packet is handled; hold it to change several registers at once.
    """

    def __init__(
        self,
        ids: Iterable[int] = range(1, 7),
        latency: float = 0.0,
        speed: float | None = 3000.0,
        seed: int = 0,
        port: str | None = None,
    ):
        self.servos = {id_: Servo(id_, speed=speed) for id_ in ids}
        self.latency = latency
        self.silent: set[int] = set()
        self.delays = (0.01, 0.03)
        self.lock = threading.RLock()
        self._random = random.Random(seed)
        self._faults: collections.deque[tuple[str, int | None]] = collections.deque()
        self._folder = Path(tempfile.mkdtemp(prefix="so101-bus-"))
        self.port = str(port or self._folder / "port")
        self._master = self._slave = None
        self._outbox: list[tuple[float, int, bytes]] = []
        self._order = itertools.count()
        self._received = b""
        self._wake = os.pipe()
        self._running = True
        self.replug()
        self._thread = threading.Thread(target=self._run, name="emulated servo bus", daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Unplug, and stop the thread."""
        if not self._running:
            return
        self.unplug()
        self._running = False
        os.write(self._wake[1], b"x")
        self._thread.join()
        for end in self._wake:
            os.close(end)
        shutil.rmtree(self._folder, ignore_errors=True)

    def unplug(self) -> None:
        """Take the port away. The servos stay powered."""
        with self.lock:
            if self._master is None:
                return
            Path(self.port).unlink()
            os.close(self._master)
            os.close(self._slave)
            self._master = self._slave = None
            self._outbox.clear()
            self._received = b""
            os.write(self._wake[1], b"x")

    def replug(self) -> None:
        """Bring the port back, under the same path."""
        with self.lock:
            if self._master is not None:
                return
            self._master, self._slave = os.openpty()
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            path = Path(self.port)
            if path.is_symlink() and str(path.readlink()).startswith("/dev/pts/"):
                path.unlink()
            path.symlink_to(os.ttyname(self._slave))
            os.write(self._wake[1], b"x")

    @property
    def in_use(self) -> bool:
        """Whether a Bus, or somebody else who locks it, has the port open."""
        with self.lock:
            if self._slave is None:
                return False
            try:
                fcntl.flock(self._slave, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            fcntl.flock(self._slave, fcntl.LOCK_UN)
            return False

    def inject(self, fault: str, id_: int | None = None) -> None:
        """Spoil one reply: the next one of a servo, or of any. Calls queue up.

        Args:
            fault: "late" (comes after `delays`), "silent" (does not come), "checksum" (wrong), "truncated"
                (ends early), "noise" (random bytes before it), "wrong_id" (another servo's id),
                "garbled" (one to three bytes changed, lost or added), "twice" (sent two times).
            id_: The servo.
        """
        if fault not in FAULTS:
            raise ValueError(f"no fault '{fault}'; there are {', '.join(FAULTS)}")
        with self.lock:
            self._faults.append((fault, id_))

    def clear(self) -> int:
        """Forget faults that were injected and did not happen yet; return how many."""
        with self.lock:
            forgotten = len(self._faults)
            self._faults.clear()
            return forgotten

    def _run(self) -> None:
        while self._running:
            with self.lock:
                master = self._master
                wait = max(self._outbox[0][0] - time.monotonic(), 0) if self._outbox else None
            fds = [fd for fd in (self._wake[0], master) if fd is not None]
            try:
                readable, _, _ = select.select(fds, [], [], wait)
            except OSError:  # unplugged just now
                continue
            if self._wake[0] in readable:
                os.read(self._wake[0], 64)
            with self.lock:
                if master is None or master != self._master:
                    continue
                if master in readable:
                    with contextlib.suppress(BlockingIOError):
                        self._received += os.read(master, 4096)
                    self._handle()
                due, now = b"", time.monotonic()
                while self._outbox and self._outbox[0][0] <= now:
                    due += heapq.heappop(self._outbox)[2]
                if due:
                    with contextlib.suppress(BlockingIOError):  # nobody reads: lost, as on a wire
                        os.write(master, due)

    def _handle(self) -> None:
        """Carry out the packets received so far."""
        while True:
            start = self._received.find(b"\xff\xff")
            if start < 0:
                self._received = self._received[-1:] if self._received.endswith(b"\xff") else b""
                return
            self._received = self._received[start:]
            if len(self._received) < 4:
                return
            end = 4 + self._received[3]
            if len(self._received) < end:
                return
            body, check = self._received[2 : end - 1], self._received[end - 1]
            if len(body) < 3 or body[0] == 0xFF or ~sum(body) & 0xFF != check:
                self._received = self._received[1:]
                continue
            self._received = self._received[end:]
            with contextlib.suppress(IndexError):  # parameters are missing: no answer
                self._instruction(body[0], body[2], body[3:])

    def _instruction(self, id_: int, instruction: int, data: bytes) -> None:
        due = time.monotonic() + self.latency
        if instruction == SYNC_READ:
            for wanted in data[2:]:
                for key, servo in self._addressed(wanted):
                    due = self._reply(due, key, servo, self._memory(servo, data[0], data[1]))
            return
        if instruction == SYNC_WRITE:
            address, size = data[0], data[1]
            for at in range(2, len(data) - size, size + 1):
                for _, servo in self._addressed(data[at]):
                    servo.update()
                    servo.write(address, data[at + 1 : at + 1 + size])
            return
        for key, servo in self._addressed(id_):
            answers = servo.id
            servo.update()
            reply = b""
            if instruction == READ:
                reply = self._memory(servo, data[0], data[1])
            elif instruction == WRITE:
                servo.write(data[0], data[1:])
            elif instruction == REG_WRITE:
                servo.hold(data[0], data[1:])
            elif instruction == ACTION:
                servo.action()
            elif instruction != PING:
                continue
            if id_ != BROADCAST:
                due = self._reply(due, key, servo, reply, answers)

    def _addressed(self, id_: int) -> list[tuple[int, Servo]]:
        return [(key, s) for key, s in self.servos.items() if id_ in (s.id, BROADCAST)]

    @staticmethod
    def _memory(servo: Servo, address: int, size: int) -> bytes:
        servo.update()
        return bytes(servo.memory[address : address + size])

    def _reply(self, due: float, key: int, servo: Servo, data: bytes, id_: int | None = None) -> float:
        """Queue a servo's reply, with the fault that waits for it; return when it is out."""
        due += servo.get(reg.RETURN_DELAY) * 2e-6
        if key in self.silent:
            return due
        id_ = servo.id if id_ is None else id_
        frame = _packet(id_, servo.faults, data)
        fault = next((f for f in self._faults if f[1] in (None, key)), None)
        if fault is None:
            self._send(due, frame)
            return due
        self._faults.remove(fault)
        kind, pick = fault[0], self._random
        if kind == "late":
            self._send(due + pick.uniform(*self.delays), frame)
        elif kind == "checksum":
            self._send(due, frame[:-1] + bytes([frame[-1] ^ pick.randrange(1, 256)]))
        elif kind == "truncated":
            self._send(due, frame[: pick.randrange(1, len(frame))])
        elif kind == "noise":
            self._send(due, pick.randbytes(pick.randrange(1, 20)) + frame)
        elif kind == "wrong_id":
            others = [s.id for s in self.servos.values() if s.id != id_] or [id_ ^ 1]
            self._send(due, _packet(pick.choice(others), servo.faults, data))
        elif kind == "garbled":
            self._send(due, self._garbled(frame))
        elif kind == "twice":
            self._send(due, frame + frame)
        return due

    def _garbled(self, frame: bytes) -> bytes:
        garbled = bytearray(frame)
        for _ in range(self._random.randrange(1, 4)):
            at = self._random.randrange(len(garbled))
            change = self._random.choice(("flip", "drop", "add"))
            if change == "flip":
                garbled[at] ^= 1 << self._random.randrange(8)
            elif change == "drop":
                del garbled[at]
            else:
                garbled.insert(at, self._random.randrange(256))
        return bytes(garbled)

    def _send(self, due: float, data: bytes) -> None:
        heapq.heappush(self._outbox, (due, next(self._order), data))
