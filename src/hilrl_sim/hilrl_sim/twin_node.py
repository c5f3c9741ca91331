"""Digital twin behind a serial port: MuJoCo moves emulated servos, which a driver talks to as to the real arm."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import mujoco
import numpy as np
from hilrl_msgs.srv import Reset
from std_msgs.msg import Float64MultiArray

from hilrl_ros import qos
from hilrl_ros.node import UserError, param, run
from hilrl_sim.scene_node import SceneNode, SceneParams
from hilrl_sim.simulation import Simulation
from so101_driver import registers as reg
from so101_driver.calibration import GRIPPER, Calibration, JointCalibration
from so101_driver.emulator import EmulatedBus, Servo

_TICK = 0.004  # s between two looks at the servos' goals
_LATEST = 0.1  # s that physics makes up for when this machine was too slow; the rest is lost
_SERVO_SPEED = 4.7  # rad/s that a servo's set-point moves at most, its speed without load
_HAND_SPEED = 1.5  # rad/s at which a hand moves a limp arm
_STALL_CURRENT = 2.4  # A
_PATIENCE = 4.0  # s that a driver has to let go of the arm when both are stopped


@dataclass
class EmulatedArmParams(SceneParams):
    """Parameters of the emulated arm."""

    link: str = param("/tmp/so101_follower", "Serial port to open: a link that is made here")
    latency: float = param(0.0015, "How long the adapter takes for each reply", unit="s", bounds=(0.0, 0.1))
    factory: bool = param(
        False, "Servos as delivered: limp and without calibration, which is not written either"
    )
    pose_rate: float = param(100.0, "Poses of objects per second", unit="Hz", bounds=(1.0, 500.0))
    seed: int = param(0, "Seed of the scene at the start", bounds=(0, 2**31 - 1))


class Twin:
    """A simulated arm whose servos are those of an emulated bus. No ROS.

    Attributes:
        calibration: What the servos are calibrated to, unless they are as delivered.
        hand: Where a person's hand holds the limp arm [n], rad; None where nobody does.
    """

    def __init__(self, simulation: Simulation, link: str, latency: float = 0.0, factory: bool = False):
        """Make the bus, behind a serial port at `link`. Servos hold the arm where it is, or are as delivered.

        Raises:
            FileExistsError: Something else than a link to a pseudo-terminal is there.
        """
        self.simulation = simulation
        self.calibration = nominal_calibration(simulation)
        self.hand: np.ndarray | None = None
        self._offsets = np.array([j.homing_offset for j in self.calibration.joints.values()])
        self._stall_torque = simulation.model.actuator_forcerange.max()
        self.bus = EmulatedBus(self.calibration.ids, latency, speed=None, port=link)
        self._servos = list(self.bus.servos.values())
        with self.bus.lock:
            self._show()
            if not factory:
                self._calibrate()

    def _calibrate(self) -> None:
        for servo, joint in zip(self._servos, self.calibration.joints.values(), strict=True):
            values = {
                reg.LOCK: 0, reg.HOMING_OFFSET: joint.homing_offset, reg.MIN_POSITION: joint.range_min,
                reg.MAX_POSITION: joint.range_max, reg.LOCK: 1,
            }  # fmt: skip
            for register, value in values.items():
                servo.write(register.address, register.encode(value))
            servo.set(reg.GOAL_POSITION, servo.position)
            servo.set(reg.TORQUE_ENABLE, 1)

    def advance(self, steps: int) -> None:
        """Move arm and table by some physics steps, as the servos' goals and torques say now."""
        scale = np.abs(self.calibration.scale)
        with self.bus.lock:
            goals = self.calibration.to_radians([s.goal for s in self._servos] - self._offsets)
            torque = np.array([_torque(servo) for servo in self._servos])
            acceleration = scale * [100 * (s.get(reg.ACCELERATION) or 254) for s in self._servos]
        limp, speed = torque == 0, np.full(len(torque), _SERVO_SPEED)
        if self.hand is not None:
            goals, torque = np.where(limp, self.hand, goals), np.where(limp, 1.0, torque)
            speed[limp] = _HAND_SPEED
        self.simulation.follow(goals, torque, speed, acceleration, steps)
        with self.bus.lock:
            self._show()

    def _show(self) -> None:
        """Let the servos report what the simulated joints do."""
        simulation, scale = self.simulation, self.calibration.scale
        ticks = self.calibration.to_ticks(simulation.joint_position) + self._offsets
        velocity = np.rint(simulation.joint_velocity / scale)
        share = np.clip(simulation.joint_effort / self._stall_torque, -1, 1) * np.sign(scale)
        for servo, tick, speed, load in zip(self._servos, ticks, velocity, share, strict=True):
            servo.actual = float(tick)
            servo.set(reg.PRESENT_VELOCITY, int(speed))
            servo.set(reg.MOVING, int(speed != 0))
            servo.set(reg.PRESENT_LOAD, round(1000 * load))
            servo.set(reg.PRESENT_CURRENT, round(abs(load) * _STALL_CURRENT / reg.CURRENT_UNIT))

    def close(self) -> None:
        """Take the port away."""
        self.bus.close()


def nominal_calibration(simulation: Simulation) -> Calibration:
    """Return a calibration as a person would make it: ranges as wide as the model's joints, offsets that differ."""
    joints = {}
    limits = simulation.kinematics.joint_limits
    for id_, (name, (low, high)) in enumerate(zip(simulation.contract.joints, limits, strict=True), 1):
        if name == GRIPPER:
            first, last = reg.MIDDLE, reg.MIDDLE + round((high - low) / (2 * np.pi) * reg.TICKS)
        else:  # the middle of the range is 0 rad
            half = min(int(np.ceil(max(-low, high) / (2 * np.pi) * reg.TICKS)), reg.MIDDLE)
            first, last = reg.MIDDLE - half, reg.MIDDLE + 1 + half
        joints[name] = JointCalibration(id_, 0, 23 * id_ - 80, first, last)
    return Calibration(joints)


def _torque(servo: Servo) -> float:
    """Share of its torque that a servo may use."""
    if servo.get(reg.TORQUE_ENABLE) != 1:
        return 0.0
    return min(servo.get(reg.TORQUE_LIMIT) / max(servo.get(reg.MAX_TORQUE), 1), 1.0)


class EmulatedArmNode(SceneNode):
    """The arm on its table, behind a serial port, in real time.

    A driver opens `link`; its calibration lies beside it, as `<link>.json`. Publishes what only the world knows,
    `<object>/pose` and cameras, stamped with the clock of this machine. Serves `reset_scene`, which places the objects
    as the seed draws them and leaves the arm alone. `hand/commands` is a person's hand, which moves joints without
    torque: a vector of joint positions to lead them to, empty to let go.
    """

    def __init__(self):
        super().__init__("emulated_arm", EmulatedArmParams)
        self.lock = threading.Lock()
        self.simulation.reset(self.params.seed)
        self.picture = mujoco.MjData(self.simulation.model)
        try:
            self.twin = Twin(self.simulation, self.params.link, self.params.latency, self.params.factory)
        except OSError as error:
            raise UserError(f"parameter 'link' is {self.params.link!r}: {error.strerror or error}") from None
        if not self.params.factory:
            self.twin.calibration.save(f"{self.params.link}.json")
        self.create_subscription(Float64MultiArray, "hand/commands", self.on_hand, qos.STEP)
        self.create_service(Reset, "reset_scene", self.on_reset)
        self.create_timer(1.0 / self.params.pose_rate, self.publish)
        self.create_timer(1.0 / self.params.camera_rate, self.film)
        self.exit_code, self.finished = 0, False
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.simulate, name="physics")
        self.thread.start()
        self.get_logger().info(f"emulated arm at {self.params.link}")

    def simulate(self) -> None:
        """Keep physics in step with the clock."""
        step = self.simulation.model.opt.timestep
        simulated = time.monotonic()
        try:
            while not self.stopping.wait(_TICK - (time.monotonic() - simulated)):
                simulated = max(simulated, time.monotonic() - _LATEST)
                steps = int((time.monotonic() - simulated) / step)
                simulated += steps * step
                with self.lock:
                    self.twin.advance(steps)
        except RuntimeError as error:
            self.get_logger().fatal(str(error))
            self.exit_code, self.finished = 1, True

    def on_hand(self, msg: Float64MultiArray) -> None:
        """Lead the limp arm, or let go of it."""
        if len(msg.data) not in (0, len(self.contract.joints)) or not np.isfinite(msg.data).all():
            self.get_logger().error(
                f"hand/commands: {list(msg.data)} are not {len(self.contract.joints)} finite numbers"
            )
            return
        self.twin.hand = np.array(msg.data) if msg.data else None

    def on_reset(self, request: Reset.Request, response: Reset.Response) -> Reset.Response:
        """Place the objects."""
        with self.lock:
            self.simulation.reset_objects(request.seed)
        response.success, response.stamp = True, self.get_clock().now().to_msg()
        return response

    def publish(self) -> None:
        """Publish where the objects are."""
        with self.lock:
            self.publish_poses(self.get_clock().now().to_msg())

    def film(self) -> None:
        """Publish the cameras; physics goes on while they are rendered."""
        with self.lock:
            stamp = self.get_clock().now().to_msg()
            mujoco.mj_copyData(self.picture, self.simulation.model, self.simulation.data)
        self.publish_images(stamp, self.picture)

    def close(self) -> None:
        """Unplug the arm, after a driver that is stopped at the same time has released it."""
        end = time.monotonic() + _PATIENCE
        while self.twin.bus.in_use and time.monotonic() < end:
            time.sleep(_TICK)
        self.stopping.set()
        self.thread.join()
        self.twin.close()


def main() -> None:
    """Run the node."""
    run(EmulatedArmNode)
