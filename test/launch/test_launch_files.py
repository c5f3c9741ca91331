"""ROS 2's own launch starts simulation, teleoperation, recording and the emulated arm; they publish what they should.

Where it is not installed, the same files are started by `hilrl launch` in test/graph.
"""

import signal
import tempfile
import time
import unittest
from pathlib import Path

import pytest

launch_testing = pytest.importorskip(
    "launch_testing",
    reason="ROS 2's own launch is not installed here: test/graph starts the same files by hilrl launch",
)

import rclpy  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from hilrl_msgs.msg import Action, Box, Episode, Observation, Recording, Reward  # noqa: E402
from launch import LaunchDescription  # noqa: E402
from launch.actions import IncludeLaunchDescription  # noqa: E402
from launch.launch_description_sources import AnyLaunchDescriptionSource  # noqa: E402
from launch_testing.actions import ReadyToTest  # noqa: E402
from launch_testing.asserts import assertExitCodes  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from hilrl_ros import qos  # noqa: E402

ROOT = Path(__file__).parents[2]
SECONDS = 90.0  # until all has been heard, on a busy machine
JOINTS = ("joint_states", JointState, qos.SENSOR, lambda m: len(m.position) == 6)
TARGETS = ("trajectory_controller/joint_trajectory", JointTrajectory, qos.STEP, lambda m: len(m.points) == 1)
BOX = ("box", Box, qos.LATCHED, lambda m: m.min[0] < m.max[0])
LOOP = [
    JOINTS,
    TARGETS,
    BOX,
    ("episode", Episode, qos.LATCHED, lambda m: m.status == Episode.RUNNING),
    ("observation", Observation, qos.STEP, lambda m: m.step > 2 and len(m.state) > 10),
    ("executed_action", Action, qos.STEP, lambda m: m.step > 2 and m.controller == Action.PERSON),
    ("reward", Reward, qos.STEP, lambda m: m.step > 2),
]
# by launch file: its arguments, and what must be heard (topic, type, QoS, what must be in it)
GRAPHS = {
    "sim.launch.py": ({"demos": "50"}, [*LOOP, ("/clock", Clock, qos.STEP, lambda m: m.clock.nanosec)]),
    "teleop.launch.py": (
        {"port": "sim", "operator": "scripted", "namespace": "follower"},
        [
            JOINTS,
            TARGETS,
            BOX,
            ("executed_action", Action, qos.STEP, lambda m: m.controller == Action.PERSON),
        ],
    ),
    "record_demos.launch.py": (
        {"demos": "50"},
        [*LOOP, ("recording", Recording, qos.STEP, lambda m: m.complete and m.folder)],
    ),
    "real_so101.launch.py": (
        {"port": "emulated", "operator": "scripted", "demos": "50"},
        [*LOOP, ("/diagnostics", DiagnosticArray, qos.STEP, lambda m: len(m.status) == 7)],
    ),
}


@pytest.mark.launch_test
@launch_testing.parametrize("file", list(GRAPHS))
def generate_test_description(file):
    """The file as a lab starts it; runs are left in a temporary folder."""
    arguments = {"task": "reach"} | GRAPHS[file][0]
    if file != "teleop.launch.py":
        arguments["runs_dir"] = tempfile.mkdtemp(prefix="hilrl-launch-test-")
    source = AnyLaunchDescriptionSource(str(ROOT / "launch" / file))
    return LaunchDescription(
        [
            IncludeLaunchDescription(source, launch_arguments=arguments.items()),
            ReadyToTest(),
        ]
    )


class TestGraph(unittest.TestCase):
    def test_all_topics_are_heard(self, file):
        arguments, topics = GRAPHS[file]
        context, heard = rclpy.Context(), {}
        rclpy.init(args=[], context=context)
        node = rclpy.create_node("probe", namespace=arguments.get("namespace", ""), context=context)
        executor = rclpy.executors.SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            for topic, kind, profile, fits in topics:
                assert isinstance(profile, QoSProfile)
                node.create_subscription(
                    kind, topic, lambda m, t=topic, f=fits: f(m) and heard.setdefault(t, m), profile
                )
            end = time.monotonic() + SECONDS
            wanted = {topic for topic, *_ in topics}
            while set(heard) != wanted and time.monotonic() < end:
                executor.spin_once(timeout_sec=0.2)
            self.assertEqual(set(heard), wanted)
        finally:
            executor.shutdown()
            node.destroy_node()
            context.try_shutdown()


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    def test_every_process_ends_when_it_is_told_to(self, proc_info, file):
        # a process that is told to stop while Python is still starting ends by the signal itself
        assertExitCodes(proc_info, allowable_exit_codes=[0, -signal.SIGINT, -signal.SIGTERM])
