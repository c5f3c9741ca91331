"""Reads and checks a robot contract and a task."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

from hilrl_ros.config import check_keys, find_config, mapping, number, read_yaml
from hilrl_ros.contract import (
    ACTION_TYPES,
    EE_AXES,
    TIP_FIELDS,
    ActionSpace,
    Camera,
    Contract,
    ContractError,
    Model,
    StateEntry,
    Task,
)

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
    return -number(where, -value, 1e-6, 10.0) if backwards else number(where, value, 1e-6, 10.0)


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
        low, high = (number(f"{where}.{joint}", value, -7.0, 7.0) for value in pair)
        if not low <= home[joint] <= high or low == high:
            raise ContractError(f"{where}.{joint}: is {pair}, expected to hold the home pose's {home[joint]}")
        out.append((low, high))
    return tuple(out)


def _gripper_width(where: str, raw: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(raw, list) or len(raw) < 2 or not all(isinstance(p, list) and len(p) == 2 for p in raw):
        raise ContractError(
            f"{where}: is {raw!r}, expected pairs [rad of the gripper joint, m between the jaws]"
        )
    pairs = tuple((number(where, q, -7.0, 7.0), number(where, width, 0.0, 1.0)) for q, width in raw)
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
        control_rate=number(f"{file}.control_rate", raw["control_rate"], 0.1, 1000.0),
        joints=joints,
        gripper_joint=raw["gripper_joint"],
        max_joint_speed=number(f"{file}.max_joint_speed", raw["max_joint_speed"], 0.01, 100.0),
        state=tuple(state),
        cameras=cameras,
        action=action,
        motion=_motion(file, None if own_motion else raw.get("motion"), action, joints),
        box_min=tuple(float(v) for v in low),
        box_max=tuple(float(v) for v in high),
        home=tuple(
            number(f"{task_file if j in task.get('home', {}) else file}.home.{j}", home[j], -7.0, 7.0)
            for j in joints
        ),
        joint_limits=_joint_limits(f"{file}.joint_limits", raw["joint_limits"], joints, home)
        if "joint_limits" in raw
        else None,
        gripper_width=_gripper_width(f"{file}.gripper_width", raw["gripper_width"])
        if "gripper_width" in raw
        else None,
        max_gripper_speed=number(f"{file}.max_gripper_speed", raw["max_gripper_speed"], 0.001, 100.0)
        if "max_gripper_speed" in raw
        else None,
        privileged=tuple(privileged),
        sim=mapping(f"{file}.sim", raw.get("sim", {})),
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
        success=mapping(f"{file}.success", raw["success"]),
        reward=mapping(f"{file}.reward", raw["reward"]),
        scene=mapping(f"{file}.scene", raw.get("scene", {})),
        expert=str(raw.get("expert", "")),
        truth=mapping(f"{file}.truth", raw.get("truth", {})),
    )
