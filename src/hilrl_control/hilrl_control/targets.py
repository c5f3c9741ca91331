"""How joint targets leave for the arm: to a driver of the suite's kind, or to a controller of ros2_control."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from hilrl_ros import qos
from hilrl_ros.messages import to_time
from hilrl_ros.node import param

INTERFACES = ("driver", "joint_trajectory_controller", "forward_command_controller")


def interface_param() -> str:
    """Return the parameter `command_interface`."""
    return param(
        "driver",
        "Who takes joint targets: the suite's driver or simulator, or a controller of ros2_control",
        choices=INTERFACES,
    )


def topic_param() -> str:
    """Return the parameter `command_topic`."""
    return param(
        "",
        "Topic of the joint targets; empty: trajectory_controller/joint_trajectory, "
        "joint_trajectory_controller/joint_trajectory or forward_command_controller/commands",
    )


class TargetsNode(Node):
    """A node that commands the arm's joints, all of them at once and in the contract's order.

    - driver: a JointTrajectory of one point, with the stamp of what it answers: the driver refuses one that is late,
      the simulator in lockstep one that answers another state.
    - joint_trajectory_controller: the same without a stamp, which means from now on: with one, the way would be cut
      by what the loop took, and two clocks would have to agree. The controller's `joints` may have another order.
    - forward_command_controller: a Float64MultiArray. The controller's `joints` must have the contract's order; it
      goes there at once.
    """

    def open_targets(self, interface: str, topic: str, joints: tuple[str, ...]) -> None:
        """Create the publisher, by the two parameters; `joints` are the contract's."""
        self._interface, self._joints = interface, list(joints)
        if interface == "driver":
            self.targets = self.create_publisher(
                JointTrajectory, topic or "trajectory_controller/joint_trajectory", qos.STEP
            )
        elif interface == "joint_trajectory_controller":
            self.targets = self.create_publisher(
                JointTrajectory, topic or "joint_trajectory_controller/joint_trajectory", qos.STEP
            )
        else:
            self.targets = self.create_publisher(
                Float64MultiArray, topic or "forward_command_controller/commands", qos.STEP
            )

    def targets_message(
        self, target: np.ndarray, ahead: float, stamp: Time
    ) -> JointTrajectory | Float64MultiArray:
        """Return the message that commands joint targets.

        Args:
            target: Joint positions [n], rad.
            ahead: Seconds from now after which they are to be reached.
            stamp: Of the observation that they answer.
        """
        if self._interface == "forward_command_controller":
            return Float64MultiArray(data=target.tolist())
        point = JointTrajectoryPoint(positions=target.tolist())
        after = to_time(round(ahead * 1e9))
        point.time_from_start.sec, point.time_from_start.nanosec = after.sec, after.nanosec
        msg = JointTrajectory(joint_names=self._joints, points=[point])
        if self._interface == "driver":
            msg.header.stamp = stamp
        return msg
