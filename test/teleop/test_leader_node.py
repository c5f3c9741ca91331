"""The leader node on an emulated leader arm, in a graph with mux, arm controller and a follower that does as told."""

import json
import time

import numpy as np
import pytest
from hilrl_msgs.msg import Action
from loop_messages import CONTRACT, HOME, ROBOT, TASK_FILE, action
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from hilrl_control.arm_controller_node import ArmControllerNode
from hilrl_control.mux_node import MuxNode
from hilrl_ros import qos
from hilrl_ros.messages import to_time
from hilrl_ros.node import UserError
from hilrl_teleop.leader_node import LeaderNode
from hilrl_teleop.readings import reading
from so101_driver import registers as reg
from so101_driver.calibration import Calibration
from so101_driver.emulator import EmulatedBus

PERIOD = CONTRACT.period
STEP = CONTRACT.max_joint_speed * PERIOD
PAN, GRIPPER = np.eye(6)[0], np.eye(6)[5]
AWAY = HOME + np.array([0.6, 0.2, -0.3, -0.4, 0.8, 0.4])  # where the leader stands


@pytest.fixture
def calibration(tmp_path):
    ranges = dict.fromkeys(CONTRACT.joints, (700, 3400)) | {"gripper": (1500, 3000)}
    data = {
        name: {"id": i, "drive_mode": 0, "homing_offset": 0, "range_min": low, "range_max": high}
        for i, (name, (low, high)) in enumerate(ranges.items(), 1)
    }
    (tmp_path / "leader.json").write_text(json.dumps(data))
    return tmp_path / "leader.json"


@pytest.fixture
def bus():
    with EmulatedBus() as emulated:
        yield emulated


class Rig:
    """A hand on the leader, a policy that does nothing, and a follower whose joints are where they were told."""

    def __init__(self, make_graph, calibration, bus, start=AWAY, **parameters):
        self.bus, self.calibration = bus, Calibration.load(calibration)
        self.put(start)
        self.graph = make_graph(
            robot=ROBOT, task=TASK_FILE, port=bus.port, calibration=calibration, timeout=0.3, **parameters
        )
        self.mux = self.graph.add(MuxNode())
        self.controller = self.graph.add(ArmControllerNode())
        self.leader = self.graph.add(LeaderNode())
        self.executed = self.graph.listen(Action, "executed_action", qos.STEP)
        self.readings = self.graph.listen(Action, "teleop/action", qos.STEP)
        self.targets = []
        self.graph.probe.create_subscription(
            JointTrajectory, "trajectory_controller/joint_trajectory", self.on_target, qos.STEP
        )
        self.joints = self.graph.publisher(JointState, "joint_states", qos.STEP)
        self.policy = self.graph.publisher(Action, "policy/action", qos.STEP)
        self.deadman = self.graph.publisher(Bool, "teleop/deadman", qos.STEP)
        self.graph.connect()
        self.follower, self.step, self.due = HOME.copy(), 0, 0.0

    def on_target(self, msg):
        self.follower = np.array(msg.points[-1].positions)
        self.targets.append(self.follower)

    def put(self, joints):
        """Where the hand holds the leader, rad."""
        with self.bus.lock:
            ticks = self.calibration.to_ticks(joints)
            for id_, position in zip(self.calibration.ids, ticks, strict=True):
                self.bus.servos[id_].actual = float(position)
        self.at = np.array(joints, float)

    def run(self, seconds, way=0.0, held=None):
        """Let the loop run while the hand moves the leader evenly by `way` [6], rad."""
        start, begin = self.at, time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            self.put(start + np.asarray(way) * min((now - begin) / seconds, 1.0)) if np.any(way) else None
            stamp = to_time(time.time_ns())
            msg = JointState(name=list(CONTRACT.joints), position=self.follower.tolist())
            msg.header.stamp = stamp
            self.joints.publish(msg)
            if held is not None:
                self.deadman.publish(Bool(data=held))
            if now >= self.due:
                self.due, self.step = now + PERIOD, self.step + 1
                asked = action(1, self.step, [0.0] * 4)
                asked.header.stamp = stamp
                self.policy.publish(asked)
            end = time.monotonic() + 0.02
            while time.monotonic() < end:
                self.graph.executor.spin_once(timeout_sec=0.002)

    def controllers(self, since=0):
        return [msg.controller for msg in self.executed[since:]]


def test_moving_the_leader_takes_over_without_a_snap_and_stillness_lets_go(make_graph, calibration, bus):
    rig = Rig(make_graph, calibration, bus, mode="joint", release_after=1.0)
    rig.run(0.6)
    assert set(rig.controllers()) == {Action.POLICY}
    begin, at_rest = len(rig.targets), rig.follower.copy()
    place = rig.controller.arm.kinematics.forward
    rig.run(1.5, way=-0.5 * PAN + 0.3 * GRIPPER)
    rig.run(0.6)
    assert Action.PERSON in rig.controllers()
    steps = np.abs(np.diff([at_rest, *rig.targets[begin:]], axis=0)).max()
    assert (
        steps <= STEP / 2 and np.abs(rig.targets[begin] - at_rest).max() < 0.05
    )  # the arms are 0.8 rad apart
    # the contract's actions are of the tip: it went where the leader's joints would have brought it, but for the
    # way that was made until the take-over was noticed and confirmed
    moved = place(rig.follower)[0] - place(at_rest)[0]
    wanted = place(at_rest - 0.5 * PAN)[0] - place(at_rest)[0]
    assert 0.6 < moved[1] / wanted[1] < 1.05 and abs(moved[2]) < 0.01
    assert 0.6 < (rig.follower[5] - at_rest[5]) / 0.3 < 1.02
    assert {m.device for m in rig.executed if m.controller == Action.PERSON} == {"leader"}
    rig.run(1.0)
    since = len(rig.executed)
    rig.run(0.4)
    assert set(rig.controllers(since)) == {Action.POLICY}


@pytest.mark.parametrize("mode", ["joint", "tip"])
def test_with_the_dead_man_every_step_is_flagged_while_it_is_held(make_graph, calibration, bus, mode):
    rig = Rig(make_graph, calibration, bus, mode=mode, take_over="deadman")
    rig.run(0.5, way=0.3 * PAN, held=False)  # moving alone takes nothing over
    assert set(rig.controllers()) == {Action.POLICY}
    held_at = rig.follower.copy()
    rig.run(0.3, held=True)
    assert np.abs(rig.follower - held_at).max() < 0.01
    since = len(rig.executed)
    rig.run(1.0, way=-0.3 * PAN, held=True)
    assert set(rig.controllers(since)) == {Action.PERSON}
    place = rig.controller.arm.kinematics.forward
    assert place(rig.follower)[0][1] > place(held_at)[0][1] + 0.03  # to the left, as the leader
    rig.run(0.1, held=False)
    since, let_go_at = len(rig.executed), rig.follower.copy()
    rig.run(0.5, way=0.5 * PAN, held=False)
    assert set(rig.controllers(since)) == {Action.POLICY}
    assert np.abs(rig.follower - let_go_at).max() < 0.05


def test_a_dead_man_that_falls_silent_lets_go(make_graph, calibration, bus):
    rig = Rig(make_graph, calibration, bus, take_over="deadman")
    rig.run(0.4, held=True)
    assert rig.leader.held
    rig.run(0.5)
    assert not rig.leader.held


def test_while_another_device_drives_the_leader_is_tied_anew_and_then_goes_on_without_a_snap(
    make_graph, calibration, bus
):
    rig = Rig(make_graph, calibration, bus, take_over="deadman")
    pad = rig.graph.publisher(Action, "teleop/action", qos.STEP)
    rig.run(0.2, held=False)
    at_rest = rig.follower.copy()
    pad.publish(reading("joy_teleop", to_time(0), True, [0.0] * 7))
    for _ in range(25):  # the pad was first; the leader is swung away meanwhile
        pad.publish(reading("joy_teleop", to_time(0), True, [0.0] * 7))
        rig.run(0.03, way=0.03 * PAN, held=True)
    assert rig.executed[-1].device == "joy_teleop"
    pad.publish(reading("joy_teleop", to_time(0), False, [0.0] * 7))
    rig.run(0.5, held=True)
    assert rig.executed[-1].device == "leader"
    assert np.abs(rig.follower - at_rest).max() < 0.05


def test_unplugged_it_lets_go_and_after_a_replug_the_person_takes_over_anew(
    make_graph, calibration, bus, logged
):
    rig = Rig(make_graph, calibration, bus, release_after=5.0)
    rig.run(0.3)
    rig.run(0.5, way=0.3 * PAN)
    assert rig.leader.held
    bus.unplug()
    rig.run(0.6)
    since = len(rig.executed)
    rig.run(0.3)
    assert set(rig.controllers(since)) == {Action.POLICY}
    lost = [text for level, text in logged if level == "WARN" and "not in control until the leader" in text]
    assert len(lost) == 1
    rig.put(HOME)  # somebody carried it meanwhile
    bus.replug()
    rig.run(0.5)
    assert not rig.leader.held and ("INFO", "the leader arm is back: take over again") in logged
    rig.run(0.4, way=0.2 * PAN)
    assert rig.leader.held


def test_with_alignment_pose_the_leader_must_be_brought_to_the_follower(make_graph, calibration, bus, logged):
    rig = Rig(make_graph, calibration, bus, start=HOME + 0.6 * PAN, alignment="pose")
    rig.run(0.3)
    rig.run(0.4, way=-0.2 * PAN)
    assert not rig.leader.held
    assert any(
        "bring the leader to the follower first: its shoulder_pan is +0." in text for _, text in logged
    )
    rig.run(0.6, way=-0.3 * PAN)
    assert rig.leader.held


def test_with_alignment_drive_the_leader_comes_to_the_follower_until_a_hand_pushes_it(
    make_graph, calibration, bus
):
    rig = Rig(make_graph, calibration, bus, start=HOME + 0.4 * PAN, alignment="drive", release_after=0.3)
    rig.run(1.2)
    assert rig.leader.arm.read() == pytest.approx(HOME, abs=0.05)
    assert not rig.leader.held and bus.servos[1].get(reg.TORQUE_LIMIT) == 250
    rig.put(rig.leader.arm.read() + 0.3 * PAN)  # a hand is stronger than the motors
    rig.run(0.2)
    assert rig.leader.held and {s.get(reg.TORQUE_ENABLE) for s in bus.servos.values()} == {0}
    rig.run(0.8)
    assert not rig.leader.held and bus.servos[1].get(reg.TORQUE_ENABLE) == 1
    rig.leader.close()
    assert {s.get(reg.TORQUE_ENABLE) for s in bus.servos.values()} == {0}


def test_it_waits_for_the_follower(make_graph, calibration, bus, logged):
    graph = make_graph(robot=ROBOT, task=TASK_FILE, port=bus.port, calibration=calibration)
    graph.add(LeaderNode())
    readings = graph.listen(Action, "teleop/action", qos.STEP)
    graph.connect()
    graph.until(lambda: len(readings) > 3)
    assert {r.controller for r in readings} == {Action.NOBODY}
    assert ("INFO", "no joint_states of the follower: the leader waits") in logged


def test_a_missing_port_is_one_sentence(make_graph, calibration, bus):
    make_graph(robot=ROBOT, task=TASK_FILE, port="/dev/nothing", calibration=calibration)
    with pytest.raises(UserError, match="cannot open the servo bus /dev/nothing"):
        LeaderNode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bus, file: file.unlink(), r"cannot read the calibration .*leader\.json"),
        (
            lambda bus, file: bus.servos[3].set(reg.HOMING_OFFSET, 100),
            r"the servos of elbow_flex on .* hold other homing offsets than the calibration: plug in the leader",
        ),
    ],
)
def test_what_is_wrong_with_calibration_or_arm_is_one_sentence(make_graph, calibration, bus, change, message):
    change(bus, calibration)
    make_graph(robot=ROBOT, task=TASK_FILE, port=bus.port, calibration=calibration)
    with pytest.raises(UserError, match=message):
        LeaderNode()
