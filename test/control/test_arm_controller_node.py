from itertools import pairwise

import numpy as np
import pytest
import yaml
from hilrl_msgs.msg import Action, Box
from hilrl_msgs.srv import SetBox
from loop_messages import CONTRACT, HOME, PERIOD, ROBOT, SCALE, TASK_FILE, action, joint_state
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from hilrl_control.arm_controller_node import ArmControllerNode
from hilrl_ros import qos
from hilrl_ros.contract import EE_AXES


class Rig:
    """An arm controller, driven and heard through its topics."""

    def __init__(self, graph):
        self.graph = graph
        self.node = graph.add(ArmControllerNode())
        self.executed = graph.listen(Action, "executed_action", qos.STEP)
        self.trajectories = graph.listen(JointTrajectory, "trajectory_controller/joint_trajectory", qos.STEP)
        self.joints = graph.publisher(JointState, "joint_states", qos.STEP)
        self.commands = graph.publisher(Action, "command", qos.STEP)
        self.boxes = graph.listen(Box, "box", qos.LATCHED)
        self.box_client = graph.probe.create_client(SetBox, "set_box")
        graph.connect()

    def set_box(self, low, high):
        """Ask for another box; return the answer."""
        self.graph.until(self.box_client.service_is_ready)
        answer = self.box_client.call_async(SetBox.Request(box=Box(min=low, max=high)))
        self.graph.until(answer.done)
        return answer.result()

    def measure(self, stamp_ns, positions=HOME, **kwargs):
        msg = joint_state(stamp_ns, positions, **kwargs)
        self.joints.publish(msg)
        self.graph.until(lambda: self.node.joints is not None and self.node.joints.header == msg.header)

    def command(self, msg):
        """Send a command; return what was executed and the joint targets."""
        before = len(self.executed)
        self.commands.publish(msg)
        self.graph.until(lambda: len(self.executed) > before and len(self.trajectories) > before)
        return self.executed[-1], np.array(self.trajectories[-1].points[-1].positions)


@pytest.fixture
def rig(make_graph):
    return Rig(make_graph(robot=ROBOT, task=TASK_FILE))


def test_a_command_becomes_targets_and_a_report_in_the_contracts_space(rig):
    rig.measure(0)
    command = action(1, 0, [0.0, 0.0, 0.0, 0.5], controller=Action.PERSON, policy_version=4)
    executed, target = rig.command(command)
    assert (executed.episode, executed.step, executed.controller, executed.policy_version) == (
        1,
        0,
        Action.PERSON,
        4,
    )
    assert executed.space == Action.CONTRACT and executed.header == command.header
    assert list(executed.action) == pytest.approx([0, 0, 0, 0.5], abs=0.01)
    assert target[5] - HOME[5] == pytest.approx(0.5 * SCALE["gripper"])
    trajectory = rig.trajectories[-1]
    assert trajectory.joint_names == list(CONTRACT.joints) and trajectory.header == command.header
    assert trajectory.points[0].time_from_start.nanosec == PERIOD


def test_a_persons_motion_is_reported_in_the_contracts_space(rig):
    rig.measure(0)
    motion = dict.fromkeys(EE_AXES, 0.0) | {"y": 1.0, "gripper": -0.5, "yaw": 1.0}
    msg = action(1, 0, motion.values(), controller=Action.PERSON, space=Action.EE_DELTA)
    executed, _ = rig.command(msg)
    assert list(executed.action) == pytest.approx([0, 1.0, 0, -0.5], abs=0.05)  # this contract has no yaw


def test_a_leaders_joints_are_reported_in_the_contracts_space(rig):
    rig.measure(0)
    low, high = rig.node.arm.kinematics.joint_limits.T
    wanted = HOME + np.array([0.05, 0, 0, 0, 0, 0.5 * SCALE["gripper"]])
    joints = 2 * (wanted - low) / (high - low) - 1
    msg = action(1, 0, joints, controller=Action.PERSON, space=Action.JOINT_POSITION)
    executed, target = rig.command(msg)
    assert executed.space == Action.CONTRACT
    tip = rig.node.arm.kinematics.forward
    moved = (tip(target)[0] - tip(HOME)[0]) / [SCALE[axis] for axis in "xyz"]
    assert list(executed.action) == pytest.approx([*moved, 0.5], abs=0.03)
    assert moved[1] == pytest.approx((tip(wanted)[0][1] - tip(HOME)[0][1]) / SCALE["y"], abs=0.05)


@pytest.mark.parametrize(
    ("values", "space", "message"),
    [
        ([float("nan")] * 4, Action.CONTRACT, "holds NaN or infinity"),
        ([float("inf"), 0, 0, 0], Action.CONTRACT, "holds NaN or infinity"),
        ([0.5] * 3, Action.CONTRACT, r"shape (3,), expected (4,)"),
        ([0.5] * 4, Action.EE_DELTA, r"motion: shape (4,), expected (7,)"),
        ([float("nan")] * 7, Action.EE_DELTA, "holds NaN or infinity"),
        ([0.5] * 7, Action.JOINT_POSITION, r"joint positions: shape (7,), expected (6,)"),
    ],
)
def test_a_bad_command_is_one_error_and_the_arm_holds(rig, logged, values, space, message):
    rig.measure(0)
    _, before = rig.command(action(1, 0, [0.5] * 4))
    rig.measure(PERIOD, before)
    logged.clear()
    executed, target = rig.command(action(1, 1, values, space=space))
    assert np.array_equal(target, before)
    assert list(executed.action) == [0.0] * 4
    errors = [text for level, text in logged if level == "ERROR"]
    assert len(errors) == 1 and message in errors[0]
    assert errors[0].startswith("command of step 1 refused, the arm holds: ")


def test_an_empty_command_holds_without_an_error(rig, logged):
    rig.measure(0)
    executed, target = rig.command(action(1, 0))
    assert target == pytest.approx(HOME) and list(executed.action) == [0.0] * 4
    assert not [text for level, text in logged if level == "ERROR"]


def test_a_command_that_comes_twice_is_executed_once(rig):
    rig.measure(0)
    executed, target = rig.command(action(1, 0, [0.0, 1.0, 0.0, 0.0]))
    again, target_again = rig.command(action(1, 0, [0.0, 1.0, 0.0, 0.0]))
    assert again == executed and np.array_equal(target, target_again)
    rig.measure(PERIOD, target)
    _, further = rig.command(action(1, 1, [0.0, 1.0, 0.0, 0.0]))
    assert not np.allclose(further, target)


def test_a_command_waits_for_the_joint_state_of_its_observation(rig):
    rig.measure(0)
    rig.commands.publish(action(1, 1, [0.0] * 4))
    rig.graph.until(lambda: rig.node.waiting is not None)
    assert rig.executed == []
    rig.measure(PERIOD)
    rig.graph.until(lambda: rig.executed)
    assert rig.executed[0].step == 1


def test_a_new_episode_starts_from_where_the_arm_is(rig):
    rig.measure(0)
    rig.command(action(1, 0, [0.0, 1.0, 0.0, 0.0]))
    elsewhere = np.add(HOME, [0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    rig.measure(10 * PERIOD, elsewhere)
    _, target = rig.command(action(2, 0, start_ns=10 * PERIOD))
    assert target == pytest.approx(elsewhere)


def test_without_a_measurement_nothing_is_sent_and_the_node_lives(rig, logged):
    rig.measure(0, np.full(6, np.nan))
    rig.commands.publish(action(1, 0, [0.0] * 4))
    rig.graph.until(lambda: any("step 0 not executed: measured joints: holds NaN" in t for _, t in logged))
    rig.measure(1, names=["1", "2", "3", "4", "5", "6"])
    rig.commands.publish(action(1, 0, [0.0] * 4))
    rig.graph.until(lambda: any("joint_states lacks shoulder_pan" in t for _, t in logged))
    assert rig.trajectories == [] and rig.executed == []
    rig.measure(2)
    executed, _ = rig.command(action(1, 0, [0.0] * 4))
    assert executed.step == 0


def test_the_box_is_changed_while_it_runs_and_the_arm_is_led_back(rig):
    rig.measure(0)
    rig.graph.until(lambda: rig.boxes)
    assert (list(rig.boxes[0].min), list(rig.boxes[0].max)) == (
        list(CONTRACT.box_min),
        list(CONTRACT.box_max),
    )
    tip = rig.node.arm.kinematics.forward(HOME)[0]
    low, high = np.array(CONTRACT.box_min), np.array(CONTRACT.box_max)
    high[0] = tip[0] - 0.03
    assert rig.set_box(low, high).success
    rig.graph.until(lambda: len(rig.boxes) == 2)
    assert list(rig.boxes[1].max) == pytest.approx(high)
    target, outside = HOME, [0.03]
    for step in range(12):  # whoever acts wants to go further out
        rig.measure(step * PERIOD, target)
        _, target = rig.command(action(1, step, [1.0, 0.0, 0.0, 0.0]))
        outside.append(rig.node.arm.kinematics.forward(target)[0][0] - high[0])
    assert all(after < before + 1e-4 for before, after in pairwise(outside)) and outside[-1] < 2e-3
    assert max(before - after for before, after in pairwise(outside)) < 0.01  # led, not thrown


@pytest.mark.parametrize(
    ("low", "high", "why"),
    [
        ([0.3, -0.1, 0.0], [0.1, 0.1, 0.1], "box x: min 0.3 m is not below max 0.1 m"),
        ([0.1, -0.1, 0.05], [0.3, 0.1, 0.05], "box z: min 0.05 m is not below max 0.05 m"),
        ([0.1, np.nan, 0.0], [0.3, 0.1, 0.1], "box min: holds NaN or infinity at [1]"),
        ([0.1, -0.1, 0.0], [np.inf, 0.1, 0.1], "box max: holds NaN or infinity at [0]"),
    ],
)
def test_a_box_that_is_none_changes_nothing(rig, low, high, why):
    answer = rig.set_box(low, high)
    assert not answer.success and answer.message == f"the box stays as it is: {why}"
    assert rig.node.arm.box.tolist() == [list(CONTRACT.box_min), list(CONTRACT.box_max)]


def test_a_pad_drives_an_arm_of_joint_actions_and_is_reported_in_them(make_graph, tmp_path):
    scale = dict.fromkeys(CONTRACT.joints, 0.2)
    robot = yaml.safe_load(ROBOT.read_text())
    robot["motion"] = robot["action"]["scale"]
    robot["action"] = {"type": "joint_delta", "scale": scale}
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(robot, sort_keys=False))
    rig = Rig(make_graph(robot=tmp_path / "arm.yaml", task=TASK_FILE))
    rig.measure(0)
    motion = dict.fromkeys(EE_AXES, 0.0) | {"y": 1.0, "gripper": -0.5}
    msg = action(1, 0, motion.values(), controller=Action.PERSON, space=Action.EE_DELTA)
    executed, target = rig.command(msg)
    assert executed.space == Action.CONTRACT
    assert np.array(executed.action) * 0.2 == pytest.approx(target - HOME, abs=1e-6)
    tip = rig.node.arm.kinematics.forward
    assert tip(target)[0] - tip(HOME)[0] == pytest.approx([0, CONTRACT.action.scale[1], 0], abs=2e-3)
    assert target[5] == pytest.approx(HOME[5] - 0.5 * SCALE["gripper"])
