import random

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from loop_messages import CONTRACT, episode_messages, joint_state, observation, pose, reward
from sensor_msgs.msg import Image, JointState

from hilrl_ros.messages import (
    Joiner,
    joint_vector,
    message_class,
    nanoseconds,
    observation_arrays,
    read_field,
    seconds,
    to_time,
)

ARM = JointState(name=["a", "b"], position=[0.5, -0.25], velocity=[2.0])


@pytest.mark.parametrize(
    ("msg", "path", "value"),
    [
        (ARM, "position[b]", -0.25),
        (ARM, "position[0]", 0.5),
        (ARM, "velocity[a]", 2.0),
        (pose(0, 1.0, 2.0, 3.0), "pose.position.z", 3.0),
        (JointState(name=["2", "1"], position=[7.0, 8.0]), "position[1]", 8.0),
        (JointState(name=["arm-1"], position=[7.0]), "position[arm-1]", 7.0),
    ],
)
def test_a_field_is_read_by_its_path(msg, path, value):
    assert read_field(msg, path) == value


@pytest.mark.parametrize(
    ("msg", "path", "message"),
    [
        (ARM, "position[c]", r"field 'position\[c\]': joint 'c' is not among a, b"),
        (ARM, "velocity[b]", r"field 'velocity\[b\]': 'velocity' has 1 items"),
        (ARM, "speed[a]", r"field 'speed\[a\]': JointState has no 'speed'"),
        (PoseStamped(), "pose.place.x", r"field 'pose.place.x': Pose has no 'place'"),
        (PoseStamped(), "pose.position", r"field 'pose.position' is a Point, expected a number"),
    ],
)
def test_a_field_that_is_not_there_says_what_is(msg, path, message):
    with pytest.raises(ValueError, match=message):
        read_field(msg, path)


def test_joints_come_in_the_order_of_the_contract():
    order = CONTRACT.joints[::-1]
    msg = joint_state(0, np.arange(6), names=order)
    assert joint_vector(msg, CONTRACT.joints).tolist() == [5, 4, 3, 2, 1, 0]


def test_a_missing_joint_is_named():
    msg = joint_state(0, np.zeros(5), names=CONTRACT.joints[1:])
    with pytest.raises(
        ValueError, match=r"joint_states lacks shoulder_pan; it has shoulder_lift, .*name the joints"
    ):
        joint_vector(msg, CONTRACT.joints)
    msg = joint_state(0, np.zeros(5))  # six names, five positions
    with pytest.raises(ValueError, match="joint_states lacks gripper"):
        joint_vector(msg, CONTRACT.joints)


def test_time_keeps_nanoseconds():
    assert nanoseconds(to_time(1_700_000_000_123_456_789)) == 1_700_000_000_123_456_789
    assert seconds(to_time(1_500_000_000)) == 1.5


def test_an_unknown_message_type_is_named():
    assert message_class("geometry_msgs/msg/PoseStamped") is PoseStamped
    for name in ("no_msgs/msg/Pose", "geometry_msgs/msg/Pos", "Pose"):
        with pytest.raises(
            ValueError, match=f"message type '{name}' is not installed; expected package/msg/Name"
        ):
            message_class(name)


def test_an_observation_of_another_contract_is_refused():
    names = len(CONTRACT.state)
    with pytest.raises(
        ValueError, match=f"observation has a state of 3, the contract of 'so101' names {names}"
    ):
        observation_arrays(observation(1, 0, [0.0] * 3), CONTRACT)
    msg = observation(1, 0)
    msg.images.append(Image())
    with pytest.raises(ValueError, match="observation has 1 images, the contract names"):
        observation_arrays(msg, CONTRACT)


def check(step, end):
    """Every message of a joined step is of the same step, and only the last one has a final observation."""
    at = (step.observation.episode, step.observation.step)
    assert (step.executed.episode, step.executed.step) == at
    assert (step.reward.episode, step.reward.step) == at
    ended = step.reward.terminated or step.reward.truncated
    assert (step.final is not None) == ended == end
    if ended:
        assert (step.final.episode, step.final.step) == (at[0], at[1] + 1)


def stream(rng, episodes, lost=()):
    """Messages of several episodes; topics overtake each other at random, each keeps its own order."""
    queues = {"observation": [], "executed_action": [], "reward": []}
    for number, steps in enumerate(episodes, 1):
        end = rng.choice(["terminated", "truncated"])
        for topic, messages in episode_messages(number, steps, end).items():
            queues[topic] += [m for m in messages if (topic, number, m.step) not in lost]
    while any(queues.values()):
        topic = rng.choice([t for t, q in queues.items() if q])
        yield queues[topic].pop(0)


@pytest.mark.parametrize("seed", range(40))
def test_steps_join_however_topics_overtake_each_other(seed):
    rng = random.Random(seed)
    episodes = [rng.randint(1, 6) for _ in range(4)]
    joiner = Joiner()
    steps = [step for msg in stream(rng, episodes) for step in joiner.add(msg)]
    expected = [(e, k) for e, n in enumerate(episodes, 1) for k in range(n)]
    assert sorted((s.observation.episode, s.observation.step) for s in steps) == expected
    for step in steps:
        check(step, end=step.observation.step == episodes[step.observation.episode - 1] - 1)


@pytest.mark.parametrize("seed", range(40))
def test_a_lost_message_costs_its_step_and_never_makes_a_wrong_pair(seed):
    rng = random.Random(seed)
    episodes = [rng.randint(2, 6) for _ in range(4)]
    every = [
        (topic, e, k)
        for e, n in enumerate(episodes, 1)
        for topic, count in (("observation", n + 1), ("executed_action", n), ("reward", n))
        for k in range(count)
    ]
    lost = set(rng.sample(every, 4))
    joiner = Joiner()
    steps = [step for msg in stream(rng, episodes, lost) for step in joiner.add(msg)]
    expected = set()
    for e, n in enumerate(episodes, 1):
        for k in range(n):
            needs = {(t, e, k) for t in ("observation", "executed_action", "reward")}
            if k == n - 1:
                needs.add(("observation", e, n))
            if not needs & lost:
                expected.add((e, k))
    got = [(s.observation.episode, s.observation.step) for s in steps]
    assert len(got) == len(set(got)) and set(got) == expected
    for step in steps:
        check(step, end=step.observation.step == episodes[step.observation.episode - 1] - 1)


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_messages_never_make_a_wrong_pair(seed):
    rng = random.Random(seed)
    episodes = [rng.randint(1, 6) for _ in range(4)]
    messages = list(stream(rng, episodes)) * 2
    rng.shuffle(messages)
    joiner = Joiner()
    steps = [step for msg in messages for step in joiner.add(msg)]
    for step in steps:
        check(step, end=step.observation.step == episodes[step.observation.episode - 1] - 1)


def test_a_step_whose_messages_are_all_repeated_is_joined_once():
    messages = [m for topic in episode_messages(1, 3).values() for m in topic if m.step == 1]
    joiner = Joiner()
    steps = [step for _ in range(3) for msg in messages for step in joiner.add(msg)]
    assert len(steps) == 1


def test_the_last_step_waits_for_the_observation_after_it():
    joiner = Joiner()
    parts = episode_messages(1, 1, "truncated")
    for msg in (parts["observation"][0], parts["executed_action"][0], parts["reward"][0]):
        assert list(joiner.add(msg)) == []
    (step,) = joiner.add(parts["observation"][1])
    check(step, end=True)


def test_what_is_kept_does_not_grow():
    joiner = Joiner()
    for number in range(1, 30):
        for messages in zip(*episode_messages(number, 5).values(), strict=False):
            for msg in messages:
                list(joiner.add(msg))
        for msg in (episode_messages(number, 5)["observation"][5], reward(number, 2)):
            list(joiner.add(msg))
    assert len(joiner.observations) + len(joiner.executed) + len(joiner.rewards) < 10
