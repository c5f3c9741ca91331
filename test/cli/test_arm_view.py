"""The live view of an arm that a person drives."""

import io
import time

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from hilrl_msgs.msg import Action
from rich.console import Console
from sensor_msgs.msg import JointState

from hilrl_cli.arm_view import ArmView
from hilrl_cli.errors import UserError
from hilrl_ros import qos


def drawn(view):
    console = Console(file=io.StringIO(), width=120)
    console.print(view.panel())
    return console.file.getvalue()


def status(part, level, text, **values):
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(name=f"driver: {part}", level=level, message=text, values=pairs)


def test_it_shows_joints_tip_servos_and_who_drives():
    with ArmView("so101", keyboard=False, console=Console(file=io.StringIO())) as view:
        assert "waiting for the arm's joint_states" in drawn(view)
        arm = rclpy.create_node("arm")
        joints = arm.create_publisher(JointState, "joint_states", qos.STEP)
        command = arm.create_publisher(Action, "command", qos.STEP)
        diagnostics = arm.create_publisher(DiagnosticArray, "/diagnostics", qos.STEP)
        position = [view.contract.home[i] for i in range(len(view.contract.joints))]
        hot = status(
            "elbow_flex",
            DiagnosticStatus.WARN,
            "65 °C: slower",
            temperature="65",
            voltage="7.4",
            current="0.31",
        )
        well = status(
            "wrist_flex", DiagnosticStatus.OK, "fine", temperature="31", voltage="7.2", current="0.02"
        )
        end = time.monotonic() + 20
        while "you, with leader" not in view.line().plain or "65" not in view.line().plain:
            assert time.monotonic() < end, view.line().plain
            joints.publish(JointState(name=list(view.contract.joints), position=position))
            command.publish(Action(controller=Action.PERSON, device="leader"))
            diagnostics.publish(DiagnosticArray(status=[hot, well]))
            time.sleep(0.05)
        line, panel = view.line().plain, drawn(view)
        arm.destroy_node()
    assert "wrist_flex +1.59" in line and "in the box" in line and "gripper 40% open" in line
    assert "65 °C, 7.2 V, 0.31 A" in line and line.endswith("driver: elbow_flex: 65 °C: slower")
    assert "+91.0" in panel and "you, with leader" in panel and "65 °C: slower" in panel


def test_a_tip_outside_the_box_an_idle_arm_and_a_silent_one_are_told():
    with ArmView("so101", keyboard=False, console=Console(file=io.StringIO())) as view:
        node = view.node
        node.on_joints(JointState(name=list(view.contract.joints), position=[0.0] * 6))
        assert "mm outside the box along" in view.line().plain
        assert "nobody, the arm holds" in view.line().plain
        node.joints_at -= 3.0
        assert view.worst()[1].startswith("no joint_states for 3.")


def test_keys_without_a_terminal_are_one_sentence(monkeypatch):
    def no_terminal(*_):
        raise OSError

    monkeypatch.setattr("hilrl_teleop.terminal.os.open", no_terminal)
    view = ArmView("so101", keyboard=True, console=Console(file=io.StringIO()))
    with pytest.raises(UserError, match="keys are read from a terminal"), view:
        pass
    assert not rclpy.ok()
