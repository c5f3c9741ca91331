"""Objects of a task's scene: what lies on the table, stands on it, moves on joints or is in the gripper.

All of it stands in the task file under `scene.objects`; `OBJECT_KEYS` and `PLACES` name the keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from hilrl_ros.config import check_keys, mapping
from hilrl_ros.contract import ContractError, Task

SHAPES = {  # edge lengths; radius; radius and height
    "box": (3, mujoco.mjtGeom.mjGEOM_BOX),
    "sphere": (1, mujoco.mjtGeom.mjGEOM_SPHERE),
    "cylinder": (2, mujoco.mjtGeom.mjGEOM_CYLINDER),
}
SCENE_OPTIONS = ("objects", "apart", "home_spread", "image_size", "variation")
OBJECT_KEYS = ("mass", "contact_time", "color", "friction", "collides")
PLACES = {  # where an object comes from, and the keys that go with it
    "spawn": ("fixed", "held"),
    "part_of": ("position", "joint"),
}
PART_KEYS = ("shape", "size", "position")
SURFACE_KEYS = ("color", "friction")  # of an object, for all its parts, or of one part
JOINT_TYPES = {"slide": mujoco.mjtJoint.mjJNT_SLIDE, "hinge": mujoco.mjtJoint.mjJNT_HINGE}
CONTACT_TIME = 0.02  # s, MuJoCo's default
AXES = ("x", "y", "z", "yaw")
TRIES = 1000  # draws of a thing's place before the scene counts as too crowded
# Collision bits (contype, conaffinity): the arm meets objects and the table but not itself, whose
# neighbouring hulls overlap; objects meet everything.
ARM_BITS, OBJECT_BITS, TABLE_BITS, NO_BITS = (1, 0), (2, 3), (0, 3), (0, 0)


@dataclass(frozen=True)
class Part:
    """A primitive shape.

    Attributes:
        shape: Key of `SHAPES`.
        size: Sizes as `SHAPES` says, m.
        position: Its centre in the object's frame [3], m.
        color: RGB, 0 to 1.
        friction: Coefficient of its surface; in contact the larger one of the two counts.
    """

    shape: str
    size: tuple[float, ...]
    position: tuple[float, float, float]
    color: tuple[float, float, float]
    friction: float

    @property
    def half_extent(self) -> np.ndarray:
        """Half of its extent along x, y and z [3], m."""
        if self.shape == "box":
            return np.array(self.size) / 2
        radius = self.size[0]
        return np.array([radius, radius, self.size[1] / 2 if self.shape == "cylinder" else radius])

    @property
    def volume(self) -> float:
        """Volume, m³."""
        fill = {"box": 1.0, "cylinder": math.pi / 4, "sphere": math.pi / 6}[self.shape]
        return float(fill * np.prod(2 * self.half_extent))


@dataclass(frozen=True)
class Joint:
    """How an object moves on another.

    Attributes:
        type: slide or hinge.
        axis: Direction in the object's frame [3].
        range: Lowest and highest position, m or rad; 0 is as the object is placed.
        damping: N s/m or N m s/rad.
        frictionloss: Friction, N or N m.
        spring: What pulls it back to 0, N/m or N m/rad.
    """

    type: str
    axis: tuple[float, float, float]
    range: tuple[float, float]
    damping: float = 0.0
    frictionloss: float = 0.0
    spring: float = 0.0


@dataclass(frozen=True)
class SceneObject:
    """One object of the task's scene.

    Attributes:
        name: Name, also of its body.
        parts: What it is made of, in its frame.
        mass: kg.
        contact_time: How long contact takes to push it back, s; MuJoCo's solref, at least two physics steps. What is
            light and squeezed hard needs less than the usual, or the jaws sink into it.
        collides: Whether it is a body (True) or a mark in space.
        spawn: Ranges (low, high) of x, y, z in m and yaw in rad: in the base frame; of a held object, from where it
            is between the jaws. None on another object.
        fixed: Whether it stays where it is put.
        held: Whether it begins in the closed jaws.
        part_of: Name of the object that it is part of, or "".
        position: Where it is in the frame of that object [3], m.
        joint: How it moves on that object; None if it does not.
    """

    name: str
    parts: tuple[Part, ...]
    mass: float
    contact_time: float
    collides: bool
    spawn: dict[str, tuple[float, float]] | None = None
    fixed: bool = False
    held: bool = False
    part_of: str = ""
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    joint: Joint | None = None

    @property
    def height(self) -> float:
        """How far its frame is above the table when it lies on it, m."""
        return _height(self.parts)

    @property
    def is_free(self) -> bool:
        """Whether it may go anywhere."""
        return self.collides and not self.fixed and not self.part_of


def scene_objects(task: Task) -> dict[str, SceneObject]:
    """Return the objects of a task's scene by name; an object stands behind the one that it is part of.

    Raises:
        ContractError: A key is unknown or missing, or a value does not fit.
    """
    check_keys(f"{task.name}.scene", task.scene, (), SCENE_OPTIONS)
    objects: dict[str, SceneObject] = {}
    for name, raw in mapping(f"{task.name}.scene.objects", task.scene.get("objects", {})).items():
        where = f"{task.name}.scene.objects.{name}"
        if not isinstance(raw, dict):
            raise ContractError(f"{where}: is {raw!r}, expected a mapping of keys to values")
        place = "part_of" if "part_of" in raw else "spawn"
        form = ("parts",) if "parts" in raw else ("shape", "size")
        check_keys(where, raw, (*form, place), OBJECT_KEYS + PLACES[place])
        parts = _parts(where, raw)
        settings: dict[str, Any] = {
            "mass": _positive(f"{where}.mass", raw.get("mass", 0.05)),
            "contact_time": _positive(f"{where}.contact_time", raw.get("contact_time", CONTACT_TIME)),
            "collides": bool(raw.get("collides", True)),
        }
        if place == "part_of":
            if raw["part_of"] not in objects:
                raise ContractError(
                    f"{where}.part_of: is {raw['part_of']!r}, expected the name of an object above it"
                )
            settings |= {
                "part_of": raw["part_of"],
                "position": _vector(where, "position", raw.get("position", (0, 0, 0))),
            }
            settings["joint"] = _joint(f"{where}.joint", raw["joint"]) if "joint" in raw else None
        else:
            settings |= {key: bool(raw.get(key, False)) for key in ("fixed", "held")}
            if sum((settings["fixed"], settings["held"], not settings["collides"])) > 1:
                raise ContractError(f"{where}: only one of fixed: true, held: true and collides: false fits")
            settings["spawn"] = _spawn(f"{where}.spawn", raw["spawn"], settings["held"], _height(parts))
        objects[name] = SceneObject(name, parts, **settings)
    return objects


def draw_places(task: Task, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, float]]:
    """Draw where the objects of a task's scene begin; things nearer than its `apart` are drawn again.

    Every simulator draws with this: the same seed is the same table.

    Returns:
        Position [3] (m) and yaw (rad) by name, as `SceneObject.spawn` says, of all that are no part of another.

    Raises:
        ContractError: The scene does not fit, or there is no room.
    """
    apart, taken, places = float(task.scene.get("apart", 0.0)), [], {}
    for name, item in scene_objects(task).items():
        if item.part_of:
            continue
        for _ in range(TRIES):
            x, y, z, yaw = (rng.uniform(*item.spawn[axis]) for axis in AXES)
            lies = item.collides and not item.held
            if not lies or all(np.hypot(x - u, y - v) >= apart for u, v in taken):
                break
        else:
            raise ContractError(
                f"{task.name}.scene.apart: no place {apart} m from the others for '{name}'; "
                "widen its spawn or lower apart"
            )
        if lies:
            taken.append((x, y))
        places[name] = np.array([x, y, z]), yaw
    return places


def _parts(where: str, raw: dict[str, Any]) -> tuple[Part, ...]:
    common = {"color": (0.7, 0.7, 0.7), "friction": 1.0} | {k: raw[k] for k in SURFACE_KEYS if k in raw}
    if "parts" not in raw:
        return (_part(where, common | {"position": (0, 0, 0)} | raw),)
    if not isinstance(raw["parts"], list) or not raw["parts"]:
        raise ContractError(
            f"{where}.parts: is {raw['parts']!r}, expected a list of {{shape, size, position}}"
        )
    parts = []
    for i, part in enumerate(raw["parts"]):
        here = f"{where}.parts[{i}]"
        check_keys(here, part, PART_KEYS, SURFACE_KEYS)
        parts.append(_part(here, common | part))
    return tuple(parts)


def _part(where: str, raw: dict[str, Any]) -> Part:
    shape, size = raw["shape"], raw["size"]
    if shape not in SHAPES:
        raise ContractError(f"{where}.shape: is {shape!r}, expected one of {', '.join(SHAPES)}")
    count = SHAPES[shape][0]
    if not isinstance(size, list) or len(size) != count or not all(_is_number(v) and v > 0 for v in size):
        raise ContractError(f"{where}.size: is {size}, expected {count} positive metres for a {shape}")
    position, color = (_vector(where, key, raw[key]) for key in ("position", "color"))
    friction = _positive(f"{where}.friction", raw["friction"])
    return Part(shape, tuple(map(float, size)), position, color, friction)


def _spawn(where: str, raw: Any, held: bool, height: float) -> dict[str, tuple[float, float]]:
    check_keys(where, raw, () if held else ("x", "y"), AXES if held else ("z", "yaw"))
    rest = 0.0 if held else height
    spawn = {axis: (0.0, 0.0) for axis in AXES} | {"z": (rest, rest)}
    for axis, limits in raw.items():
        spawn[axis] = _range(f"{where}.{axis}", limits)
    return spawn


def _joint(where: str, raw: Any) -> Joint:
    numbers = ("damping", "frictionloss", "spring")
    check_keys(where, raw, ("type", "axis", "range"), numbers)
    if raw["type"] not in JOINT_TYPES:
        raise ContractError(f"{where}.type: is {raw['type']!r}, expected one of {', '.join(JOINT_TYPES)}")
    for key in numbers:
        if not (_is_number(raw.get(key, 0.0)) and raw.get(key, 0.0) >= 0):
            raise ContractError(f"{where}.{key}: is {raw[key]!r}, expected a number of at least 0")
    return Joint(
        raw["type"],
        _vector(where, "axis", raw["axis"]),
        _range(f"{where}.range", raw["range"]),
        **{key: float(raw[key]) for key in numbers if key in raw},
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(where: str, value: Any) -> float:
    if not _is_number(value) or value <= 0:
        raise ContractError(f"{where}: is {value!r}, expected a positive number")
    return float(value)


def _vector(where: str, key: str, value: Any) -> tuple[float, float, float]:
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(map(_is_number, value)):
        raise ContractError(f"{where}.{key}: is {value!r}, expected three numbers")
    return tuple(map(float, value))


def _range(where: str, value: Any) -> tuple[float, float]:
    fits = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    if not fits or value[0] > value[1]:
        raise ContractError(f"{where}: is {value!r}, expected [lowest, highest]")
    return float(value[0]), float(value[1])


def _height(parts: tuple[Part, ...]) -> float:
    return max(float(part.half_extent[2] - part.position[2]) for part in parts)


def add_object(spec: mujoco.MjSpec, item: SceneObject) -> None:
    """Add an object to the scene as a body of its name: free, on a joint of its name, or a mocap body."""
    moves = item.is_free or item.part_of
    parent = spec.body(item.part_of) if item.part_of else spec.worldbody
    body = parent.add_body(name=item.name, pos=item.position, mocap=not moves)
    volume = sum(part.volume for part in item.parts)
    for i, part in enumerate(item.parts):
        size = np.zeros(3)
        if part.shape == "box":
            size[:] = part.half_extent
        else:
            size[: len(part.size)] = part.half_extent[[0, 2]][: len(part.size)]
        contype, conaffinity = OBJECT_BITS if item.collides else NO_BITS
        geom = body.add_geom(
            name=f"{item.name}/{i}" if i else item.name, type=SHAPES[part.shape][1], size=size, pos=part.position,
            rgba=[*part.color, 1.0], contype=contype, conaffinity=conaffinity,
        )  # fmt: skip
        if item.collides:
            geom.mass = item.mass * part.volume / volume
            geom.condim = 4
            geom.friction = [part.friction, 0.005, 0.0001]
            if item.contact_time != CONTACT_TIME:
                geom.solref[0], geom.solmix = item.contact_time, 1000.0  # whatever it touches
    if item.is_free:
        body.add_freejoint()
    if item.part_of:
        # what moves on another is guided by its joint, not by contact
        spec.add_exclude(bodyname1=item.part_of, bodyname2=item.name)
    if item.joint:
        joint = body.add_joint(
            name=item.name, type=JOINT_TYPES[item.joint.type], axis=item.joint.axis, range=item.joint.range,
            limited=mujoco.mjtLimited.mjLIMITED_TRUE, frictionloss=item.joint.frictionloss,
        )  # fmt: skip
        set_joint(joint, damping=item.joint.damping, stiffness=item.joint.spring)


def set_joint(joint: Any, **coefficients: float) -> None:
    """Set a joint's damping or stiffness; newer MuJoCo takes coefficients of a polynomial in the speed."""
    for name, value in coefficients.items():
        now = getattr(joint, name)
        many = isinstance(now, np.ndarray)
        setattr(joint, name, [float(value)] + [0.0] * (len(now) - 1) if many else float(value))
