"""The robot contract that a LeRobot policy acts under: its cameras, joints and rate on an arm that is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from so101_driver.calibration import lerobot_home

from .contract_file import edited, in_line, write
from .errors import UserError

if TYPE_CHECKING:
    from hilrl_agents.lerobot import LeRobotPolicy, Units
    from hilrl_ros.contract import Contract

__all__ = ["Taught", "check", "check_own", "check_task", "derived", "taught_on", "units", "write"]

_BEYOND = 0.35  # rad beyond a joint's limits that a calibration may explain


@dataclass(frozen=True)
class Taught:
    """The dataset that a policy was trained on.

    Attributes:
        root: Its folder.
        rate: Frames a second.
        own: The robot contract that it carries if this suite exported it, as `Contract.to_dict` gives it; else None.
    """

    root: Path
    rate: float
    own: dict[str, Any] | None


def taught_on(folder: Path) -> Taught | None:
    """Return the dataset that a policy's `train_config.json` names; None if it lies elsewhere.

    Args:
        folder: `pretrained_model` of a LeRobot policy.
    """
    from hilrl_data.lerobot_layout import INFO
    from hilrl_data.lerobot_reader import own_contract

    try:
        named = json.loads((folder / "train_config.json").read_text())["dataset"]
        root = Path(named.get("root") or lerobot_home() / named["repo_id"])
        rate = float(json.loads((root / INFO).read_text())["fps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Taught(root, rate, own_contract(root))


def check_own(policy: LeRobotPolicy, taught: Taught, contract: Contract) -> None:
    """Refuse a task or an arm that is not the one whose episodes were exported for a policy.

    Raises:
        CheckpointError: Names the key that differs.
        UserError: The policy sees or does something else than the contract says.
    """
    from hilrl_agents import PolicySpec
    from hilrl_agents.checkpoint import check_contract

    check_contract(taught.own, contract.to_dict(), str(policy.folder))
    needed, seen = (
        (spec.state_dim, spec.action_dim, dict(spec.cameras))
        for spec in (PolicySpec.from_contract(contract.to_dict()), policy.spec())
    )
    if needed != seen:
        raise UserError(
            f"{policy.folder}: sees {policy.frames} × {policy.state} numbers and the cameras "
            f"{', '.join(policy.cameras) or 'none'}, expected one observation of {needed[0]} numbers and "
            f"{', '.join(needed[2]) or 'none'}, as they were exported"
        )


def derived(policy: LeRobotPolicy, base: Path, rate: float) -> str:
    """Return the text of a contract for a policy.

    State are the joints' positions, the newest first where the policy sees several, and what else the arm's contract
    observes is privileged; actions are joint positions; the person's device moves as fast as before.

    Args:
        policy: What the checkpoint says.
        base: Contract of the arm; what is not named here is taken from it.
        rate: Control rate, Hz.

    Raises:
        UserError: The policy is of another arm.
    """

    def change(data: Any) -> None:
        joints = list(data["joints"])
        for what, count in (("state", policy.state), ("action", policy.action)):
            if count != len(joints):
                raise UserError(
                    f"{policy.folder}: its {what} has {count} entries, expected the {len(joints)} joints of "
                    f"{base.name} ({', '.join(joints)})"
                )
        if policy.environment:
            raise UserError(f"{policy.folder}: sees an environment state, which LeRobot's arms do not have")
        scale = data.get("motion") or data["action"]["scale"]
        slower = data["control_rate"] / rate
        data["motion"] = in_line({name: round(value * slower, 6) for name, value in scale.items()})
        data["control_rate"] = rate
        entries = []
        for ago in range(policy.frames):
            for joint in joints:
                entry = {"name": joint, "topic": "joint_states", "field": f"position[{joint}]", "unit": "rad"}
                entries.append(entry | ({"name": f"{joint}_{ago}_ago", "ago": ago} if ago else {}))
        # reward terms and the scripted person may ask for more than the policy sees
        seen = {entry["name"] for entry in entries}
        data["privileged"] = [entry for entry in data["state"] if entry["name"] not in seen]
        data["state"] = [in_line(entry) for entry in entries]
        topics = {name: camera["topic"] for name, camera in data["cameras"].items()}
        cameras = {}
        for name, size in policy.cameras.items():
            crop = policy.crops.get(name)
            cameras[name] = in_line(
                {
                    "topic": topics.get(name, f"{name}/image_raw"),
                    "crop": list(crop) if crop else None,
                    "size": [crop[3], crop[2]] if crop else list(size),
                    "stack": policy.frames,
                }
            )
        data["cameras"] = cameras
        data["action"] = {"type": "joint_position", "scale": in_line(dict.fromkeys(joints, 1.0))}

    return edited(base.read_text(), change)


def check_task(raw: dict[str, Any], task: str) -> None:
    """Refuse a task, as its file holds it, that shows more than a policy of the arm's joints sees.

    Raises:
        UserError: Names what it adds.
    """
    added = [str(entry.get("name")) for entry in raw.get("state") or [] if isinstance(entry, dict)]
    if added:
        raise UserError(
            f"task {task} adds {', '.join(added)} to the state, which this policy does not see; use a task that lists "
            "them under 'privileged'"
        )


def check(policy: LeRobotPolicy, contract: Contract, task: str) -> None:
    """Refuse a task that changes what the policy sees or does.

    Raises:
        UserError: Names what the task adds or leaves out.
    """
    if list(contract.cameras) != list(policy.cameras):
        raise UserError(
            f"task {task} shows the cameras {', '.join(contract.cameras) or 'none'}, this policy sees "
            f"{', '.join(policy.cameras) or 'none'}: name these, in this order, under the task's 'cameras'"
        )
    if contract.action.type != "joint_position":
        raise UserError(
            f"task {task} has actions of its own ({contract.action.type}), this policy's are joint positions"
        )


def units(policy: LeRobotPolicy, contract: Contract, kind: str) -> tuple[Units, Units]:
    """Return how LeRobot's state becomes the contract's (rad), and its action the contract's ([-1, 1]).

    Args:
        policy: What the checkpoint says.
        contract: With the policy's joints.
        kind: `degrees`, `range` (-100 to 100 from limit to limit) or `radians`; the gripper's range is 0 to 100.

    Raises:
        UserError: The positions that the policy was trained on are far beyond the joints' limits.
    """
    from hilrl_agents.lerobot import STATE, Units
    from hilrl_ros.kinematics import Kinematics

    low, high = Kinematics(contract).joint_limits.T
    scale, offset = {
        "radians": (np.ones(len(low)), np.zeros(len(low))),
        "degrees": (np.full(len(low), np.pi / 180), np.zeros(len(low))),
        "range": ((high - low) / 200, (low + high) / 2),
    }[kind]
    if kind != "radians":
        gripper = contract.joints.index(contract.gripper_joint)
        scale[gripper], offset[gripper] = (high[gripper] - low[gripper]) / 100, low[gripper]
    taught = policy.statistics.get(STATE)  # None: nothing is known
    middle = (low + high) / 2 if taught is None else taught[0].numpy() * scale + offset
    for joint, value, least, most in zip(contract.joints, middle, low, high, strict=True):
        if not least - _BEYOND <= value <= most + _BEYOND:
            raise UserError(
                f"{joint} was at {value:.2f} rad on average when this policy was taught, with --units {kind}, but "
                f"moves from {least:.2f} to {most:.2f}: give the units that it was recorded in"
            )
    return Units(scale, offset), Units(2 * scale / (high - low), 2 * (offset - low) / (high - low) - 1)
