import pytest
from hilrl_msgs.msg import Action, Episode
from loop_messages import PERIOD, action, stick

from hilrl_control.mux import Mux
from hilrl_control.mux_node import MuxNode
from hilrl_ros import qos
from hilrl_ros.messages import to_time

MOTION = [0.1] * 7


def policy(step, value=0.5):
    return action(1, step, [value] * len(stick()), policy_version=3)


def person(stamp_ns, held=True, device="gamepad"):
    msg = Action(controller=Action.PERSON if held else Action.NOBODY, space=Action.EE_DELTA)
    msg.action.extend(MOTION)
    msg.header.stamp, msg.device = to_time(stamp_ns), device
    return msg


def test_without_a_person_the_policy_drives():
    msg = policy(2)
    out = Mux(exact=False).on_policy(msg, 0)
    assert out == msg


def test_while_the_dead_man_is_held_the_person_drives_that_step():
    mux = Mux(exact=False)
    assert mux.on_person(person(0), 100) is None
    out = mux.on_policy(policy(2), 200)
    assert (out.controller, out.space, list(out.action)) == (
        Action.PERSON,
        Action.EE_DELTA,
        pytest.approx(MOTION),
    )
    assert (out.episode, out.step, out.policy_version) == (1, 2, 3)
    assert out.header.stamp == policy(2).header.stamp
    mux.on_person(person(0, held=False), 300)
    assert mux.on_policy(policy(3), 400).controller == Action.POLICY


def test_a_reading_that_is_too_old_counts_as_let_go():
    mux = Mux(exact=False, timeout_ns=250)
    mux.on_person(person(0), 1000)
    assert mux.on_policy(policy(0), 1250).controller == Action.PERSON
    assert mux.on_policy(policy(1), 1251).controller == Action.POLICY


def test_of_two_devices_the_one_that_took_over_first_drives_until_it_lets_go():
    mux = Mux(exact=False, timeout_ns=1000)

    def drives(step):
        out = mux.on_policy(policy(step), 100)
        return out.device, round(out.action[0], 3)

    leader = person(0, device="leader")
    leader.space, leader.action[0] = Action.JOINT_POSITION, 0.7
    mux.on_person(person(0, held=False), 0)
    mux.on_person(leader, 0)
    mux.on_person(person(0, held=False), 0)  # a pad that nobody holds takes nothing away
    assert drives(0) == ("leader", 0.7)
    mux.on_person(person(0), 0)
    mux.on_person(leader, 0)
    assert drives(1) == ("leader", 0.7)
    mux.on_person(person(0, held=False, device="leader"), 0)
    assert drives(2) == ("gamepad", 0.1)
    mux.on_person(person(0, held=False), 0)
    assert drives(3)[0] == ""  # the policy


def test_a_device_that_falls_silent_lets_go_and_the_other_drives():
    mux = Mux(exact=False, timeout_ns=250)
    mux.on_person(person(0, device="leader"), 0)
    mux.on_person(person(0), 200)
    assert mux.on_policy(policy(0), 251).controller == Action.PERSON
    assert list(mux.held) == ["gamepad"]
    assert mux.on_policy(policy(1), 451).controller == Action.POLICY


def test_a_person_who_may_not_take_over_does_not():
    mux = Mux(exact=False, person_allowed=False)
    mux.on_person(person(0), 0)
    assert mux.on_policy(policy(0), 1).controller == Action.POLICY


def test_a_new_episode_says_whether_the_person_may_take_over():
    mux = Mux(exact=False)
    for allowed, controller in ((False, Action.POLICY), (True, Action.PERSON)):
        mux.on_person(person(0), 0)
        mux.person_allowed = allowed
        assert mux.on_policy(policy(0), 1).controller == controller


def test_a_reading_from_before_the_clock_was_set_back_is_forgotten():
    mux = Mux(exact=True)
    mux.on_person(person(50 * PERIOD), 0)
    assert mux.on_policy(policy(0), 0) is None  # it waits for a reading of this episode
    assert mux.on_person(person(0), 0).step == 0


def test_in_lockstep_a_step_waits_for_the_reading_of_that_very_step():
    mux = Mux(exact=True)
    assert mux.on_person(person(0), 0) is None
    assert mux.on_policy(policy(1), 0) is None  # the reading is of step 0
    out = mux.on_person(person(PERIOD), 0)
    assert (out.step, out.controller) == (1, Action.PERSON)
    assert mux.on_person(person(2 * PERIOD), 0) is None  # no step waits
    assert mux.on_policy(policy(2), 0).controller == Action.PERSON  # the reading was first


def test_the_same_step_asked_again_is_decided_again_alike():
    mux = Mux(exact=True)
    mux.on_person(person(PERIOD), 0)
    first = mux.on_policy(policy(1), 0)
    assert mux.on_policy(policy(1), 10**12) == first


def test_the_node_forwards_with_the_person_only_where_the_episode_allows(make_graph):
    graph = make_graph(exact=False, timeout=5.0)
    node = graph.add(MuxNode())
    commands = graph.listen(Action, "command", qos.STEP)
    asked = graph.publisher(Action, "policy/action", qos.STEP)
    pad = graph.publisher(Action, "teleop/action", qos.STEP)
    episode = graph.publisher(Episode, "episode", qos.LATCHED)
    graph.connect()
    pad.publish(person(0))
    graph.until(lambda: node.mux.person is not None)
    for step, allowed in enumerate((True, False)):
        episode.publish(Episode(person=allowed))
        graph.until(lambda allowed=allowed: node.mux.person_allowed == allowed)
        asked.publish(policy(step))
        graph.until(lambda step=step: len(commands) == step + 1)
    assert [(c.step, c.controller) for c in commands] == [(0, Action.PERSON), (1, Action.POLICY)]


def test_where_no_policy_acts_the_newest_reading_drives_and_each_take_over_begins_anew():
    mux = Mux(exact=False, timeout_ns=250)
    assert mux.on_tick(0) is None
    mux.on_person(person(PERIOD), 0)
    first, second = mux.on_tick(10), mux.on_tick(110)
    assert (first.controller, first.device, first.space) == (Action.PERSON, "gamepad", Action.EE_DELTA)
    assert list(first.action) == pytest.approx(MOTION)
    assert first.header.stamp == to_time(0), "it waits for no observation"
    assert (second.episode, second.step) == (first.episode, 1)
    mux.on_person(person(2 * PERIOD, held=False), 120)
    assert mux.on_tick(210) is None
    mux.on_person(person(3 * PERIOD), 300)
    third = mux.on_tick(310)
    assert (third.episode, third.step) == (first.episode + 1, 0)
    assert mux.on_tick(551) is None, "a silent device has let go"


def test_another_device_that_drives_without_a_policy_begins_anew():
    mux = Mux(exact=False)
    mux.on_person(person(0, device="leader"), 0)
    first = mux.on_tick(0)
    mux.on_person(person(0), 1)
    mux.on_person(person(0, held=False, device="leader"), 1)
    second = mux.on_tick(1)
    assert (second.device, second.episode, second.step) == ("gamepad", first.episode + 1, 0)


def test_the_node_lets_a_person_drive_without_a_policy(make_graph):
    graph = make_graph(teleop=True, timeout=5.0)
    graph.add(MuxNode())
    commands = graph.listen(Action, "command", qos.STEP)
    pad = graph.publisher(Action, "teleop/action", qos.STEP)
    graph.connect()
    pad.publish(person(0))
    graph.until(lambda: len(commands) >= 3)
    assert [c.step for c in commands[:3]] == [0, 1, 2]
