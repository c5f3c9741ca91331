"""Builds the MuJoCo scene of a contract's arm and a task's objects.

Nothing here knows a particular arm: what a simulator needs beyond the model stands in the robot
file under `sim` (see `SIM_KEYS`), what lies on the table in the task file under `scene`
(see `objects`). Geometry is read from the model's meshes and simplified at load.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from hilrl_ros.config import check_keys
from hilrl_ros.contract import Contract, ContractError, Task
from hilrl_ros.kinematics import Kinematics, arm_spec, model_joints

from .objects import ARM_BITS, NO_BITS, TABLE_BITS, add_object, scene_objects, set_joint

SIM_KEYS = ("timestep", "servos", "cameras")
SIM_OPTIONS = ("mimic", "split", "friction", "grasp")
SERVO_KEYS = ("kp", "kv", "force", "damping", "frictionloss", "armature")
CAMERA_KEYS = ("position", "look_at", "fovy")
STIFF = 0.005  # s, how soon a mimicking joint is where its leader wants it
CELL = 0.0025  # m, visual meshes lose detail smaller than this
HULL_VERTICES = 48  # per convex piece, plenty for contact and cheap
VISUAL, COLLISION = 2, 3  # geom groups of the scene


@dataclass(frozen=True)
class Grasp:
    """How the gripper holds a thing: `sim.grasp` of the robot file.

    Attributes:
        open: Gripper joint when open, rad or m.
        closed: The same when closed on nothing.
        offset: Where in tip_frame the middle of the thing is when the open jaws are around it [3], m.
        gap: Way in tip_frame from one open jaw to the other [3], m. Twice `offset` unless the file names it: a
            gripper whose one jaw is fixed, with the tip_frame at that jaw.
        both_move: Whether both jaws move, so that a held thing is in their middle.
    """

    open: float
    closed: float
    offset: np.ndarray
    gap: np.ndarray
    both_move: bool


def read_grasp(contract: Contract) -> Grasp | None:
    """Return how the contract's gripper holds a thing, None where the robot file does not say it.

    Raises:
        ContractError: A key is unknown or missing, or the jaws are nowhere apart.
    """
    if "grasp" not in contract.sim:
        return None
    where, raw = f"{contract.robot}.sim.grasp", contract.sim["grasp"]
    check_keys(where, raw, ("open", "closed", "offset"), ("gap",))
    offset = np.array(raw["offset"], float)
    gap = np.array(raw["gap"], float) if "gap" in raw else 2 * offset
    if not gap.any():
        raise ContractError(
            f"{where}.gap: is missing or zero; where both jaws move it is the way [x, y, z] in tip_frame from one "
            "open jaw to the other"
        )
    return Grasp(float(raw["open"]), float(raw["closed"]), offset, gap, "gap" in raw)


def image_size(task: Task) -> tuple[int, int]:
    """Return height and width (px) of the pictures that the task's cameras publish.

    Raises:
        ContractError: They are no two whole numbers of at least 16.
    """
    size = task.scene.get("image_size", (480, 640))
    whole = [v for v in size if isinstance(v, int) and not isinstance(v, bool) and v >= 16]
    if len(size) != 2 or len(whole) != 2:
        raise ContractError(
            f"{task.name}.scene.image_size: is {size}, expected [height, width] in pixels, at least 16 each"
        )
    return tuple(size)


def build(contract: Contract, task: Task) -> mujoco.MjModel:
    """Compile the scene: arm with position servos, table, light, objects, cameras.

    Returns:
        A model whose actuators are the contract's joints in order; objects are bodies by their names
        (see `objects.add_object`); cameras have the names of the robot file.

    Raises:
        ContractError: `sim` or `scene` does not fit, the message names the key.
    """
    sim = contract.sim
    check_keys(f"{contract.robot}.sim", sim, SIM_KEYS, SIM_OPTIONS)
    spec = arm_spec(contract.model)
    spec.option.timestep = float(sim["timestep"])
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC  # with impratio: a held object does not creep
    spec.option.impratio = 10
    _simplify_meshes(spec, contract)
    _add_servos(spec, contract)
    _add_mimics(spec, contract)
    kinematics = Kinematics(contract)
    base_pos, base_R = kinematics.base_pose()
    _add_table(spec, base_pos)
    for item in scene_objects(task).values():
        add_object(spec, item)
    _add_cameras(spec, contract, base_pos, base_R)
    try:
        return spec.compile()
    except ValueError as e:
        raise ContractError(
            f"{contract.robot}: MuJoCo cannot compile the scene: {' '.join(str(e).split())}"
        ) from None


def _simplify_meshes(spec: mujoco.MjSpec, contract: Contract) -> None:
    """Replace the model's meshes: visual ones decimated, collision ones by convex hulls.

    A mesh named under `sim.split` becomes several hulls, cut along an axis of its file: the single
    hull of an L-shaped jaw would fill the very gap that objects go into.
    """
    split = contract.sim.get("split", {})
    shapes = _load_meshes(spec)
    for name in split:
        if name not in shapes:
            raise ContractError(
                f"{contract.robot}.sim.split: no mesh '{name}'; the model has: {', '.join(shapes)}"
            )
        check_keys(f"{contract.robot}.sim.split.{name}", split[name], ("axis", "pieces"))
    pictured = {geom.parent.name for geom in spec.geoms if _is_visual(geom)}
    parts: dict[tuple[str, bool], list[str]] = {}  # (mesh, visual) → meshes that stand in for it
    for geom in list(spec.geoms):
        roles = [_is_visual(geom)]
        if geom.parent.name not in pictured:
            roles = [True, False]  # a link without visuals shows its collision shape
        for visual in roles:
            # with MuJoCo's defaults, not the link's: how the arm touches things stands in the robot file
            if geom.type != mujoco.mjtGeom.mjGEOM_MESH:
                copies = [geom.parent.add_geom(spec.default, type=geom.type, size=geom.size)]
            else:
                key = (geom.meshname, visual)
                if key not in parts:
                    parts[key] = _add_meshes(spec, geom.meshname, visual, *shapes[geom.meshname], split)
                copies = [
                    geom.parent.add_geom(spec.default, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name)
                    for name in parts[key]
                ]
            for copy in copies:
                copy.pos, copy.quat, copy.rgba, copy.material = geom.pos, geom.quat, geom.rgba, geom.material
                _configure(copy, visual, contract)
        spec.delete(geom)
    for mesh in list(spec.meshes):
        if mesh.name in shapes:
            spec.delete(mesh)


def _is_visual(geom: Any) -> bool:
    return not geom.contype and not geom.conaffinity


def _configure(geom: Any, visual: bool, contract: Contract) -> None:
    geom.group = VISUAL if visual else COLLISION
    geom.contype, geom.conaffinity = NO_BITS if visual else ARM_BITS
    if visual:
        geom.mass = 0.0
    else:
        geom.condim = 4  # with torsional friction: a pinched object does not spin about the contact
        geom.friction = [float(contract.sim.get("friction", 1.0)), 0.01, 0.0001]


def _add_meshes(
    spec: mujoco.MjSpec,
    name: str,
    visual: bool,
    vertices: np.ndarray,
    faces: np.ndarray,
    split: dict[str, Any],
) -> list[str]:
    """Add what stands in for a mesh, one decimated mesh or some hulls, to the spec; return the names."""
    if visual:
        vertices, faces = decimate(vertices, faces, CELL)
        mesh = spec.add_mesh(name=f"{name}_visual", uservert=vertices.ravel(), userface=faces.ravel())
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # decimation may leave holes
        return [mesh.name]
    hulls = [vertices]
    if name in split:
        hulls = _slabs(vertices, faces, split[name]["axis"], split[name]["pieces"])
    names = []
    for i, points in enumerate(hulls):
        mesh = spec.add_mesh(name=f"{name}_hull{i}", uservert=_extremes(points).ravel())
        mesh.maxhullvert = HULL_VERTICES
        names.append(mesh.name)
    return names


def _load_meshes(spec: mujoco.MjSpec) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return vertices [V, 3] (m, in the frame of the file) and faces [F, 3] of every mesh of the spec."""
    bare = spec.copy()
    for geom in bare.geoms:
        geom.contype = geom.conaffinity = 0  # no hulls needed yet
    for mesh in bare.meshes:
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    model = bare.compile()
    shapes = {}
    for i in range(model.nmesh):
        vertices = model.mesh_vert[model.mesh_vertadr[i] :][: model.mesh_vertnum[i]].astype(float)
        faces = model.mesh_face[model.mesh_faceadr[i] :][: model.mesh_facenum[i]]
        R = np.empty(9)
        mujoco.mju_quat2Mat(R, model.mesh_quat[i])
        shapes[model.mesh(i).name] = vertices @ R.reshape(3, 3).T + model.mesh_pos[i], faces.copy()
    return shapes


def decimate(vertices: np.ndarray, faces: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Merge the vertices of each cell of a grid into their mean and drop the faces that vanish.

    Args:
        vertices: [V, 3].
        faces: [F, 3] indices.
        cell: Edge of a grid cell, same unit as the vertices.

    Returns:
        Fewer vertices and faces of nearly the same shape.
    """
    grid = np.round(vertices / cell).astype(np.int64)
    grid -= grid.min(axis=0)
    _, index = np.unique(np.ravel_multi_index(grid.T, grid.max(axis=0) + 1), return_inverse=True)
    count = np.bincount(index)
    merged = np.stack([np.bincount(index, vertices[:, k]) / count for k in range(3)], axis=1)
    faces = index[faces]
    kept = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    _, first = np.unique(np.sort(faces[kept], axis=1), axis=0, return_index=True)
    return merged, faces[kept][np.sort(first)]


def _slabs(vertices: np.ndarray, faces: np.ndarray, axis: str, pieces: int) -> list[np.ndarray]:
    """Cut a mesh into slabs of equal thickness along an axis; return the points [P, 3] that span each."""
    k = "xyz".index(axis)
    bounds = np.linspace(vertices[:, k].min(), vertices[:, k].max(), pieces + 1)
    a, b = vertices[faces].transpose(1, 0, 2)[[[0, 1, 2], [1, 2, 0]]].reshape(2, -1, 3)
    points = [vertices]
    for cut in bounds[1:-1]:  # where edges pierce the cuts
        crossing = (a[:, k] - cut) * (b[:, k] - cut) < 0
        share = (cut - a[crossing, k]) / (b[crossing, k] - a[crossing, k])
        points.append(a[crossing] + share[:, None] * (b[crossing] - a[crossing]))
    everything = np.concatenate(points)
    slack = 1e-9
    slabs = []
    for low, high in itertools.pairwise(bounds):
        inside = everything[(everything[:, k] >= low - slack) & (everything[:, k] <= high + slack)]
        if len(inside) >= 4:
            slabs.append(inside)
    return slabs


def _extremes(points: np.ndarray, directions: int = 256) -> np.ndarray:
    """Return the few of the points [P, 3] that lie farthest in any of evenly spread directions.

    They span nearly the same convex hull, and MuJoCo need not carry thousands of inner points along.
    """
    i = np.arange(directions) + 0.5  # Fibonacci sphere
    z, turn = 1 - 2 * i / directions, np.pi * (1 + 5**0.5) * i
    r = np.sqrt(1 - z**2)
    towards = np.stack([r * np.cos(turn), r * np.sin(turn), z], axis=1)
    return points[np.unique((towards @ points.T).argmax(axis=1))]


def _add_servos(spec: mujoco.MjSpec, contract: Contract) -> None:
    servos = contract.sim["servos"]
    check_keys(f"{contract.robot}.sim.servos", servos, SERVO_KEYS, ("overrides",))
    for name in servos.get("overrides", {}):
        if name not in contract.joints:
            raise ContractError(
                f"{contract.robot}.sim.servos.overrides: '{name}' is not one of {', '.join(contract.joints)}"
            )
        check_keys(f"{contract.robot}.sim.servos.overrides.{name}", servos["overrides"][name], (), SERVO_KEYS)
    for name, joint_name in zip(contract.joints, model_joints(contract), strict=True):
        own = servos | servos.get("overrides", {}).get(name, {})
        _set_friction(spec.joint(joint_name), own)
        actuator = spec.add_actuator(name=name, target=joint_name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=float(own["kp"]), kv=float(own["kv"]))
        actuator.forcelimited = True
        actuator.forcerange = [-float(own["force"]), float(own["force"])]


def _set_friction(joint: Any, servo: dict[str, Any]) -> None:
    joint.frictionloss, joint.armature = float(servo["frictionloss"]), float(servo["armature"])
    set_joint(joint, damping=servo["damping"])


def _add_mimics(spec: mujoco.MjSpec, contract: Contract) -> None:
    """Tie joints that have no servo of their own to one that has, as the second finger of most grippers is."""
    servos = contract.sim["servos"]
    for name, raw in contract.sim.get("mimic", {}).items():
        where = f"{contract.robot}.sim.mimic.{name}"
        check_keys(where, raw, ("joint",), ("multiplier", "offset"))
        joint = spec.joint(name)
        if joint is None or name in model_joints(contract):
            free = [j.name for j in spec.joints if j.name not in model_joints(contract)]
            raise ContractError(f"{where}: no joint without a servo; there are: {', '.join(free) or 'none'}")
        if raw["joint"] not in contract.joints:
            raise ContractError(f"{where}.joint: '{raw['joint']}' is not one of {', '.join(contract.joints)}")
        _set_friction(joint, servos | servos.get("overrides", {}).get(raw["joint"], {}))
        tie = spec.add_equality(type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT)
        tie.name1, tie.name2 = name, contract.model.joints.get(raw["joint"], raw["joint"])
        tie.data[:2] = float(raw.get("offset", 0.0)), float(raw.get("multiplier", 1.0))
        tie.solref[0] = STIFF
        tie.solimp[:2] = 0.99, 0.999


def _add_table(spec: mujoco.MjSpec, base_pos: np.ndarray) -> None:
    """Add table top (at the height of the base frame), sky and two lights."""
    spec.add_texture(
        name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.82, 0.86, 0.90], rgb2=[0.55, 0.62, 0.70], width=64, height=64,
    )  # fmt: skip
    spec.add_texture(
        name="table", type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.62, 0.60, 0.57], rgb2=[0.58, 0.56, 0.53], width=128, height=128,
    )  # fmt: skip
    table = spec.add_material(name="table", texrepeat=[10, 10], texuniform=True, specular=0.1)
    table.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "table"
    contype, conaffinity = TABLE_BITS
    spec.worldbody.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0.8, 0.8, 0.05], pos=base_pos, material="table",
        contype=contype, conaffinity=conaffinity, friction=[1.0, 0.005, 0.0001],
    )  # fmt: skip
    spec.visual.headlight.ambient = [0.45, 0.45, 0.45]
    spec.visual.headlight.diffuse = [0.25, 0.25, 0.25]
    for pos, strength in (([0.6, -0.6, 1.2], 0.45), ([0.2, 0.7, 1.0], 0.2)):
        spec.worldbody.add_light(
            pos=base_pos + pos, dir=-np.array(pos), diffuse=[strength] * 3, specular=[0.1] * 3,
            castshadow=False,
        )  # fmt: skip


def _add_cameras(spec: mujoco.MjSpec, contract: Contract, base_pos: np.ndarray, base_R: np.ndarray) -> None:
    for name, raw in contract.sim["cameras"].items():
        where = f"{contract.robot}.sim.cameras.{name}"
        check_keys(where, raw, CAMERA_KEYS, ("link", "up"))
        pos, target = np.array(raw["position"], float), np.array(raw["look_at"], float)
        up = np.array(raw.get("up", (0, 0, 1)), float)
        body = spec.worldbody
        if "link" in raw:
            body = spec.body(raw["link"])
            if body is None:
                links = ", ".join(b.name for b in spec.bodies)
                raise ContractError(f"{where}.link: no link '{raw['link']}'; there are: {links}")
        else:
            pos, target, up = base_pos + base_R @ pos, base_pos + base_R @ target, base_R @ up
        back = pos - target
        right = np.cross(up, back)
        if np.linalg.norm(right) < 1e-6:
            raise ContractError(f"{where}.up: is parallel to the line of sight; give another direction")
        back, right = back / np.linalg.norm(back), right / np.linalg.norm(right)
        R = np.stack([right, np.cross(back, right), back], axis=1)
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, R.ravel())
        body.add_camera(name=name, pos=pos, quat=quat, fovy=float(raw["fovy"]))
