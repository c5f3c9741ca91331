"""Whether the arm on a bus is the one that a calibration belongs to."""

from __future__ import annotations

from . import registers as reg
from .bus import Bus
from .calibration import Calibration


def strangers(bus: Bus, calibration: Calibration) -> list[str]:
    """Return the joints whose servos hold another homing offset than the calibration; [] for the right arm.

    Raises:
        BusError: A servo did not answer, or the port is gone.
    """
    joints = calibration.joints.items()
    return [n for n, j in joints if bus.read_register(j.id, reg.HOMING_OFFSET) != j.homing_offset]
