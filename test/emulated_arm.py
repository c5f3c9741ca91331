"""An emulated SO-101 that is calibrated, for tests."""

from so101_driver import registers as reg
from so101_driver.calibration import Calibration, JointCalibration

NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
IDS = range(1, 7)
CALIBRATION = Calibration(
    {
        name: JointCalibration(i, 0, 37 * i - 100, 700 + 10 * i, 3300 - 10 * i)
        for i, name in enumerate(NAMES, 1)
    }
)


def calibrate(emulated, calibration=CALIBRATION):
    """Give emulated servos a calibration, and the arm a posture."""
    for i, name in enumerate(NAMES, 1):
        joint, servo = calibration.joints[name], emulated.servos[i]
        servo.write(reg.LOCK.address, b"\0")
        for register, value in (
            (reg.HOMING_OFFSET, joint.homing_offset),
            (reg.MIN_POSITION, joint.range_min),
            (reg.MAX_POSITION, joint.range_max),
            (reg.RETURN_DELAY, 0),
        ):
            servo.write(register.address, register.encode(value))
        servo.write(reg.LOCK.address, b"\1")
        servo.actual = 2000 + 50 * i + joint.homing_offset


def registers(emulated, register):
    """A register of every servo."""
    return [servo.get(register) for servo in emulated.servos.values()]


def truth(emulated):
    """Where the emulated arm is, rad [6]."""
    return CALIBRATION.to_radians([servo.position for servo in emulated.servos.values()])
