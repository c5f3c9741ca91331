"""The simulated arm and table, one control period at a time. No ROS import."""

from __future__ import annotations

import mujoco
import numpy as np

from hilrl_ros.contract import Contract, ContractError, Task
from hilrl_ros.kinematics import Kinematics, frame, model_joints

from .objects import draw_places, scene_objects
from .rendering import Renderer
from .scene import build, read_grasp
from .variation import Variation

SETTLE = 0.2  # s that arm and objects get to come to rest after a reset
CLOSE = 0.0005  # m between an object and the jaws that are about to close on it
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Simulation:
    """MuJoCo simulation of a contract's arm and a task's scene.

    The same seed and the same targets give the same states bit for bit, on the same machine and MuJoCo
    release. Poses are in the contract's base frame, joint vectors in the contract's order.

    Attributes:
        contract: The robot contract.
        task: The task.
        model: The compiled MuJoCo model.
        data: Its state.
    """

    def __init__(self, contract: Contract, task: Task, *, seed: int = 0):
        """Build the scene and reset it with `seed`.

        Raises:
            ContractError: The robot's `sim` section, its model or the task's scene does not fit.
        """
        self.contract, self.task = contract, task
        self.model = build(contract, task)
        self.data = mujoco.MjData(self.model)
        self.kinematics = Kinematics(contract)
        self._objects = scene_objects(task)
        self._grasp = read_grasp(contract)
        self._check_held()
        self._home_R = self.kinematics.forward(np.array(contract.home))[1]
        self._variation = Variation(self.model, task)
        joints = [self.model.joint(name) for name in model_joints(contract)]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._substeps = round(contract.period / self.model.opt.timestep)
        if self._substeps < 1:
            raise ContractError(f"{contract.robot}.sim.timestep: longer than the control period")
        self.model.opt.timestep = contract.period / self._substeps
        self._base_pos, self._base_R = self.kinematics.base_pose()
        self._force = self.model.actuator_forcerange.copy()
        self._rate = np.zeros(len(joints))  # rad/s of the set-points in follow()
        self._renderer: Renderer | None = None
        self.reset(seed)

    def _check_held(self) -> None:
        """Refuse a scene in which an object is held by nothing."""
        grasp, name = self._grasp, self.contract.gripper_joint
        held = [item.name for item in self._objects.values() if item.held]
        if held and grasp is None:
            raise ContractError(f"{self.contract.robot}.sim.grasp: is missing, '{held[0]}' is held")
        home = self.contract.home[self.contract.joints.index(name)]
        if held and abs(home - grasp.closed) >= abs(grasp.open - grasp.closed):
            raise ContractError(
                f"{self.task.name}.home: the jaws that hold '{held[0]}' are open there; add "
                f"'home: {{{name}: {grasp.closed}}}'"
            )

    def reset(self, seed: int) -> None:
        """Start an episode: objects, looks and the arm's start are drawn from `seed` alone.

        The tip starts within the task's `home_spread` of the home pose, with its orientation.
        """
        rng = np.random.default_rng(seed)
        mujoco.mj_resetData(self.model, self.data)
        held = self._place_all(rng)
        self._variation.apply(seed)
        spread = float(self.task.scene.get("home_spread", 0.0))
        self._target, self._ramp = self.kinematics.near_home(spread, rng), 0  # set-point's goal, steps to it
        self.data.qpos[self._qpos] = self.data.ctrl[:] = self._target
        self._tie_joints()
        self._put_into_jaws(held)
        mujoco.mj_step(self.model, self.data, round(SETTLE / self.model.opt.timestep))
        self.data.time = 0.0
        mujoco.mj_forward(self.model, self.data)

    def reset_objects(self, seed: int) -> None:
        """Place the objects where `reset` with this seed places them, at rest; the arm goes on as it was.

        Jaws that begin closed on something are opened for it as far as it needs.
        """
        held = self._place_all(np.random.default_rng(seed))
        self._variation.apply(seed)
        self._put_into_jaws(held)
        mujoco.mj_forward(self.model, self.data)

    def _place_all(self, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, float]]:
        """Draw every object's pose (see `draw_places`) and put it there.

        Returns:
            Offset [3] (m) and yaw of those that begin in the jaws, by name; they are not placed.
        """
        held = {}
        for name, item in self._objects.items():
            if item.part_of:
                self._rest(name)
        for name, (position, yaw) in draw_places(self.task, rng).items():
            if self._objects[name].held:
                held[name] = position, yaw
            else:
                self._place(name, self._base_pos + self._base_R @ position, self._base_R, yaw)
        return held

    def _place(self, name: str, pos: np.ndarray, R: np.ndarray, yaw: float) -> None:
        """Put an object to a position [3] in the world, turned by yaw from a frame R [3, 3], at rest."""
        quat, frame = np.empty(4), np.empty(4)
        mujoco.mju_mat2Quat(frame, R.ravel())
        mujoco.mju_mulQuat(quat, frame, np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]))
        body = self.model.body(name)
        if self._objects[name].is_free:
            self._rest(name)
            address = self.model.jnt_qposadr[body.jntadr[0]]
            self.data.qpos[address : address + 7] = [*pos, *quat]
        else:
            self.data.mocap_pos[body.mocapid[0]] = pos
            self.data.mocap_quat[body.mocapid[0]] = quat

    def _rest(self, name: str) -> None:
        """Bring an object's joint, if it has one, to 0, without speed."""
        body = self.model.body(name)
        if body.jntnum[0]:
            start, dof = self.model.jnt_qposadr[body.jntadr[0]], body.dofadr[0]
            self.data.qpos[start] = 0.0
            self.data.qvel[dof : dof + body.dofnum[0]] = 0.0

    def _tie_joints(self) -> None:
        """Bring joints that mimic another to where it wants them."""
        model, qpos = self.model, self.data.qpos
        for i in np.flatnonzero(model.eq_type == mujoco.mjtEq.mjEQ_JOINT):
            if model.eq_obj2id[i] >= 0:
                follower, leader = (model.jnt_qposadr[ids[i]] for ids in (model.eq_obj1id, model.eq_obj2id))
                way = qpos[leader] - model.qpos0[leader]
                polynomial = model.eq_data[i, :5]
                qpos[follower] = model.qpos0[follower] + polynomial @ way ** np.arange(5)

    def _put_into_jaws(self, held: dict[str, tuple[np.ndarray, float]]) -> None:
        """Put objects between the jaws, which are opened just so far; the servo then squeezes them."""
        if not held:
            return
        gripper = self._qpos[self.contract.joints.index(self.contract.gripper_joint)]
        bodies = [self.model.body(name).id for name in held]
        low, high = self.data.qpos[gripper], self._grasp.open
        while abs(high - low) > 1e-3 * abs(self._grasp.open - self._grasp.closed):
            self._open_around(held, gripper, (low + high) / 2)
            if np.isin(self.model.geom_bodyid[self.data.contact.geom], bodies).any():
                low = self.data.qpos[gripper]
            else:
                high = self.data.qpos[gripper]
        self._open_around(held, gripper, high)

    def _open_around(self, held: dict[str, tuple[np.ndarray, float]], gripper: int, opening: float) -> None:
        """Open the jaws so far, and put objects where the closing jaws find them; see `_place_all`."""
        self.data.qpos[gripper] = opening
        self._tie_joints()
        mujoco.mj_kinematics(self.model, self.data)
        tip = frame(self.data, self.contract.model.tip_frame)
        R = tip.xmat.reshape(3, 3) @ self._home_R.T  # the base frame, as the hand is turned from home
        for name, (offset, yaw) in held.items():
            middle = self._home_R @ self._grasp.offset
            if not self._grasp.both_move:  # before the fixed jaw
                away = self._objects[name].parts[0].half_extent[0] + CLOSE
                middle *= away / np.linalg.norm(middle)
            self._place(name, tip.xpos + R @ (middle + offset), R, yaw)
        mujoco.mj_fwdPosition(self.model, self.data)

    def step(self, target: np.ndarray, duration: float | None = None) -> None:
        """Advance towards the joint targets.

        The servos' set-point runs from where it is to new targets in a straight line over one control
        period, as a driver that interpolates would send it, however finely the period is cut.

        Args:
            target: Joint targets [n], rad.
            duration: Seconds to advance, rounded to physics steps; one control period if None.

        Raises:
            ValueError: Not n finite numbers; nothing moved.
            RuntimeError: The physics diverged (a time step too long for the gains).
        """
        target = np.array(target, dtype=float)
        if target.shape != (len(self._qpos),) or not np.isfinite(target).all():
            raise ValueError(f"joint targets: {target.tolist()}, expected {len(self._qpos)} finite numbers")
        if not np.array_equal(target, self._target):
            self._target, self._ramp = target, self._substeps
        steps = self._substeps if duration is None else max(1, round(duration / self.model.opt.timestep))
        ramp = min(steps, self._ramp)
        share = np.arange(1, ramp + 1)[:, None] / max(1, self._ramp)
        for ctrl in self.data.ctrl + share * (target - self.data.ctrl):
            self.data.ctrl[:] = ctrl
            mujoco.mj_step(self.model, self.data)
        self._ramp -= ramp
        if steps > ramp:
            self.data.ctrl[:] = target
            mujoco.mj_step(self.model, self.data, steps - ramp)
        self._finish_step()

    def follow(
        self, goal: np.ndarray, torque: np.ndarray, speed: np.ndarray, acceleration: np.ndarray, steps: int
    ) -> None:
        """Advance some physics steps with servos that get their goals one by one, as over a bus.

        Args:
            goal: Goals of the servos [n], rad; each servo's set-point runs to its goal.
            torque: Share of its torque that each servo may use [n]; one that has none is limp.
            speed: The set-points' highest [n], rad/s.
            acceleration: The set-points' highest [n], rad/s².
            steps: Physics steps.

        Raises:
            RuntimeError: See `step`.
        """
        dt, powered = self.model.opt.timestep, torque > 0
        self.model.actuator_forcerange[:] = self._force * torque[:, None]
        for _ in range(steps):
            way = np.where(powered, goal - self.data.ctrl, 0.0)
            wanted = np.sign(way) * np.minimum(np.sqrt(2 * acceleration * np.abs(way)), speed)
            self._rate += np.clip(wanted - self._rate, -acceleration * dt, acceleration * dt)
            self._rate = np.clip(self._rate, -np.abs(way) / dt, np.abs(way) / dt)  # not past the goal
            self.data.ctrl[:] = np.where(
                powered, self.data.ctrl + self._rate * dt, self.data.qpos[self._qpos]
            )
            mujoco.mj_step(self.model, self.data)
        self._finish_step()

    def _finish_step(self) -> None:
        if self.data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number:
            raise RuntimeError(
                f"physics diverged at {self.time:.2f} s; shorten sim.timestep or lower the gains"
            )
        mujoco.mj_kinematics(self.model, self.data)  # poses of this instant, not of the last derivative

    @property
    def time(self) -> float:
        """Simulated seconds since the reset."""
        return float(self.data.time)

    @property
    def joint_position(self) -> np.ndarray:
        """Joint positions [n], rad."""
        return self.data.qpos[self._qpos].copy()

    @property
    def joint_velocity(self) -> np.ndarray:
        """Joint velocities [n], rad/s."""
        return self.data.qvel[self._dofs].copy()

    @property
    def joint_effort(self) -> np.ndarray:
        """Servo torques [n], N m."""
        return self.data.actuator_force.copy()

    @property
    def target(self) -> np.ndarray:
        """Joint targets that the servos hold or move to [n], rad."""
        return self._target.copy()

    def object_joints(self) -> dict[str, tuple[float, float]]:
        """Return position (m or rad) and velocity of every object that moves on a joint."""
        joints = {}
        for name, item in self._objects.items():
            if item.joint:
                joint = self.data.joint(name)
                joints[name] = float(joint.qpos[0]), float(joint.qvel[0])
        return joints

    def object_poses(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return position [3] (m) and quaternion x, y, z, w [4] of every object, in the base frame."""
        poses = {}
        for name in self._objects:
            body = self.model.body(name).id
            quat = np.empty(4)
            mujoco.mju_mat2Quat(quat, (self._base_R.T @ self.data.xmat[body].reshape(3, 3)).ravel())
            poses[name] = self._base_R.T @ (self.data.xpos[body] - self._base_pos), quat[[1, 2, 3, 0]]
        return poses

    def get_state(self) -> np.ndarray:
        """Return everything that the future depends on, to be given to `set_state`."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        return np.concatenate([self._target, [self._ramp], state])

    def set_state(self, state: np.ndarray) -> None:
        """Restore what `get_state` of the same scene returned; what follows repeats bit for bit."""
        n = len(self._qpos)
        self._target, self._ramp = state[:n].copy(), int(state[n])
        mujoco.mj_setState(self.model, self.data, state[n + 1 :], _STATE)
        mujoco.mj_kinematics(self.model, self.data)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras that can be rendered."""
        return tuple(self.model.camera(i).name for i in range(self.model.ncam))

    def render(self, camera: str, height: int, width: int, data: mujoco.MjData | None = None) -> np.ndarray:
        """Return a picture [height, width, 3] uint8 RGB, of the present state or of `data`.

        Raises:
            ValueError: No such camera, or the picture is too large.
            RenderingError: This machine has no headless OpenGL library.
        """
        index = self._camera(camera)
        if self._renderer is None:
            self._renderer = Renderer(self.model)
        data = self.data if data is None else data
        mujoco.mj_camlight(self.model, data)
        return self._renderer.render(data, index, height, width)

    def camera_matrix(self, camera: str, height: int, width: int) -> np.ndarray:
        """Return the pinhole matrix K [3, 3] of a camera for pictures of this size, px."""
        fovy = np.radians(self.model.cam_fovy[self._camera(camera)])
        f = height / 2 / np.tan(fovy / 2)
        return np.array([[f, 0.0, (width - 1) / 2], [0.0, f, (height - 1) / 2], [0.0, 0.0, 1.0]])

    def close(self) -> None:
        """Free the renderer, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _camera(self, name: str) -> int:
        if name not in self.cameras:
            raise ValueError(
                f"camera '{name}': unknown; {self.contract.robot}.sim.cameras has {', '.join(self.cameras)}"
            )
        return self.model.camera(name).id
