"""Markers node: the end-effector box, the tip, its target, who is in control and what it earns, for rviz2."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from hilrl_msgs.msg import Action, Box, Episode, Reward
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import MarkerArray

from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import Kinematics
from hilrl_ros.messages import joint_vector
from hilrl_ros.node import declare, param, run
from hilrl_rviz.markers import WHITE, Shown, caption, earnings, marker_array


@dataclass
class MarkersParams:
    """Parameters of the markers."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    rate: float = param(10.0, "Arrays of markers per second", unit="Hz", bounds=(1.0, 60.0))
    timeout: float = param(
        1.0,
        "Tip, target and control are no longer shown when nothing newer came for so long",
        unit="s",
        bounds=(0.1, 60.0),
    )


class MarkersNode(Node):
    """Publishes `markers`: box, measured and commanded tip, and as text control, episode, reward and success.

    It only listens: nothing in the loop waits for it.
    """

    def __init__(self):
        super().__init__("markers")
        self.params = declare(self, MarkersParams)
        self.contract, _ = load_contract(self.params.robot, self.params.task)
        self.kinematics = Kinematics(self.contract)
        # the newest message of each type and when it came, by this machine's clock: stamps may be simulated time
        self.newest: dict[type, tuple[Any, float]] = {}
        self.box = np.array([self.contract.box_min, self.contract.box_max])
        self.episode: Episode | None = None
        self.reward: Reward | None = None
        self.total = 0.0
        self.markers = self.create_publisher(MarkerArray, "markers", qos.LATCHED)
        self.create_subscription(JointState, "joint_states", self.remember, qos.SENSOR)
        # whichever the arm controller uses: its parameter `command_interface`
        self.create_subscription(
            JointTrajectory, "trajectory_controller/joint_trajectory", self.remember, qos.STEP
        )
        self.create_subscription(
            JointTrajectory, "joint_trajectory_controller/joint_trajectory", self.remember, qos.STEP
        )
        self.create_subscription(
            Float64MultiArray, "forward_command_controller/commands", self.on_forward, qos.STEP
        )
        self.create_subscription(Action, "executed_action", self.remember, qos.STEP)
        self.create_subscription(Box, "box", self.on_box, qos.LATCHED)
        self.create_subscription(Episode, "episode", self.on_episode, qos.LATCHED)
        self.create_subscription(Reward, "reward", self.on_reward, qos.STEP)
        self.create_timer(1.0 / self.params.rate, self.publish)

    def remember(self, msg: Any) -> None:
        """Keep a message until a newer one comes or it is too old."""
        self.newest[type(msg)] = msg, time.monotonic()

    def on_forward(self, msg: Float64MultiArray) -> None:
        """Take joint targets in the contract's order for a trajectory."""
        joints = self.contract.joints
        self.remember(JointTrajectory(joint_names=joints, points=[JointTrajectoryPoint(positions=msg.data)]))

    def fresh(self, kind: type) -> Any:
        """Return the newest message of a type, None where none came within the timeout."""
        msg, came = self.newest.get(kind, (None, 0.0))
        return msg if time.monotonic() - came <= self.params.timeout else None

    def on_box(self, msg: Box) -> None:
        """Show the box that holds now."""
        self.box = np.array([msg.min, msg.max])

    def on_episode(self, msg: Episode) -> None:
        """Remember the episode; a new one has no return yet."""
        if self.episode is None or msg.episode != self.episode.episode:
            self.reward, self.total = None, 0.0
        self.episode = msg

    def on_reward(self, msg: Reward) -> None:
        """Add a step's reward once, also where it is offered again."""
        if self.reward is None or msg.episode != self.reward.episode:
            self.total = 0.0
        elif msg.step <= self.reward.step:
            return
        self.reward, self.total = msg, self.total + msg.reward

    def publish(self) -> None:
        """Publish the markers of what is known now."""
        state, command, executed = (self.fresh(kind) for kind in (JointState, JointTrajectory, Action))
        measured = self.measured(state)
        earned, outcome = earnings(self.reward, self.total) if self.reward else ("", WHITE)
        shown = Shown(
            stamp=state.header.stamp if state else Time(),
            box=self.box,
            tip=self.tip(measured),
            target=self.tip(self.wanted(command, measured)),
            controller=executed.controller if executed else Action.NOBODY,
            control=caption(executed, self.episode),
            earned=earned,
            outcome=outcome,
        )
        self.markers.publish(marker_array(self.contract, shown))

    def measured(self, msg: JointState | None) -> np.ndarray:
        """Return the measured joints [n], rad; NaN where they are not known."""
        if msg is not None:
            try:
                return joint_vector(msg, self.contract.joints)
            except ValueError as e:
                self.get_logger().error(f"the tip is not shown: {e}", throttle_duration_sec=5.0)
        return np.full(len(self.contract.joints), np.nan)

    def wanted(self, msg: JointTrajectory | None, measured: np.ndarray) -> np.ndarray:
        """Return where the joints shall go [n], rad: one that a command leaves out stays; NaN without a command."""
        if msg is None or not msg.points:
            return np.full(len(measured), np.nan)
        targets = dict(zip(msg.joint_names, msg.points[-1].positions, strict=False))
        joints = zip(self.contract.joints, measured, strict=True)
        return np.array([targets.get(name, position) for name, position in joints])

    def tip(self, q: np.ndarray) -> np.ndarray | None:
        """Return the tip [3] in base_frame, m, of joints [n]; None where one is NaN."""
        return self.kinematics.forward(q)[0] if np.isfinite(q).all() else None


def main() -> None:
    """Run the node."""
    run(MarkersNode)
