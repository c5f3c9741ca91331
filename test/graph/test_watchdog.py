"""Whatever dies between policy and driver while the arm moves, the arm holds: real processes, emulated servos."""

import os
import signal
import time

import numpy as np
import pytest
import rclpy
from hilrl_msgs.msg import Action, ResetStatus
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from hilrl_ros import qos
from hilrl_ros.executor import Executor

pytestmark = pytest.mark.graph
WATCHDOG = 0.25  # s, the driver's default
MOVING, STILL = 0.15, 0.02  # rad/s


class Arm:
    """What the driver says of the arm."""

    def __init__(self):
        rclpy.init()
        self.node = rclpy.create_node("watcher")
        self.executor = Executor()
        self.executor.add_node(self.node)
        self.states, self.commands = [], [0.0]
        self.step, self.person, self.went_home = 0, False, 0.0
        self.resets = True
        self.node.create_subscription(JointState, "joint_states", self.on_joints, qos.SENSOR)
        self.node.create_subscription(
            JointTrajectory, "trajectory_controller/joint_trajectory", self.on_target, qos.STEP
        )

        self.node.create_subscription(Action, "executed_action", self.on_executed, qos.STEP)
        self.node.create_subscription(ResetStatus, "reset_status", self.on_reset_status, qos.LATCHED)

    def on_reset_status(self, msg):
        self.resets = msg.state != ResetStatus.READY
        self.went_home = time.monotonic() if self.resets else self.went_home

    def on_executed(self, msg):
        self.step, self.person = msg.step, msg.controller == Action.PERSON

    def on_joints(self, msg):
        self.states.append((time.monotonic(), np.array(msg.position[:5])))

    def on_target(self, _):
        self.commands.append(time.monotonic())

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def speed(self, over=0.08):
        """Speed of the fastest joint over the newest moment, rad/s."""
        if not self.states:
            return 0.0
        now, position = self.states[-1]
        earlier = [(t, q) for t, q in self.states if t <= now - over]
        return float(np.abs(position - earlier[-1][1]).max() / (now - earlier[-1][0])) if earlier else 0.0

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()


@pytest.fixture(scope="module")
def moving_arm(launch, own_domain):
    """A graph in which the scripted person drives the emulated arm, again and again."""
    arguments = {"task": "reach", "port": "emulated", "demos": 100}
    graph = launch("record_demos", "watchdog", arguments)
    arm = Arm()
    yield graph, arm
    arm.close()
    graph.stop()  # other tests listen in the same domain


@pytest.mark.parametrize("victim", ["arm_controller", "mux", "actor"])
def test_the_arm_holds_when_a_node_dies_in_motion(moving_arm, victim):
    graph, arm = moving_arm

    def in_motion():
        arm.spin(0.05)
        # early, so that the episode does not end by itself, after which the arm goes home
        driven = time.monotonic() - arm.commands[-1] < 0.15 and arm.person and 1 <= arm.step <= 4
        return driven and not arm.resets and arm.speed() > MOVING

    for _ in range(5):
        graph.wait_for(in_motion, 90)
        os.kill(graph.node(victim).pid, signal.SIGKILL)
        killed = time.monotonic()
        arm.spin(0.8)  # it is restarted after a second
        graph.wait_for(lambda: arm.spin(0.05) or graph.node(victim), 30)
        if arm.went_home < killed:  # else that was the episode's last step, and the arm goes home by right
            break
    after = [(t, q) for t, q in arm.states if killed < t < killed + 0.8]
    assert len(after) > 20, "the driver stopped too"
    # from when the watchdog must have fired, and a servo has stopped what it was at
    commanded = max([t for t in arm.commands if t < killed + 0.8], default=killed)
    held = [q for t, q in after if t > max(killed, commanded) + WATCHDOG + 0.1]
    assert len(held) >= 3
    assert np.ptp(held, axis=0).max() < STILL
