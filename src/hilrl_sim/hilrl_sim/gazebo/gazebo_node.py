"""Between Gazebo and the graph: takes joint targets as a driver does, publishes what only a simulator knows."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from hilrl_msgs.srv import Reset
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.node import Node
from rclpy.task import Future
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import Kinematics
from hilrl_ros.messages import joint_vector, nanoseconds, read_trajectory, to_time
from hilrl_ros.node import declare, param, run
from so101_driver.safety import Guard, Refused, Thresholds

from .bridge import root_of
from .release import RELEASES, release_named
from .table import Placing, Table
from .world import RATE

_LOOK_S = 0.05  # between two looks at things that were put in place
_SILENT_S = 2.0  # without joint states, after which Gazebo counts as gone
_STARTING_S = 30.0  # the same before the first: a server loads its world and starts to render meanwhile
_SILENT = "no joint_states from Gazebo: do its server and ros_gz_bridge run?"
_AGAIN_NS = 1_000_000_000  # after which a target that did not change is sent again
_BACK_NS = 1_000_000_000  # by which time goes back when Gazebo was started anew


@dataclass
class GazeboParams:
    """Parameters of the node between Gazebo and the graph."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    release: str = param(
        "harmonic", "Gazebo's release, for the names of its services", choices=tuple(RELEASES)
    )
    watchdog: float = param(
        0.25, "The arm holds when commands stop for so long; a target that it would reach later by as much is refused",
        unit="s", bounds=(0.02, 5.0),
    )  # fmt: skip
    max_age: float = param(
        0.5, "A trajectory whose stamp is further from now is refused", unit="s", bounds=(0.01, 60.0)
    )


class GazeboNode(Node):
    """The arm and its table in Gazebo, as the graph knows them from other simulators and from a driver.

    Takes `trajectory_controller/joint_trajectory` and `forward_controller/commands` through the driver's own guard and
    sends each joint's target on. Publishes `<object>/pose`, `<object>/joint_states` of objects on joints, `/clock` with
    each joint state, and `/diagnostics`. Serves `reset_scene`, which places the objects. Topics `gazebo/…` are those of
    the bridge, which also publishes `joint_states` and the cameras.
    """

    def __init__(self):
        super().__init__("gazebo")
        self.params = declare(self, GazeboParams)
        self.release = release_named(self.params.release)
        self.contract, task = load_contract(self.params.robot, self.params.task)
        self.table = Table(task)
        self.now_ns, self.heard_at, self.said_silent = 0, time.monotonic(), False
        self.guard = Guard(
            self.contract.joints,
            Kinematics(self.contract).joint_limits,
            Thresholds(max_joint_speed=max(self.contract.joint_speeds), watchdog=self.params.watchdog),
            clock=lambda: self.now_ns * 1e-9,
        )
        self.sent: np.ndarray | None = None
        self.sent_ns = 0
        self.wall_start, self.sim_start_ns = time.monotonic(), 0
        self.placing: Placing | None = None
        self.process: subprocess.Popen | None = None
        self.placed: Future | None = None

        self.clock = self.create_publisher(Clock, "/clock", qos.STEP)
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.STEP)
        self.targets = {
            joint: self.create_publisher(Float64, f"gazebo/{joint}/target", qos.STEP)
            for joint in self.contract.joints
        }
        self.forces, self.joint_publishers, self.pose_publishers = {}, {}, {}
        for name, item in self.table.objects.items():
            self.pose_publishers[name] = self.create_publisher(PoseStamped, f"{name}/pose", qos.STEP)
            if item.joint:
                self.forces[name] = self.create_publisher(Float64, f"gazebo/{name}/force", qos.STEP)
                self.joint_publishers[name] = self.create_publisher(
                    JointState, f"{name}/joint_states", qos.STEP
                )
        for name in self.table.roots:
            self.create_subscription(
                PoseStamped, f"gazebo/{name}/pose", lambda msg, n=name: self.on_pose(n, msg), qos.SENSOR
            )
        for name in sorted({root_of(self.table.objects, self.table.objects[part]) for part in self.forces}):
            self.create_subscription(
                JointState, f"gazebo/{name}/joint_states", self.on_object_joints, qos.SENSOR
            )
        self.create_subscription(JointState, "joint_states", self.on_joints, qos.SENSOR)
        self.create_subscription(
            JointTrajectory, "trajectory_controller/joint_trajectory", self.on_trajectory, qos.STEP
        )
        self.create_subscription(Float64MultiArray, "forward_controller/commands", self.on_forward, qos.STEP)
        # a group of its own: in the node's group nothing else would run until the answer is given
        self.create_service(Reset, "reset_scene", self.on_reset, callback_group=ReentrantCallbackGroup())
        self.create_timer(_LOOK_S, self.look)
        # on the wall's clock: simulated time stands still where Gazebo does
        self.create_timer(1.0, self.diagnose, clock=RosClock(clock_type=ClockType.STEADY_TIME))

    # --- from Gazebo ---

    def on_joints(self, msg: JointState) -> None:
        """Tell the time, and send the targets that are due."""
        stamp = nanoseconds(msg.header.stamp)
        try:
            position = joint_vector(msg, self.contract.joints)
        except ValueError as error:
            self.get_logger().error(f"joint_states: {error}", throttle_duration_sec=5.0)
            return
        if self.said_silent:
            self.get_logger().info("Gazebo is back")
        self.heard_at, self.said_silent = time.monotonic(), False
        again = stamp < self.now_ns - _BACK_NS
        if again:
            self.get_logger().warning(
                "Gazebo's time went back: it was started anew, and the arm holds where it is"
            )
        elif stamp < self.now_ns + 0.9e9 / RATE and self.sent is not None:
            return  # releases that cannot publish at a rate do so with every step
        self.now_ns = stamp
        if again or self.sent is None:
            self.guard.torque(True)
            self.guard.engage(position)
            self.sent = None
        self.clock.publish(Clock(clock=msg.header.stamp))
        goal = self.guard.step()
        if self.sent is None or not np.array_equal(goal, self.sent) or stamp - self.sent_ns > _AGAIN_NS:
            self.sent, self.sent_ns = goal, stamp
            for publisher, target in zip(self.targets.values(), goal, strict=True):
                publisher.publish(Float64(data=float(target)))

    def on_pose(self, name: str, msg: PoseStamped) -> None:
        """Publish where an object is, and what is part of it."""
        p, q = msg.pose.position, msg.pose.orientation
        self.table.saw(name, [p.x, p.y, p.z], [q.x, q.y, q.z, q.w])
        for part, (position, quaternion) in self.table.poses(name).items():
            pose = PoseStamped()
            pose.header.stamp, pose.header.frame_id = msg.header.stamp, self.contract.model.base_frame
            p, q = pose.pose.position, pose.pose.orientation
            p.x, p.y, p.z = map(float, position)
            q.x, q.y, q.z, q.w = map(float, quaternion)
            self.pose_publishers[part].publish(pose)

    def on_object_joints(self, msg: JointState) -> None:
        """Publish how far objects on joints have moved."""
        for name, position, velocity in zip(msg.name, msg.position, msg.velocity, strict=True):
            self.table.joints[name] = position, velocity
            state = JointState(name=[name], position=[position], velocity=[velocity])
            state.header.stamp, state.header.frame_id = msg.header.stamp, self.contract.model.base_frame
            self.joint_publishers[name].publish(state)

    # --- commands ---

    def on_forward(self, msg: Float64MultiArray) -> None:
        """Take a vector of joint targets, in the contract's order."""
        self.command(np.array(msg.data, float), [0.0])

    def on_trajectory(self, msg: JointTrajectory) -> None:
        """Take a trajectory of joint targets, in any order of joints."""
        try:
            self.command(*read_trajectory(msg, self.contract.joints, self.now_ns, self.params.max_age))
        except ValueError as error:
            self.refuse(str(error))

    def command(self, points: np.ndarray, times: list[float]) -> None:
        """Give targets to the guard."""
        try:
            self.guard.command(points, times)
        except Refused as refusal:
            self.refuse(str(refusal))

    def refuse(self, reason: str) -> None:
        """Hold, and say why."""
        self.guard.hold()
        self.get_logger().error(f"{reason}; the arm holds", throttle_duration_sec=1.0)

    # --- the table ---

    async def on_reset(self, request: Reset.Request, response: Reset.Response) -> Reset.Response:
        """Answer when the objects are where the seed places them."""
        unknown = self.table.unknown
        if unknown:
            response.message = (
                f"nothing is heard of {', '.join(unknown)} in Gazebo: do its server and ros_gz_bridge run?"
            )
            return response
        if self.placed is not None and not self.placed.done():
            self.placed.set_result(f"episode {request.episode} was asked for meanwhile")
        self.end_process()
        self.placing, self.placed = Placing(self.table, request.seed), Future()
        command = self.placing.command(self.release)
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        except OSError as error:
            self.finish(
                f"'{command[0]}' of Gazebo cannot run ({error.strerror}): source its installation first"
            )
        response.message = await self.placed
        response.success, response.stamp = not response.message, to_time(self.now_ns)
        return response

    def look(self) -> None:
        """See whether Gazebo has set the poses, and then whether all came to rest."""
        if self.placing is None:
            return
        if self.process is not None:
            if self.process.poll() is None:
                return
            said, code, self.process = self.process.communicate()[0], self.process.returncode, None
            if code or "data: true" not in said:
                self.finish(f"Gazebo did not set the objects' poses: {' '.join(said.split()) or 'no answer'}")
                return
        for name, force in self.placing.look().items():
            self.forces[name].publish(Float64(data=force))
        if self.placing.done:
            self.finish(self.placing.problem)

    def finish(self, problem: str) -> None:
        """Answer the service call."""
        self.placing = None
        self.placed.set_result(problem)

    def end_process(self) -> None:
        """End a command that still runs."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    # --- diagnostics ---

    def diagnose(self) -> None:
        """Publish whether Gazebo is there, and how fast it runs."""
        wall = time.monotonic()
        waiting = self.now_ns == 0
        silent = wall - self.heard_at > (_STARTING_S if waiting else _SILENT_S)
        if silent and not self.said_silent:
            self.said_silent = True
            self.get_logger().error(_SILENT)
        if silent and self.placing is not None:
            self.finish(_SILENT)
        factor = (self.now_ns - self.sim_start_ns) * 1e-9 / max(wall - self.wall_start, 1e-6)
        self.wall_start, self.sim_start_ns = wall, self.now_ns
        level, message = DiagnosticStatus.OK, self.guard.status
        if silent:
            level, message = DiagnosticStatus.ERROR, "silent"
        elif waiting:
            level, message = DiagnosticStatus.WARN, "waiting for Gazebo's server"
        status = DiagnosticStatus(
            level=level, name=f"{self.get_name()}: Gazebo", hardware_id=self.contract.robot, message=message,
            values=[KeyValue(key="real_time_factor", value=f"{factor:.2f}")],
        )  # fmt: skip
        msg = DiagnosticArray(status=[status])
        msg.header.stamp = to_time(self.now_ns)
        self.diagnostics.publish(msg)

    def close(self) -> None:
        """End what still runs."""
        self.end_process()


def main() -> None:
    """Run the node."""
    run(GazeboNode)
