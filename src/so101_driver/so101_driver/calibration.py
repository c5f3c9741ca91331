"""Calibration of an arm: LeRobot's file, and what its servos' ticks mean in radians.

    >>> calibration = Calibration.find("my_arm")
    >>> calibration.to_radians([2047, 2047, 2047, 2047, 2047, 2047])

Whoever calibrated the arm with LeRobot is calibrated here, and the other way round.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from . import registers as reg

GRIPPER = "gripper"
GRIPPER_RANGE = (-0.174533, 1.74533)  # rad, the URDF's joint range: closed, open
# Where LeRobot keeps the files, newest release first.
FOLDERS = {
    "follower": ("robots/so_follower", "robots/so101_follower"),
    "leader": ("teleoperators/so_leader", "teleoperators/so101_leader"),
}
_RADIANS = 2 * math.pi / (reg.TICKS - 1)  # a tick, as LeRobot counts: 4095 to a turn


def lerobot_home() -> Path:
    """Return the folder in which LeRobot keeps datasets and calibrations."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{cache}/huggingface")
    return Path(os.environ.get("HF_LEROBOT_HOME", f"{home}/lerobot")).expanduser()


class CalibrationError(ValueError):
    """A calibration that is missing or does not fit; the message says what, where and what would be right."""


@dataclass(frozen=True)
class JointCalibration:
    """One joint, as LeRobot stores it.

    Attributes:
        id: Id of its servo.
        drive_mode: 1 where the servo turns against the joint, else 0.
        homing_offset: Ticks that the servo takes off what it measures.
        range_min: Lowest position of the joint, ticks after the offset.
        range_max: Highest position.
    """

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int


_BOUNDS = {
    "id": (0, 252),
    "drive_mode": (0, 1),
    "homing_offset": (-2047, 2047),
    "range_min": (0, reg.TICKS - 1),
    "range_max": (0, reg.TICKS - 1),
}


class Calibration:
    """Calibration of all joints of an arm.

    Joint vectors are in the order of `names`. The middle of an arm joint's range is 0 rad, as it is 0° in
    LeRobot; the gripper's range is GRIPPER_RANGE, closed to open.

    Attributes:
        joints: Each joint's calibration, by name.
        names: Joint names in order [n].
        ids: Ids of their servos [n].
        scale: rad a tick [n], negative where drive_mode is 1.
        limits: Lowest and highest calibrated position [n, 2], rad.
    """

    def __init__(self, joints: Mapping[str, JointCalibration], where: str = "calibration"):
        """Take the joints' calibration; `where` names it in errors.

        Raises:
            CalibrationError: A field is out of bounds, a range is empty, or two joints have the same id.
        """
        if not joints:
            raise CalibrationError(
                f"{where}: names no joint, expected one entry for each, such as shoulder_pan"
            )
        for name, joint in joints.items():
            _check(f"{where}: {name}", dataclasses.asdict(joint))
        ids = [joint.id for joint in joints.values()]
        for name, joint in joints.items():
            if ids.count(joint.id) > 1:
                raise CalibrationError(
                    f"{where}: {name}.id is {joint.id} as another joint's; ids must differ"
                )
        self.joints = MappingProxyType(dict(joints))
        self.names, self.ids = tuple(joints), tuple(ids)
        self._low = np.array([joint.range_min for joint in joints.values()], float)
        self._high = np.array([joint.range_max for joint in joints.values()], float)
        self._reversed = np.array([joint.drive_mode for joint in joints.values()], bool)
        self._gripper = np.array([name == GRIPPER for name in joints])
        closed, opened = GRIPPER_RANGE
        size = np.where(self._gripper, (opened - closed) / (self._high - self._low), _RADIANS)
        self.scale = np.where(self._reversed, -size, size)
        shut = np.where(self._reversed, self._high, self._low)
        self._zero = np.where(self._gripper, shut - closed / self.scale, (self._low + self._high) / 2)
        self.limits = np.sort(self.to_radians(np.array([self._low, self._high])).T, axis=1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and self.joints == other.joints

    __hash__ = None

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file of LeRobot's or of `save`.

        Raises:
            CalibrationError: There is no such file, it is not JSON, or does not fit.
        """
        try:
            data = json.loads(Path(path).read_text())
        except OSError as error:
            raise CalibrationError(f"cannot read the calibration {path}: {error.strerror}") from None
        except ValueError as error:
            raise CalibrationError(f"{path}: not valid JSON: {error}") from None
        if not isinstance(data, dict):
            raise CalibrationError(
                f"{path}: holds {type(data).__name__}, expected joint names with their values"
            )
        joints = {}
        for name, values in data.items():
            _check(f"{path}: {name}", values)
            joints[name] = JointCalibration(**values)
        return cls(joints, str(path))

    @classmethod
    def named(cls, name: str, role: str = "follower") -> Calibration:
        """Read a calibration by its path, which ends in .json, or by the name that LeRobot keeps it under.

        Raises:
            CalibrationError: See `load` and `find`.
        """
        return cls.load(name) if name.endswith(".json") else cls.find(name, role)

    @classmethod
    def find(cls, name: str, role: str = "follower") -> Calibration:
        """Read the calibration that LeRobot keeps under a name (its robot.id or teleop.id).

        Raises:
            CalibrationError: There is none; names every place that was looked in. Or see `load`.
        """
        places = cls.places(name, role)
        for path in places:
            if path.is_file():
                return cls.load(path)
        raise CalibrationError(
            f"no calibration of the {role} '{name}'; looked for {', '.join(map(str, places))}"
        )

    @staticmethod
    def places(name: str, role: str = "follower") -> list[Path]:
        """Return where LeRobot keeps the calibration of a follower or leader; a new one belongs into the first.

        Raises:
            CalibrationError: No such role.
        """
        if role not in FOLDERS:
            raise CalibrationError(f"role is {role!r}, expected one of {', '.join(FOLDERS)}")
        root = Path(os.environ.get("HF_LEROBOT_CALIBRATION", lerobot_home() / "calibration")).expanduser()
        return [root / folder / f"{name}.json" for folder in FOLDERS[role]]

    def save(self, path: str | Path) -> None:
        """Write LeRobot's file; whoever reads meanwhile gets the old one or the new one, whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {name: dataclasses.asdict(joint) for name, joint in self.joints.items()}
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(json.dumps(data, indent=4))
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    def to_radians(self, ticks: np.ndarray) -> np.ndarray:
        """Return joint positions [..., n] in rad of servo positions [..., n] in ticks."""
        return (np.asarray(ticks, float) - self._zero) * self.scale

    def to_ticks(self, radians: np.ndarray) -> np.ndarray:
        """Return servo positions [..., n] in ticks (int) of joint positions [..., n] in rad.

        Raises:
            ValueError: A joint position is not finite.
        """
        radians = np.asarray(radians, float)
        if not np.isfinite(radians).all():
            raise ValueError(f"joint positions must be finite, not {radians.tolist()}")
        return np.rint(self._zero + radians / self.scale).astype(int)

    def to_lerobot(self, radians: np.ndarray) -> np.ndarray:
        """Return what LeRobot says for joint positions [..., n] in rad: degrees, and the gripper from 0 to 100."""
        # In degrees LeRobot does not look at drive_mode, in 0..100 it does.
        degrees = np.degrees(radians) * np.where(self._reversed, -1.0, 1.0)
        closed, opened = GRIPPER_RANGE
        percent = (np.asarray(radians, float) - closed) / (opened - closed) * 100
        return np.where(self._gripper, np.clip(percent, 0.0, 100.0), degrees)

    def from_lerobot(self, values: np.ndarray) -> np.ndarray:
        """Return joint positions [..., n] in rad of LeRobot's degrees and 0..100 [..., n]."""
        values = np.asarray(values, float)
        closed, opened = GRIPPER_RANGE
        radians = np.radians(values) * np.where(self._reversed, -1.0, 1.0)
        return np.where(self._gripper, closed + np.clip(values, 0, 100) / 100 * (opened - closed), radians)


def _check(where: str, values: object) -> None:
    """Raise CalibrationError unless `values` is a mapping of all fields to numbers within their bounds."""
    if not isinstance(values, Mapping) or set(values) != set(_BOUNDS):
        given = ", ".join(map(str, values)) if isinstance(values, Mapping) else repr(values)
        raise CalibrationError(f"{where} has {given or 'nothing'}, expected {', '.join(_BOUNDS)}")
    for field, (low, high) in _BOUNDS.items():
        value = values[field]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise CalibrationError(
                f"{where}.{field} is {value!r}, expected a whole number from {low} to {high}"
            )
    if values["range_min"] >= values["range_max"]:
        raise CalibrationError(
            f"{where}.range_min is {values['range_min']}, expected less than range_max ({values['range_max']})"
        )
