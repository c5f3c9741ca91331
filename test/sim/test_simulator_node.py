import re

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from hilrl_msgs.srv import Reset
from loop_messages import CONTRACT, HOME, PERIOD, ROBOT, TASK_FILE
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from hilrl_ros import qos
from hilrl_ros.messages import nanoseconds, to_time
from hilrl_ros.node import UserError
from hilrl_sim.simulator_node import SimulatorNode

TARGET = np.add(HOME, [0.05, 0.0, 0.0, 0.0, 0.0, -0.1])


class Rig:
    """A simulator, driven and heard through its topics."""

    def __init__(self, graph):
        self.graph = graph
        self.node = graph.add(SimulatorNode())
        self.joints = graph.listen(JointState, "joint_states", qos.STEP)
        self.cubes = graph.listen(PoseStamped, "cube/pose", qos.STEP)
        self.clock = graph.listen(Clock, "/clock", qos.STEP)
        self.trajectories = graph.publisher(
            JointTrajectory, "trajectory_controller/joint_trajectory", qos.STEP
        )
        self.vectors = graph.publisher(Float64MultiArray, "forward_controller/commands", qos.STEP)
        self.client = graph.probe.create_client(Reset, "reset_episode")
        graph.connect()
        graph.until(self.client.service_is_ready)

    @property
    def now(self):
        return nanoseconds(self.joints[-1].header.stamp)

    def reset(self, seed):
        future = self.client.call_async(Reset.Request(episode=1, seed=seed))
        self.graph.until(future.done)
        stamp = nanoseconds(future.result().stamp)
        assert future.result().success

        def of_start(messages):  # in real time newer ones may have come already
            return [m for m in messages if nanoseconds(m.header.stamp) == stamp]

        self.graph.until(lambda: of_start(self.joints) and of_start(self.cubes))
        return of_start(self.joints)[-1], of_start(self.cubes)[-1]

    def trajectory(self, positions, stamp_ns, names=CONTRACT.joints):
        point = JointTrajectoryPoint(positions=[float(v) for v in positions])
        msg = JointTrajectory(joint_names=list(names), points=[point])
        msg.header.stamp = to_time(stamp_ns)
        self.trajectories.publish(msg)

    def step(self, positions=TARGET):
        """One control period; return the joint positions after it."""
        before = self.now
        self.trajectory(positions, before)
        self.graph.until(lambda: self.now == before + PERIOD)
        return np.array(self.joints[-1].position)


@pytest.fixture
def rig(make_graph):
    return Rig(make_graph(robot=ROBOT, task=TASK_FILE))


def test_the_same_seed_and_commands_give_the_same_episode_bit_for_bit(rig):
    def episode(seed):
        start, cube = rig.reset(seed)
        first = [*start.position, cube.pose.position.x, cube.pose.position.y, cube.pose.orientation.z]
        return [*first, *np.concatenate([rig.step(TARGET + 0.02 * k) for k in range(3)])]

    first, other = episode(3), episode(4)
    assert episode(3) == first
    assert other[:9] != first[:9]


def test_a_command_for_the_present_state_advances_one_control_period(rig):
    rig.reset(0)
    for _ in range(8):
        rig.step()
    assert np.array(rig.joints[-1].position) == pytest.approx(TARGET, abs=0.03)
    assert rig.joints[-1].name == list(CONTRACT.joints)
    rig.graph.until(lambda: nanoseconds(rig.clock[-1].clock) == rig.now)


def test_a_command_for_a_state_that_is_over_is_not_executed(rig):
    rig.reset(0)
    before = rig.now
    rig.step()
    after, heard = rig.joints[-1], len(rig.joints)
    rig.trajectory(TARGET + 0.5, before)  # the same step again
    rig.trajectory(TARGET + 0.5, before - PERIOD)
    rig.graph.until(lambda: len(rig.joints) > heard)  # offered again, unchanged
    assert rig.joints[-1] == after


def test_the_state_is_offered_again_when_no_command_comes(rig):
    state, _ = rig.reset(0)
    heard = len(rig.joints)
    rig.graph.until(lambda: len(rig.joints) >= heard + 2)
    assert rig.joints[-1] == state and rig.joints[-2] == state


@pytest.mark.parametrize(
    ("positions", "names", "message"),
    [
        ([float("nan")] * 6, CONTRACT.joints, "command refused, the arm holds: .* are not 6 finite numbers"),
        ([0.0] * 5, CONTRACT.joints, "command refused, the arm holds"),
        ([0.0] * 6, "abcdef", "trajectory refused: it names .*'a', 'b', .* expected .*'shoulder_pan'"),
    ],
)
def test_a_bad_trajectory_is_one_error_and_nothing_moves(rig, logged, positions, names, message):
    state, _ = rig.reset(0)
    logged.clear()
    rig.trajectory(positions, rig.now, names)
    rig.graph.until(lambda: any(level == "ERROR" for level, _ in logged))
    (error,) = [text for level, text in logged if level == "ERROR"]
    assert re.search(message, error)
    assert rig.joints[-1] == state
    assert np.isfinite(rig.step()).all()


def test_a_plain_vector_of_targets_is_taken_in_the_contracts_order(rig, logged):
    rig.reset(0)
    for _ in range(8):
        before = rig.now
        rig.vectors.publish(Float64MultiArray(data=TARGET.tolist()))
        rig.graph.until(lambda before=before: rig.now > before)
    assert np.array(rig.joints[-1].position) == pytest.approx(TARGET, abs=0.03)
    rig.vectors.publish(Float64MultiArray(data=[0.0] * 5))
    rig.graph.until(lambda: any("are not 6 finite numbers" in text for _, text in logged))


def test_joints_may_come_in_any_order(rig):
    rig.reset(0)
    for _ in range(8):
        before = rig.now
        rig.trajectory(TARGET[::-1], before, CONTRACT.joints[::-1])
        rig.graph.until(lambda before=before: rig.now > before)
    assert np.array(rig.joints[-1].position) == pytest.approx(TARGET, abs=0.03)


def test_in_real_time_it_runs_by_itself_and_reaches_the_targets_smoothly(make_graph):
    rig = Rig(make_graph(robot=ROBOT, task=TASK_FILE, lockstep=False))
    rig.reset(0)
    start = np.array(rig.joints[-1].position)
    began = len(rig.joints)
    rig.trajectory(TARGET, 0)  # its stamp does not matter here
    rig.graph.until(lambda: abs(rig.joints[-1].position[0] - TARGET[0]) < 0.02)
    stamps = [nanoseconds(j.header.stamp) for j in rig.joints[began:]]
    assert set(np.diff(stamps)) == {PERIOD // 10}
    pan = np.array([j.position[0] for j in rig.joints[began:]])
    assert np.abs(np.diff(pan)).max() < 0.5 * abs(TARGET[0] - start[0])  # over the period, not in one jump


def test_a_camera_that_is_not_there_is_one_sentence(make_graph):
    make_graph(robot=ROBOT, task=TASK_FILE, cameras="[back]")
    with pytest.raises(
        UserError, match="parameter 'cameras': 'back' is not in the scene; there are front, side, top"
    ):
        SimulatorNode()
