from dataclasses import replace

import numpy as np
import pytest
import torch
from agent_data import observation, random_batch

from hilrl_agents import PolicySpec, load_checkpoint, make_agent, save_checkpoint
from hilrl_agents.batch import fold
from hilrl_agents.chunks import ChunkExecutor
from hilrl_agents.warm_start import WarmStartError

SPEC = PolicySpec(state_dim=2, action_dim=2, horizon=3)
EXACT = {
    "precision": "float32",
    "hidden": [8, 8],
    "critic_hidden": [8, 8],
    "flow_steps": 2,
    "critic_warmup": 0,
}
both = pytest.mark.parametrize("name", ["qc", "qc_fql"])


def agent_for(name, spec=SPEC, warm=True, **options):
    agent = make_agent(name, spec, EXACT | {"critic_warmup": 0 if warm else 1000} | options, seed=1)
    agent.handover.done.fill_(warm)
    return agent


def fixed(*values):
    """A critic whose members have fixed values, whatever they see."""
    return lambda features, action, frozen=False: torch.tensor(values)[:, None, None].expand(
        -1, len(features), 1
    )


def first_entry(features, action, frozen=False):
    """Two critics: the chunk's first entry, and that entry plus one."""
    return torch.stack([action[:, :1], action[:, :1] + 1])


# -- losses ---------------------------------------------------------------------------------------------------


@both
def test_td_target_by_hand(name):
    agent = agent_for(name, gamma=0.5)
    agent.target.forward = fixed(4.0, 10.0)
    batch = random_batch(SPEC, 3, steps=[3, 2, 1])
    batch.reward[:] = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 99.0], [1.0, 99.0, 99.0]])
    batch.bootstrap[:] = torch.tensor([1.0, 1.0, 0.0])
    # 1 + 2/2 + 4/4 + 4/8;  1 + 2/2 + 4/4;  1 and nothing after the termination
    torch.testing.assert_close(agent.td_target(batch), torch.tensor([3.5, 3.0, 1.0]))
    bounded = agent_for(name, gamma=0.5, largest_return=2.0)
    bounded.target.forward = fixed(4.0)
    torch.testing.assert_close(bounded.td_target(batch), torch.tensor([2.0, 2.0, 1.0]))


@both
def test_subsampled_critics_take_the_minimum_of_those_drawn(name):
    agent = agent_for(name, gamma=1.0, critics=3, critic_subsample=1)
    agent.target.forward = fixed(1.0, 2.0, 3.0)
    batch = random_batch(SPEC, 1)
    batch.reward[:] = 0.0
    assert {agent.td_target(batch).item() for _ in range(60)} == {1.0, 2.0, 3.0}


def test_the_target_scores_what_the_newest_critic_chooses():
    agent = agent_for("qc", gamma=1.0, best_of=16)
    agent.critic.forward, agent.target.forward = first_entry, lambda *seen, frozen: 10 * first_entry(*seen)
    batch = random_batch(SPEC, 4)
    batch.reward[:] = 0.0
    state = agent.generator.get_state()
    target = agent.td_target(batch)
    agent.generator.set_state(state)
    features = agent.encoder(batch.next_observation).repeat_interleave(16, 0)
    drawn = agent.actions.inverse(agent.draw(features, agent.noise(64, agent.generator)))
    torch.testing.assert_close(target, 10 * drawn[:, 0, 0].view(4, 16).amax(1))


@both
def test_critic_loss_by_hand(name):
    agent = agent_for(name)
    agent.critic.forward = fixed(1.0, 4.0)
    agent.td_target = lambda batch: torch.tensor([2.0, 4.0])
    loss, metrics = agent.critic_loss(random_batch(SPEC, 2), torch.zeros(2, 2))
    assert loss.item() == pytest.approx((1 + 9 + 4 + 0) / 4)
    assert metrics["td_target"].item() == 3.0


@both
def test_critics_see_normalised_chunks_that_go_on_behind_a_termination(name):
    agent = agent_for(name)
    agent.fit_normalizer(np.zeros((4, 2)), np.array([[0.5, 0.1], [0.1, 0.3]]))
    batch = random_batch(SPEC, 2, steps=[3, 1])
    calls = []
    agent.critic.forward = lambda features, action, frozen=False: calls.append(action) or torch.zeros(2, 2, 1)
    agent.td_target = lambda batch: torch.zeros(2)
    agent.critic_loss(batch, torch.zeros(2, 2))
    expected = batch.action.clone()
    expected[1] = batch.action[1, :1]
    torch.testing.assert_close(
        calls[0].view(2, 3, 2), (expected - torch.tensor([0.3, 0.2])) / torch.tensor([0.2, 0.1])
    )


@both
def test_returns_start_the_critic_on_solved_rows_alone(name):
    agent = agent_for(name, gamma=0.5, pretrain_returns=4)
    assert agent.pretrain_n_step == 4
    agent.critic.forward = fixed(1.0, 2.0)
    batch = random_batch(SPEC, 2, steps=[4, 4], n_step=4)
    batch.reward[:] = torch.tensor([[0.0, 0.0, 0.0, 8.0], [9.0, 9.0, 9.0, 9.0]])
    batch.bootstrap[:] = torch.tensor([0.0, 1.0])
    # the return is 8 / 8
    assert agent.return_loss(batch, torch.zeros(2, 2)).item() == pytest.approx((0 + 1) / 2)


@pytest.mark.parametrize(
    ("clone", "weight"),
    [
        ("people", [[1, 1, 0], [1, 1, 1], [0, 0, 0]]),
        ("solved", [[1, 1, 0], [1, 1, 1], [1, 1, 1]]),
        ("all", [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
    ],
)
@both
def test_what_is_imitated(name, clone, weight):
    batch = random_batch(SPEC, 3, steps=[3, 1, 2])
    batch.person[:] = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    batch.solved[:] = torch.tensor([False, True, True])
    assert agent_for(name, clone=clone).imitated(batch).tolist() == weight


@both
def test_corrections_count_as_often_as_asked_for_and_demonstrations_once(name):
    batch = random_batch(SPEC, 3, steps=[3, 3, 3])
    batch.person[:] = torch.tensor([[False, True, True], [True, True, True], [False, False, False]])
    batch.offline[:] = torch.tensor([False, True, False])
    batch.solved[:] = True
    weight = agent_for(name, clone="solved", correction_weight=4.0).imitated(batch)
    assert weight.tolist() == [[1, 4, 4], [1, 1, 1], [1, 1, 1]]


@both
def test_cloning_loss_is_the_squared_error_of_the_velocity_on_weighted_steps(name):
    agent = agent_for(name)
    batch = random_batch(SPEC, 2)
    noise = torch.randn(2, 3, 2, generator=agent.generator.clone_state())
    agent.velocity = lambda features, x, time: torch.full_like(x, 0.25)
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    loss, _ = agent.cloning_loss(batch, torch.zeros(2, 2), weight)
    error = (0.25 - (batch.action - noise)).square()
    assert loss.item() == pytest.approx((error[0, 0].sum() + error[1, 2].sum()).item() / 4, rel=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_loss_of_the_one_step_actor_by_hand(normalize, warm):
    agent = agent_for("qc_fql", warm=warm, alpha=3.0, normalize_q_loss=normalize)
    agent.cloning_loss = lambda *seen: (torch.tensor(7.0), {})
    agent.one_step = lambda features, noise: torch.full_like(noise, 1.5)
    agent.draw = lambda features, noise: torch.full_like(noise, 4.0)  # taught: clipped to 1
    agent.critic.forward = lambda features, action, frozen: 4 * first_entry(features, action)
    loss, metrics = agent.policy_loss(random_batch(SPEC, 2), torch.zeros(2, 2), torch.ones(2, 3))
    # the critics see the clipped action 1: values 4 and 8, in the mean 6
    value = 0.0 if not warm else 1.0 if normalize else 6.0
    assert loss.item() == pytest.approx(7 + 3 * 0.25 - value)
    assert metrics["distill_loss"].item() == pytest.approx(0.25)


def test_the_critics_pull_the_one_step_actor_and_not_the_flow_policy():
    agent = agent_for("qc_fql", alpha=0.0, clone="people", batch_size=8)
    batch = random_batch(SPEC, 8, offline=[False] * 8)
    before = agent.state()
    agent.update(batch)
    after = agent.state()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("policy."))
    assert not torch.equal(before["actor.weights.0"], after["actor.weights.0"])


# -- acting ---------------------------------------------------------------------------------------------------


def test_the_chunk_of_highest_least_value_is_executed():
    agent = agent_for("qc", best_of=50)
    agent.critic.forward = first_entry
    seen = observation(SPEC, 0.3)
    drawn = agent.draw(torch.full((50, 2), 0.3), agent.noise(50, torch.Generator().manual_seed(4)))
    best = int(agent.actions.inverse(drawn)[:, 0, 0].argmax())
    chosen = agent.actions.inverse(drawn)[best].detach()
    assert np.allclose(agent.act(seen, False, 4), chosen, atol=1e-5)


def flow_policy(spec=SPEC):
    prior = make_agent("flow", spec, {"hidden": [8, 8], "flow_steps": 2, "n_action_steps": 2}, seed=5)
    rng = np.random.default_rng(0)
    prior.fit_normalizer(rng.normal(size=(9, 2)), rng.uniform(-1, 1, (9, 2)))
    return prior


def nobody_showed(batch):
    return replace(batch, person=torch.zeros_like(batch.person))


def acts_as(agent, prior):
    seen = [observation(agent.spec, value) for value in (0, 1, 2)]
    return all(np.array_equal(agent.act(o, True, k), prior.act(o, True, k)) for k, o in enumerate(seen))


@pytest.mark.parametrize("cameras", [{}, {"front": (16, 16, 3)}])
@both
def test_where_nobody_shows_a_thing_it_acts_bit_for_bit_as_its_prior_until_the_critic_is_warm(name, cameras):
    spec = PolicySpec(2, 2, cameras, horizon=3)
    prior = flow_policy(spec)
    options = {"precision": "float32", "critic_hidden": [8, 8], "batch_size": 8, "critic_warmup": 3}
    agent = make_agent(name, spec, options, prior=prior)
    assert (agent.config.hidden, agent.config.flow_steps, agent.config.n_action_steps) == ((8, 8), 2, 2)
    assert not agent.pretrains
    fresh = agent.state()
    for update in range(3):
        assert acts_as(agent, prior)
        agent.update(nobody_showed(random_batch(spec, 8, seed=update)))
    after = agent.state()
    assert not acts_as(agent, prior)
    still = {name for name in fresh if torch.equal(fresh[name], after[name])}
    assert {name for name in fresh if name.startswith(("encoder.", "policy.", "actions."))} <= still
    assert not {"critic.weights.0", "actor.weights.0"} & still


@both
def test_what_a_person_shows_is_imitated_before_the_critic_is_warm(name):
    agent = make_agent(name, SPEC, EXACT | {"batch_size": 8, "critic_warmup": 9}, prior=flow_policy())
    before = agent.state()
    agent.update(nobody_showed(random_batch(SPEC, 8)))
    assert torch.equal(agent.state()["policy.weights.0"], before["policy.weights.0"])
    agent.update(random_batch(SPEC, 8, offline=[True] * 8))
    assert not torch.equal(agent.state()["policy.weights.0"], before["policy.weights.0"])
    assert not agent.handover.done


@both
def test_it_goes_on_as_an_agent_like_itself(name):
    prior = agent_for(name, warm=False, batch_size=8, critic_warmup=1)
    prior.update(random_batch(SPEC, 8))
    agent = make_agent(name, SPEC, {"critic_warmup": 2}, prior=prior, seed=9)
    assert acts_as(agent, prior) and bool(agent.handover.done)
    agent.update(random_batch(SPEC, 8))
    assert bool(agent.handover.done)


def test_an_actor_that_acts_already_rests_until_its_new_critic_is_warm():
    prior = agent_for("qc_fql", warm=False, batch_size=8, critic_warmup=1)
    prior.update(random_batch(SPEC, 8))
    agent = make_agent("qc_fql", SPEC, {"critic_warmup": 3}, prior=prior, seed=9)
    for update in range(3):
        assert acts_as(agent, prior)
        agent.update(random_batch(SPEC, 8, seed=update))
    agent.update(random_batch(SPEC, 8))
    assert not acts_as(agent, prior)


def test_a_fit_of_the_encoder_takes_the_actor_along_that_acts():
    spec = PolicySpec(2, 2, {"front": (16, 16, 3)}, horizon=3)
    agent = agent_for("qc_fql", spec, image_encoder="imitation", encoder_refresh_updates=2)
    before = agent.state()
    agent.refresh(random_batch(spec, 8, seed=seed) for seed in range(3))
    moved = {name for name, tensor in agent.state().items() if not torch.equal(tensor, before[name])}
    assert {"policy.weights.0", "actor.weights.0"} <= moved and "critic.weights.0" not in moved


@pytest.mark.parametrize(
    ("horizon", "options", "error"),
    [
        (2, {}, r"\.chunk_size: is 2, expected 3, as in its prior 'flow'"),
        (3, {"flow_steps": 9}, r"\.flow_steps: is 9, expected 2, as in its prior 'flow'"),
        (
            3,
            {"hidden": [9]},
            r" would not act as its prior 'flow': policy\.weights\.0 is \(1, 9, 9\), the prior",
        ),
    ],
)
@both
def test_a_flow_policy_that_it_could_not_begin_as_is_one_clear_sentence(name, horizon, options, error):
    with pytest.raises(WarmStartError, match=name + error):
        make_agent(name, PolicySpec(2, 2, horizon=horizon), options, prior=flow_policy())


@both
def test_the_critic_has_a_say_when_it_is_warm_also_where_only_the_weights_arrive(name):
    agent, actor = (
        make_agent(name, SPEC, EXACT | {"critic_warmup": 2, "batch_size": 8}, seed=k) for k in (1, 2)
    )
    seen = observation(SPEC, 0.3)
    for update in range(3):
        assert bool(agent.handover.done) == (update >= 2)
        agent.update(random_batch(SPEC, 8, seed=update))
        actor.load_policy(agent.policy_state())
        assert bool(actor.handover.done) == (update >= 1)
        chunk = agent.act(seen, True, 5)
        assert chunk.shape == (3, 2) and chunk.dtype == np.float32 and np.abs(chunk).max() <= 1
        assert np.array_equal(chunk, actor.act(seen, False, 5))
        assert not np.array_equal(chunk, agent.act(seen, True, 6))


@both
def test_chunks_are_executed_as_the_priors_until_the_critic_has_a_say(name):
    prior = make_agent("flow", SPEC, {"hidden": [8, 8], "flow_steps": 2, "n_action_steps": 3})
    agent = make_agent(name, SPEC, EXACT | {"n_action_steps": 1}, prior=prior)
    seen, (as_prior, own) = observation(SPEC, 0.3), (ChunkExecutor(one) for one in (prior, agent))
    for step in range(4):
        expected, found = (executor.act(seen, True, step, 1, step)[0] for executor in (as_prior, own))
        assert np.array_equal(found, expected)
    agent.handover.done.fill_(True)
    for step in range(4, 7):
        assert np.array_equal(own.act(seen, True, step, 1, step)[0], agent.act(seen, True, step)[0])


@pytest.mark.parametrize("encoder", ["trained", "imitation"])
@both
def test_a_checkpoint_goes_on_bit_for_bit(name, encoder, tmp_path):
    spec = PolicySpec(2, 2, {"front": (16, 16, 3)}, horizon=2)
    options = EXACT | {"batch_size": 4, "utd_ratio": 2, "image_encoder": encoder, "critic_subsample": 1}
    agent = make_agent(name, spec, options, seed=3)
    agent.fit_normalizer(
        np.random.default_rng(0).normal(size=(9, 2)), np.random.default_rng(1).uniform(-1, 1, (9, 2))
    )
    agent.pretrain(random_batch(spec, 4))
    agent.update(random_batch(spec, 8))
    agent.refresh([random_batch(spec, 4, seed=k) for k in range(2)])
    save_checkpoint(tmp_path / "c", agent)
    loaded, _ = load_checkpoint(tmp_path / "c")
    for k in range(2):
        assert agent.update(random_batch(spec, 8, seed=k)) == loaded.update(random_batch(spec, 8, seed=k))
    seen = observation(spec, 7)
    assert np.array_equal(agent.act(seen, False, 1), loaded.act(seen, False, 1))
    state, other = agent.state(), loaded.state()
    assert all(torch.equal(state[key], other[key]) for key in state)


@both
def test_utd_ratio_counts_the_steps_of_critic_and_policy_alike(name):
    once, parts = (agent_for(name, utd_ratio=utd, batch_size=8) for utd in (2, 1))
    batch = random_batch(SPEC, 16)
    once.update(batch)
    for part in batch.split(2):
        parts.update(part)
    state, other = once.state(), parts.state()
    assert once.updates == 1
    assert all(torch.equal(state[key], other[key]) for key in state if key.startswith(("policy", "critic")))


@both
def test_pretraining_imitates_and_leaves_the_critic_alone(name):
    agent = agent_for(name, warm=False, learning_rate=1e-2, hidden=[32])
    before = agent.state()
    losses = [agent.pretrain(random_batch(SPEC, 32))["bc_loss"] for _ in range(80)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    after = agent.state()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"policy", "optimizer", "generator"}


@both
def test_what_is_worth_more_of_what_people_did_is_done(name):
    """People went anywhere between left and right, rewarded rightwards: the flow policy does so, the critic chooses."""
    spec = PolicySpec(1, 1, horizon=2)
    options = {"batch_size": 32, "hidden": [32, 32], "critic_hidden": [32, 32], "learning_rate": 3e-3}
    options |= {"critic_warmup": 80, "tau": 0.05, "flow_steps": 5}
    agent = make_agent(name, spec, options | ({"best_of": 8} if name == "qc" else {"alpha": 0.1}), seed=0)

    def batch(k):
        made = random_batch(spec, 32, offline=[True] * 32, seed=k)
        made.observation["state"].fill_(1.0)
        made.action.copy_(made.action[:, :1] * 0.8)
        made.reward.copy_(made.action[:, :, 0])
        made.bootstrap.zero_()
        return made

    def done():
        seen = {"state": np.ones(1, np.float32), "images": {}}
        return np.mean([agent.act(seen, True, k).mean() for k in range(40)])

    for k in range(79):
        agent.update(batch(k))
    assert -0.25 < done() < 0.25
    for k in range(60):
        agent.update(batch(k))
    assert done() > 0.5


@both
def test_chunks_are_folded_as_everywhere(name):
    agent = agent_for(name)
    chunk = torch.rand(2, 3, 2)
    calls = []
    agent.value(lambda f, a, frozen: calls.append(a) or torch.zeros(2, 2, 1), torch.zeros(2, 2), chunk)
    assert torch.equal(calls[0], fold(chunk))
