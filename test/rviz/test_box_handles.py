"""Handles in rviz2 as its display sees them: asked for once, then followed; let go, the arm controller decides."""

import numpy as np
import pytest
from geometry_msgs.msg import Point
from hilrl_msgs.msg import Box
from loop_messages import CONTRACT, ROBOT, TASK_FILE
from visualization_msgs.msg import (
    InteractiveMarkerControl,
    InteractiveMarkerFeedback,
    InteractiveMarkerUpdate,
)
from visualization_msgs.srv import GetInteractiveMarkers

from hilrl_cli.main import main
from hilrl_control.arm_controller_node import ArmControllerNode
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_rviz.box_handles_node import BoxHandlesNode
from hilrl_rviz.handles import SIDES, dragged, interactive_markers

BOX = np.array([CONTRACT.box_min, CONTRACT.box_max])


def place(pose):
    return [pose.position.x, pose.position.y, pose.position.z]


def turned(quaternion):
    """Where a rotation brings the x axis."""
    w, x, y, z = quaternion.w, quaternion.x, quaternion.y, quaternion.z
    return [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]


def test_each_handle_sits_on_its_side_and_moves_along_its_axis():
    markers = {m.name: m for m in interactive_markers(BOX, "base_link")}
    assert tuple(markers) == SIDES
    for name, marker in markers.items():
        axis, bound = "xyz".index(name[0]), ("min", "max").index(name[2:])
        expected = BOX.mean(axis=0)
        expected[axis] = BOX[bound, axis]
        assert place(marker.pose) == pytest.approx(expected)
        assert marker.header.frame_id == "base_link"
        (control,) = marker.controls
        assert control.interaction_mode == InteractiveMarkerControl.MOVE_AXIS
        assert turned(control.orientation) == pytest.approx(np.eye(3)[axis])
        (ball,) = control.markers
        assert ball.color.a > 0 and ball.scale.x > 0


def test_a_dragged_side_moves_alone():
    new = dragged(BOX, "y_max", Point(x=9.0, y=0.07, z=9.0))
    assert new[1, 1] == 0.07
    new[1, 1] = BOX[1, 1]
    assert np.array_equal(new, BOX)


class Window:
    """What rviz2's display does (interactive_markers' client), next to handles and arm controller."""

    def __init__(self, graph):
        self.graph = graph
        self.arm = graph.add(ArmControllerNode())
        self.node = graph.add(BoxHandlesNode())
        self.updates = graph.listen(InteractiveMarkerUpdate, "box_handles/update", qos.STEP)
        self.boxes = graph.listen(Box, "box", qos.LATCHED)
        self.feedback = graph.publisher(InteractiveMarkerFeedback, "box_handles/feedback", qos.STEP)
        graph.connect()
        graph.until(lambda: self.node.box is not None and self.node.set_box.service_is_ready())
        client = graph.probe.create_client(GetInteractiveMarkers, "box_handles/get_interactive_markers")
        graph.until(client.service_is_ready)
        answer = client.call_async(GetInteractiveMarkers.Request())
        graph.until(answer.done)
        self.sequence = answer.result().sequence_number
        self.places = {m.name: place(m.pose) for m in answer.result().markers}
        self.updates.clear()

    def let_go(self, name, position, event=InteractiveMarkerFeedback.MOUSE_UP, frame="base_link"):
        msg = InteractiveMarkerFeedback(client_id="rviz", marker_name=name, event_type=event)
        msg.header.frame_id = frame
        msg.pose.position = Point(**dict(zip("xyz", position, strict=True)))
        self.feedback.publish(msg)

    def follow(self):
        """Wait for the next update; return where it puts the handles."""
        self.graph.until(lambda: self.updates)
        update = self.updates.pop(0)
        assert update.type == InteractiveMarkerUpdate.UPDATE
        assert update.seq_num == self.sequence + 1  # otherwise rviz2 begins anew
        self.sequence += 1
        return {p.name: place(p.pose) for p in update.poses}


@pytest.fixture
def window(make_graph):
    return Window(make_graph(robot=ROBOT, task=TASK_FILE))


def test_a_handle_that_is_let_go_changes_the_box_and_find_bounds_keeps_it(
    window, tmp_path, monkeypatch, capsys
):
    assert set(window.places) == set(SIDES)
    x, y, _ = window.places["z_max"]
    window.let_go("z_max", [x, y, 0.15], InteractiveMarkerFeedback.POSE_UPDATE)  # still on its way
    window.let_go("z_max", [x, y, 0.2])
    places = window.follow()
    assert places["z_max"] == pytest.approx([x, y, 0.2])
    assert places["x_min"][2] == pytest.approx((BOX[0, 2] + 0.2) / 2)
    assert list(window.boxes[-1].max) == pytest.approx([*BOX[1, :2], 0.2])
    assert window.arm.arm.box[1, 2] == 0.2

    monkeypatch.chdir(tmp_path)
    assert main(["find-bounds", "--save", "--robot", str(ROBOT), "--out", "mine.yaml"]) == 0
    kept, _ = load_contract(tmp_path / "mine.yaml")
    assert kept.box_max == (*CONTRACT.box_max[:2], 0.2) and kept.box_min == CONTRACT.box_min
    assert kept.joint_limits is None and kept.home == CONTRACT.home
    changed = set((tmp_path / "mine.yaml").read_text().splitlines()) - set(ROBOT.read_text().splitlines())
    assert [line.split(":")[0] for line in changed] == ["box"]
    assert "Use it with robot:=mine.yaml" in capsys.readouterr().out


def test_a_box_that_is_refused_lets_the_handles_snap_back(window, logged):
    window.let_go("x_min", [BOX[1, 0] + 0.01, 0.0, 0.0])
    assert window.follow() == window.places
    window.let_go("x_min", [0.1, 0.0, 0.0], frame="map")
    assert window.follow() == window.places
    warnings = [text for level, text in logged if level == "WARN"]
    assert "box x: min 0.31 m is not below max 0.3 m" in warnings[0]
    assert warnings[1] == "rviz2's fixed frame is 'map', expected 'base_link'"
    assert np.array_equal(window.arm.arm.box, BOX)


def test_without_a_running_arm_controller_nothing_is_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hilrl_cli.commands.find_bounds._HEARD", 0.3)
    assert main(["find-bounds", "--save", "--namespace", "left"]) == 2
    assert "no arm controller tells its box on /left/box: start a graph first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
