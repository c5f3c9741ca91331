import numpy as np
import pytest
from hilrl_msgs.msg import OperatorEvent, ResetStatus
from hilrl_msgs.srv import Reset
from loop_messages import CONTRACT, HOME, ROBOT, joint_state
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from hilrl_control.reset_node import Path, ResetNode
from hilrl_ros import qos

AWAY = HOME + np.array([0.4, -0.3, 0.2, 0.1, 0.3, -0.5])


def test_a_path_begins_and_ends_softly_and_no_joint_is_faster_than_asked_for():
    path = Path(AWAY, HOME, speed=0.5)
    times = np.linspace(0, path.duration, 1001)
    points = np.array([path.at(t) for t in times])
    speed = np.abs(np.diff(points, axis=0)) / np.diff(times)[:, None]
    assert np.array_equal(points[0], AWAY) and np.allclose(points[-1], HOME)
    assert 0.45 < speed.max() <= 0.5
    assert speed[0].max() < 0.01 and speed[-1].max() < 0.01
    assert np.allclose(path.at(1e9), HOME)


def test_each_joint_keeps_to_its_own_speed_and_all_arrive_together():
    path = Path([0.0, 0.0], [1.0, 0.03], speed=np.array([0.5, 0.01]))
    fastest = np.pi / 2 * np.array([1.0, 0.03]) / path.duration
    assert fastest == pytest.approx([1.0 / 3, 0.01])


class Rig:
    """A reset node, and an arm whose joints are where they were sent last, unless it is stuck."""

    def __init__(self, graph, stuck=False):
        self.graph, self.node = graph, graph.add(ResetNode())
        self.joints = graph.publisher(JointState, "joint_states", qos.STEP)
        self.events = graph.publisher(OperatorEvent, "operator_event", qos.STEP)
        self.sent, self.states = [], []
        self.stuck = stuck
        graph.probe.create_subscription(
            JointTrajectory, "trajectory_controller/joint_trajectory", self.on_target, qos.STEP
        )
        graph.probe.create_subscription(
            ResetStatus, "reset_status", lambda m: self.states.append((m.episode, m.state)), qos.LATCHED
        )
        self.client = graph.probe.create_client(Reset, "reset_episode")
        graph.connect()

    def on_target(self, msg):
        self.sent.append(np.array(msg.points[0].positions))
        if not self.stuck:
            self.joints.publish(joint_state(0, self.sent[-1]))

    def see(self, positions):
        self.joints.publish(joint_state(0, positions))
        self.graph.until(self.client.service_is_ready)

    def ask(self, episode=1, seed=5):
        return self.client.call_async(Reset.Request(episode=episode, seed=seed))

    def press(self, event):
        self.events.publish(OperatorEvent(event=event))


def test_the_arm_goes_home_and_the_episode_begins_when_the_person_says_so(make_graph):
    rig = Rig(make_graph(robot=ROBOT, task="pick_cube", speed=3.0))
    rig.see(AWAY)
    answer = rig.ask()
    rig.graph.until(lambda: (1, ResetStatus.WAITING) in rig.states)
    rig.press(OperatorEvent.SUCCESS)  # of no meaning here
    for _ in range(10):
        rig.graph.executor.spin_once(timeout_sec=0.05)
    assert not answer.done()
    rig.press(OperatorEvent.PAUSE)
    rig.graph.until(answer.done)
    assert answer.result().success and answer.result().stamp.sec > 0
    assert [s for _, s in rig.states] == [ResetStatus.MOVING, ResetStatus.WAITING, ResetStatus.READY]
    steps = np.abs(np.diff([AWAY, *rig.sent], axis=0)).max()
    assert steps < 3.0 * 0.2  # as fast as asked for, with the target 0.1 s ahead
    assert np.abs(rig.sent[-1] - HOME).max() < 0.3  # home, but for the offset


def test_the_offset_comes_from_the_seed_and_stays_in_the_box(make_graph):
    rig = Rig(make_graph(robot=ROBOT, task="pick_cube", speed=3.0, start="timer", wait=0.0))
    rig.see(HOME)
    ends = []
    for episode, seed in ((1, 5), (2, 5), (3, 6)):
        answer = rig.ask(episode, seed)
        rig.graph.until(answer.done)
        assert answer.result().success
        ends.append(rig.sent[-1])
    assert np.allclose(ends[0], ends[1]) and not np.allclose(ends[0], ends[2])
    for q in ends:
        tip, _ = rig.node.kinematics.forward(q)
        assert (tip >= np.array(CONTRACT.box_min) - 1e-3).all()
        assert (tip <= np.array(CONTRACT.box_max) + 1e-3).all()


def test_asked_twice_about_one_episode_both_are_answered_and_the_arm_goes_once(make_graph):
    rig = Rig(make_graph(robot=ROBOT, task="pick_cube", speed=3.0, start="timer", wait=0.1))
    rig.see(AWAY)
    answers = [rig.ask(), rig.ask()]
    rig.graph.until(lambda: all(a.done() for a in answers))
    assert all(a.result().success for a in answers)
    assert rig.states.count((1, ResetStatus.MOVING)) == 1


def test_a_new_episode_replaces_one_that_nobody_waits_for_any_more(make_graph):
    rig = Rig(make_graph(robot=ROBOT, task="pick_cube", speed=3.0))
    rig.see(AWAY)
    first = rig.ask(1)
    rig.graph.until(lambda: (1, ResetStatus.WAITING) in rig.states)
    second = rig.ask(2)
    rig.graph.until(first.done)
    assert not first.result().success and "episode 2" in first.result().message
    rig.graph.until(lambda: (2, ResetStatus.WAITING) in rig.states)
    rig.press(OperatorEvent.PAUSE)
    rig.graph.until(second.done)
    assert second.result().success


def test_an_arm_that_does_not_come_home_is_told_with_its_joint(make_graph):
    rig = Rig(make_graph(robot=ROBOT, task="pick_cube", speed=3.0), stuck=True)
    rig.see(AWAY)
    answer = rig.ask()
    rig.graph.until(answer.done)
    assert not answer.result().success
    assert "the arm did not come home: shoulder_pan is 0." in answer.result().message


def test_without_joint_states_there_is_no_reset(make_graph):
    rig = Rig(make_graph(robot=ROBOT, task="pick_cube"))
    for _ in range(20):
        rig.graph.executor.spin_once(timeout_sec=0.05)
    assert not rig.client.service_is_ready() and rig.sent == []


@pytest.mark.parametrize("start", ["later"])
def test_an_unknown_way_to_start_is_one_sentence(make_graph, start):
    with pytest.raises(Exception, match="parameter 'start' is 'later', expected one of button, timer"):
        make_graph(start=start).add(ResetNode())


def test_in_a_simulator_the_scene_is_placed_when_the_arm_is_home_and_its_answer_counts(make_graph):
    graph = make_graph(robot=ROBOT, task="pick_cube", speed=3.0, start="scene")
    asked, message = [], ["the cube fell off"]

    def place(request, response):
        asked.append((request.episode, request.seed))
        response.success, response.message = not message[0], message[0]
        return response

    graph.probe.create_service(Reset, "reset_scene", place)
    rig = Rig(graph)
    rig.see(AWAY)
    graph.until(rig.node.scene.service_is_ready)
    answer = rig.ask(episode=1, seed=5)
    graph.until(answer.done)
    assert not answer.result().success and answer.result().message == "the cube fell off"
    assert np.abs(rig.sent[-1] - HOME).max() < 0.3
    message[0] = ""
    answer = rig.ask(episode=2, seed=6)
    graph.until(answer.done)
    assert answer.result().success and asked == [(1, 5), (2, 6)]
    # a person who puts things in place has nothing to do
    assert ResetStatus.WAITING not in [state for _, state in rig.states]


def test_a_simulator_that_does_not_place_the_scene_is_named(make_graph):
    rig = Rig(make_graph(robot=ROBOT, task="pick_cube", speed=3.0, start="scene"))
    rig.see(HOME)
    answer = rig.ask()
    rig.graph.until(answer.done)
    assert answer.result().message == "nobody serves reset_scene: is the simulator's node up?"
