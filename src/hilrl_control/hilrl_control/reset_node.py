"""Reset node: brings an arm to the start of an episode, and waits until things have been put in place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hilrl_msgs.msg import OperatorEvent, ResetStatus
from hilrl_msgs.srv import Reset
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from sensor_msgs.msg import JointState

from hilrl_control.targets import TargetsNode, interface_param, topic_param
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import Kinematics
from hilrl_ros.messages import joint_vector
from hilrl_ros.node import ask_for_realtime, declare, param, run, steady_ns

_TICK = 0.05  # s between two targets: when this node dies, the driver's watchdog stops the arm
_AHEAD = 0.1  # s that a target lies ahead, so that the arm moves on smoothly
_NEAR = 0.1  # rad; servos sag, and what counts is that the arm came
_LATE = 3.0  # s that the arm may need longer than its path


@dataclass
class ResetParams:
    """Parameters of the reset."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    start: str = param(
        "button",
        "What starts the episode once the arm is home: the person's pause button, a timer, or the simulator that has "
        "placed the objects",
        choices=("button", "timer", "scene"),
    )
    wait: float = param(3.0, "How long the timer waits", unit="s", bounds=(0.0, 3600.0))
    speed: float = param(0.8, "Speed of the fastest joint on the way home", unit="rad/s", bounds=(0.05, 3.0))
    command_interface: str = interface_param()
    command_topic: str = topic_param()
    realtime: bool = param(False, "Ask for real-time priority (SCHED_FIFO)")


class Path:
    """A straight line in joint space, with a soft start and end.

    Args:
        start: Joint positions [n], rad.
        end: Joint positions [n], rad.
        speed: Of each joint at its fastest [n], rad/s (m/s where it slides); the slowest joint sets the pace.
    """

    def __init__(self, start: np.ndarray, end: np.ndarray, speed: np.ndarray):
        self.start, self.end = np.array(start, float), np.array(end, float)
        # half a cosine is at most π/2 times as fast as it is on average
        self.duration = max(float((np.abs(self.end - self.start) / speed).max()) * np.pi / 2, _TICK)

    def at(self, seconds: float) -> np.ndarray:
        """Return the joint positions [n] after some time; the end for ever after it."""
        share = min(max(seconds / self.duration, 0.0), 1.0)
        return self.start + (self.end - self.start) * (1 - np.cos(np.pi * share)) / 2


class ResetNode(TargetsNode):
    """Serves `reset_episode`: leads the arm home, at a random offset inside the box, and answers when all is ready.

    The service is there from the arm's first joint states on: before, who wants a reset has to wait for the arm.
    Publishes joint targets (see `TargetsNode`) and, latched, `reset_status`. The offset is drawn from the request's
    seed, within the task's `home_spread`. With `start` scene the simulator's `reset_scene` places the objects when the
    arm is home, and its answer is the answer.
    """

    def __init__(self):
        super().__init__("reset")
        self.params = declare(self, ResetParams)
        self.contract, task = load_contract(self.params.robot, self.params.task)
        self.kinematics = Kinematics(self.contract)
        self.spread = float(task.scene.get("home_spread", 0.0))
        self.arm = [i for i, name in enumerate(self.contract.joints) if name != self.contract.gripper_joint]
        self.speeds = np.minimum(self.contract.joint_speeds, self.params.speed)
        self.joints: np.ndarray | None = None
        self.status = ResetStatus(state=ResetStatus.READY)
        self.path: Path | None = None
        self.since = 0.0
        self.done: Future | None = None  # its result: why the arm is not home, empty if it is
        self.open_targets(self.params.command_interface, self.params.command_topic, self.contract.joints)
        self.publisher = self.create_publisher(ResetStatus, "reset_status", qos.LATCHED)
        self.create_subscription(JointState, "joint_states", self.on_joints, qos.SENSOR)
        self.create_subscription(OperatorEvent, "operator_event", self.on_event, qos.STEP)
        self.scene = self.create_client(Reset, "reset_scene") if self.params.start == "scene" else None
        self.create_timer(_TICK, self.tick)
        ask_for_realtime(self, self.params.realtime)

    def on_joints(self, msg: JointState) -> None:
        """Note where the arm is; with the first word of it, serve."""
        try:
            joints = joint_vector(msg, self.contract.joints)
        except ValueError as error:
            self.get_logger().error(f"joint_states: {error}", throttle_duration_sec=5.0)
            return
        if self.joints is None:
            # a group of its own: in the node's group nothing else would run until the answer is given
            group = ReentrantCallbackGroup()
            self.create_service(Reset, "reset_episode", self.on_reset, callback_group=group)
        self.joints = joints

    async def on_reset(self, request: Reset.Request, response: Reset.Response) -> Reset.Response:
        """Answer when the episode may begin; asked again about the same episode, both get the same answer."""
        if self.done is None or self.done.done() or self.status.episode != request.episode:
            if self.done is not None and not self.done.done():
                self.done.set_result(f"episode {request.episode} was asked for meanwhile")
            home = self.kinematics.near_home(self.spread, np.random.default_rng(request.seed))
            self.path, self.since = Path(self.joints, home, self.speeds), self.now()
            self.done = Future()
            self.status = ResetStatus(episode=request.episode, seed=request.seed)
            self.enter(ResetStatus.MOVING)
        response.message = await self.done
        response.success = not response.message
        response.stamp = self.get_clock().now().to_msg()
        return response

    def now(self) -> float:
        """Return the time that the way home takes, s."""
        return steady_ns(self) * 1e-9

    def enter(self, state: int) -> None:
        """Note and tell how far the reset is."""
        self.status.state = state
        self.publisher.publish(self.status)

    def tick(self) -> None:
        """Move on along the path; see whether the arm has come, and whether the timer has run down."""
        elapsed = self.now() - self.since
        if self.status.state == ResetStatus.MOVING and self.path is not None:
            self.send(self.path.at(elapsed + _AHEAD))
            off = np.abs(self.joints - self.path.end)[self.arm]
            if elapsed >= self.path.duration and off.max() < _NEAR:
                if self.scene is not None:
                    self.place(patient=elapsed < self.path.duration + _LATE)
                    return
                self.since = self.now()
                self.enter(ResetStatus.WAITING)
                if self.params.start == "button":
                    self.get_logger().info("the arm is home: put things in place, then press pause to start")
            elif elapsed > self.path.duration + _LATE:
                joint = self.contract.joints[self.arm[int(off.argmax())]]
                self.finish(f"the arm did not come home: {joint} is {off.max():.2f} rad away")
        elif self.status.state == ResetStatus.WAITING and self._timer_ran_down(elapsed):
            self.finish("")

    def place(self, patient: bool) -> None:
        """Have the simulator place the objects, and answer what it answers."""
        if not self.scene.service_is_ready():
            if not patient:
                self.finish("nobody serves reset_scene: is the simulator's node up?")
            return
        self.path = None
        done = self.done
        request = Reset.Request(episode=self.status.episode, seed=self.status.seed)

        def answered(future: Future) -> None:
            if self.done is done and not done.done():  # else another episode was asked for meanwhile
                self.finish(future.result().message)

        self.scene.call_async(request).add_done_callback(answered)

    def _timer_ran_down(self, elapsed: float) -> bool:
        return self.params.start == "timer" and elapsed >= self.params.wait

    def on_event(self, msg: OperatorEvent) -> None:
        """Start the episode where the arm waits for the person."""
        waits = self.status.state == ResetStatus.WAITING and self.params.start == "button"
        if waits and msg.event == OperatorEvent.PAUSE:
            self.finish("")

    def finish(self, problem: str) -> None:
        """Answer the service call."""
        self.enter(ResetStatus.READY)
        self.done.set_result(problem)

    def send(self, target: np.ndarray) -> None:
        """Publish one joint target."""
        self.targets.publish(self.targets_message(target, _AHEAD, self.get_clock().now().to_msg()))


def main() -> None:
    """Run the node."""
    run(ResetNode)
