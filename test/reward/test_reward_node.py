import dataclasses

import numpy as np
import pytest
from hilrl_msgs.msg import Action, Observation, OperatorEvent, Reward
from loop_messages import CONTRACT, CUBE_Z, ROBOT, TASK, TASK_FILE, action, observation

from hilrl_reward.reward_node import RewardNode
from hilrl_reward.terms import RewardFunction
from hilrl_ros import qos
from hilrl_ros.messages import floats
from hilrl_ros.node import UserError


class Sent(list):
    publish = list.append


@pytest.fixture
def node(make_graph):
    """A reward node whose publications are a list."""
    made = make_graph(robot=ROBOT, task=TASK_FILE)
    node = made.add(RewardNode())
    node.publisher = Sent()
    return node


def seen(episode, step, height=0.0):
    state = np.zeros(len(CONTRACT.state))
    state[CUBE_Z] = height
    return observation(episode, step, state)


def play(node, episode, first, last, height=0.0):
    node.on_observation(seen(episode, first))
    for step in range(first, last):
        node.on_action(action(episode, step, [0.0] * 4))
        node.on_observation(seen(episode, step + 1, height if step == last - 1 else 0.0))


def test_truth_is_judged_beside_the_reward(make_graph):
    """A reward that only looks at the tip, in a task whose truth is the cube's height."""
    cube = tuple(e for e in CONTRACT.state if e.topic == "cube/pose")
    own = tuple(e for e in CONTRACT.state if e.topic != "cube/pose")
    node = make_graph(robot=ROBOT, task=TASK_FILE).add(RewardNode())
    node.contract = dataclasses.replace(CONTRACT, state=own, privileged=cube)
    truth = dict(TASK.success)
    task = dataclasses.replace(
        TASK, success={"term": "above", "state": "tip_z", "threshold": 0.05}, truth=truth
    )
    node.task, node.function = task, RewardFunction(task, node.contract.entry_names, CONTRACT.action.names)
    node.publisher = Sent()
    for step, (tip, height) in enumerate([(0.0, 0.0), (0.0, 0.07), (0.06, 0.0), (0.0, None)]):
        msg = observation(1, step, [0.0] * len(own))
        msg.state[[e.name for e in own].index("tip_z")] = tip
        if height is not None:
            msg.privileged = floats(height * (e.name == "cube_z") for e in cube)
        node.on_observation(msg)
        node.on_action(action(1, step, [0.0] * 4))
    told = [(r.success, r.truth) for r in node.publisher]
    assert told == [(False, Reward.YES), (True, Reward.NO), (False, Reward.UNKNOWN)]


def test_a_reward_that_needs_what_only_a_simulator_knows_says_so(make_graph):
    node = make_graph(robot=ROBOT, task=TASK_FILE).add(RewardNode())
    cube = tuple(e for e in CONTRACT.state if e.topic == "cube/pose")
    own = tuple(e for e in CONTRACT.state if e.topic != "cube/pose")
    node.contract = dataclasses.replace(CONTRACT, state=own, privileged=cube)
    node.on_observation(observation(1, 0, [0.0] * len(own)))
    node.on_action(action(1, 0, [0.0] * 4))
    with pytest.raises(UserError, match="the reward looks at 'cube_z', which is privileged and not observed"):
        node.on_observation(observation(1, 1, [0.0] * len(own)))


def press(node, event):
    node.on_event(OperatorEvent(event=event))


def test_a_step_is_judged_by_the_observation_after_it(node):
    play(node, 1, 0, 3, height=0.07)
    assert [(r.episode, r.step) for r in node.publisher] == [(1, 0), (1, 1), (1, 2)]
    assert [r.reward for r in node.publisher] == [0, 0, 1]
    assert [r.terminated for r in node.publisher] == [False, False, True]
    last = node.publisher[-1]
    assert last.success and not last.truncated and last.source == Reward.TERMS
    assert (last.term_names, list(last.term_values)) == (["success"], [1.0])
    assert last.header == seen(1, 3).header


def test_the_order_in_which_action_and_observation_come_does_not_matter(node):
    node.on_observation(seen(1, 0))
    node.on_observation(seen(1, 1))
    assert node.publisher == []
    node.on_action(action(1, 0))
    assert len(node.publisher) == 1
    node.on_action(action(1, 1))
    assert len(node.publisher) == 1
    node.on_observation(seen(1, 2))
    assert len(node.publisher) == 2


@pytest.mark.parametrize(
    ("event", "value"),
    [(OperatorEvent.SUCCESS, 1.0), (OperatorEvent.FAILURE, 0.0)],
    ids=["success", "failure"],
)
def test_the_persons_verdict_ends_the_episode_at_the_next_step(node, event, value):
    play(node, 1, 0, 1)
    press(node, event)
    node.on_action(action(1, 1))
    node.on_observation(seen(1, 2, height=0.07 if event == OperatorEvent.FAILURE else 0.0))
    last = node.publisher[-1]
    assert (last.step, last.reward, last.success, last.terminated) == (1, value, value == 1.0, True)
    assert last.source == Reward.PERSON and not last.truncated


def test_a_verdict_of_one_episode_does_not_judge_the_next(node):
    play(node, 1, 0, 2)
    press(node, OperatorEvent.FAILURE)
    play(node, 2, 3, 5)  # its first observations were lost
    assert [r.terminated for r in node.publisher if r.episode == 2] == [False, False]


def test_a_verdict_survives_an_observation_that_is_offered_again(node):
    node.on_observation(seen(1, 0))
    press(node, OperatorEvent.SUCCESS)
    node.on_observation(seen(1, 0))
    node.on_action(action(1, 0))
    node.on_observation(seen(1, 1))
    assert node.publisher[-1].success and node.publisher[-1].source == Reward.PERSON


@pytest.mark.parametrize("event", [OperatorEvent.PAUSE, OperatorEvent.DISCARD])
def test_other_buttons_judge_nothing(node, event):
    press(node, event)
    play(node, 1, 0, 2)
    assert [r.source for r in node.publisher] == [Reward.TERMS] * 2


def test_when_the_time_is_over_the_episode_is_truncated_not_terminated(node):
    play(node, 1, TASK.max_episode_steps - 2, TASK.max_episode_steps)
    assert [(r.truncated, r.terminated) for r in node.publisher] == [(False, False), (True, False)]


def test_success_at_the_last_moment_is_terminated_not_truncated(node):
    play(node, 1, TASK.max_episode_steps - 1, TASK.max_episode_steps, height=0.07)
    assert (node.publisher[-1].truncated, node.publisher[-1].terminated) == (False, True)


def test_the_reward_is_published_again_when_its_observation_is_offered_again(node):
    play(node, 1, 0, 2)
    node.on_observation(seen(1, 2))
    assert len(node.publisher) == 3 and node.publisher[2] == node.publisher[1]


def test_a_jerk_costs_within_an_episode_but_not_between_two(node):
    calm = {"calm": {"term": "smoothness", "weight": -1.0}}
    task = dataclasses.replace(TASK, reward=calm)
    node.function = RewardFunction(task, CONTRACT.entry_names, CONTRACT.action.names)
    full = [1.0] * len(CONTRACT.action.names)
    for episode, first, values in ((1, 0, full), (1, 1, full), (2, 0, [-1.0] * len(full)), (2, 1, full)):
        node.on_observation(seen(episode, first))
        node.on_action(action(episode, first, values))
        node.on_observation(seen(episode, first + 1))
    earned = {(r.episode, r.step): r.reward for r in node.publisher}
    assert earned == {(1, 0): 0.0, (1, 1): 0.0, (2, 0): 0.0, (2, 1): -1.0}


def test_a_gap_is_not_judged(node):
    play(node, 1, 0, 1)
    node.on_action(action(1, 1))
    node.on_observation(seen(1, 3))
    node.on_action(action(1, 3))
    node.on_observation(seen(1, 4))
    assert [r.step for r in node.publisher] == [0, 3]
    assert len(node.observations) <= 1 and len(node.actions) == 0


def test_rewards_go_out_on_the_topic(make_graph):
    graph = make_graph(robot=ROBOT, task=TASK_FILE)
    graph.add(RewardNode())
    rewards = graph.listen(Reward, "reward", qos.STEP)
    observations = graph.publisher(Observation, "observation", qos.STEP)
    executed = graph.publisher(Action, "executed_action", qos.STEP)
    events = graph.publisher(OperatorEvent, "operator_event", qos.STEP)
    graph.connect()
    observations.publish(seen(1, 0))
    executed.publish(action(1, 0))
    observations.publish(seen(1, 1, height=0.07))
    graph.until(lambda: rewards)
    assert rewards[0].success and rewards[0].reward == 1.0
    events.publish(OperatorEvent(event=OperatorEvent.FAILURE))
    graph.until(lambda: graph.nodes[1].verdict is False)
