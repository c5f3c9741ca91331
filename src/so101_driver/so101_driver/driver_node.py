"""Driver node of the SO-101: joint states out, joint targets in, and everything that can go wrong on /diagnostics."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import Kinematics
from hilrl_ros.lifecycle import survive_invalid_transitions
from hilrl_ros.messages import read_trajectory, to_time
from hilrl_ros.node import (
    UserError,
    ask_for_realtime,
    declare,
    param,
    run,
)
from so101_driver.arm import Arm, ArmError
from so101_driver.bus import Bus, BusError
from so101_driver.calibration import Calibration, CalibrationError
from so101_driver.safety import HOLD, ArmState, Refused, Thresholds

_START_AGAIN = 2.0  # s between two tries to start
_SWITCHING = 1.0  # s that torque may take to go on or off


@dataclass
class DriverParams:
    """Parameters of the driver."""

    port: str = param("/dev/so101_follower", "Serial port of the arm")
    calibration: str = param(
        "so101_follower",
        "Calibration: the name that LeRobot keeps it under (robot.id), or a path to a JSON file",
    )
    patience: float = param(
        0.0, "How long after its start nothing is said of an arm or a calibration that is not there yet",
        unit="s", bounds=(0.0, 60.0),
    )  # fmt: skip
    write_calibration: bool = param(False, "Write the calibration to servos that hold another one")
    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    joint_names: list = param(
        [], "Joint names on topics, in the contract's order; none: the contract's names"
    )
    rate: float = param(
        100.0, "Cycles of the bus and joint states per second", unit="Hz", bounds=(1.0, 500.0)
    )
    commands_topic: str = param("forward_controller/commands", "Topic of vectors of joint targets")
    autostart: bool = param(True, "Configure and activate without being told, again and again until it works")
    realtime: bool = param(False, "Ask for real-time priority (SCHED_FIFO)")
    watchdog: float = param(
        0.25, "The arm holds when commands stop for so long; a target that it would reach later by as much is refused",
        unit="s", bounds=(0.02, 5.0),
    )  # fmt: skip
    max_age: float = param(
        0.5, "A trajectory whose stamp is further from now is refused", unit="s", bounds=(0.01, 60.0)
    )
    temperature_warn: float = param(
        55.0, "The arm goes slowly when a servo is so warm", unit="°C", bounds=(20.0, 80.0)
    )
    temperature_critical: float = param(
        65.0, "Torque goes off when a servo is so hot", unit="°C", bounds=(20.0, 80.0)
    )
    slow: float = param(0.3, "Share of the speed that is left to a warm arm", bounds=(0.05, 1.0))
    current_max: float = param(2.0, "The arm holds when a servo draws more", unit="A", bounds=(0.1, 5.0))
    voltage_min: float = param(4.5, "The arm holds when a servo has less", unit="V", bounds=(0.0, 15.0))
    strain_time: float = param(
        2.0, "Torque goes off when overload or over-current last so long", unit="s", bounds=(0.1, 60.0)
    )
    lost_after: float = param(
        0.25, "A servo without a good reply for so long counts as lost", unit="s", bounds=(0.05, 5.0)
    )
    emergency_stop: str = param(
        "hold", "What an emergency stop does: hold, or let the arm fall", choices=("hold", "torque_off")
    )
    on_stop: str = param(
        "release",
        "When the driver stops: torque fades and goes off, or servos hold",
        choices=("release", "hold"),
    )
    release_time: float = param(
        1.5, "How long torque fades, so that the arm sinks", unit="s", bounds=(0.0, 10.0)
    )
    stall_torque: float = param(
        2.94, "Torque of a servo at full load (1.9 for those of 7.4 V)", unit="N m", bounds=(0.1, 10.0)
    )


class DriverNode(LifecycleNode):
    """Drives the arm's servos; a lifecycle node that starts itself.

    Publishes `joint_states` (rad, rad/s; the effort is the servos' own estimate of load times `stall_torque`) while
    every joint is known, and `/diagnostics`. Takes vectors of joint targets, which the arm goes to as fast as it may,
    and `trajectory_controller/joint_trajectory`, which it follows in straight lines along the points' times, counted
    from the message's arrival. Serves `emergency_stop` and `torque`.

    The bus has a thread of its own: the executor never waits for it, nor it for the executor.
    """

    def __init__(self):
        super().__init__("driver")
        survive_invalid_transitions(self)
        self.params = params = declare(self, DriverParams)
        contract, _ = load_contract(params.robot)
        self.joints = contract.joints
        self.names = params.joint_names or list(contract.joints)
        if len(set(self.names)) != len(contract.joints):
            raise UserError(
                f"parameter 'joint_names' is {self.names}, expected {len(contract.joints)} different names for "
                f"{', '.join(contract.joints)}"
            )
        self.limits = Kinematics(contract).joint_limits
        self.thresholds = Thresholds(
            contract.max_joint_speed, params.watchdog, params.temperature_warn, params.temperature_critical,
            params.slow, params.current_max, params.voltage_min, params.strain_time, params.lost_after,
            params.emergency_stop == "torque_off",
        )  # fmt: skip
        self.arm: Arm | None = None
        self.thread: threading.Thread | None = None
        self.stopping = threading.Event()
        self.state: ArmState | None = None
        self.said = ""
        self.cycles, self.bad_cycles, self.counted_at = 0, 0, time.monotonic()
        self.finished, self.exit_code = False, 0

        self.joints_publisher = self.create_publisher(JointState, "joint_states", qos.STEP)
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.STEP)
        self.create_subscription(Float64MultiArray, self.params.commands_topic, self.on_forward, qos.STEP)
        self.create_subscription(
            JointTrajectory, "trajectory_controller/joint_trajectory", self.on_trajectory, qos.STEP
        )
        self.create_service(SetBool, "emergency_stop", self.on_emergency_stop)
        self.create_service(SetBool, "torque", self.on_torque)
        self.create_timer(1.0, self.diagnose)
        # Not from here: a torque that is on needs a node that is there to be closed.
        self.start_at, self.patient_until = 0.0, time.monotonic() + params.patience
        self.starter = self.create_timer(0.1, self.start) if params.autostart else None
        ask_for_realtime(self, params.realtime)

    # --- lifecycle ---

    def start(self) -> None:
        """Configure and activate; try again later where that fails."""
        now = time.monotonic()
        if now < self.start_at:
            return
        if self._state_machine.current_state[1] == "unconfigured":
            self.trigger_configure()
        if self._state_machine.current_state[1] == "inactive":
            self.trigger_activate()
        if self._state_machine.current_state[1] == "active":
            self.starter.cancel()
        self.start_at = now if now < self.patient_until else time.monotonic() + _START_AGAIN

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the calibration, open the port and see that the right arm is there."""
        try:
            calibration = self.load_calibration()
            bus = Bus(self.params.port, calibration.ids)
            self.arm = Arm(bus, calibration, self.limits, self.thresholds)
            if self.params.write_calibration:
                self.arm.write_calibration()
            self.arm.connect()
        except (ArmError, BusError, ValueError) as error:
            # an emulated arm that was started together with this node is still on its way
            if time.monotonic() >= self.patient_until:
                self.say(str(error), error=True)
            self.disconnect()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def load_calibration(self) -> Calibration:
        """Return the calibration that the parameter names, in the order of the joints.

        Raises:
            CalibrationError: It is not there, is damaged, or is of other joints.
        """
        found, joints = Calibration.named(self.params.calibration).joints, self.joints
        if set(found) != set(joints):
            raise CalibrationError(
                f"the calibration has joints {', '.join(found)}, expected {', '.join(joints)}"
            )
        return Calibration({joint: found[joint] for joint in joints})

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Torque on where the arm is; joint states out, commands in."""
        self.arm.guard.torque(True)
        self.stopping.clear()
        self.thread = threading.Thread(target=self.drive, name="bus")
        self.thread.start()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the cycles; torque fades and goes off, or stays, as `on_stop` says."""
        self.halt()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the port."""
        self.disconnect()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup; the node can be configured again."""
        self.get_logger().error(f"the transition from {state.label} failed")
        return self.on_shutdown(state)

    def close(self) -> None:
        """Let go of the arm as `on_stop` says, and of the port."""
        self.halt()
        self.disconnect()

    def halt(self) -> None:
        """End the bus thread; release the arm unless the servos shall hold on."""
        if self.thread is None:
            return
        self.stopping.set()
        self.thread.join()
        self.thread, self.state = None, None
        if self.params.on_stop == "release":
            self.release(self.params.release_time)

    def release(self, fade: float) -> None:
        """Switch torque off, or say that it may still be on."""
        try:
            self.arm.release(fade)
        except BusError as error:
            self.get_logger().error(f"servos may hold on until their power is off: {error}")

    def disconnect(self) -> None:
        """Close the port."""
        if self.arm is not None:
            self.arm.close()
            self.arm = None

    # --- bus thread ---

    def drive(self) -> None:
        """Cycle until told to stop. An exception switches torque off and ends the node."""
        ask_for_realtime(self, self.params.realtime)
        period = 1.0 / self.params.rate
        due = time.monotonic()
        try:
            while not self.stopping.is_set():
                self.cycle()
                due = max(due + period, time.monotonic())
                self.stopping.wait(due - time.monotonic())
        except BaseException:
            self.release(0.0)
            self.exit_code, self.finished = 1, True
            raise

    def cycle(self) -> None:
        """One cycle of the bus; publish what was read."""
        self.state = state = self.arm.cycle()
        self.cycles += 1
        self.bad_cycles += not state.complete or bool(self.arm.trouble)
        status = self.arm.guard.status
        self.say(status, error=status != "follows commands")
        if not state.complete:
            return
        age = time.monotonic() - state.stamp
        msg = JointState(name=self.names)
        msg.header.stamp = to_time(self.get_clock().now().nanoseconds - round(age * 1e9))
        msg.position = state.position.tolist()
        msg.velocity = state.velocity.tolist()
        msg.effort = (state.load * self.params.stall_torque).tolist()
        self.joints_publisher.publish(msg)

    def say(self, text: str, error: bool) -> None:
        """Log what the arm does when that changes."""
        if text == self.said:
            return
        self.said = text
        if error:
            self.get_logger().error(f"arm: {text}")
        else:
            self.get_logger().info(f"arm: {text}")

    # --- commands ---

    def on_forward(self, msg: Float64MultiArray) -> None:
        """Take a vector of joint targets, in the order of the joint names."""
        self.command(np.array(msg.data, float), [0.0])

    def on_trajectory(self, msg: JointTrajectory) -> None:
        """Take a trajectory of joint targets, in any order of joints."""
        now = self.get_clock().now().nanoseconds
        try:
            self.command(*read_trajectory(msg, self.names, now, self.params.max_age))
        except ValueError as error:
            self.refuse(str(error))

    def command(self, points: np.ndarray, times: list[float]) -> None:
        """Give targets to the guard."""
        if self.thread is None:
            self.refuse("command refused: the driver is not active")
            return
        try:
            self.arm.guard.command(points, times)
        except Refused as refusal:
            self.refuse(str(refusal))

    def refuse(self, reason: str) -> None:
        """Hold, and say why."""
        if self.arm is not None:
            self.arm.guard.hold()
        self.get_logger().error(f"{reason}; the arm holds", throttle_duration_sec=1.0)

    def on_emergency_stop(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Stop where the arm is (true), until it is released (false)."""
        if self.thread is None:
            response.message = "the driver is not active"
            return response
        self.arm.guard.emergency_stop(request.data)
        response.success, response.message = True, self.arm.guard.status
        return response

    def on_torque(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Switch torque on or off. On forgets why it went off by itself."""
        if self.thread is None:
            response.message = "the driver is not active"
            return response
        guard, end = self.arm.guard, time.monotonic() + _SWITCHING
        guard.torque(request.data)
        while self.arm.torque_on != request.data and not guard.fault and time.monotonic() < end:
            time.sleep(0.005)
        response.success = self.arm.torque_on == request.data
        response.message = self.arm.trouble or guard.status
        return response

    # --- diagnostics ---

    def diagnose(self) -> None:
        """Publish how bus and servos are."""
        now = time.monotonic()
        rate = self.cycles / (now - self.counted_at)
        bad, self.cycles, self.bad_cycles, self.counted_at = self.bad_cycles, 0, 0, now
        arm, state = self.arm, self.state
        if arm is None or state is None:
            statuses = [
                self.status("bus", self.params.port, DiagnosticStatus.WARN, self.said or "not active")
            ]
        else:
            statuses = [self.bus_status(arm, rate, bad), *self.servo_statuses(arm, state)]
        msg = DiagnosticArray(status=statuses)
        msg.header.stamp = self.get_clock().now().to_msg()
        self.diagnostics.publish(msg)

    def bus_status(self, arm: Arm, rate: float, bad: int) -> DiagnosticStatus:
        """Return how the bus is."""
        text = arm.trouble or arm.guard.status
        good = text == "follows commands"
        level = DiagnosticStatus.OK if good else DiagnosticStatus.ERROR
        values = {"loop_rate": f"{rate:.1f}", "bad_cycles": str(bad), "torque": str(arm.torque_on)}
        return self.status("bus", self.params.port, level, text, values)

    def servo_statuses(self, arm: Arm, state: ArmState) -> list[DiagnosticStatus]:
        """Return how each servo is."""
        statuses = []
        for joint, name, id_ in zip(self.joints, self.names, arm.calibration.ids, strict=True):
            problems = [p for p in arm.guard.problems if p.joint == joint]
            level = DiagnosticStatus.WARN if problems or joint in state.errors else DiagnosticStatus.OK
            if any(p.reaction >= HOLD for p in problems):
                level = DiagnosticStatus.ERROR
            text = "; ".join(p.text for p in problems) or state.errors.get(joint, "fine")
            values = {}
            if joint in state.servos:
                servo = state.servos[joint]
                values = {
                    "temperature": f"{servo.temperature}", "voltage": f"{servo.voltage:.1f}",
                    "current": f"{servo.current:.2f}", "load": f"{servo.load:.2f}",
                    "faults": ", ".join(servo.faults),
                }  # fmt: skip
            statuses.append(self.status(name, f"servo {id_}", level, text, values))
        return statuses

    def status(
        self, part: str, hardware: str, level: bytes, text: str, values: dict[str, str] | None = None
    ) -> DiagnosticStatus:
        """Return one status of a part of the arm."""
        pairs = [KeyValue(key=key, value=value) for key, value in (values or {}).items()]
        return DiagnosticStatus(
            level=level, name=f"{self.get_name()}: {part}", hardware_id=hardware, message=text, values=pairs
        )


def main() -> None:
    """Run the node."""
    run(DriverNode)
