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
from hilrl_ros.kinematics import Kinematics, matrix_rpy, model_joints, rpy_matrix
from hilrl_sim.objects import SceneObject, draw_places
from hilrl_sim.scene import COLLISION, VISUAL, build, image_size

from .release import WORLD, Release
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
        _text(physics, "max_step_size", self.contract.sim["timestep"])
        _text(physics, "real_time_factor", real_time_factor)
        # with the default, ODE's, the jaws sink into what they squeeze, and that takes ten times as long
        _text(SubElement(physics, "dart"), "collision_detector", "fcl")
        for library, system in (
            ("physics", "Physics"), ("user-commands", "UserCommands"), ("scene-broadcaster", "SceneBroadcaster"),
        ):  # fmt: skip
            self._plugin(world, library, system)
        if cameras:
            _text(self._plugin(world, "sensors", "Sensors"), "render_engine", "ogre2")
        _text(world, "gravity", self.base_R.T @ self.model.opt.gravity)
        scene = SubElement(world, "scene")
        for key, value in (
            ("ambient", (0.6, 0.6, 0.6, 1)),
            ("background", (0.75, 0.8, 0.85, 1)),
            ("shadows", 0),
        ):
            _text(scene, key, value)
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
            _text(plugin, key, value)
        return plugin

    def _in_base(self, pos: np.ndarray, R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a pose of MuJoCo's world in the base frame."""
        return self.base_R.T @ (pos - self.base_pos), self.base_R.T @ R.reshape(3, 3)

    def _lights(self, world: Element) -> None:
        for i in range(self.model.nlight):
            light = SubElement(world, "light", name=f"lamp{i}", type="directional")
            _text(light, "cast_shadows", 0)
            _text(light, "diffuse", (*self.model.light_diffuse[i], 1))
            _text(light, "specular", (*self.model.light_specular[i], 1))
            _text(light, "direction", self.base_R.T @ self.model.light_dir[i])

    def _table(self, world: Element) -> None:
        geom = self.model.geom("table")
        size = (*(2 * geom.size[:2]), 0.1)  # a box, whose upper side is the table
        model = SubElement(world, "model", name="table")
        _text(model, "static", "true")
        _pose(model, -0.05 * self.base_R[2], self.base_R.T)
        link = SubElement(model, "link", name="table")
        for kind in ("visual", "collision"):
            shape = SubElement(link, kind, name=kind)
            _text(SubElement(SubElement(shape, "geometry"), "box"), "size", size)
            if kind == "visual":
                _material(shape, (0.60, 0.58, 0.55, 1))
            else:
                _surface(shape, geom.friction[0], TABLE_BITS)

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
            _pose(link, *frame)
            self._inertial(link, bodies, frame)
            for geom in np.flatnonzero(np.isin(m.geom_bodyid, bodies)):
                self._geom(link, geom, frame, BASE_BITS if top == 0 else ALL_BITS)
            links[top] = link, *frame
        fixed = SubElement(model, "joint", name="on_the_table", type="fixed")
        _text(fixed, "parent", "world")
        _text(fixed, "child", links[0][0].get("name"))
        for joint in self.contract.joints:
            self._joint(model, joint, links)
        states = self._plugin(
            model, "joint-state-publisher", "JointStatePublisher", topic="joint_states", update_rate=RATE
        )
        for joint in self.contract.joints:
            _text(states, "joint_name", joint)
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
        _pose(joint, R.T @ (self._in_base(d.xanchor[j], np.eye(3))[0] - pos), np.eye(3))
        _text(joint, "parent", parent.get("name"))
        _text(joint, "child", child.get("name"))
        low, high = m.jnt_range[j] if m.jnt_limited[j] else (-math.inf, math.inf)
        effort = m.actuator(name).forcerange[1]
        axis = self._axis(joint, R.T @ self.base_R.T @ d.xaxis[j], low, high, m.dof_damping[m.jnt_dofadr[j]])
        _text(axis.find("dynamics"), "friction", m.dof_frictionloss[m.jnt_dofadr[j]])
        _text(axis.find("limit"), "effort", effort)
        _text(axis.find("limit"), "velocity", 2 * AHEAD * self.contract.joint_speeds[i])

    @staticmethod
    def _axis(joint: Element, direction: np.ndarray, low: float, high: float, damping: float) -> Element:
        axis = SubElement(joint, "axis")
        _text(axis, "xyz", direction)
        limit, dynamics = SubElement(axis, "limit"), SubElement(axis, "dynamics")
        _text(limit, "lower", low)
        _text(limit, "upper", high)
        _text(dynamics, "damping", damping)
        return axis

    def _inertial(
        self, link: Element, bodies: list[int], frame: tuple[np.ndarray, np.ndarray], factor: float = 1.0
    ) -> None:
        """Add the inertia of bodies that are one: about their common centre, in the link's frame."""
        m, d, (pos, R) = self.model, self.data, frame
        masses = (
            m.body_mass[bodies] if m.body_mass[bodies].sum() > LIGHTEST else np.full(len(bodies), LIGHTEST)
        )
        centres = np.array([R.T @ (self._in_base(d.xipos[b], np.eye(3))[0] - pos) for b in bodies])
        centre = masses @ centres / masses.sum()
        inertia = np.zeros((3, 3))
        for body, mass, own in zip(bodies, masses, centres, strict=True):
            axes = R.T @ self._in_base(np.zeros(3), d.ximat[body])[1]
            way = own - centre
            inertia += axes @ np.diag(m.body_inertia[body]) @ axes.T
            inertia += mass * (way @ way * np.eye(3) - np.outer(way, way))
        inertia = factor * (inertia + 1e-9 * np.eye(3))
        inertial = SubElement(link, "inertial")
        _pose(inertial, centre, np.eye(3))
        _text(inertial, "mass", factor * masses.sum())
        matrix = SubElement(inertial, "inertia")
        for row, column in ("xx", "xy", "xz", "yy", "yz", "zz"):
            _text(matrix, f"i{row}{column}", inertia["xyz".index(row), "xyz".index(column)])

    def _geom(self, link: Element, geom: int, frame: tuple[np.ndarray, np.ndarray], bits: int) -> None:
        """Add a shape of the MuJoCo model to a link."""
        m, d, (pos, R) = self.model, self.data, frame
        if m.geom_group[geom] not in (VISUAL, COLLISION):
            return
        visual = m.geom_group[geom] == VISUAL
        shape = SubElement(link, "visual" if visual else "collision", name=f"shape{geom}")
        own_pos, own_R = self._in_base(d.geom_xpos[geom], d.geom_xmat[geom])
        _pose(shape, R.T @ (own_pos - pos), R.T @ own_R)
        self._geometry(SubElement(shape, "geometry"), geom)
        if visual:
            material = m.geom_matid[geom]
            _material(shape, m.geom_rgba[geom] if material < 0 else m.mat_rgba[material])
        else:
            _surface(shape, m.geom_friction[geom, 0], bits)

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
            _text(SubElement(parent, "mesh"), "uri", name)
        elif kind == types.mjGEOM_BOX:
            _text(SubElement(parent, "box"), "size", 2 * size)
        elif kind == types.mjGEOM_SPHERE:
            _text(SubElement(parent, "sphere"), "radius", size[0])
        elif kind in (types.mjGEOM_CYLINDER, types.mjGEOM_CAPSULE):
            round_ = SubElement(parent, "cylinder" if kind == types.mjGEOM_CYLINDER else "capsule")
            _text(round_, "radius", size[0])
            _text(round_, "length", 2 * size[1])
        else:
            raise ContractError(
                f"{self.contract.robot}: the model has a shape of type {types(kind).name}, which SDF does not have"
            )

    # --- cameras and objects ---

    def _cameras(
        self, world: Element, links: dict[int, tuple[Element, np.ndarray, np.ndarray]], cameras: Sequence[str]
    ) -> None:
        m, d = self.model, self.data
        height, width = image_size(self.task)
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
                _text(model, "static", "true")
                link, link_pos, link_R = SubElement(model, "link", name="camera"), np.zeros(3), np.eye(3)
            sensor = SubElement(link, "sensor", name=name, type="camera")
            _pose(sensor, link_R.T @ (pos - link_pos), link_R.T @ R @ LOOK)
            for key, value in (("topic", f"{name}/image"), ("update_rate", CAMERA_RATE), ("always_on", 1)):
                _text(sensor, key, value)
            camera = SubElement(sensor, "camera")
            _text(camera, "optical_frame_id", f"{name}_optical_frame")
            half = math.tan(math.radians(m.cam_fovy[i]) / 2)
            _text(camera, "horizontal_fov", 2 * math.atan(half * width / height))
            image, clip = SubElement(camera, "image"), SubElement(camera, "clip")
            for key, value in (
                ("width", width),
                ("height", height),
                ("format", "R8G8B8"),
                ("anti_aliasing", 0),
            ):
                _text(image, key, value)
            _text(clip, "near", 0.01)
            _text(clip, "far", 5)

    def _object(self, world: Element, name: str, position: np.ndarray, R: np.ndarray) -> None:
        """Add an object and all that is part of it as one model, whose frame is the object's."""
        model = SubElement(world, "model", name=name)
        _pose(model, position, R)
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
                _text(states, "joint_name", part)
                self._plugin(model, "apply-joint-force", "ApplyJointForce", joint_name=part)

    def _object_link(self, model: Element, item: SceneObject, place: np.ndarray) -> None:
        m, body = self.model, self.model.body(item.name).id
        link = SubElement(model, "link", name=_link(item.name))
        _pose(link, place, np.eye(3))
        if not item.collides:
            _text(link, "gravity", "false")
        frame = self._in_base(self.data.xpos[body], self.data.xmat[body])
        mass = max(float(m.body_mass[body]), LIGHTEST)
        self._inertial(link, [body], frame, HEAVY / mass if item.fixed else 1.0)
        for i, part in enumerate(item.parts):
            for kind in ("visual", "collision") if item.collides else ("visual",):
                shape = SubElement(link, kind, name=f"{kind}{i}")
                _pose(shape, np.array(part.position), np.eye(3))
                geometry = SubElement(shape, "geometry")
                if part.shape == "box":
                    _text(SubElement(geometry, "box"), "size", part.size)
                elif part.shape == "sphere":
                    _text(SubElement(geometry, "sphere"), "radius", part.size[0])
                else:
                    cylinder = SubElement(geometry, "cylinder")
                    _text(cylinder, "radius", part.size[0])
                    _text(cylinder, "length", part.size[1])
                if kind == "visual":
                    _material(shape, (*part.color, 1))
                else:
                    _surface(shape, part.friction, ALL_BITS)

    def _object_joint(self, model: Element, item: SceneObject) -> None:
        kind = {"slide": "prismatic", "hinge": "revolute"}[item.joint.type] if item.joint else "fixed"
        joint = SubElement(model, "joint", name=item.name, type=kind)
        _text(joint, "parent", _link(item.part_of))
        _text(joint, "child", _link(item.name))
        if item.joint:
            axis = self._axis(joint, np.array(item.joint.axis), *item.joint.range, item.joint.damping)
            dynamics = axis.find("dynamics")
            _text(dynamics, "friction", item.joint.frictionloss)
            _text(dynamics, "spring_reference", 0)
            _text(dynamics, "spring_stiffness", item.joint.spring)


def stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """Return a binary STL of vertices [V, 3] (m) and faces [F, 3]."""
    corners = vertices[faces].astype("<f4")
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    facets = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])
    facets["normal"], facets["corners"] = normals, corners
    return b"\0" * 80 + np.uint32(len(faces)).astype("<u4").tobytes() + facets.tobytes()


def _link(name: str) -> str:
    """Return the name of an object's link: its joint has the object's own, and no two things may share one."""
    return f"{name}_link"


def _number(value: float) -> str:
    if isinstance(value, str):
        return value
    if math.isinf(value):
        return "1e16" if value > 0 else "-1e16"
    return f"{value:.7g}" if abs(value) > 1e-14 else "0"


def _text(parent: Element, tag: str, value) -> Element:
    """Add an element that holds a text, a number or a vector."""
    element = SubElement(parent, tag)
    values = [value] if isinstance(value, str) or np.ndim(value) == 0 else value
    element.text = " ".join(map(_number, values))
    return element


def _pose(parent: Element, pos: np.ndarray, R: np.ndarray) -> None:
    _text(parent, "pose", (*pos, *matrix_rpy(R)))


def _material(parent: Element, rgba: Sequence[float]) -> None:
    material = SubElement(parent, "material")
    for key in ("ambient", "diffuse"):
        _text(material, key, rgba)
    _text(material, "specular", (0.1, 0.1, 0.1, 1))


def _surface(parent: Element, friction: float, bits: int) -> None:
    surface = SubElement(parent, "surface")
    ode = SubElement(SubElement(surface, "friction"), "ode")
    _text(ode, "mu", friction)
    _text(ode, "mu2", friction)
    _text(SubElement(surface, "contact"), "collide_bitmask", bits)
