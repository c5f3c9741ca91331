"""Registers of the STS3215 servo, and its units.

A value is little-endian; a signed one is a magnitude with a sign bit, not two's complement.
"""

from __future__ import annotations

from typing import NamedTuple


class Register(NamedTuple):
    """One register.

    Attributes:
        address: Its first byte.
        size: Bytes, 1 or 2.
        sign: Bit that says that the value is negative; None where the value has no sign.
    """

    address: int
    size: int = 1
    sign: int | None = None

    def decode(self, data: bytes) -> int:
        """Value of the register's bytes."""
        return self.signed(int.from_bytes(data, "little"))

    def signed(self, raw: int) -> int:
        """Value of the register's bytes that were read as a number without sign."""
        if self.sign is None or not raw & 1 << self.sign:
            return raw
        return -(raw & ((1 << self.sign) - 1))

    def encode(self, value: int) -> bytes:
        """Bytes of a value. ValueError if the register cannot hold it."""
        if isinstance(value, float) and not value.is_integer():  # NaN and infinity too
            raise ValueError(f"register {self.address} takes whole numbers, not {value}")
        value = int(value)
        limit = (1 << (8 * self.size if self.sign is None else self.sign)) - 1
        if not (0 if self.sign is None else -limit) <= value <= limit:
            raise ValueError(f"register {self.address} cannot hold {value}: at most {limit}")
        raw = value if value >= 0 else -value | 1 << self.sign
        return raw.to_bytes(self.size, "little")


# EEPROM: kept over a power cycle if LOCK was 0 when they were written.
MODEL = Register(3, 2)  # 777
ID = Register(5)
BAUD = Register(6)  # 0: 1 Mbit/s
RETURN_DELAY = Register(7)  # 2 µs
MIN_POSITION = Register(9, 2)  # ticks
MAX_POSITION = Register(11, 2)  # ticks
MAX_TEMPERATURE = Register(13)  # °C
MAX_VOLTAGE = Register(14)  # 0.1 V
MIN_VOLTAGE = Register(15)  # 0.1 V
MAX_TORQUE = Register(16, 2)  # 0.1 %
PHASE = Register(18)
P_GAIN = Register(21)
D_GAIN = Register(22)
I_GAIN = Register(23)
PROTECTION_CURRENT = Register(28, 2)  # 6.5 mA
HOMING_OFFSET = Register(31, 2, 11)  # ticks; present position = actual - offset
MODE = Register(33)  # 0: position
PROTECTIVE_TORQUE = Register(34)  # %
PROTECTION_TIME = Register(35)  # 10 ms
OVERLOAD_TORQUE = Register(36)  # %
EEPROM_END = 40

# SRAM
TORQUE_ENABLE = Register(40)
ACCELERATION = Register(41)  # 100 ticks/s²
GOAL_POSITION = Register(42, 2, 15)  # ticks
GOAL_TIME = Register(44, 2)
GOAL_VELOCITY = Register(46, 2, 15)  # ticks/s
TORQUE_LIMIT = Register(48, 2)  # 0.1 %
LOCK = Register(55)
PRESENT_POSITION = Register(56, 2, 15)  # ticks
PRESENT_VELOCITY = Register(58, 2, 15)  # ticks/s
PRESENT_LOAD = Register(60, 2, 10)  # 0.1 %
PRESENT_VOLTAGE = Register(62)  # 0.1 V
PRESENT_TEMPERATURE = Register(63)  # °C
STATUS = Register(65)  # the bits of FAULTS
MOVING = Register(66)
PRESENT_CURRENT = Register(69, 2)  # 6.5 mA

STATE_ADDRESS, STATE_SIZE = 56, 15  # everything from PRESENT_POSITION to PRESENT_CURRENT

MODEL_STS3215 = 777
CURRENT_UNIT = 6.5e-3  # A

VOLTAGE, ANGLE, OVERHEAT, OVERCURRENT, OVERLOAD = 1, 2, 4, 8, 32
FAULTS = {
    VOLTAGE: "voltage",
    ANGLE: "angle",
    OVERHEAT: "overheat",
    OVERCURRENT: "over-current",
    OVERLOAD: "overload",
}

TICKS = 4096  # a turn
MIDDLE = 2047  # where calibration puts the middle of a joint's range


def faults(bits: int) -> tuple[str, ...]:
    """Names of the faults that an error byte or STATUS reports."""
    return tuple(name for bit, name in FAULTS.items() if bits & bit)
