import pytest
from hilrl_msgs.msg import Action, OperatorEvent
from loop_messages import CONFIG
from sensor_msgs.msg import Joy

from hilrl_ros import qos
from hilrl_ros.messages import to_time
from hilrl_teleop.joy_teleop_node import JoyTeleopNode


def joy(stamp_ns, axes=(), buttons=(), size=6):
    msg = Joy(axes=[0.0] * size, buttons=[0] * 15)
    msg.header.stamp = to_time(stamp_ns)
    for i, value in dict(axes).items():
        msg.axes[i] = value
    for i in buttons:
        msg.buttons[i] = 1
    return msg


def test_a_pads_readings_become_motions_and_events(make_graph, logged):
    graph = make_graph(mapping=CONFIG / "gamepads/game_controller.yaml")
    graph.add(JoyTeleopNode())
    actions = graph.listen(Action, "teleop/action", qos.STEP)
    events = graph.listen(OperatorEvent, "operator_event", qos.STEP)
    pad = graph.publisher(Joy, "joy", qos.STEP)
    graph.connect()

    pad.publish(joy(1, {1: 1.0, 4: -1.0}, [10]))
    pad.publish(joy(2, {1: 1.0}, [3]))
    pad.publish(joy(3, {}, [3]))
    pad.publish(joy(4, {}, [3, 6]))
    pad.publish(joy(5, size=2))  # another pad: no motion, one sentence
    pad.publish(joy(6))
    graph.until(lambda: len(actions) == 5 and len(events) == 3)

    assert [a.header.stamp.nanosec for a in actions] == [1, 2, 3, 4, 6]
    assert [a.controller for a in actions] == [Action.PERSON] + [Action.NOBODY] * 4
    assert all(a.space == Action.EE_DELTA for a in actions)
    assert list(actions[0].action) == pytest.approx([1, 0, 0, 0, 0, 0, 1])
    assert [(e.event, e.header.stamp.nanosec) for e in events] == [
        (OperatorEvent.SUCCESS, 2),
        (OperatorEvent.PAUSE, 4),
        (OperatorEvent.SUCCESS_RELEASED, 6),
    ]
    assert [text for level, text in logged if level == "ERROR"] == [
        "/joy has 2 axes and 15 buttons, the mapping needs 6 and 11: "
        "choose the mapping of this pad with the 'mapping' parameter"
    ]
