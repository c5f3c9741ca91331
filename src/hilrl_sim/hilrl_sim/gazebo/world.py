"""Writes the MuJoCo scene of an arm and a task as a world of Gazebo (SDF 1.9): one description, two simulators.

The world's frame is the arm's base frame, so that every pose in it is a pose as the graph wants it. A link is a body
of the MuJoCo model with all that is welded to it; meshes are the simplified ones of `hilrl_sim.scene`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import mujoco
import numpy as np

from hilrl_ros.contract import Contract, ContractError, Task
from hilrl_ros.kinematics import Kinematics, model_joints, rpy_matrix
from hilrl_sim.objects import SceneObject, draw_places
from hilrl_sim.scene import COLLISION, VISUAL, build, image_size

from .release import WORLD, Release
from .sdf import (
    add_axis,
    add_camera,
    add_colour,
    add_inertial,
    add_material,
    add_pose,
    add_primitive,
    add_surface,
    add_text,
    link_name,
    stl,
)
from .table import Table

RATE = 100  # Hz of joint states and poses
CAMERA_RATE = 10  # Hz; physics waits while a picture is rendered
HEAVY = 20.0  # kg of an object that stays where it is put: too much for any arm on a table
LIGHTEST = 1e-4  # kg of a link
AHEAD = 1.5  # how much faster than its targets a joint may be, to keep up with them
# Two shapes collide if they share a bit. The base stands on the table for ever: checking that costs more than all else.
BASE_BITS, TABLE_BITS, ALL_BITS = 0b10, 0b01, 0b11
# from a camera of MuJoCo, which looks along -z with y up, to a sensor of SDF, which looks along x with z up
LOOK = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])


@dataclass
class World:
    """A world of Gazebo.

    Attributes:
        root: The SDF; a mesh's uri is its name in `meshes`.
        meshes: Content of each mesh file (binary STL) by its name.
    """

    root: Element
    meshes: dict[str, bytes] = field(default_factory=dict)

    def text(self, folder: Path) -> str:
        """Return the SDF, with meshes in `folder`."""
        root = ElementTree.fromstring(ElementTree.tostring(self.root))
        for uri in root.iter("uri"):
            uri.text = f"file://{folder / uri.text}"
        ElementTree.indent(root)
        return f'<?xml version="1.0"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def make_world(
    contract: Contract, task: Task, release: Release, cameras: Sequence[str], real_time_factor: float = 1.0
) -> World:
    """Return the world of an arm and a task, as it is before the first episode.

    Args:
        contract: Of the robot.
        task: What lies on the table.
        release: Gazebo's release, for the names of its plugins.
        cameras: Cameras of the robot file's `sim.cameras` that the world has.
        real_time_factor: Simulated seconds that a second has at most.

    Raises:
        ContractError: The scene does not fit, or has what Gazebo's world cannot have.
    """
    return _Writer(contract, task, release).write(cameras, real_time_factor)


class _Writer:
    def __init__(self, contract: Contract, task: Task, release: Release):
        self.contract, self.task, self.release = contract, task, release
        self.objects = Table(task).objects
        self.model = build(contract, task)
        self._refuse_tied_joints()
        self.data = mujoco.MjData(self.model)
        self.data.qpos[self.model.jnt_qposadr[: self.model.njnt]] = 0.0
        mujoco.mj_kinematics(self.model, self.data)
        self.base_pos, self.base_R = Kinematics(contract).base_pose()
        self.world = World(Element("sdf", version="1.9"))

    def _refuse_tied_joints(self) -> None:
        names = {*self.objects, *model_joints(self.contract)}
        for j in range(self.model.njnt):
            name = self.model.joint(j).name
            if name and name not in names:
                raise ContractError(
                    f"{self.contract.robot}: joint '{name}' has no servo of its own (a finger that follows the other "
                    "one?), which Gazebo's world does not have; run this robot in MuJoCo"
                )

    def write(self, cameras: Sequence[str], real_time_factor: float) -> World:
        world = SubElement(self.world.root, "world", name=WORLD)
        physics = SubElement(world, "physics", name="physics", type="dart")
        add_text(physics, "max_step_size", self.contract.sim["timestep"])
        add_text(physics, "real_time_factor", real_time_factor)
        # with the default, ODE's, the jaws sink into what they squeeze, and that takes ten times as long
        add_text(SubElement(physics, "dart"), "collision_detector", "fcl")
        for library, system in (
            ("physics", "Physics"), ("user-commands", "UserCommands"), ("scene-broadcaster", "SceneBroadcaster"),
        ):  # fmt: skip
            self._plugin(world, library, system)
        if cameras:
            add_text(self._plugin(world, "sensors", "Sensors"), "render_engine", "ogre2")
        add_text(world, "gravity", self.base_R.T @ self.model.opt.gravity)
        scene = SubElement(world, "scene")
        add_text(scene, "ambient", (0.95, 0.95, 0.95, 1))
        add_colour(scene, "background", (0.75, 0.8, 0.85, 1))
        add_text(scene, "shadows", 0)
        self._lights(world)
        self._table(world)
        links = self._arm(world)
        self._cameras(world, links, cameras)
        places = draw_places(self.task, np.random.default_rng(0))
        for name, (position, yaw) in places.items():
            self._object(world, name, position, rpy_matrix(np.array([0.0, 0.0, yaw])))
        return self.world

    def _plugin(self, parent: Element, library: str, system: str, **settings) -> Element:
        plugin = SubElement(parent, "plugin", self.release.plugin(library, system))
        for key, value in settings.items():
            add_text(plugin, key, value)
        return plugin

    def _in_base(self, pos: np.ndarray, R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a pose of MuJoCo's world in the base frame."""
        return self.base_R.T @ (pos - self.base_pos), self.base_R.T @ R.reshape(3, 3)

    def _lights(self, world: Element) -> None:
        for i in range(self.model.nlight):
            light = SubElement(world, "light", name=f"lamp{i}", type="directional")
            add_text(light, "cast_shadows", 0)
            add_text(light, "diffuse", (*self.model.light_diffuse[i], 1))
            add_text(light, "specular", (*self.model.light_specular[i], 1))
            add_text(light, "direction", self.base_R.T @ self.model.light_dir[i])

    def _table(self, world: Element) -> None:
        geom = self.model.geom("table")
        size = (*(2 * geom.size[:2]), 0.1)  # a box, whose upper side is the table
        model = SubElement(world, "model", name="table")
        add_text(model, "static", "true")
        add_pose(model, -0.05 * self.base_R[2], self.base_R.T)
        link = SubElement(model, "link", name="table")
        for kind in ("visual", "collision"):
            shape = SubElement(link, kind, name=kind)
            add_text(SubElement(SubElement(shape, "geometry"), "box"), "size", size)
            if kind == "visual":
                add_material(shape, (0.60, 0.58, 0.55, 1))
            else:
                add_surface(shape, geom.friction[0], TABLE_BITS)

    # --- the arm ---

    def _arm(self, world: Element) -> dict[int, tuple[Element, np.ndarray, np.ndarray]]:
        """Add the arm; return link and its pose by the id of its uppermost body."""
        m, d = self.model, self.data
        model = SubElement(world, "model", name=self.contract.robot)
        groups: dict[int, list[int]] = {}
        for body in range(1, m.nbody):
            if m.body(body).name not in self.objects:
                groups.setdefault(m.body_weldid[body], []).append(body)
        links = {}
        for top, bodies in groups.items():
            name = m.body(bodies[0]).name
            frame = (np.zeros(3), np.eye(3)) if top == 0 else self._in_base(d.xpos[top], d.xmat[top])
            link = SubElement(model, "link", name=name)
            add_pose(link, *frame)
            self._inertial(link, bodies, frame)
            for geom in np.flatnonzero(np.isin(m.geom_bodyid, bodies)):
                self._geom(link, geom, frame, BASE_BITS if top == 0 else ALL_BITS)
            links[top] = link, *frame
        fixed = SubElement(model, "joint", name="on_the_table", type="fixed")
        add_text(fixed, "parent", "world")
        add_text(fixed, "child", links[0][0].get("name"))
        for joint in self.contract.joints:
            self._joint(model, joint, links)
        states = self._plugin(
            model, "joint-state-publisher", "JointStatePublisher", topic="joint_states", update_rate=RATE
        )
        for joint in self.contract.joints:
            add_text(states, "joint_name", joint)
        for name, home, speed in zip(
            self.contract.joints, self.contract.home, self.contract.joint_speeds, strict=True
        ):
            self._plugin(
                model, "joint-position-controller", "JointPositionController", joint_name=name,
                topic=f"{name}/target", use_velocity_commands="true", cmd_max=AHEAD * speed, initial_position=home,
            )  # fmt: skip
        return links

    def _joint(
        self, model: Element, name: str, links: dict[int, tuple[Element, np.ndarray, np.ndarray]]
    ) -> None:
        m, d, i = self.model, self.data, self.contract.joints.index(name)
        j = m.joint(model_joints(self.contract)[i]).id
        child, pos, R = links[m.jnt_bodyid[j]]
        parent = links[m.body_weldid[m.body_parentid[m.jnt_bodyid[j]]]][0]
        slides = m.jnt_type[j] == mujoco.mjtJoint.mjJNT_SLIDE
        joint = SubElement(model, "joint", name=name, type="prismatic" if slides else "revolute")
        add_pose(joint, R.T @ (self._in_base(d.xanchor[j], np.eye(3))[0] - pos), np.eye(3))
        add_text(joint, "parent", parent.get("name"))
        add_text(joint, "child", child.get("name"))
        low, high = m.jnt_range[j] if m.jnt_limited[j] else (-math.inf, math.inf)
        effort = m.actuator(name).forcerange[1]
        axis = add_axis(joint, R.T @ self.base_R.T @ d.xaxis[j], low, high, m.dof_damping[m.jnt_dofadr[j]])
        add_text(axis.find("dynamics"), "friction", m.dof_frictionloss[m.jnt_dofadr[j]])
        add_text(axis.find("limit"), "effort", effort)
        add_text(axis.find("limit"), "velocity", 2 * AHEAD * self.contract.joint_speeds[i])

    def _inertial(
        self, link: Element, bodies: list[int], frame: tuple[np.ndarray, np.ndarray], factor: float = 1.0
    ) -> None:
        """Add the inertia of bodies that are one: about their common centre, in the link's frame."""
        m, d, (pos, R) = self.model, self.data, frame
        masses = (
            m.body_mass[bodies] if m.body_mass[bodies].sum() > LIGHTEST else np.full(len(bodies), LIGHTEST)
        )
        centres = np.array([R.T @ (self._in_base(d.xipos[b], np.eye(3))[0] - pos) for b in bodies])
        axes = [R.T @ self._in_base(np.zeros(3), d.ximat[b])[1] for b in bodies]
        inertias = [A @ np.diag(m.body_inertia[b]) @ A.T for b, A in zip(bodies, axes, strict=True)]
        add_inertial(link, factor * masses, centres, factor * np.array(inertias))

    def _geom(self, link: Element, geom: int, frame: tuple[np.ndarray, np.ndarray], bits: int) -> None:
        """Add a shape of the MuJoCo model to a link."""
        m, d, (pos, R) = self.model, self.data, frame
        if m.geom_group[geom] not in (VISUAL, COLLISION):
            return
        visual = m.geom_group[geom] == VISUAL
        shape = SubElement(link, "visual" if visual else "collision", name=f"shape{geom}")
        own_pos, own_R = self._in_base(d.geom_xpos[geom], d.geom_xmat[geom])
        add_pose(shape, R.T @ (own_pos - pos), R.T @ own_R)
        self._geometry(SubElement(shape, "geometry"), geom)
        if visual:
            material = m.geom_matid[geom]
            add_material(shape, m.geom_rgba[geom] if material < 0 else m.mat_rgba[material])
        else:
            add_surface(shape, m.geom_friction[geom, 0], bits)

    def _geometry(self, parent: Element, geom: int) -> None:
        m, types = self.model, mujoco.mjtGeom
        kind, size = m.geom_type[geom], m.geom_size[geom]
        if kind == types.mjGEOM_MESH:
            mesh = m.geom_dataid[geom]
            name = f"{m.mesh(mesh).name}.stl"
            if name not in self.world.meshes:
                vertices = m.mesh_vert[m.mesh_vertadr[mesh] :][: m.mesh_vertnum[mesh]]
                faces = m.mesh_face[m.mesh_faceadr[mesh] :][: m.mesh_facenum[mesh]]
                self.world.meshes[name] = stl(vertices, faces)
            add_text(SubElement(parent, "mesh"), "uri", name)
        elif kind == types.mjGEOM_BOX:
            add_text(SubElement(parent, "box"), "size", 2 * size)
        elif kind == types.mjGEOM_SPHERE:
            add_text(SubElement(parent, "sphere"), "radius", size[0])
        elif kind in (types.mjGEOM_CYLINDER, types.mjGEOM_CAPSULE):
            round_ = SubElement(parent, "cylinder" if kind == types.mjGEOM_CYLINDER else "capsule")
            add_text(round_, "radius", size[0])
            add_text(round_, "length", 2 * size[1])
        else:
            raise ContractError(
                f"{self.contract.robot}: the model has a shape of type {types(kind).name}, which SDF does not have"
            )

    # --- cameras and objects ---

    def _cameras(
        self, world: Element, links: dict[int, tuple[Element, np.ndarray, np.ndarray]], cameras: Sequence[str]
    ) -> None:
        m, d = self.model, self.data
        known = [m.camera(i).name for i in range(m.ncam)]
        mujoco.mj_camlight(m, d)
        for name in cameras:
            if name not in known:
                raise ContractError(f"camera '{name}' is not in the scene; there are {', '.join(known)}")
            i = m.camera(name).id
            pos, R = self._in_base(d.cam_xpos[i], d.cam_xmat[i])
            link, link_pos, link_R = links.get(m.body_weldid[m.cam_bodyid[i]], (None, None, None))
            if m.cam_bodyid[i] == 0:
                model = SubElement(world, "model", name=f"{name}_camera")
                add_text(model, "static", "true")
                link, link_pos, link_R = SubElement(model, "link", name="camera"), np.zeros(3), np.eye(3)
            pose = link_R.T @ (pos - link_pos), link_R.T @ R @ LOOK
            add_camera(link, name, pose, CAMERA_RATE, image_size(self.task), m.cam_fovy[i])

    def _object(self, world: Element, name: str, position: np.ndarray, R: np.ndarray) -> None:
        """Add an object and all that is part of it as one model, whose frame is the object's."""
        model = SubElement(world, "model", name=name)
        add_pose(model, position, R)
        frames = {name: np.zeros(3)}
        for item in self.objects.values():
            if item.part_of in frames:
                frames[item.name] = frames[item.part_of] + item.position
        jointed = []
        for part, place in frames.items():
            item = self.objects[part]
            self._object_link(model, item, place)
            if item.part_of:
                self._object_joint(model, item)
                jointed += [part] if item.joint else []
        self._plugin(
            model, "pose-publisher", "PosePublisher", publish_model_pose="true", publish_link_pose="false",
            publish_nested_model_pose="false", update_frequency=RATE,
        )  # fmt: skip
        if jointed:
            states = self._plugin(
                model,
                "joint-state-publisher",
                "JointStatePublisher",
                topic=f"{name}/joint_states",
                update_rate=RATE,
            )
            for part in jointed:
                add_text(states, "joint_name", part)
                self._plugin(model, "apply-joint-force", "ApplyJointForce", joint_name=part)

    def _object_link(self, model: Element, item: SceneObject, place: np.ndarray) -> None:
        m, body = self.model, self.model.body(item.name).id
        link = SubElement(model, "link", name=link_name(item.name))
        add_pose(link, place, np.eye(3))
        if not item.collides:
            add_text(link, "gravity", "false")
        frame = self._in_base(self.data.xpos[body], self.data.xmat[body])
        mass = max(float(m.body_mass[body]), LIGHTEST)
        self._inertial(link, [body], frame, HEAVY / mass if item.fixed else 1.0)
        for i, part in enumerate(item.parts):
            for kind in ("visual", "collision") if item.collides else ("visual",):
                shape = SubElement(link, kind, name=f"{kind}{i}")
                add_pose(shape, np.array(part.position), np.eye(3))
                add_primitive(SubElement(shape, "geometry"), part)
                if kind == "visual":
                    add_material(shape, (*part.color, 1))
                else:
                    add_surface(shape, part.friction, ALL_BITS)

    def _object_joint(self, model: Element, item: SceneObject) -> None:
        kind = {"slide": "prismatic", "hinge": "revolute"}[item.joint.type] if item.joint else "fixed"
        joint = SubElement(model, "joint", name=item.name, type=kind)
        add_text(joint, "parent", link_name(item.part_of))
        add_text(joint, "child", link_name(item.name))
        if item.joint:
            axis = add_axis(joint, np.array(item.joint.axis), *item.joint.range, item.joint.damping)
            dynamics = axis.find("dynamics")
            add_text(dynamics, "friction", item.joint.frictionloss)
            add_text(dynamics, "spring_reference", 0)
            add_text(dynamics, "spring_stiffness", item.joint.spring)
