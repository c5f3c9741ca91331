import hashlib
import random

import numpy as np
import pytest
import torch
from hilrl_msgs.msg import PolicyWeights
from loop_messages import CONTRACT

from hilrl_actor.policy import Policy
from hilrl_agents.checkpoint import CheckpointError, pack_policy
from hilrl_ros.images import to_bytes_field
from hilrl_ros.settings import AgentSettings

TINY = AgentSettings("sac", 1, {"hidden": [8, 8]})
OBSERVATION = {"state": np.linspace(-1, 1, len(CONTRACT.state), dtype=np.float32), "images": {}}


@pytest.fixture
def policy():
    return Policy.untrained(CONTRACT, TINY)


def weights(policy, value):
    return {name: torch.full_like(t, value) for name, t in policy.agent.policy_state().items()}


def messages(policy, version, value, parts=4, **fields):
    data = pack_policy(weights(policy, value))
    size = -(-len(data) // parts)
    common = {
        "agent": "sac",
        "contract_hash": CONTRACT.hash(),
        "sha256": hashlib.sha256(data).hexdigest(),
    } | fields
    return [
        PolicyWeights(
            version=version,
            part=i,
            parts=parts,
            data=to_bytes_field(data[i * size : (i + 1) * size]),
            **common,
        )
        for i in range(parts)
    ]


def same(policy, value):
    return all(torch.equal(t, torch.full_like(t, value)) for t in policy.agent.policy_state().values())


@pytest.mark.parametrize("seed", range(5))
def test_parts_may_come_in_any_order_and_twice(policy, seed):
    parts = messages(policy, 1, 0.5) + messages(policy, 1, 0.5)[:2]
    random.Random(seed).shuffle(parts)
    assert sum(policy.receive(part) for part in parts) == 1
    assert policy.version == 1 and same(policy, 0.5)


def test_a_new_version_takes_over_from_a_half_received_one(policy):
    first, second = messages(policy, 1, 0.1), messages(policy, 2, 0.2)
    for part in (*first[:3], *second[:2], first[3]):
        assert not policy.receive(part)
    assert not policy.receive(second[2])
    assert policy.receive(second[3])
    assert policy.version == 2 and same(policy, 0.2)


def test_older_versions_are_ignored(policy):
    for part in messages(policy, 5, 0.5):
        policy.receive(part)
    for part in messages(policy, 5, 0.9) + messages(policy, 4, 0.4):
        assert not policy.receive(part)
    assert policy.version == 5 and same(policy, 0.5)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"sha256": "0" * 64},
            CheckpointError,
            r"policy weights are damaged: sha256 \w+…, but 0{12}… was announced",
        ),
        ({"agent": "bc"}, ValueError, "weights of agent 'bc' refused: this actor runs 'sac'"),
        (
            {"contract_hash": "abc"},
            ValueError,
            r"weights of contract abc refused: this actor's contract is \w+",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_old_ones_stay(policy, fields, error, message):
    for part in messages(policy, 1, 0.5):
        policy.receive(part)
    bad = messages(policy, 2, 0.9, **fields)
    for part in bad[:-1]:
        assert not policy.receive(part)
    with pytest.raises(error, match=message):
        policy.receive(bad[-1])
    assert policy.version == 1 and same(policy, 0.5)
    assert sum(policy.receive(part) for part in messages(policy, 2, 0.7)) == 1  # the right ones still count
    assert same(policy, 0.7)


def test_a_part_beyond_the_last_is_refused(policy):
    part = messages(policy, 1, 0.5)[0]
    part.part = part.parts
    with pytest.raises(ValueError, match="weights refused: part 4 of 4, expected parts counted from 0"):
        policy.receive(part)


def test_weights_of_other_networks_are_refused_and_the_old_ones_stay(policy):
    other = Policy.untrained(CONTRACT, AgentSettings("sac", 1, {"hidden": [9, 8]}))
    before = policy.agent.policy_state()
    parts = messages(other, 1, 0.5)
    with pytest.raises(ValueError, match="has shape"):
        [policy.receive(part) for part in parts]
    assert policy.version == 0
    assert all(torch.equal(t, before[name]) for name, t in policy.agent.policy_state().items())


def test_exploration_depends_on_weights_and_seed_alone(policy):
    again = Policy.untrained(CONTRACT, TINY)
    again.agent.load_policy(policy.agent.policy_state())
    first = [policy.act(OBSERVATION, True, 1, 1, k)[0] for k in range(3)]
    policy.act(OBSERVATION, True, 9, 9, 9)
    assert np.array_equal(first, [again.act(OBSERVATION, True, 1, 1, k)[0] for k in range(3)])
    assert not np.array_equal(first[0], first[1])
    assert first[0].shape == (len(CONTRACT.action.names),) and np.abs(first).max() <= 1


def test_an_agent_and_its_prior_draw_by_themselves():
    seeds = {}
    policy = object.__new__(Policy)
    policy.prior_actions, policy.version = {}, 1

    class Executor:
        def __init__(self, name):
            self.name = name

        def act(self, observation, *arguments):
            seeds[self.name] = arguments[-4 if self.name == "agent" else 0]
            return (np.zeros(0), 1) if self.name == "agent" else np.zeros(0)

    policy.executor, policy.prior = Executor("agent"), Executor("prior")
    policy.act({"state": np.zeros(2, np.float32), "images": {}}, True, 3, 1, 0)
    assert seeds["agent"] != seeds["prior"]


def test_a_chunk_goes_on_with_the_weights_that_planned_it_until_a_person_acts():
    settings = AgentSettings("bc", 4, {"hidden": [8], "n_action_steps": 4})
    policy = Policy.untrained(CONTRACT, settings)

    def act(step):
        return policy.act(OBSERVATION, False, 1, 1, step)

    policy.version = 1
    chunk = policy.agent.act(OBSERVATION, False)
    assert np.array_equal(act(0)[0], chunk[0])
    policy.version = 2
    policy.agent.load_policy({name: t + 0.1 for name, t in policy.agent.policy_state().items()})
    action, version = act(1)
    assert np.array_equal(action, chunk[1]) and version == 1
    policy.interrupt()
    action, version = act(2)
    assert np.array_equal(action, policy.agent.act(OBSERVATION, False)[0]) and version == 2


def test_weights_grow_old_only_where_something_is_learnt_from(policy):
    policy.learnt_until = 10.0
    assert policy.age(10.5, 3) == 0.5
    assert policy.age(210.5, 0) == 0.5, "200 s of measuring lie between"
    assert policy.age(210.75, 1) == 0.75
    policy.learnt_until = 210.5
    assert policy.age(211.0, 2) == 0.5
