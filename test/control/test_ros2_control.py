"""The loop in front of ros2_control: its controllers are played here by nodes with the documented interfaces."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from hilrl_msgs.msg import Action, ResetStatus
from hilrl_msgs.srv import Reset
from loop_messages import CONFIG, CONTRACT, HOME, PERIOD, ROBOT, TASK_FILE, action
from rclpy.node import Node
from rclpy.qos import QoSPresetProfiles
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from hilrl_cli import launch_file
from hilrl_control.arm_controller_node import ArmControllerNode
from hilrl_control.reset_node import ResetNode
from hilrl_ros import qos
from hilrl_ros.kinematics import Kinematics, urdf_text
from hilrl_ros.messages import nanoseconds, seconds, to_time
from so101_description import urdf

CONTROLLERS = CONFIG / "ros2_control" / "so101_controllers.yaml"
KINDS = ("joint_trajectory_controller", "forward_command_controller")
SYSTEM_DEFAULTS = QoSPresetProfiles.SYSTEM_DEFAULT.value  # what both controllers subscribe with


def configured(name, namespace=""):
    """A node with the parameters that ROS 2 itself reads for it from the controllers' file."""
    return rclpy.create_node(
        name,
        namespace=namespace,
        use_global_arguments=False,
        cli_args=["--ros-args", "--params-file", str(CONTROLLERS)],
        automatically_declare_parameters_from_overrides=True,
    )


def value(node, name):
    found = node.get_parameter(name).value
    return list(found) if isinstance(found, list | tuple) else found


class Hardware:
    """Servos that are at once where they are told to be, and the broadcaster, which orders joints by name."""

    def __init__(self, graph, positions):
        self.joints = dict(zip(CONTRACT.joints, positions, strict=True))
        self.publisher = graph.publisher(JointState, "joint_states", SYSTEM_DEFAULTS)
        self.commands = 0

    def write(self, names, positions):
        assert set(names) == set(self.joints)
        self.joints.update(zip(names, positions, strict=True))
        self.commands += 1

    def read(self, stamp_ns):
        names = sorted(self.joints)
        msg = JointState(name=names, position=[self.joints[n] for n in names], velocity=[0.0] * len(names))
        msg.header.stamp = to_time(stamp_ns)
        self.publisher.publish(msg)

    @property
    def positions(self):
        return np.array([self.joints[name] for name in CONTRACT.joints])


class JointTrajectoryController:
    """Accepts what joint_trajectory_controller accepts: all its joints, an end that is not in the past."""

    def __init__(self, node: Node, hardware, topic="~/joint_trajectory"):
        self.joints, self.hardware, self.clock = value(node, "joints"), hardware, node.get_clock()
        self.seen: list[JointTrajectory] = []
        node.create_subscription(JointTrajectory, topic, self.on_trajectory, SYSTEM_DEFAULTS)

    def on_trajectory(self, msg):
        assert set(msg.joint_names) == set(self.joints)
        after = [seconds(point.time_from_start) for point in msg.points]
        assert after == sorted(after) and after[0] > 0
        assert all(len(p.positions) == len(self.joints) and not p.velocities for p in msg.points)
        start = nanoseconds(msg.header.stamp)
        assert not start or start + after[-1] * 1e9 >= self.clock.now().nanoseconds, "ends in the past"
        self.seen.append(msg)
        self.hardware.write(msg.joint_names, msg.points[-1].positions)


class ForwardCommandController:
    """Accepts what forward_command_controller accepts: a number for each of its joints, in their order."""

    def __init__(self, node: Node, hardware, topic="~/commands"):
        self.joints, self.hardware = value(node, "joints"), hardware
        assert value(node, "interface_name") == "position"
        node.create_subscription(Float64MultiArray, topic, self.on_commands, SYSTEM_DEFAULTS)

    def on_commands(self, msg):
        assert len(msg.data) == len(self.joints) and np.isfinite(msg.data).all()
        self.hardware.write(self.joints, msg.data)


PLAYED = dict(zip(KINDS, (JointTrajectoryController, ForwardCommandController), strict=True))


class Rig:
    """One node of the loop in front of a controller."""

    def __init__(self, graph, kind, node, positions=HOME, **topic):
        self.graph = graph
        self.hardware = Hardware(graph, positions)
        self.controller = PLAYED[kind](graph.add(configured(kind)), self.hardware, **topic)
        self.node = graph.add(node())
        graph.until(lambda: self.node.targets.get_subscription_count())


@pytest.fixture
def make_rig(make_graph):
    def make(kind, node, **settings):
        topic = settings.pop("topic", None)
        if topic:
            settings["command_topic"] = topic
        graph = make_graph(robot=ROBOT, task=TASK_FILE, command_interface=kind, **settings)
        return Rig(graph, kind, node, **({"topic": topic} if topic else {}))

    return make


@pytest.mark.parametrize(
    ("kind", "topic"), [*((kind, None) for kind in KINDS), (KINDS[0], "lab/arm/joint_trajectory")]
)
def test_the_arm_moves_through_the_controller_as_far_as_is_reported(make_rig, kind, topic):
    rig = make_rig(kind, ArmControllerNode, topic=topic)
    graph, hardware = rig.graph, rig.hardware
    executed = graph.listen(Action, "executed_action", qos.STEP)
    commands = graph.publisher(Action, "command", qos.STEP)
    graph.connect()
    forward = Kinematics(CONTRACT).forward
    for step in range(4):
        hardware.read(step * PERIOD)
        commands.publish(action(1, step, [0.0, 1.0, 0.0, -0.5]))
        graph.until(lambda so_far=step + 1: len(executed) == hardware.commands == so_far)
    moved = forward(hardware.positions)[0] - forward(HOME)[0]
    share = np.sum([e.action for e in executed], axis=0)
    assert moved == pytest.approx(share[:3] * CONTRACT.action.scale[:3], abs=2e-3) and moved[1] > 0.05
    assert hardware.joints["gripper"] - HOME[5] == pytest.approx(share[3] * CONTRACT.action.scale[3])
    if kind == "joint_trajectory_controller":
        # simulated stamps would lie in the past: it starts at once, and takes one control period
        assert {seconds(m.points[0].time_from_start) for m in rig.controller.seen} == {CONTRACT.period}
        assert {nanoseconds(m.header.stamp) for m in rig.controller.seen} == {0}


@pytest.mark.parametrize("kind", KINDS)
def test_the_reset_leads_the_arm_home_through_the_controller(make_rig, kind):
    rig = make_rig(kind, ResetNode, start="timer", wait=0.0, speed=3.0)
    graph, hardware = rig.graph, rig.hardware
    away = np.add(HOME, [0.3, 0.0, 0.1, 0.0, 0.0, 0.0])
    hardware.joints.update(zip(CONTRACT.joints, away, strict=True))
    heard = graph.listen(ResetStatus, "reset_status", qos.LATCHED)
    client = graph.probe.create_client(Reset, "reset_episode")
    graph.until(hardware.publisher.get_subscription_count)
    graph.probe.create_timer(0.02, lambda: hardware.read(1))
    graph.until(client.service_is_ready)
    answer = client.call_async(Reset.Request(episode=1, seed=3))
    graph.until(answer.done)
    assert answer.result().success and heard
    assert hardware.positions[:5] == pytest.approx(rig.node.path.end[:5], abs=0.11) and hardware.commands > 1


@pytest.mark.parametrize("namespace", ["", "follower", "lab/left"])
def test_the_controllers_find_their_parameters_in_any_namespace(make_graph, namespace):
    graph = make_graph()
    manager = graph.add(configured("controller_manager", namespace))
    for name in ("joint_state_broadcaster", *KINDS):
        assert value(manager, f"{name}.type").startswith(f"{name}/")
    for name in KINDS:
        assert value(graph.add(configured(name, namespace)), "joints") == list(CONTRACT.joints)
    trajectory = graph.add(configured("joint_trajectory_controller", namespace))
    assert (value(trajectory, "command_interfaces"), value(trajectory, "state_interfaces")) == (
        ["position"],
        ["position", "velocity"],
    )
    broadcaster = graph.add(configured("joint_state_broadcaster", namespace))
    assert value(broadcaster, "use_local_topics") is False


def test_the_urdf_tells_ros2_control_what_each_joint_offers(capsys):
    assert urdf.main(["--robot", str(ROBOT), "--ros2-control", "mock_components/GenericSystem"]) == 0
    root = ElementTree.fromstring(capsys.readouterr().out)
    (tag,) = root.findall("ros2_control")
    assert tag.get("type") == "system" and tag.get("name") == "so101"
    assert tag.findtext("hardware/plugin") == "mock_components/GenericSystem"
    joints = {joint.get("name"): joint for joint in tag.findall("joint")}
    assert tuple(joints) == CONTRACT.joints
    model = {joint.get("name"): joint for joint in root.findall("joint")}
    for (name, joint), home in zip(joints.items(), CONTRACT.home, strict=True):
        # since Jazzy the controller manager refuses a joint that the model lacks
        low, high = (float(model[name].find("limit").get(bound)) for bound in ("lower", "upper"))
        (command,) = joint.findall("command_interface")
        limits = {p.get("name"): float(p.text) for p in command.findall("param")}
        assert command.get("name") == "position"
        assert low - 1e-4 <= limits["min"] < limits["max"] <= high + 1e-4
        states = {s.get("name"): s for s in joint.findall("state_interface")}
        assert set(states) == {"position", "velocity"}
        assert float(states["position"].findtext("param[@name='initial_value']")) == pytest.approx(home)


def test_without_a_plugin_the_urdf_is_as_it_was(capsys):
    assert urdf.main(["--robot", str(ROBOT)]) == 0
    assert capsys.readouterr().out.strip() == urdf_text(CONTRACT.model).strip()


def processes(name, folder, **arguments):
    return {p.name: p for p in launch_file.load(launch_file.find(name), arguments, folder / "parameters")}


def parameters(process):
    """All parameters of a process's parameter files by name."""
    found = {}
    for before, word in zip(process.argv, process.argv[1:], strict=False):
        if before == "--params-file":
            for node in yaml.safe_load(Path(word).read_text()).values():
                found |= node["ros__parameters"]
    return found


@pytest.mark.parametrize("port", KINDS)
@pytest.mark.parametrize(
    ("name", "given"), [("real_so101", {}), ("teleop", {}), ("record_demos", {}), ("eval", {"policy": "x"})]
)
def test_the_port_names_the_controller_and_nothing_else_drives(tmp_path, name, given, port):
    started = processes(name, tmp_path, port=port, command_topic="lab/targets", operator="gamepad", **given)
    assert not {"driver", "simulator", "emulated_arm"} & started.keys()
    for node in ("arm_controller", "reset"):
        found = parameters(started[node])
        assert (found["command_interface"], found["command_topic"]) == (port, "lab/targets")


def test_any_other_port_has_the_suites_own_driver(tmp_path):
    started = processes("real_so101", tmp_path, port="/dev/ttyACM0")
    assert "driver" in started
    assert {parameters(started[n])["command_interface"] for n in ("arm_controller", "reset")} == {"driver"}


def test_manager_controllers_and_model_are_launched_together(tmp_path, pretend):
    pretend("robot_state_publisher", "robot_state_publisher")
    pretend("controller_manager", "ros2_control_node", "spawner")
    started = processes(
        "ros2_control", tmp_path, namespace="follower", plugin="lab_hardware/Servos", active=KINDS[1]
    )
    assert list(started) == ["robot_state_publisher", "ros2_control_node", "spawner"]
    model = parameters(started["robot_state_publisher"])["robot_description"]
    assert "<plugin>lab_hardware/Servos</plugin>" in model
    manager, spawner = started["ros2_control_node"].argv, started["spawner"].argv
    file = manager[manager.index("--params-file") + 1]
    assert yaml.safe_load(Path(file).read_text()) == yaml.safe_load(CONTROLLERS.read_text())
    # a name would rename every controller in the manager's process
    assert not any(word.startswith("__node") for word in manager) and "__ns:=/follower" in manager
    assert list(spawner[1:5]) == ["joint_state_broadcaster", KINDS[1], "--param-file", file]
