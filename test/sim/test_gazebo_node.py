"""The node between Gazebo and the graph; Gazebo, its bridge and its command line tool are played here."""

import dataclasses
import os
import re
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from hilrl_msgs.srv import Reset
from loop_messages import CONFIG, CONTRACT, HOME, MS, ROBOT, TASK, joint_state
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from hilrl_cli import launch_file
from hilrl_cli.errors import LaunchError
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import nanoseconds, to_time
from hilrl_ros.node import UserError
from hilrl_sim.gazebo.gazebo_node import GazeboNode
from hilrl_sim.gazebo.release import RELEASES
from hilrl_sim.gazebo.table import NEAR, PATIENCE, Placing, Table
from hilrl_sim.objects import draw_places
from hilrl_sim.simulation import Simulation

DRAWER = CONFIG / "tasks/open_drawer.yaml"
START = 7_000 * MS
TARGET = HOME + np.array([0.1, 0.0, 0.0, 0.0, 0.0, -0.1])


class Gazebo:
    """Servos that are at once where they are told to be, a cabinet, and a drawer that goes where it is pushed."""

    def __init__(self, graph, tool=None):
        self.graph, self.tool = graph, tool
        self.node = graph.add(GazeboNode())
        self.now, self.position, self.opening = START, HOME.copy(), 0.05
        self.cabinet = np.array([0.2, -0.1, 0.0]), 0.0
        self.follows = True
        self.joints = graph.publisher(JointState, "joint_states", qos.STEP)
        self.pose = graph.publisher(PoseStamped, "gazebo/cabinet/pose", qos.STEP)
        self.slide = graph.publisher(JointState, "gazebo/cabinet/joint_states", qos.STEP)
        self.trajectories = graph.publisher(
            JointTrajectory, "trajectory_controller/joint_trajectory", qos.STEP
        )
        self.vectors = graph.publisher(Float64MultiArray, "forward_controller/commands", qos.STEP)
        self.targets = {
            joint: graph.listen(Float64, f"gazebo/{joint}/target", qos.STEP) for joint in CONTRACT.joints
        }
        self.forces = graph.listen(Float64, "gazebo/drawer/force", qos.STEP)
        self.clock = graph.listen(Clock, "/clock", qos.STEP)
        self.drawers = graph.listen(PoseStamped, "drawer/pose", qos.STEP)
        self.cabinets = graph.listen(PoseStamped, "cabinet/pose", qos.STEP)
        self.openings = graph.listen(JointState, "drawer/joint_states", qos.STEP)
        self.client = graph.probe.create_client(Reset, "reset_scene")
        graph.connect()
        graph.until(self.client.service_is_ready)

    def sent(self, joint="shoulder_pan"):
        return [msg.data for msg in self.targets[joint]]

    def step(self, count=1, ms=10):
        """Simulated time goes on; wait until the node has heard it."""
        for _ in range(count):
            self.now += ms * MS
            for i, name in enumerate(CONTRACT.joints):
                self.position[i] = self.sent(name)[-1] if self.targets[name] else self.position[i]
            self.joints.publish(joint_state(self.now, self.position))
            self.graph.until(lambda: self.clock and nanoseconds(self.clock[-1].clock) == self.now)
            self.show()

    def show(self):
        (x, y, z), yaw = self.cabinet
        msg = PoseStamped()
        msg.header.stamp, msg.header.frame_id = to_time(self.now), "hilrl"
        msg.pose.position.x, msg.pose.position.y, msg.pose.position.z = float(x), float(y), float(z)
        msg.pose.orientation.z, msg.pose.orientation.w = float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
        self.pose.publish(msg)
        if self.forces and self.follows:
            self.opening = max(0.0, self.opening + 0.02 * np.sign(self.forces[-1].data))
        slide = JointState(name=["drawer"], position=[self.opening], velocity=[0.0], effort=[0.0])
        slide.header.stamp = to_time(self.now)
        self.slide.publish(slide)

    def trajectory(self, positions, ahead_ms=100, age_ms=0, names=CONTRACT.joints):
        point = JointTrajectoryPoint(positions=[float(v) for v in positions])
        point.time_from_start.nanosec = ahead_ms * MS
        msg = JointTrajectory(joint_names=list(names), points=[point])
        msg.header.stamp = to_time(self.now - age_ms * MS)
        before = self.node.guard._plan
        self.trajectories.publish(msg)
        return before

    def ask(self, seed=5):
        return self.client.call_async(Reset.Request(episode=1, seed=seed))

    def carry_out(self):
        """Do what the command line tool was told last: set the cabinet's pose."""
        number = r"(-?[\d.]+)"
        found = re.search(
            rf'name: "cabinet" position {{ x: {number} y: {number} z: {number} }} orientation {{ z: {number}',
            self.tool.read_text(),
        )
        x, y, z, turn = map(float, found.groups())
        self.cabinet = np.array([x, y, z]), 2 * np.arcsin(turn)


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A command line tool that notes what it is told and says that all went well; the file of its notes."""

    def make(answer="data: true", code=0):
        folder, notes = tmp_path / "bin", tmp_path / "notes"
        folder.mkdir()
        (folder / "gz").write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$*" >> {notes}\necho "{answer}"\nexit {code}\n'
        )
        (folder / "gz").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return notes

    return make


def graph_of(make_graph, task=DRAWER):
    return make_graph(robot=ROBOT, task=task)


# --- the arm ---


def test_the_arm_holds_where_it_is_until_it_is_told_something(make_graph):
    gazebo = Gazebo(graph_of(make_graph))
    gazebo.step(3)
    assert set(gazebo.sent()) == {HOME[0]} and set(gazebo.sent("gripper")) == {HOME[-1]}
    assert [nanoseconds(m.clock) for m in gazebo.clock] == [START + k * 10 * MS for k in (1, 2, 3)]


def test_a_target_is_reached_in_a_straight_line_over_its_time_and_held_when_commands_stop(make_graph):
    gazebo = Gazebo(graph_of(make_graph))
    gazebo.step()
    gazebo.trajectory(TARGET)
    gazebo.graph.until(lambda: gazebo.node.guard._plan is not None)
    gazebo.step(5)
    assert gazebo.sent()[-1] == pytest.approx(HOME[0] + 0.05) and gazebo.sent("gripper")[-1] == pytest.approx(
        HOME[-1] - 0.05
    )
    gazebo.step(60)
    assert gazebo.sent()[-1] == pytest.approx(TARGET[0])


def test_what_must_not_be_carried_out_is_refused_in_words_and_the_arm_holds(make_graph, logged):
    gazebo = Gazebo(graph_of(make_graph))
    gazebo.step()

    def said(text):
        gazebo.graph.until(lambda: any(re.search(text, line) for level, line in logged if level == "ERROR"))

    gazebo.trajectory(HOME * np.nan)
    said("command refused: targets must be finite, .*; the arm holds")
    gazebo.trajectory(TARGET, age_ms=900)
    said(r"trajectory refused: its stamp is 0\.90 s in the past, expected at most 0\.5 s")
    gazebo.trajectory(TARGET, names="abcdef")
    said(r"trajectory refused: it names \['a', 'b', .* expected \['shoulder_pan'")
    gazebo.trajectory([HOME[0] + 1.0, *HOME[1:]])
    said(r"command refused: shoulder_pan shall move 1\.000 rad by 0\.10 s, too far at 2 rad/s")
    gazebo.vectors.publish(Float64MultiArray(data=[9.0] * 6))
    said(r"command refused: .* at 9\.000 rad is out of its range")
    gazebo.step(5)
    assert set(gazebo.sent()) == {HOME[0]}


def test_a_vector_of_targets_is_taken_too_as_fast_as_the_arm_may_go(make_graph):
    gazebo = Gazebo(graph_of(make_graph))
    gazebo.step()
    gazebo.vectors.publish(Float64MultiArray(data=TARGET.tolist()))
    gazebo.graph.until(lambda: gazebo.node.guard._plan is not None)
    gazebo.step(2)
    assert gazebo.sent()[-1] == pytest.approx(HOME[0] + 0.04)  # 2 rad/s


def test_joint_states_of_every_step_wake_the_graph_no_more_than_a_hundred_times_a_second(make_graph):
    gazebo = Gazebo(graph_of(make_graph))
    for k in range(1, 26):
        gazebo.joints.publish(joint_state(START + k * 2 * MS, HOME))
    gazebo.graph.until(lambda: gazebo.clock and nanoseconds(gazebo.clock[-1].clock) >= START + 42 * MS)
    stamps = np.array([nanoseconds(m.clock) for m in gazebo.clock])
    assert len(stamps) <= 6 and np.diff(stamps).min() >= 10 * MS


def test_a_gazebo_that_was_started_anew_is_taken_over_where_its_arm_is(make_graph, logged):
    gazebo = Gazebo(graph_of(make_graph))
    gazebo.step(2)
    gazebo.now, gazebo.position = 0, np.zeros(6)
    for heard in gazebo.targets.values():
        heard.clear()
    gazebo.step()
    assert gazebo.sent() == [0.0]
    assert ("WARN", "Gazebo's time went back: it was started anew, and the arm holds where it is") in [
        (level[:4], text) for level, text in logged
    ]


def test_a_gazebo_that_is_silent_is_an_error_that_says_what_to_look_at(make_graph, logged, monkeypatch):
    monkeypatch.setattr("hilrl_sim.gazebo.gazebo_node._SILENT_S", 0.1)
    graph = graph_of(make_graph)
    heard = graph.listen(DiagnosticArray, "/diagnostics", qos.STEP)
    gazebo = Gazebo(graph)
    graph.until(lambda: heard)  # it may start yet
    assert heard[-1].status[0].level == DiagnosticStatus.WARN and not [
        said for said in logged if said[0] == "ERROR"
    ]
    monkeypatch.setattr("hilrl_sim.gazebo.gazebo_node._STARTING_S", 0.1)
    graph.until(lambda: heard[-1].status[0].level == DiagnosticStatus.ERROR)
    assert ("ERROR", "no joint_states from Gazebo: do its server and ros_gz_bridge run?") in logged
    gazebo.step()
    assert ("INFO", "Gazebo is back") in logged


def test_a_reset_does_not_wait_for_a_gazebo_that_is_gone(make_graph, tool, monkeypatch):
    gazebo = Gazebo(graph_of(make_graph), tool())
    gazebo.step(2)
    gazebo.graph.until(lambda: not gazebo.node.table.unknown)
    monkeypatch.setattr("hilrl_sim.gazebo.gazebo_node._SILENT_S", 0.1)
    answer = gazebo.ask()
    gazebo.graph.until(answer.done)
    assert answer.result().message == "no joint_states from Gazebo: do its server and ros_gz_bridge run?"


# --- the table ---


def test_poses_come_in_the_base_frame_and_a_drawers_follows_its_cabinet_and_its_opening(make_graph):
    gazebo = Gazebo(graph_of(make_graph))
    gazebo.cabinet = np.array([0.2, -0.1, 0.0]), np.pi / 2
    gazebo.step(2)
    gazebo.graph.until(lambda: gazebo.drawers and gazebo.openings)
    pose = gazebo.drawers[-1]
    assert pose.header.frame_id == "base_link" and nanoseconds(pose.header.stamp) == gazebo.now
    at = pose.pose.position
    assert [at.x, at.y, at.z] == pytest.approx(
        [0.2 - 0.022 - 0.05, -0.1, 0.03]
    )  # it opens along y, turned to -x
    assert pose.pose.orientation.z == pytest.approx(np.sin(np.pi / 4))
    assert gazebo.cabinets[-1].pose.position.x == pytest.approx(0.2)
    assert list(gazebo.openings[-1].name) == ["drawer"] and gazebo.openings[-1].position[0] == 0.05


def test_a_reset_places_the_cabinet_closes_the_drawer_and_answers_then(make_graph, tool):
    gazebo = Gazebo(graph_of(make_graph), tool())
    gazebo.step(2)
    gazebo.graph.until(lambda: not gazebo.node.table.unknown)
    answer = gazebo.ask(seed=5)
    gazebo.graph.until(gazebo.tool.exists)
    gazebo.carry_out()
    while not answer.done():
        gazebo.step()
        gazebo.graph.executor.spin_once(timeout_sec=0.02)
    assert answer.result().success and nanoseconds(answer.result().stamp) <= gazebo.now
    said = gazebo.tool.read_text()
    assert said.startswith(
        "service -s /world/hilrl/set_pose_vector --reqtype gz.msgs.Pose_V --reptype gz.msgs.Boolean"
    )
    _, task = load_contract(ROBOT, DRAWER)
    place, yaw = draw_places(task, np.random.default_rng(5))["cabinet"]
    assert gazebo.cabinet[0] == pytest.approx(place, abs=1e-5) and gazebo.cabinet[1] == pytest.approx(
        yaw, abs=1e-5
    )
    assert min(m.data for m in gazebo.forces) == pytest.approx(-(0.08 * 20 + 1.5 * 0.4))
    assert gazebo.opening == 0.0
    gazebo.graph.until(lambda: gazebo.forces[-1].data == 0.0)  # nobody holds it shut


def test_objects_that_stay_elsewhere_are_named(make_graph, tool, monkeypatch):
    monkeypatch.setattr("hilrl_sim.gazebo.table.PATIENCE", 5)
    gazebo = Gazebo(graph_of(make_graph), tool())
    gazebo.follows = False
    gazebo.step(2)
    gazebo.graph.until(lambda: not gazebo.node.table.unknown)
    answer = gazebo.ask()
    gazebo.graph.until(answer.done)
    assert not answer.result().success
    assert re.search(
        r"did not come to rest in their places: cabinet is 0\.\d+ m from where it was put; drawer is open by 0\.050 m",
        answer.result().message,
    )


def test_why_a_reset_cannot_be_is_the_answer(make_graph, tool, monkeypatch, tmp_path):
    gazebo = Gazebo(graph_of(make_graph))
    answer = gazebo.ask()
    gazebo.graph.until(answer.done)
    assert answer.result().message == (
        "nothing is heard of cabinet, drawer in Gazebo: do its server and ros_gz_bridge run?"
    )
    gazebo.step(2)
    gazebo.graph.until(lambda: not gazebo.node.table.unknown)
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = gazebo.ask()
    gazebo.graph.until(answer.done)
    assert (
        "'gz' of Gazebo cannot run (No such file or directory): source its installation"
        in answer.result().message
    )
    tool("Service call timed out", 0)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    answer = gazebo.ask()
    gazebo.graph.until(answer.done)
    assert answer.result().message == "Gazebo did not set the objects' poses: Service call timed out"


def test_a_reset_that_nobody_waits_for_any_more_gives_way_to_the_next(make_graph, tool):
    gazebo = Gazebo(graph_of(make_graph), tool())
    gazebo.step(2)
    gazebo.graph.until(lambda: not gazebo.node.table.unknown)
    first = gazebo.ask()
    gazebo.graph.until(gazebo.tool.exists)
    gazebo.ask()
    gazebo.graph.until(first.done)
    assert first.result().message == "episode 1 was asked for meanwhile"


def test_a_task_that_begins_with_a_thing_in_the_jaws_is_refused(make_graph):
    make_graph(robot=ROBOT, task=CONFIG / "tasks/insert_peg.yaml")
    with pytest.raises(
        (UserError, ValueError), match=r"peg\.held: Gazebo cannot begin with a thing in the jaws"
    ):
        GazeboNode()


# --- without ROS ---


def door():
    """A hinged door in a frame that stands askew, as a table and in MuJoCo."""
    frame = {
        "shape": "box", "size": [0.03, 0.03, 0.03], "fixed": True,
        "spawn": {"x": [0.2, 0.2], "y": [0.05, 0.05], "z": [0.1, 0.1], "yaw": [0.7, 0.7]},
    }  # fmt: skip
    leaf = {
        "part_of": "frame", "position": [0.0, 0.01, 0.02], "mass": 0.02,
        "joint": {"type": "hinge", "axis": [0, 0, 2], "range": [-1.0, 1.0]},
        "parts": [{"shape": "box", "size": [0.06, 0.004, 0.04], "position": [0.03, 0.0, 0.0]}],
    }  # fmt: skip
    knob = {"part_of": "leaf", "position": [0.05, 0.01, 0.0], "shape": "sphere", "size": [0.005]}
    task = dataclasses.replace(TASK, scene={"objects": {"frame": frame, "leaf": leaf, "knob": knob}})
    return Table(task), Simulation(CONTRACT, task)


def test_parts_of_parts_are_where_mujoco_has_them():
    table, sim = door()
    sim.data.joint("leaf").qpos[0] = 0.6
    mujoco.mj_kinematics(sim.model, sim.data)
    expected = sim.object_poses()
    assert table.unknown == ["frame", "leaf"]
    table.saw("frame", *expected["frame"])
    assert list(table.poses("frame")) == ["frame"]
    table.joints["leaf"] = 0.6, 0.0
    seen = table.poses("frame")
    assert table.unknown == [] and set(seen) == set(expected)
    for name, (position, quaternion) in expected.items():
        assert np.allclose(seen[name][0], position, atol=1e-6)
        assert abs(seen[name][1] @ quaternion) == pytest.approx(1.0)


def test_a_door_is_pushed_from_either_side_and_all_must_be_still_before_it_counts():
    table, _ = door()
    table.saw("frame", [0.2, 0.05, 0.1], [0, 0, np.sin(0.35), np.cos(0.35)])
    placing = Placing(table, seed=0)
    for opening, sign in ((0.5, -1), (-0.5, 1)):
        table.joints["leaf"] = opening, 0.0
        assert np.sign(placing.look()["leaf"]) == sign
    table.joints["leaf"] = 0.0, 0.0
    looks = 0
    while not placing.done:
        looks += placing.look()["leaf"] == 0.0
    assert looks == 4 and placing.problem == ""


def test_patience_ends():
    table, _ = door()
    table.saw("frame", [0.2, 0.05 + 2 * NEAR, 0.1], [0, 0, 0, 1])
    table.joints["leaf"] = 0.0, 0.0
    placing = Placing(table, seed=0)
    for _ in range(PATIENCE):
        assert not placing.done
        placing.look()
    assert placing.done and "frame is 0.010 m from where it was put" in placing.problem


def test_fortress_has_its_own_tool_and_message_names():
    table, _ = door()
    command = Placing(table, seed=0).command(RELEASES["fortress"])
    assert command[0] == "ign" and "ignition.msgs.Pose_V" in command


# --- launch ---


def processes(name, folder, **arguments):
    return {p.name: p for p in launch_file.load(launch_file.find(name), arguments, folder / "parameters")}


def parameters(process):
    """All parameters of a process's parameter files by name."""
    found = {}
    for word in process.argv:
        if word.endswith(".yaml"):
            for node in yaml.safe_load(Path(word).read_text()).values():
                found |= node["ros__parameters"]
    return found


@pytest.fixture
def launched(pretend, tmp_path, monkeypatch):
    pretend("ros_gz_bridge", "parameter_bridge")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ROS_DOMAIN_ID", "61")
    for name in ("GZ_IP", "GZ_PARTITION"):
        monkeypatch.delenv(name, raising=False)

    def launch(name, **arguments):
        return processes(name, tmp_path, **arguments)

    return launch


def test_the_same_graph_starts_on_gazebo(launched, tmp_path):
    started = launched("sim_gazebo", task="open_drawer", namespace="follower")
    others = launched("real_so101", task="open_drawer", port="emulated", operator="scripted")
    arm = {"driver", "emulated_arm"}
    assert set(started) - {"gazebo_server", "gazebo_bridge", "gazebo"} == set(others) - arm
    server, bridge = started["gazebo_server"], started["gazebo_bridge"]
    assert server.argv[:5] == ("gz", "sim", "-s", "-r", "--headless-rendering") and server.shutdown_on_exit
    folder = os.path.dirname(server.argv[5])
    assert os.path.isfile(server.argv[5]) and folder.startswith(
        f"{tmp_path}/cache/hilrl/gazebo/so101_open_drawer"
    )
    assert parameters(bridge)["config_file"] == f"{folder}/bridge.yaml"
    assert server.env["GZ_PARTITION"] == "hilrl_61" and server.env["GZ_IP"] == "127.0.0.1"
    ours = [p for name, p in started.items() if name not in ("gazebo_server", "learner")]
    for process in ours:
        assert "use_sim_time:=True" in process.argv and "__ns:=/follower" in process.argv
    assert parameters(started["reset"])["start"] == "scene"


def test_sim_gazebo_is_an_argument_of_the_simulation_and_a_port_of_all_else(launched, pretend):
    pretend("hilrl_sim", "gazebo", "gazebo_files", "operator", "simulator")  # no world is looked at here
    wanted = {"gazebo_server", "gazebo_bridge", "gazebo", "reset"}
    for name, arguments in (
        ("sim", {"sim": "gazebo"}), ("teleop", {"port": "gazebo", "operator": "scripted"}),
        ("record_demos", {"port": "gazebo"}), ("eval", {"port": "gazebo", "policy": "x"}),
    ):  # fmt: skip
        started = set(launched(name, task="reach", **arguments))
        assert wanted <= started and not {"simulator", "driver", "emulated_arm"} & started, name
    assert not wanted & set(launched("sim", task="reach"))
    fortress = launched("sim", sim="gazebo", gazebo="fortress", task="reach")["gazebo_server"]
    assert fortress.argv[:3] == ("ign", "gazebo", "-s")


def test_without_the_bridge_the_launch_says_what_is_missing(tmp_path, pretend):
    pretend("hilrl_sim", "gazebo", "gazebo_files", "operator")
    try:
        processes("sim_gazebo", tmp_path, task="reach")
    except LaunchError as error:
        assert "package 'ros_gz_bridge' is not installed" in str(error)
    else:
        pytest.skip("ros_gz_bridge is installed here")


def test_a_task_that_gazebo_cannot_have_stops_the_launch_with_its_sentence(launched):
    with pytest.raises(
        LaunchError, match="Gazebo cannot begin with a thing in the jaws; run this task in MuJoCo"
    ):
        launched("sim_gazebo", task="insert_peg")
