import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from emulated_arm import CALIBRATION, IDS, NAMES, registers, truth
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from hilrl_ros import qos
from hilrl_ros.messages import seconds, to_time
from hilrl_ros.node import UserError
from so101_driver import registers as reg
from so101_driver.bus import Bus
from so101_driver.driver_node import DriverNode


@pytest.fixture
def file(tmp_path):
    CALIBRATION.save(tmp_path / "arm.json")
    return str(tmp_path / "arm.json")


class Rig:
    """A driver on an emulated arm, driven and heard through its topics and services."""

    def __init__(self, graph, emulated, names=NAMES, topic="forward_controller/commands"):
        self.graph, self.emulated, self.names = graph, emulated, names
        self.node = graph.add(DriverNode())
        self.joints = graph.listen(JointState, "joint_states", qos.STEP)
        self.diagnostics = graph.listen(DiagnosticArray, "/diagnostics", qos.STEP)
        self.vectors = graph.publisher(Float64MultiArray, topic, qos.STEP)
        self.trajectories = graph.publisher(
            JointTrajectory, "trajectory_controller/joint_trajectory", qos.STEP
        )
        self.clients = {
            name: graph.probe.create_client(kind, name)
            for name, kind in (("emergency_stop", SetBool), ("torque", SetBool),
                               ("driver/change_state", ChangeState), ("driver/get_state", GetState))
        }  # fmt: skip
        graph.connect()
        for client in self.clients.values():
            graph.until(client.service_is_ready)

    def started(self):
        self.graph.until(lambda: self.joints and self.node.arm and self.node.arm.torque_on)
        return self

    def call(self, name, request):
        future = self.clients[name].call_async(request)
        self.graph.until(future.done)
        return future.result()

    def transition(self, number):
        request = ChangeState.Request(transition=Transition(id=number))
        return self.call("driver/change_state", request).success

    @property
    def lifecycle(self):
        return self.call("driver/get_state", GetState.Request()).current_state.label

    def wait(self, duration):
        end = time.monotonic() + duration
        self.graph.until(lambda: time.monotonic() > end, timeout=duration + 5)

    def forward(self, target):
        self.vectors.publish(Float64MultiArray(data=[float(v) for v in target]))

    def follow(self, points, times, stamp=None, names=None):
        msg = JointTrajectory(joint_names=list(names or self.names))
        for point, due in zip(points, times, strict=True):
            item = JointTrajectoryPoint(positions=[float(v) for v in point])
            item.time_from_start.sec, item.time_from_start.nanosec = int(due), round(due % 1 * 1e9)
            msg.points.append(item)
        if stamp is not None:
            msg.header.stamp = to_time(self.graph.probe.get_clock().now().nanoseconds + round(stamp * 1e9))
        self.trajectories.publish(msg)

    def goal(self):
        return CALIBRATION.to_radians(registers(self.emulated, reg.GOAL_POSITION))


@pytest.fixture
def rig(emulated, file, make_graph):
    return Rig(make_graph(port=emulated.port, calibration=file), emulated).started()


def test_it_starts_by_itself_where_the_arm_is(rig, emulated):
    before = truth(emulated)
    rig.wait(0.3)
    assert rig.lifecycle == "active" and registers(emulated, reg.TORQUE_ENABLE) == [1] * 6
    assert rig.goal() == pytest.approx(before, abs=1e-9)
    state = rig.joints[-1]
    assert list(state.name) == list(NAMES) and list(state.position) == pytest.approx(before, abs=1e-9)
    assert len(state.velocity) == len(state.effort) == 6
    assert abs(seconds(state.header.stamp) - time.time()) < 1.0
    stamps = [seconds(j.header.stamp) for j in rig.joints]
    assert (np.diff(stamps) > 0).all()


def test_vectors_and_trajectories_move_the_arm(rig, emulated):
    target = truth(emulated) + 0.2
    rig.forward(target)
    rig.wait(0.4)
    assert truth(emulated) == pytest.approx(target, abs=0.01)
    rig.follow([target[::-1] - 0.1], [0.2], stamp=0.0, names=NAMES[::-1])  # in any order
    rig.wait(0.5)
    assert truth(emulated) == pytest.approx(target - 0.1, abs=0.01)
    rig.follow([target, target + 0.2], [0.2, 0.6])
    rig.wait(0.9)
    assert list(rig.joints[-1].position) == pytest.approx(target + 0.2, abs=0.01)


def test_points_at_10_hz_make_a_steady_motion(rig, emulated):
    start, began = truth(emulated), len(rig.joints)
    for k in range(1, 8):
        rig.follow([start + 0.06 * k], [0.1], stamp=0.0)
        rig.wait(0.1)
    way = np.array([j.position[0] for j in rig.joints[began:]])
    assert (np.diff(way) > -0.003).all() and np.diff(way).max() < 0.05
    assert way[-1] > start[0] + 0.3


@pytest.mark.parametrize(
    "send, message",
    [
        (lambda rig, q: rig.forward([np.nan, *q[1:]]), "must be finite"),
        (lambda rig, q: rig.forward(q[:5]), "expected 6 joints"),
        (lambda rig, q: rig.forward(np.add(q, [0, 0, 9, 0, 0, 0])), r"elbow_flex at .* is out of its range"),
        (lambda rig, q: rig.forward(np.add(q, [1.5, 0, 0, 0, 0, 0])), r"shoulder_pan shall move .* too far at 2 rad/s"),
        (lambda rig, q: rig.follow([q - 0.9], [0.01]), r"too far at 2 rad/s"),
        (lambda rig, q: rig.follow([q], [0.1], stamp=-2.0), r"its stamp is 2\.\d+ s in the past"),
        (lambda rig, q: rig.follow([q], [0.1], stamp=3.0), r"in the future, .* do clocks differ"),
        (lambda rig, q: rig.follow([q], [0.1], names="abcdef"), r"it names \['a', .*\], expected \['shoulder_pan'"),
        (lambda rig, q: rig.follow([q[:3]], [0.1]), "each of its points needs 6 positions"),
        (lambda rig, q: rig.follow([], []), "times \\[\\] must be"),
    ],
)  # fmt: skip
def test_a_bad_command_is_refused_in_one_sentence_and_the_arm_holds(rig, emulated, logged, send, message):
    start = truth(emulated)
    rig.follow([start + 0.3], [1.0])
    rig.wait(0.3)
    logged.clear()
    send(rig, start)
    rig.graph.until(lambda: any(level == "ERROR" for level, _ in logged))
    (error,) = [text for level, text in logged if level == "ERROR"]
    assert re.search(message, error) and error.endswith("; the arm holds") and "\n" not in error
    rig.wait(0.05)
    held = rig.goal()
    rig.wait(0.2)
    assert (rig.goal() == held).all() and (held < start + 0.25).all()


def test_when_commands_stop_the_arm_holds_within_the_watchdog(rig, emulated):
    start = truth(emulated)
    for k in range(5):
        rig.follow([start + 0.1 * k], [0.1])
        rig.wait(0.08)
    rig.wait(0.25)
    held = rig.goal()
    rig.wait(0.3)
    assert (rig.goal() == held).all() and registers(emulated, reg.TORQUE_ENABLE) == [1] * 6


def test_an_emergency_stop_holds_until_it_is_released(rig, emulated):
    start = truth(emulated)
    rig.follow([start + 0.5], [1.0])
    rig.wait(0.2)
    assert rig.call("emergency_stop", SetBool.Request(data=True)).success
    rig.wait(0.1)
    held = rig.goal()
    rig.forward(held + 0.1)
    rig.wait(0.3)
    assert (rig.goal() == held).all() and (held < start + 0.4).all()
    assert registers(emulated, reg.TORQUE_ENABLE) == [1] * 6
    assert rig.call("emergency_stop", SetBool.Request(data=False)).message == "follows commands"
    rig.forward(held + 0.1)
    rig.wait(0.3)
    assert truth(emulated) == pytest.approx(held + 0.1, abs=0.01)


def test_an_emergency_stop_that_switches_torque_off(emulated, file, make_graph):
    rig = Rig(
        make_graph(port=emulated.port, calibration=file, emergency_stop="torque_off"), emulated
    ).started()
    rig.call("emergency_stop", SetBool.Request(data=True))
    rig.graph.until(lambda: registers(emulated, reg.TORQUE_ENABLE) == [0] * 6)
    assert not rig.call("torque", SetBool.Request(data=True)).success
    rig.call("emergency_stop", SetBool.Request(data=False))
    rig.graph.until(lambda: registers(emulated, reg.TORQUE_ENABLE) == [1] * 6)


def test_torque_goes_off_and_on_again_where_the_arm_is_then(rig, emulated):
    answer = rig.call("torque", SetBool.Request(data=False))
    assert answer.success and registers(emulated, reg.TORQUE_ENABLE) == [0] * 6
    for servo in emulated.servos.values():
        servo.actual += 100  # somebody moves the arm
    moved = truth(emulated)
    rig.wait(0.1)
    assert list(rig.joints[-1].position) == pytest.approx(moved, abs=1e-9)
    assert rig.call("torque", SetBool.Request(data=True)).success
    rig.wait(0.1)
    assert truth(emulated) == pytest.approx(moved, abs=0.002) and rig.goal() == pytest.approx(
        moved, abs=0.002
    )


def test_unplugged_it_says_so_and_goes_on_when_it_is_plugged_in(rig, emulated, logged):
    emulated.unplug()
    rig.wait(0.6)
    heard = len(rig.joints)
    rig.wait(0.2)
    assert len(rig.joints) == heard
    assert any("servo bus" in text for level, text in logged if level == "ERROR")
    emulated.replug()
    rig.graph.until(lambda: len(rig.joints) > heard + 5 and rig.node.arm.torque_on)
    assert list(rig.joints[-1].position) == pytest.approx(truth(emulated), abs=0.002)


def test_without_all_joints_no_joint_state_is_published(rig, emulated):
    emulated.silent.add(4)
    rig.wait(0.4)
    heard = len(rig.joints)
    rig.wait(0.3)
    assert len(rig.joints) == heard

    def told():
        status = {s.name: s for s in rig.diagnostics[-1].status} if rig.diagnostics else {}
        servo = status.get("driver: wrist_flex")
        return servo and servo.level == DiagnosticStatus.ERROR and "did not answer" in servo.message

    rig.graph.until(told)
    emulated.silent.clear()
    rig.graph.until(lambda: len(rig.joints) > heard)


def test_diagnostics_say_how_every_servo_is(rig, emulated):
    emulated.servos[2].set(reg.PRESENT_TEMPERATURE, 58)
    rig.graph.until(lambda: rig.diagnostics and len(rig.diagnostics[-1].status) == 7 and any(
        s.level == DiagnosticStatus.WARN for s in rig.diagnostics[-1].status))  # fmt: skip
    status = {s.name: s for s in rig.diagnostics[-1].status}
    values = {v.key: v.value for v in status["driver: shoulder_lift"].values}
    assert values["temperature"] == "58" and values["voltage"] == "7.4"
    assert "shoulder_lift is warm (58 °C), the arm goes slowly" in status["driver: shoulder_lift"].message
    bus = {v.key: v.value for v in status["driver: bus"].values}
    assert float(bus["loop_rate"]) > 20 and status["driver: gripper"].message == "fine"
    emulated.servos[2].set(reg.PRESENT_TEMPERATURE, 70)
    rig.graph.until(lambda: registers(emulated, reg.TORQUE_ENABLE) == [0] * 6)
    answer = rig.call("torque", SetBool.Request(data=True))
    assert not answer.success and "shoulder_lift is too hot (70 °C)" in answer.message


def test_an_overloaded_arm_stops_pushing_and_then_goes_limp(rig, emulated):
    start = truth(emulated)
    emulated.servos[3].speed = 0.0  # it is stuck
    rig.follow([np.add(start, [0, 0, 0.5, 0, 0, 0])], [0.5])
    rig.wait(0.4)
    emulated.servos[3].faults = reg.OVERLOAD
    rig.wait(0.3)
    assert rig.goal()[2] == pytest.approx(start[2], abs=0.01)
    rig.graph.until(lambda: registers(emulated, reg.TORQUE_ENABLE) == [0] * 6)


@pytest.mark.parametrize("on_stop, left", [("release", [0] * 6), ("hold", [1] * 6)])
def test_lifecycle(emulated, file, make_graph, on_stop, left):
    rig = Rig(make_graph(port=emulated.port, calibration=file, autostart=False, on_stop=on_stop, release_time=0.1),
              emulated)  # fmt: skip
    rig.wait(0.5)
    assert rig.lifecycle == "unconfigured" and not rig.joints
    assert not rig.call("torque", SetBool.Request(data=True)).success
    assert not rig.transition(Transition.TRANSITION_ACTIVATE)  # not from here; the node lives on
    assert rig.transition(Transition.TRANSITION_CONFIGURE) and rig.lifecycle == "inactive"
    assert registers(emulated, reg.TORQUE_ENABLE) == [0] * 6
    assert not rig.transition(Transition.TRANSITION_CONFIGURE)
    assert rig.transition(Transition.TRANSITION_ACTIVATE)
    rig.started()
    assert rig.transition(Transition.TRANSITION_DEACTIVATE) and rig.lifecycle == "inactive"
    assert registers(emulated, reg.TORQUE_ENABLE) == left
    rig.wait(0.1)
    heard = len(rig.joints)
    rig.forward(truth(emulated))
    rig.wait(0.2)
    assert len(rig.joints) == heard
    assert rig.transition(Transition.TRANSITION_ACTIVATE)
    rig.graph.until(lambda: len(rig.joints) > heard)
    assert rig.transition(Transition.TRANSITION_DEACTIVATE) and rig.transition(Transition.TRANSITION_CLEANUP)
    Bus(emulated.port, IDS).close()  # the port is free


def test_it_waits_for_its_arm_and_refuses_another(emulated, file, make_graph, logged):
    offset = emulated.servos[5].get(reg.HOMING_OFFSET)
    emulated.servos[5].set(reg.HOMING_OFFSET, 7)
    rig = Rig(make_graph(port=emulated.port, calibration=file), emulated)
    rig.graph.until(lambda: any("another arm?" in text for level, text in logged if level == "ERROR"))
    assert registers(emulated, reg.TORQUE_ENABLE) == [0] * 6 and not rig.joints
    emulated.servos[5].set(reg.HOMING_OFFSET, offset)
    rig.started()


def test_it_writes_the_calibration_where_it_is_told_to(emulated, file, make_graph):
    for servo in emulated.servos.values():
        servo.set(reg.HOMING_OFFSET, 0)
    Rig(make_graph(port=emulated.port, calibration=file, write_calibration=True), emulated).started()
    assert registers(emulated, reg.HOMING_OFFSET) == [j.homing_offset for j in CALIBRATION.joints.values()]


def test_a_lab_has_its_own_names(emulated, file, make_graph):
    names = ["1", "2", "3", "4", "5", "6"]
    graph = make_graph(
        port=emulated.port,
        calibration=file,
        joint_names="['1', '2', '3', '4', '5', '6']",
        commands_topic="targets",
    )
    rig = Rig(graph, emulated, names, "targets").started()
    assert list(rig.joints[-1].name) == names
    target = truth(emulated) + 0.1
    rig.forward(target)
    rig.wait(0.3)
    rig.follow([target + 0.1], [0.1])
    rig.wait(0.3)
    assert truth(emulated) == pytest.approx(target + 0.1, abs=0.01)


def errors(logged):
    return [text for level, text in logged if level == "ERROR"]


def test_a_port_that_is_not_there_is_said_at_once_and_once(emulated, file, make_graph, logged):
    emulated.unplug()
    rig = Rig(make_graph(port=emulated.port, calibration=file), emulated)
    rig.graph.until(lambda: errors(logged))
    rig.wait(2.5)  # it has tried again
    (error,) = errors(logged)
    assert error.startswith(f"arm: cannot open the servo bus {emulated.port}: ")
    emulated.replug()
    rig.started()
    assert len(errors(logged)) == 1


def test_an_arm_that_is_started_together_with_the_driver_is_waited_for_quietly(
    emulated, file, make_graph, logged
):
    calibration = open(file).read()  # noqa: SIM115
    os.remove(file)
    emulated.unplug()
    rig = Rig(make_graph(port=emulated.port, calibration=file, patience=30.0), emulated)
    rig.wait(0.5)
    emulated.replug()  # the port is there before the calibration
    rig.wait(0.5)
    with open(file, "w") as out:
        out.write(calibration)
    rig.started()
    assert not errors(logged)


def test_patience_ends(emulated, file, make_graph, logged):
    emulated.unplug()
    rig = Rig(make_graph(port=emulated.port, calibration=file, patience=0.5), emulated)
    rig.graph.until(lambda: errors(logged))
    assert len(errors(logged)) == 1 and "cannot open the servo bus" in errors(logged)[0]


@pytest.mark.parametrize(
    "calibration, message",
    [
        ("/nowhere/arm.json", "cannot read the calibration /nowhere/arm.json"),
        ("nobodys_arm", "no calibration of the follower 'nobodys_arm'; looked for /"),
    ],
)
def test_a_calibration_that_is_not_there_is_one_sentence(emulated, make_graph, logged, calibration, message):
    rig = Rig(make_graph(port=emulated.port, calibration=calibration), emulated)
    rig.graph.until(lambda: errors(logged))
    assert (
        errors(logged)[0].startswith(f"arm: {message}") and registers(emulated, reg.TORQUE_ENABLE) == [0] * 6
    )


def test_wrong_joint_names_are_one_sentence(emulated, file, make_graph):
    make_graph(port=emulated.port, calibration=file, joint_names="[a, b]")
    with pytest.raises(
        UserError, match=r"parameter 'joint_names' is \['a', 'b'\], expected 6 different names"
    ):
        DriverNode()


class Process:
    """The driver as a process of its own."""

    def __init__(self, emulated, file, code="from so101_driver.driver_node import main; main()"):
        args = [
            "--ros-args",
            "-p",
            f"port:={emulated.port}",
            "-p",
            f"calibration:={file}",
            "-p",
            "release_time:=0.2",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *args], stderr=subprocess.PIPE, text=True
        )

    def end(self, number=None, timeout=15):
        if number is not None:
            os.kill(self.process.pid, number)
        _, text = self.process.communicate(timeout=timeout)
        return self.process.returncode, text


def until(condition, timeout=15.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def torque(emulated, value):
    return registers(emulated, reg.TORQUE_ENABLE) == [value] * 6


@pytest.mark.parametrize(
    "number, left",
    [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, 1)],
    ids=["TERM", "INT", "KILL"],
)
def test_what_a_driver_that_ends_leaves_behind(emulated, file, number, left):
    driver = Process(emulated, file)
    until(lambda: torque(emulated, 1))
    code, _ = driver.end(number)
    assert code == (0 if left == 0 else -signal.SIGKILL)
    assert torque(emulated, left)  # servos hold their last goal when nobody can tell them


@pytest.mark.parametrize("where", ["DriverNode.cycle", "DriverNode.diagnose"])
def test_torque_is_never_left_on_by_an_exception(emulated, file, where):
    code = (
        "import so101_driver.driver_node as d, time\n"
        "good = d." + where + "\n"
        "start = time.monotonic()\n"
        "def bad(self):\n"
        "    if time.monotonic() > start + 4: raise RuntimeError('a bug')\n"
        "    good(self)\n"
        f"d.{where} = bad\n"
        "d.main()"
    )
    driver = Process(emulated, file, code)
    until(lambda: torque(emulated, 1))
    code, text = driver.end()
    assert code != 0 and "RuntimeError: a bug" in text
    assert torque(emulated, 0)
