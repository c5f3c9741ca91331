"""MuJoCo simulator node: publishes what driver and cameras publish, takes the same joint commands."""

import time
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from hilrl_msgs.srv import Reset
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from hilrl_ros import qos
from hilrl_ros.messages import nanoseconds, to_time
from hilrl_ros.node import param, run
from hilrl_sim.scene_node import SceneNode, SceneParams

# how long the simulator waits for an action before it offers the same state again
_OFFER_AGAIN = 0.5


@dataclass
class SimulatorParams(SceneParams):
    """Parameters of the simulator."""

    lockstep: bool = param(
        True,
        "Advance one control period when the command for the present state arrives; else run in real time",
    )
    joint_state_rate: float = param(
        100.0, "Joint states per second in real time", unit="Hz", bounds=(10.0, 500.0)
    )


class SimulatorNode(SceneNode):
    """The arm and its table.

    Publishes `joint_states`, what `SceneNode` does, `/clock` and `/diagnostics`;
    takes `trajectory_controller/joint_trajectory` and `forward_controller/commands`; serves `reset_episode`.
    In lockstep a trajectory counts only if its stamp is that of the present state, so a command is never executed
    twice nor for a state that is over.
    """

    def __init__(self):
        super().__init__("simulator", SimulatorParams)
        self.now_ns = 0
        self.period_ns = round(1e9 / self.contract.control_rate)
        self.target = self.simulation.target
        self.advanced_at = time.monotonic()
        self.wall_start, self.sim_start_ns = time.monotonic(), 0

        self.clock_publisher = self.create_publisher(Clock, "/clock", qos.STEP)
        self.joints_publisher = self.create_publisher(JointState, "joint_states", qos.STEP)
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.STEP)
        self.create_subscription(
            JointTrajectory, "trajectory_controller/joint_trajectory", self.on_trajectory, qos.STEP
        )
        self.create_subscription(Float64MultiArray, "forward_controller/commands", self.on_forward, qos.STEP)
        self.create_service(Reset, "reset_episode", self.on_reset)
        self.create_timer(1.0, self.diagnose)
        if self.params.lockstep:
            self.create_timer(_OFFER_AGAIN / 2, self.offer_again)
        else:
            self.tick_ns = round(1e9 / self.params.joint_state_rate)
            self.image_every = max(1, round(self.params.joint_state_rate / self.params.camera_rate))
            self.ticks = 0
            self.create_timer(self.tick_ns * 1e-9, self.tick)

    def on_trajectory(self, msg: JointTrajectory) -> None:
        """Take the last point of a trajectory as the joint targets."""
        if self.params.lockstep and nanoseconds(msg.header.stamp) != self.now_ns:
            return
        if not msg.points or set(msg.joint_names) != set(self.contract.joints):
            self.get_logger().error(
                f"trajectory refused: it names {list(msg.joint_names)}, expected {list(self.contract.joints)}",
                throttle_duration_sec=1.0,
            )
            return
        by_name = dict(zip(msg.joint_names, msg.points[-1].positions, strict=False))
        self.command([by_name.get(joint, np.nan) for joint in self.contract.joints])

    def on_forward(self, msg: Float64MultiArray) -> None:
        """Take a vector of joint targets in the contract's order."""
        self.command(msg.data)

    def command(self, target) -> None:
        """Accept joint targets; in lockstep advance by one control period."""
        target = np.array(target, float)
        if target.shape != (len(self.contract.joints),) or not np.isfinite(target).all():
            self.get_logger().error(
                f"command refused, the arm holds: {target.tolist()} are not {len(self.contract.joints)} finite numbers",
                throttle_duration_sec=1.0,
            )
            return
        self.target = target
        if self.params.lockstep:
            self.simulation.step(self.target)
            self.now_ns += self.period_ns
            self.advanced_at = time.monotonic()
            self.publish()
            self.publish_images(to_time(self.now_ns))

    def tick(self) -> None:
        """Advance in real time."""
        self.simulation.step(self.target, self.tick_ns * 1e-9)
        self.now_ns += self.tick_ns
        self.ticks += 1
        self.publish()
        if self.ticks % self.image_every == 0:
            self.publish_images(to_time(self.now_ns))

    def offer_again(self) -> None:
        """Publish the present state again if no command came: a message was lost or a node was not there yet."""
        if time.monotonic() - self.advanced_at > _OFFER_AGAIN:
            self.advanced_at = time.monotonic()
            self.publish()
            self.publish_images(to_time(self.now_ns))

    def on_reset(self, request: Reset.Request, response: Reset.Response) -> Reset.Response:
        """Bring the scene to the start that the seed draws."""
        self.simulation.reset(request.seed)
        self.target = self.simulation.target
        self.now_ns += self.period_ns
        self.advanced_at = time.monotonic()
        response.success, response.stamp = True, to_time(self.now_ns)
        self.publish()
        self.publish_images(to_time(self.now_ns))
        return response

    def publish(self) -> None:
        """Publish clock, poses and joint states of the present state."""
        stamp = to_time(self.now_ns)
        self.clock_publisher.publish(Clock(clock=stamp))
        self.publish_poses(stamp)
        msg = JointState(name=list(self.contract.joints))
        msg.header.stamp = stamp
        msg.position = self.simulation.joint_position.tolist()
        msg.velocity = self.simulation.joint_velocity.tolist()
        msg.effort = self.simulation.joint_effort.tolist()
        self.joints_publisher.publish(msg)

    def diagnose(self) -> None:
        """Publish how fast the simulation runs."""
        wall = time.monotonic()
        factor = (self.now_ns - self.sim_start_ns) * 1e-9 / max(wall - self.wall_start, 1e-6)
        self.wall_start, self.sim_start_ns = wall, self.now_ns
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK, name=f"{self.get_name()}: MuJoCo", hardware_id=self.contract.robot,
            message="lockstep" if self.params.lockstep else "real time",
            values=[KeyValue(key="real_time_factor", value=f"{factor:.2f}")],
        )  # fmt: skip
        msg = DiagnosticArray(status=[status])
        msg.header.stamp = to_time(self.now_ns)
        self.diagnostics.publish(msg)


def main() -> None:
    """Run the node."""
    run(SimulatorNode)
