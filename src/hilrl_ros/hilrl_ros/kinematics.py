"""Robot model and kinematics from the contract's URDF or MJCF, for any serial arm that MuJoCo can read.

Observer, arm controller and simulator share this one reading of the model. MuJoCo does the
kinematics (19 µs for a damped-least-squares iteration on a six-joint arm). No ROS import.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np

from .contract import Contract, ContractError, Model

OWN = "of_the_model"  # class of an MJCF's defaults
UNLIMITED = np.pi  # rad, what a joint without limits may turn either way
POSTURE = 0.1  # share of its way home that a redundant arm's posture goes in one call of `step_ik`


def find_model(model: Model) -> Path:
    """Return the path of the model's URDF or MJCF, without importing the package that carries it.

    `model.package` is looked for among the ROS packages first (its share folder), then among the
    Python packages.

    Raises:
        ContractError: The package is not installed, or holds no or several files for the glob.
    """
    folder = _package_folder(model.package)
    if folder is None:
        raise ContractError(
            f"robot model package '{model.package}' is not installed; install it with "
            f"'pip install --no-deps {model.package.replace('_', '-')}' or build the ROS package of that name"
        )
    key, glob = ("mjcf", model.mjcf) if model.mjcf else ("urdf", model.urdf)
    found = sorted(folder.glob(glob))
    if len(found) != 1:
        listed = ", ".join(str(p.relative_to(folder)) for p in found) or "none"
        raise ContractError(f"model.{key} '{glob}' must name one file in {folder}, found: {listed}")
    return found[0]


def urdf_text(model: Model, scheme: str = "file://") -> str:
    """Return the URDF with absolute mesh paths, as robot_state_publisher, rviz2 and MuJoCo can load it.

    Args:
        model: Whereabouts of the URDF.
        scheme: Put before each absolute path.

    Raises:
        ContractError: See `find_model`; or there is no URDF, it is not XML, or a mesh is missing.
    """
    path = find_model(model)
    if model.mjcf:
        raise ContractError(f"{path}: is an MJCF; robot_state_publisher and rviz2 need a URDF (model.urdf)")
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as e:
        raise ContractError(f"{path}: not valid XML: {e}") from None
    for mesh in root.iter("mesh"):
        mesh.set("filename", scheme + str(resolve_mesh(mesh.get("filename", ""), path)))
    return ElementTree.tostring(root, encoding="unicode")


def arm_spec(model: Model, *, meshes: bool = True) -> mujoco.MjSpec:
    """Read the arm as an editable MuJoCo model.

    Args:
        model: Whereabouts of the model.
        meshes: Keep geometry, visual and collision; False drops it (kinematics only, compiles in
            milliseconds).

    Returns:
        A spec in which every link is a body of its own, fixed links included; geometry that neither collides
        nor is collided with is visual.

    Raises:
        ContractError: See `find_model` and `urdf_text`; or MuJoCo cannot read the file.
    """
    try:
        spec = _read_mjcf(model) if model.mjcf else _read_urdf(model)
    except ContractError:
        raise
    except ValueError as e:
        kind = "MJCF" if model.mjcf else "URDF"
        reason = " ".join(str(e).split())
        raise ContractError(f"{find_model(model)}: MuJoCo cannot read this {kind}: {reason}") from None
    if not meshes:
        for geom in list(spec.geoms):
            spec.delete(geom)
        for mesh in list(spec.meshes):
            spec.delete(mesh)
        spec.compiler.boundmass = spec.compiler.boundinertia = 1e-6  # links whose mass came from geometry
    return spec


def _read_urdf(model: Model) -> mujoco.MjSpec:
    root = ElementTree.fromstring(urdf_text(model, scheme=""))
    extension = root.find("mujoco")
    if extension is None:
        extension = ElementTree.SubElement(root, "mujoco")
    compiler = extension.find("compiler")
    if compiler is None:
        compiler = ElementTree.SubElement(extension, "compiler")
    # MuJoCo's defaults for a URDF would drop the visuals and merge the (often fixed) tip and base links.
    compiler.attrib |= {"discardvisual": "false", "fusestatic": "false", "strippath": "false"}
    return mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"))


def _read_mjcf(model: Model) -> mujoco.MjSpec:
    """Read an MJCF without what is no part of the arm: floor, sky, lights, other bodies, actuators, cameras."""
    path = find_model(model)
    spec = mujoco.MjSpec.from_file(str(path))
    tops = [body.name for body in spec.worldbody.bodies]
    if model.root and model.root not in tops:
        raise ContractError(f"model.root: '{model.root}' is no body at the top of {path}: {', '.join(tops)}")
    for body in list(spec.worldbody.bodies):
        if model.root and body.name != model.root:
            spec.delete(body)
    for kind in ("actuators", "sensors", "keys", "pairs", "cameras", "lights"):
        for element in list(getattr(spec, kind)):  # read now: what went with a body is gone
            spec.delete(element)
    for geom in list(spec.worldbody.geoms):
        spec.delete(geom)
    for texture in list(spec.textures):
        if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
            spec.delete(texture)
    spec.meshdir, spec.texturedir = (str(path.parent / folder) for folder in (spec.meshdir, spec.texturedir))
    # written out, inertias, orientations and included files stand in it plainly
    spec.compiler.fusestatic = spec.compiler.discardvisual = False
    spec.compiler.saveinertial = True
    spec.compile()
    spec = mujoco.MjSpec.from_string(_with_own_defaults(spec.to_xml()))
    spec.compiler.inertiagrouprange = [0, 5]
    return spec


def _with_own_defaults(mjcf: str) -> str:
    """Return an MJCF whose defaults hold for what is in it, but not for what a scene adds to it."""
    root = ElementTree.fromstring(mjcf)
    defaults = root.find("default")
    if defaults is None:
        return mjcf
    root.remove(defaults)
    defaults.set("class", OWN)
    outer = ElementTree.Element("default")
    outer.append(defaults)
    root.insert(0, outer)
    for element in root.iter():
        if element.get("class") == "main":
            element.set("class", OWN)
    for body in root.iterfind("worldbody/body"):
        body.attrib.setdefault("childclass", OWN)
    for kind in ("asset/mesh", "asset/material", "equality/*", "tendon/*"):
        for element in root.iterfind(kind):
            element.attrib.setdefault("class", OWN)
    return ElementTree.tostring(root, encoding="unicode")


def resolve_mesh(file: str, urdf: Path) -> Path:
    """Return the absolute path of a mesh that a URDF names (`package://…`, `file://…` or relative).

    Raises:
        ContractError: The file does not exist.
    """
    if file.startswith("package://"):
        package, _, inner = file.removeprefix("package://").partition("/")
        found = (_package_folder(package) or urdf.parent) / inner
    else:
        found = urdf.parent / file.removeprefix("file://")
    if not found.is_file():
        raise ContractError(f"{urdf}: mesh '{file}' does not exist (looked at {found})")
    return found.resolve()


def _package_folder(package: str) -> Path | None:
    if package.startswith("/"):
        return Path(package) if Path(package).is_dir() else None
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory(package))
    except (ImportError, LookupError, ValueError, OSError):  # no ROS, no such package, no sourced workspace
        pass
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def rotation_vector(R: np.ndarray) -> np.ndarray:
    """Return axis times angle [3] (rad) of a rotation matrix [3, 3]."""
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(R).reshape(9))
    vector = np.empty(3)
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector


def rpy_matrix(rpy: np.ndarray) -> np.ndarray:
    """Return R [3, 3] = Rz(yaw) Ry(pitch) Rx(roll) of rpy [3] in rad (REP 103)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def matrix_rpy(R: np.ndarray) -> np.ndarray:
    """Return roll, pitch, yaw [3] in rad of R [3, 3]; inverse of `rpy_matrix`."""
    pitch = np.arctan2(-R[2, 0], np.hypot(R[0, 0], R[1, 0]))
    return np.array([np.arctan2(R[2, 1], R[2, 2]), pitch, np.arctan2(R[1, 0], R[0, 0])])


def model_joints(contract: Contract) -> list[str]:
    """Return what the model calls the contract's joints, in order."""
    return [contract.model.joints.get(name, name) for name in contract.joints]


def frame(data: mujoco.MjData, name: str) -> Any:
    """Return a view of a body or else a site: `xpos` [3] (m) and `xmat` [9], which follow the data."""
    try:
        return data.body(name)
    except KeyError:
        return data.site(name)


class Kinematics:
    """Forward and inverse kinematics of the contract's arm.

    All poses are of `model.tip_frame` in `model.base_frame`, metres and radians; joint vectors are in
    the order of `contract.joints`. Joints of the model that the contract does not name stay at zero.
    Not thread-safe: every node owns one.

    Attributes:
        joint_limits: Lower and upper limit of each joint [n, 2], rad: the model's, narrowed by the contract's.
        arm: Indices of the joints that inverse kinematics moves (all but the gripper) [n - 1].
    """

    def __init__(self, contract: Contract):
        """Load the model.

        Raises:
            ContractError: The model is not found, or lacks a joint or frame that the contract names.
        """
        self.contract = contract
        self.model = arm_spec(contract.model, meshes=False).compile()
        self.data = mujoco.MjData(self.model)
        kind = "MJCF" if contract.model.mjcf else "URDF"
        joints = [self.model.joint(i).name for i in range(self.model.njnt)]
        bodies = [self.model.body(i).name for i in range(self.model.nbody)]
        sites = [self.model.site(i).name for i in range(self.model.nsite)]
        names = model_joints(contract)
        for name in names:
            if name not in joints:
                raise ContractError(f"joints: '{name}' is not in the {kind}; it has: {', '.join(joints)}")
        for key, frames in (("tip_frame", bodies + sites), ("base_frame", bodies)):
            name = getattr(contract.model, key)
            if name not in frames:
                raise ContractError(
                    f"model.{key}: '{name}' is not in the {kind}; it has: {', '.join(frames)}"
                )
        ids = [self.model.joint(name).id for name in names]
        self._qpos = self.model.jnt_qposadr[ids]
        self._tip = frame(self.data, contract.model.tip_frame)
        site = contract.model.tip_frame not in bodies
        self._tip_body = self.model.site_bodyid[self._tip.id] if site else self._tip.id
        self._base = self.model.body(contract.model.base_frame).id
        limited = self.model.jnt_limited[ids].astype(bool)[:, None]
        self.joint_limits = np.where(limited, self.model.jnt_range[ids], [-UNLIMITED, UNLIMITED])
        if contract.joint_limits is not None:
            low, high = np.array(contract.joint_limits).T
            self.joint_limits = np.clip(self.joint_limits, low[:, None], high[:, None])
        self.arm = np.array([i for i, name in enumerate(contract.joints) if name != contract.gripper_joint])
        self._dofs = self.model.jnt_dofadr[ids][self.arm]
        self._jac = np.zeros((6, self.model.nv))

    def forward(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return position [3] and rotation [3, 3] of the tip for joint positions q [n]."""
        self.data.qpos[self._qpos] = q
        mujoco.mj_kinematics(self.model, self.data)
        base = self.data.xmat[self._base].reshape(3, 3)
        pos = base.T @ (self._tip.xpos - self.data.xpos[self._base])
        return pos, base.T @ self._tip.xmat.reshape(3, 3)

    def base_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Return position [3] and rotation [3, 3] of the base frame in the model's root frame."""
        mujoco.mj_kinematics(self.model, self.data)
        return self.data.xpos[self._base].copy(), self.data.xmat[self._base].reshape(3, 3).copy()

    def jacobian(self, q: np.ndarray) -> np.ndarray:
        """Return d(position, rotation vector)/d(arm joints) [6, n - 1] of the tip at q [n]."""
        self.forward(q)
        return self._jacobian()

    def _jacobian(self) -> np.ndarray:
        """Jacobian at the configuration of the last `forward`."""
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_jac(self.model, self.data, self._jac[:3], self._jac[3:], self._tip.xpos, self._tip_body)
        base = self.data.xmat[self._base].reshape(3, 3)
        return np.vstack([base.T @ self._jac[:3, self._dofs], base.T @ self._jac[3:, self._dofs]])

    def step_ik(
        self,
        q: np.ndarray,
        target_pos: np.ndarray,
        target_R: np.ndarray,
        iterations: int = 3,
        damping: float = 0.005,
        rotation_weight: float = 0.01,
    ) -> np.ndarray:
        """Move the arm joints towards a nearby tip pose by damped least squares.

        Each iteration solves min ‖J dq - e‖² + damping² ‖dq‖² with the rotation rows of J and e
        weighted. Meant for steps of a centimetre or two; for farther targets call it repeatedly.
        An arm with more than six joints first goes a little of the way to its home posture, as far as the
        tip's pose allows: without that its elbow wanders off, step by step.

        Args:
            q: Joint positions [n] to start from, rad.
            target_pos: Position [3], m.
            target_R: Rotation [3, 3].
            iterations: Newton steps.
            damping: Regularisation of dq, m per rad.
            rotation_weight: Metres of position error that one radian of rotation error counts as. Small,
                so an arm with fewer than six joints reaches the position and comes as near to the
                rotation as it can; never 0, or the arm folds into arbitrary postures.

        Returns:
            New joint positions [n] within the limits; the gripper's is unchanged.
        """
        q = np.array(q, dtype=float)
        if len(self.arm) > 6:
            J = self.jacobian(q)
            way = np.array(self.contract.home)[self.arm] - q[self.arm]
            q[self.arm] += POSTURE * (way - np.linalg.pinv(J, 0.01) @ (J @ way))
        error = np.empty(6)
        weight = np.array([1.0, 1.0, 1.0] + [rotation_weight] * 3)
        for _ in range(iterations):
            pos, R = self.forward(q)
            error[:3] = target_pos - pos
            error[3:] = rotation_vector(target_R @ R.T)
            J = self._jacobian() * weight[:, None]
            q[self.arm] = self._damped_step(J, weight * error, q[self.arm], damping)
        return q

    def near_home(self, spread: float, rng: np.random.Generator) -> np.ndarray:
        """Draw joint positions [n] whose tip is within `spread` (m) of the home pose's and in the box, turned alike."""
        q = np.array(self.contract.home)
        pos, R = self.forward(q)
        target = pos + rng.uniform(-spread, spread, 3)
        target = np.clip(target, self.contract.box_min, self.contract.box_max)
        for _ in range(10):  # in steps that inverse kinematics is meant for
            step = target - self.forward(q)[0]
            way = step * min(1.0, 0.01 / max(np.linalg.norm(step), 1e-9))
            q = self.step_ik(q, target - step + way, R)
        return q

    def _damped_step(self, J: np.ndarray, error: np.ndarray, q: np.ndarray, damping: float) -> np.ndarray:
        """Return the arm joints [m] after one damped step; a joint at its limit leaves the work to the rest.

        Without that, a joint that would have to go past its limit takes its share of the motion with it
        and the tip stops short.
        """
        low, high = self.joint_limits[self.arm].T
        free = np.ones(len(q), dtype=bool)
        while True:
            A = J * free
            dq = np.linalg.solve(A.T @ A + damping**2 * np.eye(len(q)), A.T @ error)
            stuck = free & (((q <= low) & (dq < 0)) | ((q >= high) & (dq > 0)))
            if not stuck.any():
                return np.clip(q + dq, low, high)
            free &= ~stuck
