"""Robot contract and task: the one description that every node reads.

A contract says what the policy sees (state vector, cameras), what it may do (action
space) and where the arm may go (box, home, limits). A task adds its own state entries,
success, reward terms and scene. No ROS import: tests and tools use it as plain Python.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ACTION_TYPES = ("ee_delta", "joint_delta", "joint_position")
# beginnings of fields that tell the message type of their topic
_TYPE_OF_FIELD = {
    **dict.fromkeys(
        ("position[", "velocity[", "effort[", "tip.", "gripper.width"), "sensor_msgs/msg/JointState"
    ),
    "action[": "hilrl_msgs/msg/Action",
    "pose.": "geometry_msgs/msg/PoseStamped",
    "wrench.": "geometry_msgs/msg/WrenchStamped",
    "twist.": "geometry_msgs/msg/TwistStamped",
}
TIP_FIELDS = tuple(f"tip.{axis}" for axis in ("x", "y", "z", "roll", "pitch", "yaw"))
EE_AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


class ContractError(ValueError):
    """A contract or task file that does not fit; the message says what, where and what would be right."""


@dataclass(frozen=True)
class StateEntry:
    """One number of the state vector.

    Attributes:
        name: Unique name, used by reward terms and datasets.
        topic: Topic (relative) whose newest message holds the value.
        field: Path in the message; on a JointState also `position[joint]`, `tip.x`, `gripper.width`; on the topic
            `executed_action` also `action[component]`, which is the action of the step before.
        unit: SI unit, for people and datasets.
        minus: Name of an earlier entry that is subtracted, or "".
        type: Message type of the topic as `package/msg/Name`; may be left out where the field tells it.
        ago: Control periods that the value is old; at an episode's beginning it is the first one.
    """

    name: str
    topic: str
    field: str
    unit: str
    minus: str = ""
    type: str = ""
    ago: int = 0


@dataclass(frozen=True)
class Camera:
    """A camera the policy sees.

    Attributes:
        topic: Image topic (relative).
        size: Height and width in pixels after resizing.
        crop: x, y, width, height in the published image, or None for all of it.
        stack: Newest frames that the policy sees at once, one control period apart.
    """

    topic: str
    size: tuple[int, int]
    crop: tuple[int, int, int, int] | None = None
    stack: int = 1


@dataclass(frozen=True)
class ActionSpace:
    """What an action means.

    Attributes:
        type: One of ee_delta, joint_delta, joint_position.
        names: Components in order.
        scale: SI amount that an action of 1 moves in one control period, per component
            (deltas only; for joint_position the joint limits are the range and this is 1). With ee_delta the
            gripper's is negative where its joint shrinks as the jaws open: an action of 1 always opens.
    """

    type: str
    names: tuple[str, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class Model:
    """Whereabouts of the robot model, and what it calls things.

    Attributes:
        package: ROS package, Python package or absolute folder that holds the model.
        tip_frame: Link, body or site that the end-effector actions move.
        base_frame: Link or body, frame of all poses.
        urdf: Glob of the URDF inside the package; "" where there is an MJCF.
        mjcf: Glob of the MJCF inside the package; "" where there is a URDF.
        root: Body of the MJCF that the arm begins with, the rest of the file is left out; "" for all of the file.
        joints: What the model calls those of the contract's joints that it calls something else.
    """

    package: str
    tip_frame: str
    base_frame: str = "base_link"
    urdf: str = ""
    mjcf: str = ""
    root: str = ""
    joints: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Contract:
    """Robot contract, joined with the state entries of a task.

    Attributes:
        robot: Name.
        model: Where the model is and which frames matter.
        control_rate: Ticks of the loop, Hz.
        joints: Joint names in the order of every joint vector (arm, then gripper).
        gripper_joint: The joint that opens and closes; one that slides is in m where others are in rad.
        max_joint_speed: rad/s that no command exceeds.
        max_gripper_speed: The same for the gripper joint, rad/s or m/s; None if it is `max_joint_speed`.
        state: State vector in order.
        cameras: Cameras by name, in order.
        action: Action space.
        motion: What a full stick of a person's device means: ee_delta, whatever the policy's action space is.
        box_min: Lower bounds of the tip in base_frame, m.
        box_max: Upper bounds of the tip in base_frame, m.
        home: Joint positions (rad) in the order of `joints`; a task may name others for some joints.
        gripper_width: Pairs of the gripper joint's position (rad) and the jaws' distance (m), rising in the first;
            None where no state entry asks for the width.
        joint_limits: Lower and upper limit (rad) of each joint in the order of `joints`, within the model's; None
            leaves the model's.
        privileged: What is observed beside the state where it can be (in simulation): reward terms, truth and the
            scripted operator see it, the policy never does. No part of the contract proper either.
        sim: What only a simulator needs (servos, collision, cameras, grasp); see `hilrl_sim.scene`. No
            part of the contract proper: neither `to_dict` nor the hash knows it.
    """

    robot: str
    model: Model
    control_rate: float
    joints: tuple[str, ...]
    gripper_joint: str
    max_joint_speed: float
    state: tuple[StateEntry, ...]
    cameras: dict[str, Camera]
    action: ActionSpace
    motion: ActionSpace
    box_min: tuple[float, float, float]
    box_max: tuple[float, float, float]
    home: tuple[float, ...]
    joint_limits: tuple[tuple[float, float], ...] | None = None
    gripper_width: tuple[tuple[float, float], ...] | None = None
    max_gripper_speed: float | None = None
    privileged: tuple[StateEntry, ...] = dataclasses.field(default=(), compare=False)
    sim: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @property
    def period(self) -> float:
        """Control period in seconds."""
        return 1.0 / self.control_rate

    @property
    def joint_speeds(self) -> tuple[float, ...]:
        """Speed of each joint that no command exceeds, rad/s; of a gripper that slides, m/s."""
        gripper = self.max_joint_speed if self.max_gripper_speed is None else self.max_gripper_speed
        return tuple(gripper if name == self.gripper_joint else self.max_joint_speed for name in self.joints)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state vector in order."""
        return tuple(entry.name for entry in self.state)

    @property
    def entries(self) -> tuple[StateEntry, ...]:
        """The state vector's entries, then the privileged ones."""
        return self.state + self.privileged

    @property
    def entry_names(self) -> tuple[str, ...]:
        """Names of `entries` in order."""
        return tuple(entry.name for entry in self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict (YAML and JSON types only) of the whole contract, as checkpoints carry it."""
        data = json.loads(json.dumps(dataclasses.asdict(self)))
        del data["sim"], data["privileged"]
        for key in ("joint_limits", "gripper_width", "max_gripper_speed"):
            if data[key] is None:
                del data[key]
        data["model"] = {key: value for key, value in data["model"].items() if value}
        for entry in data["state"]:
            if not entry["ago"]:
                del entry["ago"]
        return data

    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the contract's canonical JSON."""
        return contract_hash(self.to_dict())


@dataclass(frozen=True)
class Task:
    """A task: what success is, what pays, what the simulator puts on the table.

    Attributes:
        name: Name of the task.
        text: Instruction in words, stored with demonstrations.
        max_episode_steps: Control periods until truncation.
        success: Condition as `{term, …}`; see `hilrl_reward.terms`.
        reward: Reward terms by name as `{term, weight, …}`.
        truth: Condition like `success` that is judged beside it, for measuring alone; empty for none.
        scene: Objects of the simulated scene; see `hilrl_sim.scene`.
        expert: Name of the scripted operator's expert, "" for none.
    """

    name: str
    text: str
    max_episode_steps: int
    success: dict[str, Any]
    reward: dict[str, dict[str, Any]]
    scene: dict[str, Any]
    expert: str = ""
    truth: dict[str, Any] = dataclasses.field(default_factory=dict)


def contract_hash(contract: dict[str, Any]) -> str:
    """Return the short hash of a contract dict (see `Contract.hash`)."""
    text = json.dumps(contract, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_contract(robot: str | Path, task: str | Path | None = None) -> tuple[Contract, Task | None]:
    """Read a robot contract and, if given, the task that it is used for.

    Args:
        robot: Name of a file in `config/robots` (without ending) or a path.
        task: Name of a file in `config/tasks` or a path.

    Returns:
        The contract with the task's state entries appended and the cameras that the task names, and the task. Without
        a task: the robot's own state entries, all its cameras, and None.

    Raises:
        ContractError: The file is missing or does not fit; names file, key and what would be right.
    """
    robot_path = find_config("robots", robot)
    raw = read_yaml(robot_path)
    task_raw: dict[str, Any] = {}
    task_path = None
    if task is not None:
        task_path = find_config("tasks", task)
        task_raw = read_yaml(task_path)
    contract = _contract(raw, robot_path.name, task_raw, task_path.name if task_path else "")
    return contract, _task(task_raw, task_path.name) if task_path else None


def find_config(kind: str, name: str | Path) -> Path:
    """Return the path of a config file given by name or path; `kind` is its folder under config/.

    Raises:
        ContractError: No such file; lists what exists.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ContractError(f"{path}: no such file; give a path to a YAML file or a name from config/{kind}")
    folder = config_folder() / kind
    found = folder / f"{name}.yaml"
    if found.is_file():
        return found
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    raise ContractError(
        f"{kind[:-1]} '{name}' is unknown{_nearest(str(name), known)}; there are: {', '.join(known)}"
    )


def config_folder() -> Path:
    """Return the installed config folder of package `hilrl`."""
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("hilrl")) / "config"


def contract_from_dict(data: dict[str, Any]) -> Contract:
    """Rebuild a contract from `Contract.to_dict` (as a checkpoint carries it)."""
    d = dict(data)
    return Contract(
        robot=d["robot"],
        model=Model(**d["model"]),
        control_rate=d["control_rate"],
        joints=tuple(d["joints"]),
        gripper_joint=d["gripper_joint"],
        max_joint_speed=d["max_joint_speed"],
        state=tuple(StateEntry(**e) for e in d["state"]),
        cameras={
            k: Camera(c["topic"], tuple(c["size"]), tuple(c["crop"]) if c["crop"] else None, c["stack"])
            for k, c in d["cameras"].items()
        },
        action=_action_from_dict(d["action"]),
        motion=_action_from_dict(d["motion"]),
        box_min=tuple(d["box_min"]),
        box_max=tuple(d["box_max"]),
        home=tuple(d["home"]),
        joint_limits=_pairs(d.get("joint_limits")),
        gripper_width=_pairs(d.get("gripper_width")),
        max_gripper_speed=d.get("max_gripper_speed"),
    )


def _pairs(data: list[list[float]] | None) -> tuple[tuple[float, float], ...] | None:
    return None if data is None else tuple(tuple(pair) for pair in data)


def _action_from_dict(data: dict[str, Any]) -> ActionSpace:
    return ActionSpace(data["type"], tuple(data["names"]), tuple(data["scale"]))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ContractError: It is not YAML, or no mapping; names the file and, where known, the line.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        raise ContractError(
            f"{path.name}{f' line {mark.line + 1}' if mark else ''}: not valid YAML: {getattr(e, 'problem', e)}"
        ) from None
    if not isinstance(data, dict):
        raise ContractError(f"{path.name}: holds {type(data).__name__}, expected a mapping of keys to values")
    return data


def _nearest(name: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(name, allowed, 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def check_keys(
    where: str,
    data: Any,
    required: tuple[str, ...],
    optional: tuple[str, ...] = (),
    error: type = ContractError,
) -> None:
    """Raise `error` unless `data` is a mapping with all required and no unknown keys."""
    if not isinstance(data, dict):
        raise error(f"{where}: is {data!r}, expected a mapping with {', '.join(required + optional)}")
    allowed = sorted(required + optional)
    for key in data:
        if key not in allowed:
            raise error(
                f"{where}.{key}: unknown key{_nearest(str(key), allowed)}; allowed: {', '.join(allowed)}"
            )
    for key in required:
        if key not in data:
            raise error(f"{where}: key '{key}' is missing; required: {', '.join(required)}")


def _number(where: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ContractError(f"{where}: is {value!r}, expected a number from {low:g} to {high:g}")
    return float(value)


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ContractError(f"{where}: is {value!r}, expected a mapping of keys to values")
    return value


def _is_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, str) and v for v in value)
        and len(set(value)) == len(value)
    )


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    )


def _state(where: str, entries: Any) -> list[StateEntry]:
    if not isinstance(entries, list):
        raise ContractError(f"{where}: is {entries!r}, expected a list of {{name, topic, field, unit}}")
    out = []
    for i, e in enumerate(entries):
        check_keys(f"{where}[{i}]", e, ("name", "topic", "field", "unit"), ("minus", "type", "ago"))
        entry = {k: str(v) for k, v in e.items() if k != "ago"}
        ago = e.get("ago", 0)
        if isinstance(ago, bool) or not isinstance(ago, int) or not 0 <= ago <= 100:
            raise ContractError(f"{where}[{i}].ago: is {ago!r}, expected control periods from 0 to 100")
        kind = entry.get("type") or next(
            (t for f, t in _TYPE_OF_FIELD.items() if entry["field"].startswith(f)), ""
        )
        if not kind:
            raise ContractError(
                f"{where}[{i}].field: '{entry['field']}' does not tell the message type; add 'type: package/msg/Name'"
            )
        if entry["field"].startswith("tip.") and entry["field"] not in TIP_FIELDS:
            raise ContractError(
                f"{where}[{i}].field: '{entry['field']}' is unknown; allowed: {', '.join(TIP_FIELDS)}"
            )
        out.append(StateEntry(**(entry | {"type": kind}), ago=ago))
    return out


def _cameras(where: str, cameras: Any) -> dict[str, Camera]:
    out = {}
    if not isinstance(cameras, dict):
        raise ContractError(f"{where}: is {cameras!r}, expected names with {{topic, size, crop}}")
    for name, c in cameras.items():
        check_keys(f"{where}.{name}", c, ("topic", "size"), ("crop", "stack"))
        size, crop, stack = c["size"], c.get("crop"), c.get("stack", 1)
        if not isinstance(stack, int) or isinstance(stack, bool) or not 1 <= stack <= 8:
            raise ContractError(f"{where}.{name}.stack: is {stack!r}, expected 1 to 8 frames")
        if not (
            isinstance(size, list) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)
        ):
            raise ContractError(f"{where}.{name}.size: is {size!r}, expected [height, width] in pixels")
        if crop is not None and not (
            isinstance(crop, list)
            and len(crop) == 4
            and all(isinstance(v, int) and v >= 0 for v in crop)
            and min(crop[2:]) > 0
        ):
            raise ContractError(
                f"{where}.{name}.crop: is {crop!r}, expected [x, y, width, height] in pixels or null"
            )
        out[str(name)] = Camera(str(c["topic"]), (size[0], size[1]), tuple(crop) if crop else None, stack)
    return out


def _chosen(where: str, names: Any, cameras: dict[str, Camera]) -> dict[str, Camera]:
    if names != [] and not _is_names(names):
        raise ContractError(f"{where}: is {names!r}, expected a list of the robot's cameras")
    for name in names:
        if name not in cameras:
            known = f"it has {', '.join(cameras)}" if cameras else "it has none"
            raise ContractError(f"{where}: '{name}' is no camera of the robot; {known}")
    return {name: cameras[name] for name in names}


def _action(where: str, raw: Any, joints: tuple[str, ...]) -> ActionSpace:
    check_keys(where, raw, ("type", "scale"))
    kind = raw["type"]
    if kind not in ACTION_TYPES:
        raise ContractError(f"{where}.type: is {kind!r}, expected one of {', '.join(ACTION_TYPES)}")
    allowed = EE_AXES if kind == "ee_delta" else joints
    if not isinstance(raw["scale"], dict) or not raw["scale"]:
        raise ContractError(f"{where}.scale: is {raw['scale']!r}, expected names with numbers")
    for name in raw["scale"]:
        if name not in allowed:
            raise ContractError(
                f"{where}.scale.{name}: unknown name for {kind}; allowed: {', '.join(allowed)}"
            )
    return ActionSpace(
        kind,
        tuple(raw["scale"]),
        tuple(_scale(f"{where}.scale.{n}", kind, n, v) for n, v in raw["scale"].items()),
    )


def _scale(where: str, kind: str, name: str, value: Any) -> float:
    backwards = kind == "ee_delta" and name == "gripper" and isinstance(value, int | float) and value < 0
    return -_number(where, -value, 1e-6, 10.0) if backwards else _number(where, value, 1e-6, 10.0)


def _motion(where: str, raw: Any, action: ActionSpace, joints: tuple[str, ...]) -> ActionSpace:
    if raw is None:
        if action.type != "ee_delta":
            raise ContractError(
                f"{where}: key 'motion' is missing; with {action.type} actions it says what a full stick of a "
                "person's device moves, as in 'motion: {x: 0.015, y: 0.015, z: 0.015, gripper: 0.3}'"
            )
        return action
    return _action(f"{where}.motion", {"type": "ee_delta", "scale": raw}, joints)


def _joint_limits(
    where: str, raw: Any, joints: tuple[str, ...], home: dict[str, Any]
) -> tuple[tuple[float, float], ...]:
    check_keys(where, raw, joints)
    out = []
    for joint in joints:
        pair = raw[joint]
        if not isinstance(pair, list) or len(pair) != 2:
            raise ContractError(f"{where}.{joint}: is {pair!r}, expected [lowest, highest] in rad")
        low, high = (_number(f"{where}.{joint}", value, -7.0, 7.0) for value in pair)
        if not low <= home[joint] <= high or low == high:
            raise ContractError(f"{where}.{joint}: is {pair}, expected to hold the home pose's {home[joint]}")
        out.append((low, high))
    return tuple(out)


def _gripper_width(where: str, raw: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(raw, list) or len(raw) < 2 or not all(isinstance(p, list) and len(p) == 2 for p in raw):
        raise ContractError(
            f"{where}: is {raw!r}, expected pairs [rad of the gripper joint, m between the jaws]"
        )
    pairs = tuple((_number(where, q, -7.0, 7.0), _number(where, width, 0.0, 1.0)) for q, width in raw)
    if any(a[0] >= b[0] for a, b in itertools.pairwise(pairs)):
        raise ContractError(f"{where}: is {raw}, expected the gripper joint's positions to rise")
    return pairs


def _model(where: str, raw: Any, joints: tuple[str, ...]) -> Model:
    check_keys(where, raw, ("package", "tip_frame"), ("base_frame", "urdf", "mjcf", "root", "joints"))
    if ("urdf" in raw) == ("mjcf" in raw):
        raise ContractError(f"{where}: expected one of urdf and mjcf, the file that describes the arm")
    if "root" in raw and "mjcf" not in raw:
        raise ContractError(f"{where}.root: goes with mjcf only; a URDF is the arm as a whole")
    renamed = raw.get("joints", {})
    check_keys(f"{where}.joints", renamed, (), joints)
    settings = {key: str(value) for key, value in raw.items() if key != "joints"}
    return Model(**settings, joints={joint: str(name) for joint, name in renamed.items()})


def _check_fields(file: str, contract: Contract) -> None:
    """Refuse state entries that name what the rest of the contract does not have."""
    for entry in contract.entries:
        if entry.field == "gripper.width" and contract.gripper_width is None:
            raise ContractError(
                f"{file}: key 'gripper_width' is missing, '{entry.name}' needs it: pairs of the gripper joint's "
                "position and the jaws' distance, as in 'gripper_width: [[-0.17, 0.004], [1.745, 0.133]]'"
            )
        if entry.field.startswith("action["):
            component = entry.field.removeprefix("action[").removesuffix("]")
            if component not in contract.action.names or entry.topic != "executed_action":
                raise ContractError(
                    f"{file}.state.{entry.name}: {entry.topic} {entry.field}, expected topic executed_action and "
                    f"action[…] with one of {', '.join(contract.action.names)}"
                )


def _contract(raw: dict[str, Any], file: str, task: dict[str, Any], task_file: str) -> Contract:
    keys = (
        "robot", "model", "control_rate", "joints", "gripper_joint", "max_joint_speed",
        "state", "cameras", "action", "box", "home",
    )  # fmt: skip
    optional = ("motion", "joint_limits", "gripper_width", "max_gripper_speed", "privileged", "sim")
    check_keys(file, raw, keys, optional)
    if not _is_names(raw["joints"]):
        raise ContractError(f"{file}.joints: is {raw['joints']!r}, expected a list of unique joint names")
    joints = tuple(raw["joints"])
    if raw["gripper_joint"] not in joints:
        raise ContractError(
            f"{file}.gripper_joint: '{raw['gripper_joint']}' is not one of {', '.join(joints)}"
        )
    check_keys(f"{file}.home", raw["home"], joints)
    home = raw["home"]
    if "home" in task:
        check_keys(f"{task_file}.home", task["home"], (), joints)
        home = home | task["home"]
    check_keys(f"{file}.box", raw["box"], ("min", "max"))
    low, high = raw["box"]["min"], raw["box"]["max"]
    if not (_is_point(low) and _is_point(high) and all(a < b for a, b in zip(low, high, strict=True))):
        raise ContractError(f"{file}.box: min {low} and max {high} must be three metres each, min below max")
    state = _state(f"{file}.state", raw["state"])
    if "state" in task:
        state += _state(f"{task_file}.state", task["state"])
    privileged = _state(f"{file}.privileged", raw.get("privileged", []))
    privileged += _state(f"{task_file}.privileged", task.get("privileged", []))
    seen: list[str] = []
    for e in state + privileged:
        if e.name in seen:
            raise ContractError(f"{task_file or file}.state: '{e.name}' stands twice; names must be unique")
        if e.minus and e.minus not in seen:
            raise ContractError(
                f"{task_file or file}.state.{e.name}.minus: '{e.minus}' is not an earlier entry"
            )
        seen.append(e.name)
    cameras = _cameras(f"{file}.cameras", raw["cameras"])
    if task:
        cameras = _chosen(f"{task_file}.cameras", task.get("cameras", []), cameras)
    action = (
        _action(f"{task_file}.action", task["action"], joints)
        if "action" in task
        else _action(f"{file}.action", raw["action"], joints)
    )
    # a task that moves the tip in steps of its own wants them from a person too
    own_motion = "action" in task and action.type == "ee_delta"
    contract = Contract(
        robot=str(raw["robot"]),
        model=_model(f"{file}.model", raw["model"], joints),
        control_rate=_number(f"{file}.control_rate", raw["control_rate"], 0.1, 1000.0),
        joints=joints,
        gripper_joint=raw["gripper_joint"],
        max_joint_speed=_number(f"{file}.max_joint_speed", raw["max_joint_speed"], 0.01, 100.0),
        state=tuple(state),
        cameras=cameras,
        action=action,
        motion=_motion(file, None if own_motion else raw.get("motion"), action, joints),
        box_min=tuple(float(v) for v in low),
        box_max=tuple(float(v) for v in high),
        home=tuple(
            _number(f"{task_file if j in task.get('home', {}) else file}.home.{j}", home[j], -7.0, 7.0)
            for j in joints
        ),
        joint_limits=_joint_limits(f"{file}.joint_limits", raw["joint_limits"], joints, home)
        if "joint_limits" in raw
        else None,
        gripper_width=_gripper_width(f"{file}.gripper_width", raw["gripper_width"])
        if "gripper_width" in raw
        else None,
        max_gripper_speed=_number(f"{file}.max_gripper_speed", raw["max_gripper_speed"], 0.001, 100.0)
        if "max_gripper_speed" in raw
        else None,
        privileged=tuple(privileged),
        sim=_mapping(f"{file}.sim", raw.get("sim", {})),
    )
    _check_fields(task_file or file, contract)
    return contract


def _task(raw: dict[str, Any], file: str) -> Task:
    check_keys(
        file, raw, ("task", "text", "max_episode_steps", "success", "reward"),
        ("state", "privileged", "cameras", "action", "home", "truth", "scene", "expert"),
    )  # fmt: skip
    steps = raw["max_episode_steps"]
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ContractError(f"{file}.max_episode_steps: is {steps!r}, expected a whole number of at least 1")
    return Task(
        name=str(raw["task"]),
        text=str(raw["text"]),
        max_episode_steps=steps,
        success=_mapping(f"{file}.success", raw["success"]),
        reward=_mapping(f"{file}.reward", raw["reward"]),
        scene=_mapping(f"{file}.scene", raw.get("scene", {})),
        expert=str(raw.get("expert", "")),
        truth=_mapping(f"{file}.truth", raw.get("truth", {})),
    )
