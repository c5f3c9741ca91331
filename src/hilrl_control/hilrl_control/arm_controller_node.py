"""Arm controller node: turns normalised actions into joint targets, within box, joint and speed limits."""

from dataclasses import dataclass

import numpy as np
from hilrl_msgs.msg import Action, Box
from hilrl_msgs.srv import SetBox
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from hilrl_control.arm import ArmController, Executed
from hilrl_control.targets import TargetsNode, interface_param, topic_param
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import floats, joint_vector, nanoseconds
from hilrl_ros.node import ask_for_realtime, declare, param, run


@dataclass
class ArmControllerParams:
    """Parameters of the arm controller."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    command_interface: str = interface_param()
    command_topic: str = topic_param()
    realtime: bool = param(False, "Ask for real-time priority (SCHED_FIFO)")


class ArmControllerNode(TargetsNode):
    """Subscribes to `command` and `joint_states`, publishes joint targets (see `TargetsNode`).

    What was really commanded goes out on `executed_action`, in the contract's action space. A command that
    cannot be executed (NaN, wrong size) makes the arm hold and is reported as the hold that it became.

    Publishes the tip's `box`, latched, and serves `set_box`, which changes it until this node ends: a tip that is
    then outside is led back.
    """

    def __init__(self):
        super().__init__("arm_controller")
        params = declare(self, ArmControllerParams)
        self.contract, _ = load_contract(params.robot, params.task)
        self.arm = ArmController(self.contract)
        self.episode: int | None = None
        self.joints: JointState | None = None
        self.waiting: Action | None = None
        self.done: tuple[Action, JointTrajectory | Float64MultiArray] | None = None
        self.open_targets(params.command_interface, params.command_topic, self.contract.joints)
        self.executed = self.create_publisher(Action, "executed_action", qos.STEP)
        self.create_subscription(JointState, "joint_states", self.on_joints, qos.SENSOR)
        self.create_subscription(Action, "command", self.on_command, qos.STEP)
        self.boxes = self.create_publisher(Box, "box", qos.LATCHED)
        self.create_service(SetBox, "set_box", self.on_set_box)
        self.publish_box()
        ask_for_realtime(self, params.realtime)

    def publish_box(self) -> None:
        """Tell where the tip may go."""
        low, high = self.arm.box
        self.boxes.publish(Box(min=low, max=high))

    def on_set_box(self, request: SetBox.Request, response: SetBox.Response) -> SetBox.Response:
        """Change where the tip may go."""
        try:
            self.arm.set_box(request.box.min, request.box.max)
        except ValueError as e:
            response.message = f"the box stays as it is: {e}"
            return response
        low, high = self.arm.box.round(3).tolist()
        self.get_logger().info(f"the tip's box is now min {low}, max {high} m")
        self.publish_box()
        response.success = True
        return response

    def on_joints(self, msg: JointState) -> None:
        """Remember the newest joint state; execute the command that waited for it."""
        self.joints = msg
        self.execute()

    def on_command(self, msg: Action) -> None:
        """Execute a command; one that was executed already is only reported again."""
        if self.done and (msg.episode, msg.step) == (self.done[0].episode, self.done[0].step):
            self.send(*self.done)
            return
        self.waiting = msg
        self.execute()

    def execute(self) -> None:
        """Execute the waiting command once the joint state of its observation is there."""
        msg = self.waiting
        if msg is None or self.joints is None:
            return
        if nanoseconds(self.joints.header.stamp) < nanoseconds(msg.header.stamp):
            return
        self.waiting = None
        try:
            measured = joint_vector(self.joints, self.contract.joints)
            if msg.episode != self.episode:
                self.arm.reset(measured)
                self.episode = msg.episode
        except ValueError as e:
            # without a measurement there is no target that would be safe to send
            self.get_logger().error(f"step {msg.step} not executed: {e}", throttle_duration_sec=1.0)
            return
        try:
            result = self.command(measured, msg)
        except ValueError as e:
            self.get_logger().error(
                f"command of step {msg.step} refused, the arm holds: {e}", throttle_duration_sec=1.0
            )
            result = self.arm.still()
        report = Action(
            header=msg.header, episode=msg.episode, step=msg.step, controller=msg.controller,
            device=msg.device, space=Action.CONTRACT, action=floats(result.action), policy_version=msg.policy_version,
        )  # fmt: skip
        targets = self.targets_message(result.target, self.contract.period, msg.header.stamp)
        self.done = (report, targets)
        self.send(report, targets)

    def command(self, measured: np.ndarray, msg: Action) -> Executed:
        """Return what the arm does for a command."""
        if not msg.action:
            return self.arm.still()
        if msg.space == Action.EE_DELTA:
            return self.arm.move(measured, np.array(msg.action))
        if msg.space == Action.JOINT_POSITION:
            return self.arm.follow(measured, np.array(msg.action))
        return self.arm.step(measured, np.array(msg.action))

    def send(self, report: Action, targets: JointTrajectory | Float64MultiArray) -> None:
        """Publish what was executed and the joint targets."""
        self.targets.publish(targets)
        self.executed.publish(report)


def main() -> None:
    """Run the node."""
    run(ArmControllerNode)
