"""Which column of a dataset is which entry of the robot contract, and what is worked out from the others."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hilrl_ros.config import check_keys, read_yaml
from hilrl_ros.contract import Contract, StateEntry
from hilrl_ros.kinematics import Kinematics, matrix_rpy

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
UNITS = {"deg": math.pi / 180, "rad": 1.0, "m": 1.0}
NORMALISED = "normalised"
_PLACE = re.compile(r"([^\[\]]+)(?:\[([^\[\]]+)\])?$")
_LARGEST_ANGLE = 2 * math.pi + 0.1  # rad; what is beyond is in other units
_LARGEST_ACTION = 1.5  # beyond it is not the noise of a person at the end of the range


class MappingError(ValueError):
    """A dataset that does not fit the contract, or a mapping that does not fit the dataset."""


@dataclass(frozen=True)
class Column:
    """Where a number comes from: `value = source * scale + offset`, in a unit.

    Attributes:
        feature: Of the dataset.
        index: In the feature's vector.
        name: What messages call it.
        scale: Factor, before the unit's.
        offset: Added after the factor, before the unit's.
        unit: One of `UNITS`, `NORMALISED` (actions), or empty for the contract's own.
    """

    feature: str
    index: int
    name: str
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""

    def values(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Return the numbers [N]; exactly the dataset's where nothing is to be converted."""
        values = columns[self.feature][:, self.index]
        factor = UNITS.get(self.unit, 1.0)
        if (self.scale, self.offset, factor) == (1.0, 0.0, 1.0):
            return values
        return (values.astype(np.float64) * self.scale + self.offset) * factor


@dataclass
class Mapping:
    """What a mapping file says.

    Attributes:
        where: Its name, for messages.
        state: Entry of the state to `{from, scale, offset, unit}`.
        action: Component of the action to the same.
        cameras: Camera of the contract to the dataset's feature.
        every: Each how many-th frame is taken.
        angles: Unit of the angles that `state` and `action` do not name, `rad` or `deg`.
    """

    where: str = "mapping"
    state: dict[str, dict[str, Any]] = field(default_factory=dict)
    action: dict[str, dict[str, Any]] = field(default_factory=dict)
    cameras: dict[str, str] = field(default_factory=dict)
    every: int = 1
    angles: str = "rad"


def load_mapping(path: Path, contract: Contract) -> Mapping:
    """Read a mapping file.

    Raises:
        MappingError: It does not fit the contract.
        ContractError: It is not YAML.
    """
    if not path.is_file():
        raise MappingError(f"{path}: no such file")
    raw = read_yaml(path)
    check_keys(path.name, raw, (), ("state", "action", "cameras", "every", "angles"), MappingError)
    every = raw.get("every", 1)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise MappingError(f"{path.name}.every: is {every!r}, expected a whole number of at least 1")
    angles = raw.get("angles", "rad")
    if angles not in ("rad", "deg"):
        raise MappingError(f"{path.name}.angles: is {angles!r}, expected rad or deg")
    known = {
        "state": contract.state_names, "action": contract.action.names, "cameras": tuple(contract.cameras),
    }  # fmt: skip
    for key, names in known.items():
        check_keys(f"{path.name}.{key}", raw.get(key, {}), (), names, MappingError)
    columns = {
        key: {n: _column_words(f"{path.name}.{key}.{n}", v) for n, v in raw.get(key, {}).items()}
        for key in ("state", "action")
    }
    cameras = {name: str(feature) for name, feature in raw.get("cameras", {}).items()}
    return Mapping(path.name, **columns, cameras=cameras, every=every, angles=angles)


def _column_words(where: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"from": value}
    check_keys(where, value, ("from",), ("scale", "offset", "unit"), MappingError)
    for key in ("scale", "offset"):
        number = value.get(key, 0)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise MappingError(f"{where}.{key}: is {number!r}, expected a number")
    units = (*UNITS, *([NORMALISED] if ".action." in where else []))
    if value.get("unit", "rad") not in units:
        raise MappingError(f"{where}.unit: is {value['unit']!r}, expected one of {', '.join(units)}")
    return value


class Converter:
    """Turns columns of a dataset into the contract's state and action.

    Args:
        where: Name of the dataset, for messages.
        features: Its features by name, `{dtype, shape, names}`, as `meta/info.json` holds them.
        rate: Its frames per second.
        contract: What is wanted.
        mapping: What the names do not tell.
        normalised: Whether its actions are in [-1, 1] already (datasets of this suite).

    Raises:
        MappingError: It does not fit; says which key differs and how to map it.
    """

    def __init__(
        self,
        where: str,
        features: dict[str, dict[str, Any]],
        rate: float,
        contract: Contract,
        mapping: Mapping,
        normalised: bool = False,
    ):
        self.where, self.features, self.contract, self.mapping = where, features, contract, mapping
        self.normalised = normalised
        self.kinematics: Kinematics | None = None
        self.clipped: dict[str, int] = {}
        self._check_rate(rate)
        self.cameras = {name: self._camera(name) for name in contract.cameras}
        self.action = [self._action_column(name) for name in contract.action.names]
        self.state = {e.name: c for e in contract.state if (c := self._state_column(e)) is not None}
        known: set[str] = set(self.state)
        for entry in contract.state:
            if entry.name not in known and not self._can_derive(entry, known):
                raise MappingError(
                    f"{where}: has nothing for {entry.name} of the contract's state ({STATE}: "
                    f"{self._shown(STATE)}); name it in a mapping (--map): state: {{{entry.name}: "
                    f'"feature[index]"}}'
                )
            known.add(entry.name)

    @property
    def used(self) -> set[str]:
        """Features whose columns are needed."""
        return {column.feature for column in (*self.action, *self.state.values())}

    def states(self, columns: dict[str, np.ndarray], actions: np.ndarray) -> np.ndarray:
        """Return the states of one episode, float32 [N, S].

        Args:
            columns: Of the features in `used`, [N, size of the feature].
            actions: What `actions` made of them.

        Raises:
            MappingError: The numbers cannot be in the contract's unit.
        """
        values: dict[str, np.ndarray] = {}
        tip: dict[str, np.ndarray] = {}
        for entry in self.contract.state:
            column = self.state.get(entry.name)
            if column is not None:
                values[entry.name] = column.values(columns)
                self._check_angle(entry, column, values[entry.name])
            else:
                if entry.field.startswith("tip.") and not tip:
                    tip = self._tips(values)
                values[entry.name] = self._derived(entry, values, tip, actions)
        return np.stack([values[entry.name] for entry in self.contract.state], 1).astype(np.float32)

    def actions(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Return the actions of one episode, float32 [N, A] in [-1, 1].

        Raises:
            MappingError: They are far outside.
        """
        out = []
        for index, (name, column) in enumerate(zip(self.contract.action.names, self.action, strict=True)):
            values = self._normal(name, index, column, column.values(columns))
            largest = float(np.abs(values).max(initial=0.0))
            if not largest <= _LARGEST_ACTION:
                raise MappingError(
                    f"{self.where}: {column.name} as action {name} reaches {largest:.4g}, expected at most 1 (the "
                    f"contract's scale of {name} is {self.contract.action.scale[index]:g}); "
                    + self._action_hint(name, column)
                )
            self.clipped[name] = self.clipped.get(name, 0) + int(np.count_nonzero(np.abs(values) > 1))
            out.append(np.clip(values, -1, 1))
        return np.stack(out, 1).astype(np.float32)

    # -- which column -------------------------------------------------------------------------------------------

    def _check_rate(self, rate: float) -> None:
        wanted, every = self.contract.control_rate, self.mapping.every
        if math.isclose(rate / every, wanted):
            if every > 1 and self.contract.action.type != "joint_position":
                raise MappingError(
                    f"{self.where}: {self.mapping.where}.every is {every}, but actions of type "
                    f"{self.contract.action.type} cannot be left out (they add up); use a contract with control_rate: "
                    f"{rate:g}"
                )
            return
        times = rate / wanted
        whole = abs(times - round(times)) < 1e-6 and times > 1
        raise MappingError(
            f"{self.where}: has {rate:g} frames per second, the contract's control_rate is {wanted:g} Hz; "
            + (
                f"take one frame of {round(times)} with a mapping (--map): every: {round(times)}, or "
                if whole
                else ""
            )
            + f"use a contract with control_rate: {rate:g}"
        )

    def _camera(self, name: str) -> str:
        pictures = [n for n, f in self.features.items() if f.get("dtype") in ("video", "image")]
        feature = self.mapping.cameras.get(name, IMAGES + name)
        if feature not in pictures:
            raise MappingError(
                f"{self.where}: has no images '{feature}' for the contract's camera {name}; it has "
                f"{', '.join(pictures) or 'none'}; name one in a mapping (--map): cameras: {{{name}: "
                f"{pictures[0] if pictures else IMAGES + name}}}"
            )
        return feature

    def _state_column(self, entry: StateEntry) -> Column | None:
        if entry.name in self.mapping.state:
            return self._mapped("state", entry.name, self.mapping.state[entry.name])
        unit = self.mapping.angles if entry.unit == "rad" else ""
        return self._named(STATE, entry.name, self.contract.state_names, unit)

    def _action_column(self, name: str) -> Column:
        if name in self.mapping.action:
            return self._mapped("action", name, self.mapping.action[name])
        absolute = self.contract.action.type == "joint_position" and not self.normalised
        unit = self.mapping.angles if absolute else NORMALISED
        column = self._named(ACTION, name, self.contract.action.names, unit)
        if column is None:
            action = self.contract.action
            joints = [n for n in self._names(ACTION) or [] if n.removesuffix(".pos") in self.contract.joints]
            if joints and action.type == "ee_delta":
                scale = ", ".join(f"{j.removesuffix('.pos')}: 1.0" for j in joints)
                raise MappingError(
                    f"{self.where}: its action is joints ({', '.join(joints)}), the contract's is ee_delta of "
                    f"{', '.join(action.names)}: one cannot be made from the other; use a task or contract with "
                    f"action: {{type: joint_position, scale: {{{scale}}}}}"
                )
            raise MappingError(
                f"{self.where}: has nothing for {name} of the contract's action ({ACTION}: {self._shown(ACTION)}); "
                f'name it in a mapping (--map): action: {{{name}: "{ACTION}[index]"}}'
            )
        return column

    def _named(self, feature: str, name: str, all_names: tuple[str, ...], unit: str) -> Column | None:
        """Return the column of that name; without any names, by its place where the sizes agree."""
        names = self._names(feature)
        if names is None:
            if self._size(feature) == len(all_names):
                index = all_names.index(name)
                return Column(feature, index, f"{feature}[{index}]", unit=unit)
            return None
        for called in (name, f"{name}.pos"):  # LeRobot's arms say shoulder_pan.pos
            if called in names:
                return Column(feature, names.index(called), f"{feature}[{called}]", unit=unit)
        return None

    def _mapped(self, key: str, name: str, words: dict[str, Any]) -> Column:
        where = f"{self.mapping.where}.{key}.{name}"
        place = _PLACE.match(str(words["from"]))
        feature, index = (place[1], place[2] or "0") if place else ("", "")
        numeric = [n for n, f in self.features.items() if f.get("dtype") not in ("video", "image", "string")]
        if feature not in numeric:
            raise MappingError(
                f"{where}: from '{words['from']}', expected feature[index] with one of {', '.join(numeric)}"
            )
        names, size = self._names(feature) or [], self._size(feature)
        if index in names:
            number = names.index(index)
        elif index.isdecimal() and int(index) < size:
            number = int(index)
        else:
            raise MappingError(f"{where}: {feature} has no '{index}'; it has {self._shown(feature)}")
        return Column(
            feature, number, f"{feature}[{index}]", float(words.get("scale", 1)), float(words.get("offset", 0)),
            words.get("unit", ""),
        )  # fmt: skip

    def _size(self, feature: str) -> int:
        shape = self.features.get(feature, {}).get("shape", [0])
        return int(math.prod(shape))

    def _names(self, feature: str) -> list[str] | None:
        """Return a feature's names: a list, or what mappings of one list or of indices mean."""
        names = self.features.get(feature, {}).get("names")
        if isinstance(names, dict):
            values = list(names.values())
            if len(values) == 1 and isinstance(values[0], list):
                names = values[0]
            else:
                names = sorted(names, key=lambda n: names[n] if isinstance(names[n], int) else 0)
        fits = isinstance(names, list) and len(names) == self._size(feature)
        return [str(n) for n in names] if fits else None

    def _shown(self, feature: str) -> str:
        if feature not in self.features:
            return "there is no such feature"
        names = self._names(feature)
        return ", ".join(names) if names else f"{self._size(feature)} without names"

    # -- what is worked out -------------------------------------------------------------------------------------

    def _can_derive(self, entry: StateEntry, known: set[str]) -> bool:
        if entry.minus:
            return entry.minus in known and self._base(entry, known) is not None
        if entry.ago:
            return self._base(entry, known) is not None
        joints = {e.field: e.name for e in self.contract.state if e.name in known and not e.ago}
        if entry.field.startswith("tip."):
            return all(f"position[{joint}]" in joints for joint in self.contract.joints)
        if entry.field == "gripper.width":
            return f"position[{self.contract.gripper_joint}]" in joints
        if entry.field.startswith("velocity["):
            return entry.field.replace("velocity", "position") in joints
        return entry.field.startswith("action[")

    def _base(self, entry: StateEntry, known: set[str]) -> StateEntry | None:
        """Return the known entry that is this one now, before the subtraction."""
        return next(
            (
                e for e in self.contract.state
                if (e.topic, e.field, e.minus, e.ago) == (entry.topic, entry.field, "", 0) and e.name in known
            ),
            None,
        )  # fmt: skip

    def _position(self, joint: str, values: dict[str, np.ndarray]) -> np.ndarray:
        entry = next(e for e in self.contract.state if (e.field, e.ago) == (f"position[{joint}]", 0))
        return values[entry.name].astype(np.float64)

    def _derived(
        self,
        entry: StateEntry,
        values: dict[str, np.ndarray],
        tip: dict[str, np.ndarray],
        actions: np.ndarray,
    ) -> np.ndarray:
        if entry.minus or entry.ago:
            value = values[self._base(entry, set(values)).name].astype(np.float64)
            if entry.ago:
                value = np.concatenate([value[:1].repeat(entry.ago), value])[: len(value)]
            return value - values[entry.minus] if entry.minus else value
        if entry.field.startswith("tip."):
            return tip[entry.field.removeprefix("tip.")]
        if entry.field == "gripper.width":
            joint = self._position(self.contract.gripper_joint, values)
            return np.interp(joint, *zip(*self.contract.gripper_width, strict=True))
        part = entry.field.split("[")[1].rstrip("]")
        if entry.field.startswith("velocity["):
            position = self._position(part, values)
            return np.diff(position, prepend=position[:1]) * self.contract.control_rate
        return np.concatenate([[0.0], actions[:-1, self.contract.action.names.index(part)]])

    def _tips(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the tip's pose in each frame by forward kinematics, as the observer does it live."""
        joints = np.stack([self._position(joint, values) for joint in self.contract.joints], 1)
        model = self._model()
        poses = [model.forward(q) for q in joints]
        numbers = np.array([[*position, *matrix_rpy(rotation)] for position, rotation in poses])
        return dict(zip(("x", "y", "z", "roll", "pitch", "yaw"), numbers.T, strict=True))

    def _model(self) -> Kinematics:
        if self.kinematics is None:
            self.kinematics = Kinematics(self.contract)
        return self.kinematics

    # -- units --------------------------------------------------------------------------------------------------

    def _check_angle(self, entry: StateEntry, column: Column, values: np.ndarray) -> None:
        largest = float(np.abs(values).max(initial=0.0))
        if entry.unit == "rad" and not largest <= _LARGEST_ANGLE:
            raise MappingError(
                f"{self.where}: {column.name} as {entry.name} reaches {largest:.4g}, too much for rad; if it is in "
                f"degrees, say so in a mapping (--map): angles: deg, or for it alone: state: {{{entry.name}: "
                f'{{from: "{column.name}", unit: deg}}}}'
            )

    def _normal(self, name: str, index: int, column: Column, values: np.ndarray) -> np.ndarray:
        """Return an action's component in [-1, 1], as the contract normalises it."""
        absolute = self.contract.action.type == "joint_position"
        if (column.unit or ("rad" if absolute else NORMALISED)) == NORMALISED:
            return values
        if absolute:
            low, high = self._model().joint_limits[self.contract.joints.index(name)]
            return 2 * (values - low) / (high - low) - 1
        return values / self.contract.action.scale[index]

    def _action_hint(self, name: str, column: Column) -> str:
        if self.contract.action.type == "joint_position":
            return "if it is in degrees, say so in a mapping (--map): angles: deg"
        return (
            f'give its scale in a mapping (--map): action: {{{name}: {{from: "{column.name}", scale: 0.1}}}}'
        )
