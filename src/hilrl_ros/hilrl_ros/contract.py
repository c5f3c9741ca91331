"""Robot contract and task: the one description that every node reads.

A contract says what the policy sees (state vector, cameras), what it may do (action
space) and where the arm may go (box, home, limits). A task adds its own state entries,
success, reward terms and scene. No ROS import: tests and tools use it as plain Python.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

ACTION_TYPES = ("ee_delta", "joint_delta", "joint_position")
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
