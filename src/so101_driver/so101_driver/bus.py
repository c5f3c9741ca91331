"""Servo bus of the SO-101: every servo's state in one transaction, and never a wrong position.

    >>> from so101_driver.bus import Bus
    >>> bus = Bus("/dev/so101_follower", ids=range(1, 7))
    >>> bus.sync_read_state().states[1].position

The port comes from feetech-servo-sdk. Its receive path is not used: it takes a late reply for the
answer to the next question, and loses every servo behind a missing one.

Four things keep a reply of the past, or a damaged one, from passing as a position:

- Input is thrown away before each request, and a reply must have the right id, length and checksum.
- The protocol numbers nothing, so a late reply could still answer a later question. After each fault
  requests therefore ask for a few bytes more than they need, another number after each: the reply's
  length says between which faults it was asked for.
  The numbers repeat in the end: of a servo that was silent for so long, the first reply is left out.
- Where one of several servos is silent, another may have answered under its id, and a third under
  that one's: all of them are asked once more, each alone.
- The checksum has eight bits only. A position that no servo could have reached since its last
  reading is taken only if a second reading agrees.
"""

from __future__ import annotations

import inspect
import math
import os
import select
import struct
import termios
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from . import registers as reg

INSTALL = "pip install feetech-servo-sdk==1.0.0"


def check_sdk(sdk) -> None:
    """Raise ImportError unless a module is feetech-servo-sdk's `scservo_sdk`; others share the name."""
    try:
        parameters = list(inspect.signature(sdk.GroupSyncRead.__init__).parameters)
        right = parameters[1:] == ["port", "ph", "start_address", "data_length"]
        right &= (sdk.INST_SYNC_READ, sdk.INST_SYNC_WRITE) == (0x82, 0x83)
        right &= all(callable(getattr(sdk.PortHandler, f)) for f in ("openPort", "closePort", "setBaudRate"))
    except (AttributeError, TypeError, ValueError):
        right = False
    if not right:
        raise ImportError(
            f"the installed scservo_sdk ({getattr(sdk, '__file__', '?')}) is another package's: "
            f"uninstall that package (pip list shows ftservo or vassar in its name), then {INSTALL}"
        )


try:
    import scservo_sdk
except ModuleNotFoundError as error:
    raise ImportError(f"the servo bus needs scservo_sdk: {INSTALL}") from error
check_sdk(scservo_sdk)

TAGS = 8  # lengths that tell replies before a fault from those after it; at most 8 registers' bytes
TAG_TIME = 1.0  # s after a fault at which no reply from before it is expected any more
LONGEST = reg.STATE_SIZE + TAGS + 2  # what a reply's length byte may say
FASTEST = 4650.0  # ticks/s, 1.5 times what the servo does without load
JITTER = 8  # ticks between two readings of a servo at rest
STUCK = 0.5  # s after which a port that takes no bytes counts as lost
MEMORY = 0.05  # s; older readings say no more about where a servo may be than this old ones


class BusError(Exception):
    """The bus or a servo did not do what was asked; the message is one sentence for a person."""


class PortError(BusError):
    """The port is missing, taken or unplugged. Every call tries to open it again."""


class NoReply(BusError):
    """One servo gave no reply that can be trusted."""


@dataclass(frozen=True)
class ServoState:
    """What one servo reports.

    Attributes:
        position: Ticks, 4096 a turn, after the servo's homing offset.
        velocity: Ticks/s.
        load: Share of the stall torque, in [-1, 1] (the servo's own estimate, from the duty cycle).
        voltage: V.
        temperature: °C.
        current: A, without sign.
        moving: Whether the servo says that it is moving.
        faults: Of "voltage", "angle", "overheat", "over-current", "overload" those that are on.
        stamp: time.monotonic() just before the request went out, s.
    """

    position: int
    velocity: int
    load: float
    voltage: float
    temperature: int
    current: float
    moving: bool
    faults: tuple[str, ...]
    stamp: float


@dataclass(frozen=True)
class Reading:
    """One sync read: each id is in exactly one of the two.

    Attributes:
        states: What servos reported, by id.
        errors: Why a servo has no state, by id.
    """

    states: dict[int, ServoState] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


def checksum(body: bytes) -> int:
    """Checksum of a packet's bytes between header and checksum."""
    return ~sum(body) & 0xFF


def packet(id_: int, instruction: int, parameters: bytes = b"") -> bytes:
    """An instruction packet (a status packet has the error bits in the instruction's place)."""
    body = bytes([id_, len(parameters) + 2, instruction]) + parameters
    return b"\xff\xff" + body + bytes([checksum(body)])


class _Replies:
    """Status packets of one transaction, picked out of the received bytes."""

    def __init__(self, ids: Sequence[int], size: int):
        self.size = size
        self.good: dict[int, tuple[int, bytes]] = {}  # id: error bits, data
        self.bad: dict[int, str] = {}
        self.missing = set(ids)
        self._order = tuple(ids)
        self._last = -1  # place of the newest good reply in the order
        self._buffer = b""

    def feed(self, data: bytes, last: bool = False) -> None:
        """Take received bytes; `last` says that no more will come."""
        buffer, at = self._buffer + data, 0
        while True:
            at = buffer.find(b"\xff\xff", at)
            if at < 0:
                self._buffer = b"\xff" if buffer.endswith(b"\xff") else b""
                return
            known = len(buffer) - at >= 4
            if known and (buffer[at + 2] == 0xFF or not 2 <= buffer[at + 3] <= LONGEST):
                at += 1
                continue
            end = at + 4 + buffer[at + 3] if known else len(buffer) + 1
            if end > len(buffer):
                if last:  # cut off; what follows may hold a whole one
                    at += 1
                    continue
                self._buffer = buffer[at:]
                return
            body = buffer[at + 2 : end - 1]
            if checksum(body) != buffer[end - 1]:
                self.bad[body[0]] = "its reply has a wrong checksum"
                at += 1
                continue
            # A packet with a byte too many has its real checksum behind its end.
            self._take(body, surplus=end < len(buffer) and buffer[end] != 0xFF)
            at = end

    def _take(self, body: bytes, surplus: bool) -> None:
        id_, error, data = body[0], body[2], body[3:]
        if id_ not in self._order:
            self.bad[id_] = "it answered without being asked"
        elif surplus:
            self.bad[id_] = "its reply has bytes too many"
        elif len(data) != self.size:
            self.bad[id_] = "a reply came late"
        elif id_ in self.good or id_ not in self.missing:
            self.bad[id_] = "two replies came for its id"
            self.good.pop(id_, None)
        elif self._order.index(id_) < self._last:
            self.bad[id_] = "its reply came out of turn"
        else:
            self.good[id_] = error, data
            self._last = self._order.index(id_)
        self.missing = set(self._order) - set(self.good)

    def doubt(self) -> None:
        """Take back all replies: where a servo is silent, each may be another servo's, under a wrong id.

        Servos answer a sync read in turn. Replies in turn and of all of them are each servo's own; with
        one missing, the next may have answered for it, and the one after that for this one.
        """
        for id_ in self.good:
            self.bad[id_] = "it may be another servo that answered for it"
        self.good.clear()

    def why(self, id_: int) -> str:
        """Why there is no reply of a servo."""
        strangers = sorted(set(self.bad) - set(self._order))
        others = f" (but id {', '.join(map(str, strangers))} answered)" if strangers else ""
        return self.bad.get(id_, f"it did not answer{others}")


class Bus:
    """The servos on one serial port.

    Safe to use from several threads: one transaction at a time. The port is opened here, and again by
    any call after it was lost.

    Args:
        port: Serial device, such as /dev/ttyACM0.
        ids: Ids of the servos that sync_read_state() reads, in this order.
        baud: Bit/s, as the servos are set.
        timeout: s that a reply may take, on top of the time on the wire.
        retries: How often a servo without a good reply is asked again.

    Raises:
        PortError: The port does not open.
        ValueError: The ids are not different numbers in 0..252, or the port cannot run at `baud`.
    """

    def __init__(
        self,
        port: str,
        ids: Sequence[int],
        baud: int = 1_000_000,
        timeout: float = 0.02,
        retries: int = 2,
    ):
        self.ids = tuple(ids)
        if len(set(self.ids)) != len(self.ids) or not all(0 <= i <= scservo_sdk.MAX_ID for i in self.ids):
            raise ValueError(f"servo ids must be different numbers in 0..252, not {list(self.ids)}")
        self.port, self.baud, self.timeout, self.retries = str(port), baud, timeout, retries
        self._lock = threading.RLock()
        self._handler = None
        self._tag, self._fault_time = 0, -math.inf
        self._suspects: set[int] = set()  # ids of which an older reply may still be under way
        self._overdue: set[int] = set()  # those of them whose older reply may bear the present tag
        self._trusted: dict[int, tuple[float, int]] = {}  # id: stamp, position
        self.connect()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def connected(self) -> bool:
        """Whether the port is open; an unplugged one is noticed by the next call that uses it."""
        return self._handler is not None

    def connect(self) -> None:
        """Open the port unless it is open. PortError if that fails."""
        with self._lock:
            if self._handler is not None:
                return
            handler = scservo_sdk.PortHandler(self.port)
            try:
                if not handler.setBaudRate(self.baud):
                    raise ValueError(f"the servo bus cannot run at {self.baud} bit/s")
                handler.ser.write_timeout = STUCK
                handler.ser.exclusive = True
            except (OSError, termios.error) as error:
                if handler.ser is not None:
                    handler.ser.close()
                raise PortError(f"cannot open the servo bus {self.port}: {error}") from error
            self._handler = handler
            self._trusted.clear()

    def close(self) -> None:
        """Close the port. Torque stays as it is."""
        with self._lock:
            handler, self._handler = self._handler, None
            if handler is not None:
                try:
                    handler.closePort()
                except (OSError, termios.error):
                    handler.is_open = False  # it was unplugged

    def sync_read_state(self) -> Reading:
        """Read the whole state of all servos in one transaction; ask those without a good reply again, alone.

        Raises:
            PortError: The port is gone. A silent or faulty servo is no exception: it is in `errors`.
        """
        with self._lock:
            reading = Reading()
            seen: dict[int, tuple[float, int]] = {}  # positions that wait for a second opinion
            pending, heard = list(self.ids), False
            for _ in range(1 + max(self.retries, 1)):
                for asked in [[id_] for id_ in pending] if heard else [pending]:
                    stamp, replies, offset = self._read(asked, reg.STATE_ADDRESS, reg.STATE_SIZE)
                    heard |= bool(replies.good or replies.bad)
                    for id_ in asked:
                        if id_ not in replies.good:
                            reading.errors[id_] = replies.why(id_)
                            continue
                        error, data = replies.good[id_]
                        state = _state(error, data[offset:], stamp)
                        before = self._trusted.get(id_), seen.get(id_)
                        if any(_reachable(b, stamp, state.position) for b in before):
                            reading.states[id_] = state
                            self._trusted[id_] = stamp, state.position
                            reading.errors.pop(id_, None)
                        else:
                            seen[id_] = stamp, state.position
                            reading.errors[id_] = "its position jumps from reading to reading"
                pending = [i for i in pending if i not in reading.states]
                if not pending:
                    break
            return reading

    def sync_write_positions(self, goals: Mapping[int, int]) -> None:
        """Send goal positions, by id, in ticks 0..4095, in one packet that servos do not acknowledge.

        Raises:
            ValueError: A goal is no whole number in that range; nothing was sent.
            PortError: The port is gone.
        """
        for id_, goal in goals.items():
            if not 0 <= goal < reg.TICKS:  # NaN is not
                raise ValueError(f"goal {goal} of servo {id_} is not in 0..{reg.TICKS - 1}; nothing was sent")
        self.sync_write(reg.GOAL_POSITION, goals)

    def sync_write(self, register: reg.Register, values: Mapping[int, int]) -> None:
        """Write one register of several servos, by id, in one packet that servos do not acknowledge.

        Raises:
            ValueError: An id is not among `ids`, or the register cannot hold a value; nothing was sent.
            PortError: The port is gone.
        """
        unknown = sorted(set(values) - set(self.ids))
        if unknown:
            raise ValueError(f"no servo {unknown} on this bus, only {list(self.ids)}; nothing was sent")
        if not values:
            return
        parameters = bytes([register.address, register.size]) + b"".join(
            bytes([id_]) + register.encode(value) for id_, value in values.items()
        )
        with self._lock:
            self._transact(packet(scservo_sdk.BROADCAST_ID, scservo_sdk.INST_SYNC_WRITE, parameters), (), 0)

    def read_register(self, id_: int, register: reg.Register) -> int:
        """Read one register, in its own unit (see registers).

        Raises:
            NoReply: The servo gave no good reply.
            PortError: The port is gone.
        """
        with self._lock:
            for _ in range(1 + self.retries):
                _, replies, offset = self._read([id_], register.address, register.size)
                if id_ in replies.good:
                    return register.decode(replies.good[id_][1][offset : offset + register.size])
            raise NoReply(f"cannot read register {register.address} of servo {id_}: {replies.why(id_)}")

    def write_register(self, id_: int, register: reg.Register, value: int) -> None:
        """Write one register, in its own unit (see registers), and wait for the acknowledgement.

        Raises:
            NoReply: The servo did not acknowledge; it may have taken the value all the same.
            ValueError: The register cannot hold the value.
            PortError: The port is gone.
        """
        data = bytes([register.address]) + register.encode(value)
        problem = self._acknowledged(id_, scservo_sdk.INST_WRITE, data)
        if problem:
            raise NoReply(f"cannot write register {register.address} of servo {id_}: {problem}")

    def ping(self, id_: int) -> bool:
        """Whether a servo answers. PortError if the port is gone."""
        return not self._acknowledged(id_, scservo_sdk.INST_PING)

    def _acknowledged(self, id_: int, instruction: int, parameters: bytes = b"") -> str | None:
        """Send until a servo acknowledges; return why it did not.

        An acknowledgement carries no data, hence no tag. A servo and its adapter answer in order, so
        after a fault a tagged read comes first: once it is answered, no older acknowledgement can come.
        """
        with self._lock:
            for _ in range(1 + self.retries):
                if id_ in self._suspects:
                    _, replies, _ = self._read([id_], reg.ID.address, reg.ID.size)
                    if id_ in self._suspects:
                        continue
                replies = self._transact(packet(id_, instruction, parameters), [id_], 0)
                if id_ in replies.good:
                    return None
            return replies.why(id_)

    def _read(self, ids: Sequence[int], address: int, size: int) -> tuple[float, _Replies, int]:
        """Read registers of some servos.

        Returns:
            Stamp of the request, the replies, and where in their data the wanted address lies.
        """
        if time.monotonic() - self._fault_time > TAG_TIME:
            self._tag = 0
        length = size
        if self._tag:
            length = self._tag + (reg.STATE_SIZE if size == reg.STATE_SIZE else TAGS - 1)
        start, size = max(address - (length - size), 0), length
        if len(ids) == 1:
            request = packet(ids[0], scservo_sdk.INST_READ, bytes([start, size]))
        else:
            parameters = bytes([start, size, *ids])
            request = packet(scservo_sdk.BROADCAST_ID, scservo_sdk.INST_SYNC_READ, parameters)
        stamp = time.monotonic()
        replies = self._transact(request, ids, size)
        for id_ in self._overdue & set(replies.good):
            del replies.good[id_]
            replies.bad[id_] = "its first reply after many faults may be a late one"
            self._overdue.remove(id_)
        self._suspects -= set(replies.good)
        return stamp, replies, address - start

    def _transact(self, request: bytes, ids: Sequence[int], size: int) -> _Replies:
        """Send one packet and collect the replies of some servos, `size` bytes of data each."""
        self.connect()
        replies = _Replies(ids, size)
        port = self._handler.ser
        try:
            port.reset_input_buffer()
            port.write(request)
            wire = (len(request) + len(ids) * (size + 6)) * 10 / self.baud
            end = time.monotonic() + self.timeout + wire
            while replies.missing:
                left = end - time.monotonic()
                if left <= 0 or not select.select([port.fileno()], [], [], left)[0]:
                    replies.feed(b"", last=True)
                    break
                data = os.read(port.fileno(), 4096)
                if not data:
                    raise OSError("the device hung up")
                replies.feed(data)
        except (OSError, termios.error) as error:
            self._fault(ids)
            self.close()
            raise PortError(f"lost the servo bus {self.port}: {error}") from error
        if replies.missing:
            self._fault(replies.missing)
            if len(ids) > 1:
                replies.doubt()
        return replies

    def _fault(self, ids: Iterable[int]) -> None:
        self._tag = (self._tag + 1) % TAGS
        self._fault_time = time.monotonic()
        self._suspects |= set(ids)
        if not self._tag:  # tags start again
            self._overdue |= self._suspects


def _reachable(before: tuple[float, int] | None, stamp: float, position: int) -> bool:
    """Whether a servo may have come from an earlier (stamp, position) to this one."""
    if before is None:
        return False
    return abs(position - before[1]) <= JITTER + FASTEST * min(stamp - before[0], MEMORY)


_STATE = struct.Struct("<HHHBBxBBxxH")  # PRESENT_POSITION to PRESENT_CURRENT; x: not used


def _state(error: int, data: bytes, stamp: float) -> ServoState:
    """State from bytes 56..70 of a servo."""
    position, velocity, load, voltage, temperature, status, moving, current = _STATE.unpack(data)
    return ServoState(
        position=reg.PRESENT_POSITION.signed(position),
        velocity=reg.PRESENT_VELOCITY.signed(velocity),
        load=reg.PRESENT_LOAD.signed(load) / 1000,
        voltage=voltage / 10,
        temperature=temperature,
        current=current * reg.CURRENT_UNIT,
        moving=bool(moving),
        faults=reg.faults(error | status),
        stamp=stamp,
    )
