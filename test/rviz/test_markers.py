import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hilrl_msgs.msg import Action, Episode, Reward
from loop_messages import CONTRACT
from visualization_msgs.msg import Marker

from hilrl_rviz.markers import COLORS, GREEN, RED, YELLOW, Shown, caption, earnings, marker_array

TIP, TARGET = np.array([0.2, 0.0, 0.08]), np.array([0.22, 0.01, 0.08])
BOX = LOW, HIGH = np.array([CONTRACT.box_min, CONTRACT.box_max])


def shown(
    tip=TIP, target=TARGET, controller=Action.POLICY, text="policy", earned="return 1", box=BOX, **fields
):
    """The markers by (namespace, id)."""
    stamp = Time(sec=3, nanosec=4)
    array = marker_array(
        CONTRACT, Shown(stamp, np.array(box), tip, target, controller, text, earned, **fields)
    )
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


@pytest.mark.parametrize(
    "box", [BOX, np.add(BOX, [[0.01, 0.02, 0.03], [-0.01, 0, 0.05]])], ids=["contract", "edited"]
)
def test_the_box_is_the_one_that_holds(box):
    (LOW, HIGH), markers = box, shown(box=box)
    edges, sides = markers["box", 0], markers["box", 1]
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
        ({"earned": ""}, {"reward"}),
    ],
)
def test_what_is_not_known_is_deleted_under_the_same_name(gone, deleted):
    markers = shown(**gone)
    assert markers.keys() == shown().keys()
    assert {ns for (ns, _), m in markers.items() if m.action == Marker.DELETE} == deleted


def test_the_texts_stand_above_the_box_and_above_each_other():
    markers = shown(text="person (gamepad)", earned="return 1.00\nsuccess", outcome=GREEN)
    text, reward = markers["control", 0], markers["reward", 0]
    assert (text.type, text.text) == (Marker.TEXT_VIEW_FACING, "person (gamepad)")
    assert (reward.type, reward.text) == (Marker.TEXT_VIEW_FACING, "return 1.00\nsuccess")
    assert [reward.color.r, reward.color.g, reward.color.b] == pytest.approx(GREEN)
    assert HIGH[2] + 0.1 < reward.pose.position.z <= text.pose.position.z - 2 * text.scale.z


@pytest.mark.parametrize(
    ("executed", "episode", "text"),
    [
        (None, None, "nobody"),
        (Action(controller=Action.POLICY), None, "policy"),
        (Action(controller=Action.PERSON, device="gamepad"), None, "person (gamepad)"),
        (Action(controller=9), None, "unknown"),
        (None, Episode(phase=Episode.TRAIN, status=Episode.RUNNING, episode=12), "nobody\ntrain, episode 12"),
        (
            None,
            Episode(phase=Episode.EVALUATE, status=Episode.PAUSED, episode=3),
            "nobody\nevaluate, episode 3, paused",
        ),
        (None, Episode(phase=Episode.DONE, episode=3), "nobody\ndone, episode 3, waiting"),
    ],
)
def test_the_text_says_who_and_where(executed, episode, text):
    assert caption(executed, episode) == text


@pytest.mark.parametrize(
    ("reward", "end", "color"),
    [
        ({}, "", (1.0, 1.0, 1.0)),
        ({"probability": 0.875}, ", p(success) 0.88", (1.0, 1.0, 1.0)),
        ({"success": True, "terminated": True}, "\nsuccess", GREEN),
        ({"terminated": True}, "\nfailure", RED),
        ({"truncated": True}, "\ntime is up", YELLOW),
    ],
)
def test_the_text_says_what_it_earned_and_how_it_ended(reward, end, color):
    msg = Reward(**{"reward": 0.25, "probability": -1.0} | reward)
    assert earnings(msg, 1.5) == (f"reward 0.25, return 1.50{end}", color)
