"""What lies on Gazebo's table: where it is, and how it gets to where an episode begins. No ROS, no Gazebo."""

from __future__ import annotations

import mujoco
import numpy as np

from hilrl_ros.contract import ContractError, Task
from hilrl_sim.objects import SceneObject, draw_places, scene_objects

from .release import WORLD, Release

NEAR = 0.005  # m from where an object was put that it may come to rest
CLOSED = 0.002  # m or rad from 0 at which a joint counts as closed
PUSH = 20.0  # m/s² with which a joint is pushed back to 0, beside what its friction takes
SETTLED = 4  # looks in a row at which all is in its place
PATIENCE = 100  # looks until it counts as lost


class Table:
    """The objects of a task as Gazebo reports them: poses of those that stand by themselves, joints of their parts.

    Attributes:
        objects: The objects by name.
        roots: Names of those that are no part of another; each is a model of its own in Gazebo.
        joints: Position (m or rad) and speed of each joint that was heard of, by its object's name.
    """

    def __init__(self, task: Task):
        """Read the task; raises `ContractError` where its scene does not fit, or begins with a thing in the jaws."""
        self.task = task
        self.objects = scene_objects(task)
        self.roots = [name for name, item in self.objects.items() if not item.part_of]
        for name in self.roots:
            if self.objects[name].held:
                raise ContractError(
                    f"{task.name}.scene.objects.{name}.held: Gazebo cannot begin with a thing in the jaws; "
                    "run this task in MuJoCo"
                )
        self.joints: dict[str, tuple[float, float]] = {}
        self._poses: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def unknown(self) -> list[str]:
        """Objects that nothing was heard of yet."""
        jointed = [name for name, item in self.objects.items() if item.joint]
        return [name for name in self.roots if name not in self._poses] + [
            name for name in jointed if name not in self.joints
        ]

    def saw(self, root: str, position: np.ndarray, quaternion: np.ndarray) -> None:
        """Note where an object stands: position [3] (m) and quaternion x, y, z, w [4] in the base frame."""
        self._poses[root] = np.array(position, float), np.array(quaternion, float)

    def poses(self, root: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return position [3] (m) and quaternion x, y, z, w [4] of an object that stands by itself and its parts.

        A part whose joint was not heard of yet is left out, and so is what is part of it.
        """
        poses = {root: self._poses[root]}
        for name, item in self.objects.items():
            if item.part_of not in poses or (item.joint and name not in self.joints):
                continue
            offset, turn = np.array(item.position), np.array([0.0, 0.0, 0.0, 1.0])
            if item.joint:
                way, axis = self.joints[name][0], np.array(item.joint.axis) / np.linalg.norm(item.joint.axis)
                if item.joint.type == "slide":
                    offset = offset + way * axis
                else:
                    turn = np.array([*(np.sin(way / 2) * axis), np.cos(way / 2)])
            position, quaternion = poses[item.part_of]
            poses[name] = position + _rotated(offset, quaternion), _product(quaternion, turn)
        return poses


class Placing:
    """Puts the objects to where an episode begins, and sees that they come to rest there.

    A joint of an object is pushed back to 0 by a force, as a hand would do it: Gazebo sets poses of whole models only.

    Attributes:
        problem: Why it did not work; "" while it may.
        done: Whether it is over, for good or bad.
    """

    def __init__(self, table: Table, seed: int):
        """Draw the places of an episode from `seed`, as every simulator draws them."""
        self.table = table
        self.places = draw_places(table.task, np.random.default_rng(seed))
        self.problem, self.done = "", False
        self._looks = self._settled = 0

    def command(self, release: Release) -> list[str]:
        """Return the command line that sets the poses of all objects at once."""
        poses = []
        for name, ((x, y, z), yaw) in self.places.items():
            poses.append(
                f'pose {{ name: "{name}" position {{ x: {x:.6f} y: {y:.6f} z: {z:.6f} }} '
                f"orientation {{ z: {np.sin(yaw / 2):.6f} w: {np.cos(yaw / 2):.6f} }} }}"
            )
        return [
            release.command, "service", "-s", f"/world/{WORLD}/set_pose_vector",
            "--reqtype", f"{release.messages}.Pose_V", "--reptype", f"{release.messages}.Boolean",
            "--timeout", "5000", "--req", " ".join(poses),
        ]  # fmt: skip

    def look(self) -> dict[str, float]:
        """See how far things are; return the force (N or N m) on each joint of an object until the next look."""
        away = self._away()
        self._looks += 1
        self._settled = self._settled + 1 if not away else 0
        if self._settled >= SETTLED:
            self.done = True
        elif self._looks >= PATIENCE:
            self.done = True
            self.problem = f"the objects did not come to rest in their places: {'; '.join(away)}"
        return {
            name: 0.0 if self.done else _push(item, self.table.joints[name][0])
            for name, item in self.table.objects.items()
            if item.joint
        }

    def _away(self) -> list[str]:
        away = []
        for name, (place, _) in self.places.items():
            distance = np.linalg.norm(self.table.poses(name)[name][0] - place)
            if distance > NEAR:
                away.append(f"{name} is {distance:.3f} m from where it was put")
        for name, item in self.table.objects.items():
            if item.joint and abs(self.table.joints[name][0]) > CLOSED:
                unit = "m" if item.joint.type == "slide" else "rad"
                away.append(f"{name} is open by {self.table.joints[name][0]:.3f} {unit}")
        return away


def _push(item: SceneObject, position: float) -> float:
    strength = item.mass * PUSH
    if item.joint.type == "hinge":  # at the arm of its farthest part
        strength *= max(float(np.abs(part.position).max() + part.half_extent.max()) for part in item.parts)
    strength += 1.5 * item.joint.frictionloss
    return -float(np.clip(position / CLOSED, -1.0, 1.0)) * strength


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the product of two quaternions x, y, z, w."""
    product = np.empty(4)
    mujoco.mju_mulQuat(product, a[[3, 0, 1, 2]], b[[3, 0, 1, 2]])
    return product[[1, 2, 3, 0]]


def _rotated(vector: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    rotated = np.empty(3)
    mujoco.mju_rotVecQuat(rotated, vector.astype(float), quaternion[[3, 0, 1, 2]])
    return rotated
