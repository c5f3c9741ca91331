import math

import numpy as np
import pytest
import torch
from agent_data import observation, random_batch

from hilrl_agents import ConfigError, PolicySpec, load_checkpoint, make_agent, save_checkpoint
from hilrl_agents.tdmpc2 import simplex

SPEC = PolicySpec(state_dim=2, action_dim=2, horizon=3)
SMALL = {
    "latent": 8,
    "hidden": [16, 16],
    "value_bins": 5,
    "largest_symlog": 1.0,
    "samples": 32,
    "policy_samples": 8,
}
SMALL |= {"elites": 8, "batch_size": 4}


def agent_for(spec=SPEC, planning=True, **options):
    agent = make_agent("tdmpc2", spec, SMALL | options, seed=1)
    agent.handover.done.fill_(planning)
    return agent


def certain(agent, value):
    """Logits of the bin whose value is `value`, one of symexp(−1, −.5, 0, .5, 1)."""
    place = math.copysign(math.log1p(abs(value)), value)
    return torch.where((agent.bins - place).abs() < 1e-4, 50.0, -50.0)


# -- arithmetic -----------------------------------------------------------------------------------------------


def test_groups_of_the_latent_state_sum_to_one():
    z = simplex(torch.tensor([[0.0] * 8 + [1.0] * 8]))
    torch.testing.assert_close(z, torch.full((1, 16), 1 / 8))
    ones = simplex(torch.randn(5, 16)).view(5, 2, 8).sum(2)
    torch.testing.assert_close(ones, torch.ones(5, 2))


def test_values_and_bins_invert_each_other():
    agent = agent_for()
    assert agent.expected(certain(agent, math.e**0.5 - 1)[None, None]).item() == pytest.approx(
        math.e**0.5 - 1
    )
    assert agent.expected(certain(agent, 1 - math.e)[None, None]).item() == pytest.approx(1 - math.e)


def test_cross_entropy_to_the_two_nearest_bins():
    agent = agent_for()
    logits = torch.randn(2, 3, 5)
    values = torch.tensor([[math.exp(0.1) - 1], [1 - math.exp(0.75)], [99.0]])
    density = logits.log_softmax(2).mean(0)
    expected = -torch.stack([
        0.8 * density[0, 2] + 0.2 * density[0, 3],  # 0.1 of the way from 0 to 0.5
        0.5 * density[1, 0] + 0.5 * density[1, 1],  # −0.75
        density[2, 4],  # beyond the last one
    ])  # fmt: skip
    torch.testing.assert_close(agent.cross_entropy(logits, values)[:, 0], expected)


def test_td_target_by_hand():
    agent = agent_for(gamma=0.5, critics=2)
    low, high = math.e**0.5 - 1, math.e - 1
    agent.target.forward = lambda z, action: torch.stack(
        [certain(agent, low).expand(len(z), 5), certain(agent, high).expand(len(z), 5)]
    )
    reward, ended = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[False, True, False]])
    expected = torch.tensor([[1 + 0.5 * low, 2.0, 0.5 * low]])
    torch.testing.assert_close(agent.td_target(reward, ended, torch.zeros(1, 3, 8)), expected)
    bounded = agent_for(largest_return=1.0)
    assert bounded.td_target(reward, ended, torch.zeros(1, 3, 8)).max() <= 1


def test_model_loss_by_hand():
    """Two rows, one of which terminates in its second step: four parts, weights 1, ρ, ρ² over H."""
    agent = agent_for(
        rho=0.5, consistency_weight=2.0, reward_weight=3.0, value_weight=5.0, termination_weight=7.0
    )
    batch = random_batch(SPEC, 2, steps=[3, 2], path=True)
    batch.bootstrap[1] = 0.0
    seen = torch.rand(2, 3, 8)
    agent.encode_path = lambda path: seen
    agent.td_target = lambda reward, ended, after: torch.full((2, 3), 0.3)
    agent.termination.forward = lambda z: torch.full((1, len(z), 1), 0.4)
    errors = {"reward": torch.rand(2, 3), "value": torch.rand(2, 3)}
    agent.cross_entropy = lambda logits, value: errors["value" if bool((value == 0.3).all()) else "reward"]
    loss, z, metrics = agent.model_loss(batch, torch.zeros(2, 2), torch.zeros(2, 3))
    assert z.shape == (2, 4, 8) and not z.requires_grad
    weight = torch.tensor([[1.0, 0.5, 0.25], [1.0, 0.5, 0.0]]) / 3
    ended = torch.tensor([[0.0, 0, 0], [0, 1, 0]])
    yes = 1 / (1 + math.exp(-0.4))
    parts = {
        "consistency": (z[:, 1:] - seen).square().mean(2),
        "termination": -(ended * math.log(yes) + (1 - ended) * math.log(1 - yes)),
    } | errors
    found = {name: (weight * part).sum() / 2 for name, part in parts.items()}
    for name, value in found.items():
        assert metrics[f"{name}_loss"].item() == pytest.approx(value.item(), rel=1e-4)
    expected = 2 * found["consistency"] + 3 * found["reward"] + 5 * found["value"] + 7 * found["termination"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_latent_states_are_those_of_the_model_from_the_first_on():
    agent = agent_for()
    batch = random_batch(SPEC, 2, path=True)
    _, z, _ = agent.model_loss(batch, agent.encoder(batch.observation), batch.shown())
    first = simplex(agent.latent(agent.encoder(batch.observation))[0])
    second = agent.next(first, batch.action[:, 0])
    torch.testing.assert_close(z[:, 0], first.detach())
    torch.testing.assert_close(z[:, 2], agent.next(second, batch.action[:, 1]).detach())
    after = agent.encode_path(batch.path)
    one = simplex(agent.latent(agent.encoder({"state": batch.path["state"][:, 1], "images": {}}))[0])
    torch.testing.assert_close(after[:, 1], one)


def test_policy_loss_by_hand():
    agent = agent_for(rho=0.5, entropy_weight=0.01)
    density = torch.arange(8.0)
    agent.sample_action = lambda z: (torch.zeros(len(z), 2), density)
    agent.two = lambda logits: torch.stack([torch.arange(8.0), torch.arange(8.0) + 2])
    loss = agent.policy_loss(torch.zeros(2, 4, 8))
    q = torch.arange(8.0) + 1
    scale = 0.9 * 7  # from the 5th to the 95th percentile
    wanted = (q / scale - 0.01 * 2 * density).view(2, 4)
    expected = -(wanted * torch.tensor([1.0, 0.5, 0.25, 0.125])).mean()
    assert agent.scale.value.item() == pytest.approx(scale, rel=1e-5)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_cloning_loss_by_hand():
    agent = agent_for()
    agent.policy.forward = lambda z: (torch.full((len(z), 2), 0.5), None)
    batch = random_batch(SPEC, 2, steps=[3, 1])
    shown = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    error = (math.tanh(0.5) - batch.action).square().sum(2)
    expected = (error[0, 0] + error[0, 2] + error[1, 0]) / 3
    assert agent.cloning_loss(torch.zeros(2, 3, 8), batch, shown).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


# -- planning -------------------------------------------------------------------------------------------------


def known_world(agent):
    """z's first entry is a position, actions move it; reward is worth what it says, the end is beyond 1.5."""
    agent.next = lambda z, action: z + torch.nn.functional.pad(action[:, :1], (0, z.shape[1] - 1))
    agent.termination.forward = lambda z: z[None, :, :1] - 1.5
    agent.reward.forward = lambda z, action: z[None, :, :1]
    agent.critic.forward = lambda z, action: (10 * z[None, :, :1]).expand(2, -1, -1)
    agent.expected = lambda told: told[..., 0]


def test_worth_of_a_plan_by_hand():
    agent = agent_for(gamma=0.5)
    known_world(agent)
    plans = torch.tensor([[[1.0, 0], [0.25, 0], [0.0, 0]], [[1.0, 0], [1.0, 0], [1.0, 0]]])
    # 0 + 1/2 + 1.25/4 + 12.5/8;  the second one ends in its second step, at 2: what it earned until then is left
    torch.testing.assert_close(agent.worth(torch.zeros(2, 8), plans), torch.tensor([2.375, 0.5]))


def test_planning_finds_what_is_worth_most():
    agent = agent_for(PolicySpec(2, 1, horizon=3), samples=256, elites=16, iterations=6, gamma=0.9)
    known_world(agent)
    agent.termination.forward = lambda z: torch.full((1, len(z), 1), -9.0)
    agent.critic.forward = lambda z, action: (-(z[None, :, :1] - 0.6).square() * 50).expand(2, -1, -1)
    plan = agent.plan(torch.zeros(1, 8), False, torch.Generator().manual_seed(0))
    assert plan.shape == (3, 1)
    assert plan.sum().item() == pytest.approx(0.6, abs=0.15)


@pytest.mark.parametrize("cameras", [{}, {"front": (16, 16, 3)}])
@pytest.mark.parametrize("planning", [False, True])
def test_a_plan_follows_from_weights_observation_and_seed(planning, cameras):
    spec = PolicySpec(3, 2, cameras, horizon=3)
    agent, other = agent_for(spec, planning), make_agent("tdmpc2", spec, SMALL, seed=9)
    other.load_policy(agent.policy_state())
    seen = observation(spec, 3)
    plan = agent.act(seen, True, 5)
    assert plan.shape == (3, 2) and plan.dtype == np.float32 and np.abs(plan).max() <= 1
    other.act(seen, True, 1)
    assert np.array_equal(plan, other.act(seen, True, 5))
    assert not np.array_equal(plan, agent.act(seen, True, 6))
    assert np.array_equal(agent.act(seen, False, 5), other.act(seen, False, 5))


def test_it_goes_on_as_an_agent_like_itself():
    prior = agent_for()
    prior.update(random_batch(SPEC, 4, path=True))
    agent = make_agent("tdmpc2", SPEC, {}, prior=prior, seed=8)
    seen = observation(SPEC, 0.3)
    assert np.array_equal(agent.act(seen, True, 3), prior.act(seen, True, 3))
    assert torch.equal(agent.target.weights[0], prior.critic.weights[0])


def test_plans_are_made_from_the_warm_up_on():
    agent = agent_for(planning=False, planning_warmup=2)
    calls = []
    agent.plan = lambda z, explore, generator: calls.append(1) or torch.zeros(3, 2)
    for update in range(3):
        agent.act(observation(SPEC, 0), False, 1)
        assert len(calls) == max(0, update - 1)
        agent.update(random_batch(SPEC, 4, seed=update, path=True))


# -- learning -------------------------------------------------------------------------------------------------


def test_pretraining_fits_model_and_policy_to_demonstrations():
    agent = agent_for(learning_rate=3e-3, hidden=[32, 32], latent=16, encoder_scale=1.0)
    batch = random_batch(SPEC, 32, offline=[True] * 32, path=True)
    batch.reward.clamp_(-1, 1)
    batch.action[:, 0] = torch.tanh(batch.observation["state"])
    batch.action[:, 1:] = torch.tanh(batch.path["state"][:, :-1])
    history = [agent.pretrain(batch) for _ in range(100)]
    assert history[-1]["bc_loss"] < 0.65 * history[0]["bc_loss"]
    assert history[-1]["reward_loss"] < 0.8 * history[0]["reward_loss"]
    assert history[-1]["termination_loss"] < 0.2 * history[0]["termination_loss"]


def test_the_policy_follows_the_critics_from_the_warm_up_on():
    agent = agent_for(critic_warmup=2)
    for update in range(3):
        before = agent.policy.state_dict()["net.weights.0"].clone()
        agent.update(random_batch(SPEC, 4, seed=update, offline=[False] * 4, path=True))  # nothing to imitate
        assert torch.equal(before, agent.policy.state_dict()["net.weights.0"]) == (update < 2)


def test_one_that_begins_as_another_goes_on_following_its_critics():
    prior = agent_for()
    prior.update(random_batch(SPEC, 4, path=True))
    agent = make_agent("tdmpc2", SPEC, {"critic_warmup": 2}, prior=prior)
    before = agent.policy.state_dict()["net.weights.0"].clone()
    agent.update(random_batch(SPEC, 4, offline=[False] * 4, path=True))  # nothing to imitate
    assert not torch.equal(before, agent.policy.state_dict()["net.weights.0"])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_imitation_shapes_the_latent_state_where_it_is_asked_to(weight):
    others = dict.fromkeys(("consistency_weight", "reward_weight", "value_weight", "termination_weight"), 0.0)
    agent = agent_for(**others, bc_latent_weight=weight)
    before = [tensor.clone() for tensor in agent.latent.parameters()]
    agent.update(random_batch(SPEC, 4, offline=[True] * 4, path=True))
    moved = [not torch.equal(a, b) for a, b in zip(before, agent.latent.parameters(), strict=True)]
    assert any(moved) == bool(weight)


@pytest.mark.parametrize("encoder", ["trained", "imitation"])
def test_a_checkpoint_goes_on_bit_for_bit(encoder, tmp_path):
    spec = PolicySpec(2, 2, {"front": (16, 16, 3)}, horizon=2)
    agent = make_agent(
        "tdmpc2", spec, SMALL | {"utd_ratio": 2, "image_encoder": encoder, "planning_warmup": 1}
    )
    agent.fit_normalizer(np.random.default_rng(0).normal(size=(9, 2)), np.zeros((9, 2)))
    agent.pretrain(random_batch(spec, 4, path=True))
    agent.update(random_batch(spec, 8, path=True))
    save_checkpoint(tmp_path / "c", agent)
    loaded, _ = load_checkpoint(tmp_path / "c")
    for k in range(2):
        batch = random_batch(spec, 8, seed=k, path=True)
        assert agent.update(batch) == loaded.update(batch)
    seen = observation(spec, 7)
    assert np.array_equal(agent.act(seen, True, 1), loaded.act(seen, True, 1))
    state, other = agent.state(), loaded.state()
    assert all(torch.equal(state[key], other[key]) for key in state)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"latent": 12}, r"tdmpc2\.latent: is 12, expected a multiple of 8"),
        ({"policy_samples": 32}, r"tdmpc2\.policy_samples: is 32, expected less than samples \(32\)"),
    ],
)
def test_sizes_that_do_not_go_together_are_one_clear_sentence(options, error):
    with pytest.raises(ConfigError, match=error):
        agent_for(**options)


def test_everything_that_observes_learns_slower():
    agent = agent_for(
        PolicySpec(3, 2, {"front": (16, 16, 3)}, horizon=3), learning_rate=1e-3, encoder_scale=0.5
    )
    rates = {name: optimizer.adam.param_groups[0]["lr"] for name, optimizer in agent.optimizers.items()}
    assert rates["latent"] == rates["encoder"] == 5e-4 and rates["model"] == 1e-3
