"""Leader node: a second arm moved by hand drives the follower, and takes over without a snap."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from hilrl_msgs.msg import Action
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import joint_vector
from hilrl_ros.node import UserError, ask_for_realtime, declare, heard, param, run
from hilrl_teleop.leader import PUSH, Leader, LeaderArm, LeaderError, Stirring
from hilrl_teleop.readings import reading
from so101_driver.bus import BusError
from so101_driver.calibration import Calibration, CalibrationError

STALE = 0.3  # s after which a joint state, a command or a dead-man no longer counts


@dataclass
class LeaderParams:
    """Parameters of the leader."""

    port: str = param("/dev/so101_leader", "Serial port of the leader arm")
    calibration: str = param("leader", "Name of the leader's calibration (LeRobot's teleop.id), or a path")
    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    mode: str = param(
        "joint", "What follows the leader: every joint, or the tip and the gripper", choices=("joint", "tip")
    )
    take_over: str = param(
        "move",
        "How the person takes over: by moving the leader, and lets go by holding it still, or with the dead-man on "
        "teleop/deadman (keyboard or gamepad with drives:=leader)",
        choices=("move", "deadman"),
    )
    alignment: str = param(
        "offset",
        "How the arms meet: keep the offset that they have (offset), take over only once the person has brought the "
        "leader to the follower (pose), or drive the leader there by its motors until the person takes over (drive)",
        choices=("offset", "pose", "drive"),
    )
    move_threshold: float = param(
        0.05, "Way of a joint that counts as moving the leader", unit="rad", bounds=(0.005, 1.0)
    )
    release_after: float = param(
        1.0, "The person lets go by holding the leader still for so long", unit="s", bounds=(0.1, 60.0)
    )
    tolerance: float = param(
        0.2,
        "How near each arm joint must be to the follower's with alignment pose",
        unit="rad",
        bounds=(0.01, 3.2),
    )
    rate: float = param(50.0, "Readings per second", unit="Hz", bounds=(1.0, 200.0))
    realtime: bool = param(False, "Ask for real-time priority (SCHED_FIFO)")


class LeaderNode(Node):
    """Reads a leader arm; publishes `teleop/action` at a fixed rate.

    `joint_states` tells where the follower is, `command` whether it is the leader that drives it: until then, and
    while another drives, the leader is tied anew to where the follower stands.
    """

    def __init__(self):
        super().__init__("leader")
        self.params = params = declare(self, LeaderParams)
        self.contract, _ = load_contract(params.robot, params.task)
        self.arm_joints = np.array([name != self.contract.gripper_joint for name in self.contract.joints])
        self.leader = Leader(self.contract, params.mode, fade=params.alignment != "offset")
        self.stirring = Stirring(params.move_threshold, params.release_after)
        try:
            self.arm = LeaderArm(
                params.port, Calibration.named(params.calibration, "leader"), self.contract.joints
            )
        except (BusError, LeaderError, CalibrationError) as error:
            raise UserError(str(error)) from None
        self.follower: tuple[float, np.ndarray] | None = None
        self.drives = (-np.inf, False)  # when the last command came, and whether it was the leader's
        self.deadman = (-np.inf, False)
        self.fresh = max(STALE, 3 * self.contract.period)
        self.held, self.tied, self.lost = False, False, False
        self.before = time.monotonic()
        self.actions = self.create_publisher(Action, "teleop/action", qos.STEP)
        self.create_subscription(JointState, "joint_states", self.on_joints, qos.SENSOR)
        self.create_subscription(Action, "command", self.on_command, qos.STEP)
        self.create_subscription(Bool, "teleop/deadman", self.on_deadman, qos.STEP)
        self.create_timer(1.0 / params.rate, self.read)
        ask_for_realtime(self, params.realtime)

    def on_joints(self, msg: JointState) -> None:
        """Remember where the follower is."""
        try:
            self.follower = time.monotonic(), joint_vector(msg, self.contract.joints)
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)

    def on_command(self, msg: Action) -> None:
        """Remember who drives."""
        own = msg.controller == Action.PERSON and msg.device == self.get_name()
        self.drives = time.monotonic(), own

    def on_deadman(self, msg: Bool) -> None:
        """Remember the dead-man."""
        self.deadman = time.monotonic(), msg.data

    def read(self) -> None:
        """Read the leader, decide whether the person is in control, publish."""
        now = time.monotonic()
        elapsed, self.before = now - self.before, now
        action = np.zeros(0)
        try:
            joints = self.arm.read()
            follower = self.follower[1] if self.follower and now - self.follower[0] <= STALE else None
            if self.lost:
                self.lost = False
                self.get_logger().info("the leader arm is back: take over again")
            if follower is None:
                self.get_logger().info(
                    "no joint_states of the follower: the leader waits", throttle_duration_sec=10.0
                )
                self.let_go()
            else:
                self.decide(joints, follower, elapsed, now)
                own = self.drives[1] and now - self.drives[0] <= self.fresh
                if self.held and self.tied and own:
                    action = self.leader.follow(joints, follower, elapsed)
                else:  # another hand may move the follower until the mux says that it is the leader's
                    action = self.leader.hold(joints, follower)
                    self.tied = True
        except BusError as error:
            self.let_go()
            if not self.lost:
                self.lost = True
                self.get_logger().warning(
                    f"the person is not in control until the leader arm is back: {error}"
                )
        stamp = self.get_clock().now().to_msg()
        self.actions.publish(reading(self.get_name(), stamp, self.held, action, self.leader.space))

    def let_go(self) -> None:
        """The person is not in control, and takes over anew."""
        self.held, self.tied = False, False
        self.stirring.forget()

    def decide(self, joints: np.ndarray, follower: np.ndarray, elapsed: float, now: float) -> None:
        """Set `held` for the leader's and the follower's joints [n], rad; drive the leader while it is not held."""
        if self.params.take_over == "deadman":
            wanted = self.deadman[1] and now - self.deadman[0] <= STALE
        elif self.arm.goal is not None:
            wanted = bool(np.abs(joints - self.arm.goal).max() > PUSH)
        else:
            wanted = self.stirring.moved(joints, now)
        if wanted and not self.held and self.params.alignment == "pose":
            wanted = self.aligned(joints, follower)
        if self.params.alignment == "drive":
            if not wanted:
                self.arm.drive(joints, follower, elapsed)
            elif self.arm.goal is not None:
                self.arm.release()
                self.stirring.begin(joints, now)
        if wanted != self.held:
            who = (
                "the person drives with the leader arm"
                if wanted
                else "the person has let go of the leader arm"
            )
            self.get_logger().info(who)
        self.held = wanted

    def aligned(self, joints: np.ndarray, follower: np.ndarray) -> bool:
        """Whether the leader stands where the follower does; tells the person the way otherwise."""
        off = np.where(self.arm_joints, joints - follower, 0.0)
        worst = int(np.abs(off).argmax())
        if abs(off[worst]) <= self.params.tolerance:
            return True
        self.get_logger().info(
            f"bring the leader to the follower first: its {self.contract.joints[worst]} is {off[worst]:+.2f} rad off",
            throttle_duration_sec=1.0,
        )
        return False

    def close(self) -> None:
        """Let go; a driven leader loses its torque."""
        self.actions.publish(reading(self.get_name(), self.get_clock().now().to_msg(), False, []))
        try:
            self.arm.close()
        except BusError as error:
            self.get_logger().error(f"the leader arm may still have torque: {error}")
        heard(self.actions)


def main() -> None:
    """Run the node."""
    run(LeaderNode)
