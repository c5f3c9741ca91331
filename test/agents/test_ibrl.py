import numpy as np
import pytest
import torch
from agent_data import random_batch
from over_prior import SEEN, SMALL, assert_acts_as, flow, seen

from hilrl_agents import load_checkpoint, make_agent, save_checkpoint

UNGATED = SMALL | {"gate_episodes": 0}


def ibrl(prior=None, **options):
    return make_agent("ibrl", SEEN, UNGATED | options, 5, prior or flow())


def likes(*wanted):
    """Critics of an action, in their order: the closer to what is wanted, the better."""

    def values(features, action, frozen=False):
        return -torch.stack([(action - torch.tensor(w)).square().sum(1, keepdim=True) for w in wanted])

    return values


def acts(agent, action):
    """Let actor and average do this without spread."""
    for actor in (agent.actor, agent.average):
        with torch.no_grad():
            actor.net.weights[-2].zero_()
            actor.net.weights[-1].copy_(torch.tensor([*np.arctanh(action), -99.0, -99.0]))


def test_until_the_critics_are_warm_the_prior_acts_step_by_step_as_it_does_alone():
    prior = flow()
    agent = ibrl(prior, critic_warmup=2)
    agent.update(random_batch(SEEN, 8, seed=3))
    assert_acts_as(agent, prior)


def test_warm_critics_choose_between_prior_and_actor():
    agent = ibrl(critic_warmup=1)
    agent.update(random_batch(SEEN, 8, seed=3))
    acts(agent, [0.5, 0.0])
    agent.judges = likes([0.5, 0.0])
    np.testing.assert_allclose(agent.act(seen([0, 0, 0], [-0.5, 0]), False), [[0.5, 0.0]], atol=1e-6)
    agent.judges = likes([-0.5, 0.0])
    np.testing.assert_allclose(agent.act(seen([0, 0, 0], [-0.5, 0]), False), [[-0.5, 0.0]], atol=1e-6)
    # one critic of two doubts the actor's: the least counts
    agent.judges = likes([0.5, 0.0], [-0.6, 0.0])
    np.testing.assert_allclose(agent.act(seen([0, 0, 0], [-0.5, 0]), False), [[-0.5, 0.0]], atol=1e-6)


def test_what_is_learnt_acts_unexplored_only_when_it_has_earned_it():
    agent = ibrl(critic_warmup=1, gate_episodes=2)
    agent.episode_over(1.0)  # the prior's
    for step in range(2):
        agent.update(random_batch(SEEN, 8, seed=step))
    acts(agent, [0.5, 0.0])
    with torch.no_grad():
        agent.running.load_state_dict(agent.actor.state_dict())
    observation = seen([0, 0, 0], [-0.5, 0])

    def unexplored():
        agent.judges.forward = likes([0.5, 0.0])
        return agent.act(observation, False)[0, 0]

    for earned in (0.0, 1.0):
        agent.episode_over(earned)
        assert unexplored() == -0.5
    agent.episode_over(1.0)
    assert unexplored() == pytest.approx(0.5)


def test_exploring_stays_within_the_range_and_is_decided_by_the_seed():
    agent = ibrl(prior_noise=0.5)
    drawn = [agent.act(seen([0, 0, 0], [0.9, -0.9]), True, seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 0.01
    assert np.abs(drawn).max() <= 1


@pytest.mark.parametrize(("warm", "value"), [(False, -0.2), (True, 0.6)])
def test_targets_bootstrap_from_the_better_action_of_the_two(warm, value):
    agent = ibrl(gamma=0.5, largest_return=0.0, critic_warmup=1)
    if warm:
        agent.update(random_batch(SEEN, 8, seed=3))
    acts(agent, [0.6, 0.0])
    # Q' is the action's first entry
    agent.target = lambda features, action, frozen=False: action[None, :, :1]
    batch = random_batch(SEEN, 4, seed=0)
    batch.next_observation["state"][:, 3:] = torch.tensor([-0.2, 0.0])
    expected = batch.chunk_return(0.5) + batch.bootstrap_discount(0.5) * value
    torch.testing.assert_close(
        agent.td_target(batch), expected, atol=0.02, rtol=0
    )  # the draw's spread is 0.01


def test_actor_and_critics_do_not_see_the_prior_action():
    agent = ibrl()
    state = [0.1, 0.2, 0.3]
    both = torch.tensor(np.stack([seen(state, action)["state"] for action in ([0.9, -0.9], [0, 0.5])]))
    features = agent.encoder({"state": both, "images": {}})
    torch.testing.assert_close(features[0], features[1])


def test_what_solved_the_task_is_imitated_beside_what_people_did():
    batch = random_batch(SEEN, 8, seed=0)
    batch.solved[:] = torch.arange(8) < 3
    batch.offline[:] = True
    batch.person[:] = (torch.arange(8) >= 6)[:, None]
    mean = torch.zeros(8, 2)
    away = (batch.action[:, 0].square().sum(1) * batch.valid()[:, 0], batch.valid()[:, 0])
    for clone, rows in (("people", [6, 7]), ("solved", [0, 1, 2, 6, 7])):
        expected = away[0][rows].sum() / away[1][rows].sum()
        torch.testing.assert_close(ibrl(clone=clone).cloning(mean, batch), expected)


def test_a_checkpoint_goes_on_as_the_agent_would(tmp_path):
    agent = ibrl(critic_warmup=1)
    for step in range(3):
        agent.update(random_batch(SEEN, 8, seed=step))
    save_checkpoint(tmp_path / "checkpoint", agent)
    again, _ = load_checkpoint(tmp_path / "checkpoint")
    observation = seen([0.3, 0.1, 2.0], [0.4, 0.2])
    np.testing.assert_array_equal(again.act(observation, False), agent.act(observation, False))
    assert agent.update(random_batch(SEEN, 8, seed=9)) == again.update(random_batch(SEEN, 8, seed=9))
