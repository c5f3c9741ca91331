import pytest
from hilrl_msgs.msg import Action, Episode, PolicyWeights, Transition, TransitionAck
from loop_messages import CONTRACT, ROBOT, TASK_FILE, action, episode_messages, observation, reward
from rclpy.serialization import deserialize_message

from hilrl_actor.actor_node import ActorNode
from hilrl_actor.outbox import Outbox
from hilrl_ros.node import UserError


class Sent(list):
    """Messages that were published, as messages or serialised."""

    def publish(self, msg):
        self.append(deserialize_message(msg, Transition) if isinstance(msg, bytes) else msg)


@pytest.fixture
def make_actor(make_graph, tmp_path):
    """Make an actor without a policy (a person drives), whose publications are lists."""

    def make(**parameters):
        graph = make_graph(robot=ROBOT, task=TASK_FILE, agent="none", runs_dir=tmp_path, **parameters)
        node = graph.add(ActorNode())
        node.actions, node.transitions, node.status = Sent(), Sent(), Sent()
        return node

    return make


def announce(node, episode, learn=True, status=Episode.RUNNING, phase=Episode.TRAIN):
    node.on_episode(Episode(run="r", status=status, phase=phase, episode=episode, learn=learn))


def play(node, episode, steps, end="terminated", after_last=()):
    """Drive one episode as the graph would; `after_last` comes before the last step's last message."""
    m = episode_messages(episode, steps, end)
    node.on_observation(m["observation"][0])
    for k in range(steps):
        node.on_executed(m["executed_action"][k])
        node.on_observation(m["observation"][k + 1])
        if k == steps - 1:
            for call in after_last:
                call()
        node.on_reward(m["reward"][k])


def test_each_step_is_sent_once_with_its_own_parts(make_actor):
    node = make_actor()
    announce(node, 1)
    play(node, 1, 4, "truncated")
    assert [t.seq for t in node.transitions] == [1, 2, 3, 4]
    for k, t in enumerate(node.transitions):
        assert t.observation.step == k and t.reward == k
        assert list(t.action) == pytest.approx([(k + 1) / 1000] * len(CONTRACT.action.names))
        assert (t.terminated, t.truncated) == (False, k == 3)
    assert [len(t.final_observation) for t in node.transitions] == [0, 0, 0, 1]
    assert node.transitions[3].final_observation[0].step == 4


def test_an_action_waits_for_the_reward_of_the_step_before(make_actor):
    node = make_actor()
    announce(node, 1)
    node.on_observation(observation(1, 0))
    assert [a.step for a in node.actions] == [0]
    node.on_executed(action(1, 0))
    node.on_observation(observation(1, 1))
    assert [a.step for a in node.actions] == [0]
    node.on_reward(reward(1, 0))
    assert [a.step for a in node.actions] == [0, 1]


def test_nothing_follows_the_end_of_an_episode(make_actor):
    node = make_actor()
    announce(node, 1)
    play(node, 1, 2)
    node.on_observation(observation(1, 3))
    assert [a.step for a in node.actions] == [0, 1]


def test_what_is_offered_again_is_answered_again_alike(make_actor):
    node = make_actor()
    announce(node, 1)
    node.on_observation(observation(1, 0))
    node.on_observation(observation(1, 0))
    assert len(node.actions) == 2 and node.actions[0] == node.actions[1]


def test_a_lost_reward_does_not_stop_the_loop(make_actor):
    node = make_actor()
    announce(node, 1)
    node.on_observation(observation(1, 0))
    node.on_observation(observation(1, 1))
    assert [a.step for a in node.actions] == [0]
    node.on_observation(observation(1, 1))  # offered again: the reward is lost
    assert [a.step for a in node.actions] == [0, 1]


def test_paused_means_no_action(make_actor):
    node = make_actor()
    announce(node, 1, status=Episode.PAUSED)
    node.on_observation(observation(1, 0))
    assert node.actions == []
    announce(node, 1)
    assert [a.step for a in node.actions] == [0]


def test_the_last_step_is_learnt_from_although_the_next_phase_is_announced_already(make_actor):
    node = make_actor()
    announce(node, 1)
    over = [lambda: announce(node, 1, learn=False, status=Episode.IDLE, phase=Episode.SHOWCASE)]
    play(node, 1, 3, after_last=over)
    assert len(node.transitions) == 3


def test_the_last_step_of_a_measured_episode_is_not_learnt_from(make_actor):
    node = make_actor()
    announce(node, 1, learn=False, phase=Episode.BASELINE)
    play(node, 1, 3, after_last=[lambda: announce(node, 2)])
    assert node.transitions == []


@pytest.mark.parametrize("where", ["state", "final", "action", "reward"])
def test_what_is_not_finite_is_never_sent(make_actor, logged, where):
    node = make_actor()
    announce(node, 1)
    m = episode_messages(1, 1)
    bad = {"state": m["observation"][0], "final": m["observation"][1], "action": m["executed_action"][0]}
    if where == "reward":
        m["reward"][0].reward = float("nan")
    elif where == "action":
        bad[where].action[0] = float("inf")
    else:
        bad[where].state[2] = float("nan")
    for messages in m.values():
        for msg in messages:
            {"Observation": node.on_observation, "Action": node.on_executed, "Reward": node.on_reward}[
                type(msg).__name__
            ](msg)
    assert node.transitions == [] and node.outbox.sent == 0
    assert ("ERROR", True) in [
        (level, "step 0 of episode 1 is not learnt from" in text) for level, text in logged
    ]


def test_in_lockstep_the_actor_waits_for_a_learner_that_is_behind(make_actor):
    node = make_actor(window=2)
    announce(node, 1)
    m = episode_messages(1, 4)
    for k in range(3):
        node.on_observation(m["observation"][k])
        node.on_executed(m["executed_action"][k])
        node.on_reward(m["reward"][k])
    assert len(node.transitions) == 3 and [a.step for a in node.actions] == [0, 1]
    node.on_learner(TransitionAck(instance="a", last_seq=3, learnt_seq=2))
    assert [a.step for a in node.actions] == [0, 1, 2]


def test_a_restarted_learner_gets_again_what_it_lacks_and_a_restarted_actor_too(make_actor, tmp_path):
    node = make_actor()
    announce(node, 1)
    node.on_learner(TransitionAck(instance="a", last_seq=0))
    play(node, 1, 5)
    node.on_learner(TransitionAck(instance="a", last_seq=2))
    first = list(node.transitions)
    node.on_learner(TransitionAck(instance="b", last_seq=2))
    assert node.transitions[5:] == first[2:]
    node.outbox.close()
    node.outbox = Outbox(tmp_path / "r/actor/outbox.bin")
    node.transitions = Sent()
    node.on_learner(TransitionAck(instance="b", last_seq=2))
    node.send_again(now=True)
    assert node.transitions == first[2:]
    announce(node, 2)
    play(node, 2, 1)
    assert node.transitions[-1].seq == 6


def test_a_damaged_outbox_ends_the_actor_with_a_sentence(make_actor, tmp_path):
    (tmp_path / "r/actor").mkdir(parents=True)
    (tmp_path / "r/actor/outbox.bin").write_bytes(b"junk" * 9)
    with pytest.raises(UserError, match=r"outbox\.bin: damaged"):
        announce(make_actor(), 1)


def test_who_acted_is_told_to_the_learner(make_actor):
    node = make_actor()
    announce(node, 1)
    m = episode_messages(1, 1)
    m["executed_action"][0].controller = Action.PERSON
    m["executed_action"][0].policy_version = 7
    for messages, take in zip(
        m.values(), (node.on_observation, node.on_executed, node.on_reward), strict=True
    ):
        for msg in messages:
            take(msg)
    assert (node.transitions[0].controller, node.transitions[0].policy_version) == (Action.PERSON, 7)


def test_weights_of_another_run_do_not_act(make_actor, monkeypatch):
    received = []

    class Policy:
        version, learnt_until = 0, 0.0

        def receive(self, msg):
            received.append(msg.run)
            return False

    monkeypatch.setattr(ActorNode, "_load_policy", lambda self: Policy())
    node = make_actor()
    announce(node, 1)
    for run in ("the one before", "r"):
        node.on_weights(PolicyWeights(run=run, version=1))
    assert received == ["r"]
