import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hilrl_msgs.msg import Action, Episode, Reward
from loop_messages import CONTRACT
from visualization_msgs.msg import Marker

from hilrl_rviz.markers import COLORS, Shown, caption, marker_array

TIP, TARGET = np.array([0.2, 0.0, 0.08]), np.array([0.22, 0.01, 0.08])
LOW, HIGH = np.array(CONTRACT.box_min), np.array(CONTRACT.box_max)


def shown(tip=TIP, target=TARGET, controller=Action.POLICY, text="policy"):
    """The markers by (namespace, id)."""
    array = marker_array(CONTRACT, Shown(Time(sec=3, nanosec=4), tip, target, controller, text))
    by_id = {(m.ns, m.id): m for m in array.markers}
    assert len(by_id) == len(array.markers)  # rviz2 refuses two of one name
    return by_id


def xyz(point):
    return [point.x, point.y, point.z]


def test_all_markers_are_in_the_base_frame_at_the_joint_states_time():
    markers = shown().values()
    assert {m.header.frame_id for m in markers} == {CONTRACT.model.base_frame} == {"base_link"}
    assert {(m.header.stamp.sec, m.header.stamp.nanosec) for m in markers} == {(3, 4)}
    assert {m.action for m in markers} == {Marker.ADD}
    assert all(m.lifetime.sec > 0 for m in markers)  # what a dead node left goes


def test_nothing_is_drawn_invisible():
    for marker in shown().values():
        assert marker.color.a > 0 and max(xyz(marker.scale)) > 0 and marker.pose.orientation.w == 1


def test_the_box_is_the_contracts():
    edges, sides = shown()["box", 0], shown()["box", 1]
    assert (edges.type, sides.type) == (Marker.LINE_LIST, Marker.CUBE)
    points = np.array([xyz(p) for p in edges.points])
    assert len(points) == 24 and len({tuple(p) for p in points}) == 8
    assert points.min(axis=0) == pytest.approx(LOW) and points.max(axis=0) == pytest.approx(HIGH)
    # each line is an edge: along one axis, as long as the box
    lines = np.abs(points[1::2] - points[::2])
    assert (np.count_nonzero(lines, axis=1) == 1).all() and lines.max(axis=0) == pytest.approx(HIGH - LOW)
    assert len({frozenset(map(tuple, pair)) for pair in points.reshape(12, 2, 3)}) == 12
    assert xyz(sides.pose.position) == pytest.approx((LOW + HIGH) / 2)
    assert xyz(sides.scale) == pytest.approx(HIGH - LOW)
    assert sides.color.a < 0.2


def test_tip_target_and_the_way_between_them():
    markers = shown(controller=Action.PERSON)
    assert xyz(markers["tip", 0].pose.position) == pytest.approx(TIP)
    assert xyz(markers["target", 0].pose.position) == pytest.approx(TARGET)
    assert np.array([xyz(p) for p in markers["way", 0].points]) == pytest.approx(np.array([TIP, TARGET]))
    color = markers["target", 0].color
    assert [color.r, color.g, color.b] == pytest.approx(COLORS[Action.PERSON])


@pytest.mark.parametrize(
    ("gone", "deleted"),
    [
        ({"tip": None}, {"tip", "way"}),
        ({"target": None}, {"target", "way"}),
        ({"tip": None, "target": None}, {"tip", "target", "way"}),
    ],
)
def test_what_is_not_known_is_deleted_under_the_same_name(gone, deleted):
    markers = shown(**gone)
    assert markers.keys() == shown().keys()
    assert {ns for (ns, _), m in markers.items() if m.action == Marker.DELETE} == deleted


def test_the_text_stands_above_the_box():
    text = shown(text="person (gamepad)")["control", 0]
    assert (text.type, text.text) == (Marker.TEXT_VIEW_FACING, "person (gamepad)")
    assert text.pose.position.z > HIGH[2] + 0.1


@pytest.mark.parametrize(
    ("executed", "episode", "reward", "text"),
    [
        (None, None, None, "nobody"),
        (Action(controller=Action.POLICY), None, None, "policy"),
        (Action(controller=Action.PERSON, device="gamepad"), None, None, "person (gamepad)"),
        (Action(controller=9), None, None, "unknown"),
        (
            None,
            Episode(phase=Episode.TRAIN, status=Episode.RUNNING, episode=12),
            None,
            "nobody\ntrain, episode 12",
        ),
        (
            None,
            Episode(phase=Episode.EVALUATE, status=Episode.PAUSED, episode=3),
            Reward(),
            "nobody\nevaluate, episode 3, paused\nreturn 1.50",
        ),
        (
            None,
            Episode(phase=Episode.DONE, episode=3),
            Reward(success=True, terminated=True),
            "nobody\ndone, episode 3, waiting\nreturn 1.50, success",
        ),
        (None, None, Reward(terminated=True), "nobody\nreturn 1.50, failure"),
        (None, None, Reward(truncated=True), "nobody\nreturn 1.50, time is up"),
    ],
)
def test_the_text_says_who_where_and_what_for(executed, episode, reward, text):
    assert caption(executed, episode, reward, 1.5) == text
