import ast
import inspect
import math

import numpy as np
import pytest
import torch
from agent_data import observation, random_batch

from hilrl_agents import PolicySpec, make_agent
from hilrl_agents.batch import fold
from hilrl_agents.networks import bc_loss, squash

SPEC = PolicySpec(state_dim=2, action_dim=2, horizon=3)
EXACT = {"precision": "float32", "hidden": [8, 8]}


class Constant(torch.nn.Module):
    """A critic whose members have fixed values, whatever they see."""

    def __init__(self, *values):
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, features, action, frozen=False):
        return self.values[:, None, None].expand(-1, len(features), 1)


def test_td_target_by_hand():
    agent = make_agent("sac", SPEC, EXACT | {"gamma": 0.5})
    agent.target = Constant(4.0, 10.0)
    batch = random_batch(SPEC, 3, steps=[3, 2, 1])
    batch.reward[:] = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 99.0], [1.0, 99.0, 99.0]])
    batch.bootstrap[:] = torch.tensor([1.0, 1.0, 0.0])
    # 1 + 2/2 + 4/4 + 4/8;  1 + 2/2 + 4/4;  1 and nothing after the termination
    torch.testing.assert_close(agent.td_target(batch), torch.tensor([3.5, 3.0, 1.0]))


def test_backup_entropy_is_discounted_and_masked_like_the_value():
    agent = make_agent("sac", SPEC, EXACT | {"gamma": 0.5, "backup_entropy": True, "temperature_init": 0.1})
    agent.target = Constant(4.0)
    agent.sample_action = lambda features: (torch.zeros(len(features), 6), torch.full((len(features),), -3.0))
    batch = random_batch(SPEC, 2, steps=[1, 1])
    batch.reward[:] = 0.0
    batch.bootstrap[:] = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(agent.td_target(batch), torch.tensor([0.5 * (4.0 + 0.3), 0.0]))


def test_subsampled_critics_take_the_minimum_of_those_drawn():
    agent = make_agent("sac", SPEC, EXACT | {"gamma": 1.0, "critics": 3, "critic_subsample": 1})
    agent.target = Constant(1.0, 2.0, 3.0)
    batch = random_batch(SPEC, 1, steps=[1])
    batch.reward[:] = 0.0
    seen = {agent.td_target(batch).item() for _ in range(60)}
    assert seen == {1.0, 2.0, 3.0}


def test_critic_loss_by_hand():
    agent = make_agent("sac", SPEC, EXACT)
    agent.critic = Constant(1.0, 4.0)
    agent.td_target = lambda batch: torch.tensor([2.0, 4.0])
    loss, metrics = agent.critic_loss(random_batch(SPEC, 2), torch.zeros(2, 2))
    assert loss.item() == pytest.approx((1 + 9 + 4 + 0) / 4)
    assert metrics["td_target"].item() == 3.0


def test_actor_loss_by_hand():
    agent = make_agent("sac", SPEC, EXACT | {"temperature_init": 0.2, "bc_loss_weight": 0.5})
    agent.critic = Constant(1.0, 4.0)
    batch = random_batch(SPEC, 4, steps=[3, 3, 3, 1], offline=[False, False, True, True])
    features = torch.randn(4, 2)
    mean, log_std = agent.actor(features)
    noise = torch.randn(4, 6)
    agent.noise = lambda like: noise
    _, log_density = squash(mean, log_std, noise)
    error = (torch.tanh(mean).unflatten(1, (3, 2)) - batch.action).square().sum(-1)
    cloning = (error[2].sum() + error[3, 0]) / 4  # the offline rows' executed steps
    loss, _, metrics = agent.actor_loss(batch, features)
    assert metrics["bc_loss"].item() == pytest.approx(cloning.item(), rel=1e-5)
    assert loss.item() == pytest.approx((0.2 * log_density.mean() - 2.5 + 0.5 * cloning).item(), rel=1e-5)


def test_cloning_on_no_rows_is_zero():
    batch = random_batch(SPEC, 2, offline=[False, False])
    assert bc_loss(torch.zeros(2, 6), batch, batch.offline.float()).item() == 0.0


def test_temperature_rises_below_the_target_entropy_and_falls_above():
    agent = make_agent("sac", SPEC, EXACT | {"temperature_init": 0.2, "target_entropy": -0.5})
    low, high = torch.full((4,), 5.0), torch.full((4,), -5.0)
    # α (H − H_target) with H_target = −0.5 · 6
    assert agent.temperature_loss(low).item() == pytest.approx(0.2 * (-5 + 3))
    assert agent.temperature_loss(high).item() == pytest.approx(0.2 * (5 + 3))


def test_target_follows_the_critic_by_tau():
    agent = make_agent("sac", SPEC, EXACT | {"batch_size": 8, "tau": 0.25})
    before = [weight.clone() for weight in agent.target.parameters()]
    agent.update(random_batch(SPEC, 8))
    for old, new, critic in zip(before, agent.target.parameters(), agent.critic.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25 * (critic - old))


def test_utd_ratio_counts_critic_steps_and_one_actor_step():
    agent = make_agent("sac", SPEC, EXACT | {"batch_size": 8, "utd_ratio": 3})
    assert agent.batch_size == 24
    agent.update(random_batch(SPEC, 24))
    state = agent.state()
    assert state["optimizer.critic.step"].item() == 3
    assert state["optimizer.actor.step"].item() == 1
    assert agent.updates == 1


def test_pretrain_moves_the_actor_and_nothing_else():
    agent = make_agent("sac", SPEC, EXACT | {"learning_rate": 1e-2, "hidden": [32]})
    batch = random_batch(SPEC, 8)
    before = agent.state()
    losses = [agent.pretrain(batch)["bc_loss"] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    after = agent.state()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name.startswith(("actor.", "average.", "optimizer.actor.")) for name in moved)


def test_the_average_follows_the_actor_and_acts_where_nothing_is_explored():
    agent = make_agent("sac", SPEC, EXACT | {"hidden": [32], "policy_average": 0.25})
    observation = {"state": np.ones(SPEC.state_dim, np.float32), "images": {}}
    before = {k: v.clone() for k, v in agent.networks["average"].state_dict().items()}
    agent.pretrain(random_batch(SPEC, 8))
    actor, average = agent.networks["actor"].state_dict(), agent.networks["average"].state_dict()
    for name, value in average.items():
        torch.testing.assert_close(value, before[name] + 0.25 * (actor[name] - before[name]))
    calm = agent.act(observation, explore=False)
    agent.networks["actor"].load_state_dict({k: v + 1 for k, v in actor.items()})
    assert np.array_equal(agent.act(observation, explore=False), calm)


@pytest.mark.parametrize("name", ["sac", "bc"])
@pytest.mark.parametrize("cameras", [{}, {"front": (16, 12, 3), "wrist": (8, 8, 3)}])
@pytest.mark.parametrize("horizon", [1, 4])
def test_acting_is_a_function_of_weights_observation_and_seed(name, cameras, horizon):
    spec = PolicySpec(3, 2, cameras, horizon)
    agent, other = make_agent(name, spec, seed=1), make_agent(name, spec, seed=2)
    seen = observation(spec, 7)
    agent.fit_normalizer(np.random.default_rng(0).normal(5, 2, (50, 3)), np.zeros((50, 2)))
    assert not np.array_equal(agent.act(seen, False), other.act(seen, False))
    other.load_policy(agent.policy_state())
    chunk = agent.act(seen, True, 5)
    assert chunk.shape == (horizon, 2) and chunk.dtype == np.float32 and (np.abs(chunk) <= 1).all()
    assert np.array_equal(chunk, other.act(seen, True, 5))
    assert not np.array_equal(chunk, agent.act(seen, True, 6))
    assert np.array_equal(agent.act(seen, False), other.act(seen, False, 9))
    for _ in range(2):  # updating works at every shape and changes what acts
        agent.update(random_batch(spec, agent.batch_size))
    assert not np.array_equal(agent.act(seen, False), other.act(seen, False))


def test_same_seed_same_learning():
    states = []
    for _ in range(2):
        agent = make_agent("sac", SPEC, EXACT | {"batch_size": 16}, seed=4)
        for step in range(3):
            agent.update(random_batch(SPEC, 16, seed=step))
        states.append(agent.state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_wrong_observation_is_one_clear_sentence():
    agent = make_agent("sac", PolicySpec(2, 1, {"front": (8, 6, 3)}))
    seen = observation(agent.spec, 0)
    with pytest.raises(ValueError, match=r"observation state has shape \(5,\); this policy takes \(2,\)"):
        agent.act(seen | {"state": np.zeros(5)}, False)
    with pytest.raises(ValueError, match=r"observation has cameras \[\]; this policy takes \['front'\]"):
        agent.act(seen | {"images": {}}, False)
    with pytest.raises(ValueError, match=r"camera 'front' has float64 \(8, 6, 3\); .* uint8 \(8, 6, 3\)"):
        agent.act(seen | {"images": {"front": np.zeros((8, 6, 3))}}, False)


def test_bc_learns_from_a_persons_steps_only():
    agent = make_agent("bc", SPEC, {"hidden": [8]})
    batch = random_batch(SPEC, 4, offline=[False, False, True, True])
    batch.person[1, 2] = True
    batch.person[2] = False  # recorded while a policy acted
    mean = agent.policy(agent.encoder(batch.observation))[0]
    error = (torch.tanh(mean) - fold(batch.action)).square().unflatten(1, (3, 2)).sum(-1)
    expected = (error[3].sum() + error[1, 2]) / 4
    assert agent.update(batch)["bc_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_algorithm_stays_readable():
    from hilrl_agents import bc, qc, qc_fql, recap, sac, tdmpc2

    for module in (sac, bc, qc, qc_fql, tdmpc2, recap):
        source = inspect.getsource(module)
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, node.name
        texts = [
            n.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
        ]
        prose = {line for text in texts for line in range(text.lineno, text.end_lineno + 1)}
        code = [
            line
            for number, line in enumerate(source.splitlines(), 1)
            if number not in prose and line.strip() and not line.strip().startswith("#")
        ]
        assert len(code) <= 300


def test_initial_exploration_has_the_asked_standard_deviation():
    agent = make_agent("sac", PolicySpec(3, 1), {"initial_std": 0.3})
    _, log_std = agent.actor(torch.randn(200, 3))
    assert log_std.exp().mean().item() == pytest.approx(0.3, rel=0.2)
    assert math.isclose(agent.temperature().item(), 0.01, rel_tol=1e-5)


def test_without_a_running_average_the_newest_actor_acts():
    agent = make_agent("sac", PolicySpec(2, 2), {"hidden": [8], "batch_size": 8, "policy_average": 0.0})
    for seed in range(3):
        agent.update(random_batch(agent.spec, 8, seed=seed))
    for newest, average in zip(agent.actor.parameters(), agent.average.parameters(), strict=True):
        assert torch.equal(newest, average)
