import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from agent_data import random_batch
from over_prior import SEEN, SMALL, assert_acts_as, flow, seen

from hilrl_agents import ConfigError, PolicySpec, load_checkpoint, make_agent, save_checkpoint
from hilrl_agents.chunks import PriorExecutor
from hilrl_agents.gate import Gate
from hilrl_agents.residual import STEP

ROBOT = PolicySpec(state_dim=3, action_dim=2)


def residual(prior=None, **options):
    return make_agent("residual", SEEN, SMALL | options, 5, prior or flow())


def test_before_any_learning_the_prior_acts_step_by_step_as_it_does_alone():
    prior = flow()
    agent = residual(prior)
    assert_acts_as(agent, prior)


def test_a_correction_is_bounded_by_its_scale_and_the_actions_range():
    agent = residual(residual_scale=0.3)
    with torch.no_grad():
        agent.average.net.weights[-1][..., :2] = torch.tensor([50.0, -50.0])  # tanh is 1 and -1
    np.testing.assert_allclose(agent.act(seen([0, 0, 0], [0.1, 0.2]), False), [[0.4, -0.1]], atol=1e-6)
    np.testing.assert_allclose(agent.act(seen([0, 0, 0], [0.9, -0.9]), False), [[1.0, -1.0]], atol=1e-6)


def test_the_actors_loss_against_hand_made_critics():
    agent = residual(residual_scale=0.5, residual_penalty=0.25, bc_loss_weight=0.0, temperature_init=1e-8)
    agent.critic = lambda features, action, frozen=False: torch.stack(
        [3 * action[:, :1], 3 * action[:, :1] - 1, 7 + action[:, 1:]]
    )
    with torch.no_grad():  # u = (atanh 0.4, 0) without spread: corrections 0.4 and 0
        agent.actor.net.weights[-2].zero_()
        agent.actor.net.weights[-1].copy_(torch.tensor([np.arctanh(0.4), 0.0, -99.0, -99.0]))
    batch = random_batch(SEEN, 4, seed=0)
    batch.observation["state"][:, 3:] = torch.tensor([0.1, 0.0])
    loss, _, metrics = agent.actor_loss(batch, agent.encoder(batch.observation))
    # actions (0.1 + 0.5 · 0.4, 0), give or take a spread of 0.01: the least critic is 3 · 0.3 − 1
    assert metrics["q_policy"].item() == pytest.approx(-0.1, abs=0.05)
    assert (loss + metrics["q_policy"]).item() == pytest.approx(0.25 * 0.4**2, abs=1e-3)


def positions(spec):
    """A policy of absolute positions that differ by little of their range, seen by cameras if the spec has some."""
    options = {"image_channels": 4, "image_features": 5} if spec.cameras else {}
    agent = make_agent("flow", spec, {"hidden": [24], "n_action_steps": 2} | options, 1)
    rng = np.random.default_rng(1)
    agent.fit_normalizer(rng.normal(2, 3, (40, 3)), rng.normal([0.5, -0.2], [0.1, 0.05], (4000, 2)))
    return agent


def test_corrections_of_absolute_positions_are_measured_by_how_much_the_priors_vary():
    absolute = dataclasses.replace(SEEN, absolute=True)
    prior = positions(PolicySpec(3, 2, horizon=4))
    agent = make_agent("residual", absolute, SMALL | {"residual_scale": 2.0}, 5, prior)
    here = seen([0, 0, 0], [0.45, -0.15])
    np.testing.assert_allclose(agent.act(here, False), [[0.45, -0.15]], atol=1e-6)
    with torch.no_grad():
        agent.average.net.weights[-1][..., :2] = torch.tensor([50.0, -50.0])  # tanh is 1 and -1
    largest = 2 * STEP * np.array([0.1, 0.05])
    np.testing.assert_allclose(agent.act(here, False), [[0.45, -0.15] + largest * [1, -1]], rtol=0.03)
    features = agent.encoder({"state": torch.tensor(here["state"])[None]})
    judged = agent.judged(features, torch.tensor([[0.45, -0.15]]) + torch.tensor(largest).float() / 2)
    np.testing.assert_allclose(judged, [[1.0, 1.0]], atol=0.03)
    # what a person does beyond the bound is imitated as far as a correction goes
    batch = random_batch(absolute, 4, offline=[True] * 4)
    batch.observation["state"][:] = torch.tensor(here["state"])
    features = agent.encoder(batch.observation)
    for action, steady in (([0.9, 0.9], [1.0, 1.0]), ([-0.9, -0.9], [-1.0, -1.0])):
        batch.action[:] = torch.tensor(action)
        loss = agent.taught(features, torch.tensor(steady).expand(4, 2), batch, batch.shown())
        assert float(loss) == pytest.approx(0, abs=1e-6)


def test_images_are_seen_with_what_the_prior_makes_of_them(tmp_path):
    cameras = {"front": (16, 16, 3), "wrist": (16, 16, 3)}
    prior = positions(PolicySpec(3, 2, cameras, horizon=4))
    agent = make_agent("residual", dataclasses.replace(SEEN, cameras=cameras), SMALL, 5, prior)
    batch = random_batch(agent.spec, agent.batch_size)
    images = batch.observation["images"]
    made = agent.features({name: i.numpy() for name, i in images.items()})
    torch.testing.assert_close(torch.from_numpy(made), prior.encoder.images(images), rtol=0, atol=0)
    before = {name: tensor.clone() for name, tensor in agent.policy_state().items()}
    for observation in (batch.observation, batch.next_observation):
        seen_images = {name: i.numpy() for name, i in observation.pop("images").items()}
        observation["features"] = torch.from_numpy(agent.features(seen_images))
    agent.update(batch)
    after = agent.policy_state()
    moved = [name for name in after if not torch.equal(after[name], before[name])]
    assert [name for name in moved if name.startswith("encoder.")] == [
        "encoder.images.project.0.weight", "encoder.images.project.0.bias", "encoder.images.project.1.weight",
        "encoder.images.project.1.bias",
    ]  # fmt: skip
    save_checkpoint(tmp_path / "c", agent)
    loaded, _ = load_checkpoint(tmp_path / "c")
    here = {"state": np.ones(5, np.float32), "images": {name: i[0].numpy() for name, i in images.items()}}
    np.testing.assert_array_equal(loaded.act(here, True, 3), agent.act(here, True, 3))


def test_an_encoder_of_its_own_is_fitted_by_imitation_before_and_in_between():
    cameras = {"front": (16, 16, 3), "wrist": (16, 16, 3)}
    options = {
        "image_encoder": "imitation", "image_channels": 4, "image_features": 5, "encoder_refresh_updates": 3,
        "gate_episodes": 0,
    }  # fmt: skip
    prior = positions(PolicySpec(3, 2, cameras, horizon=4))
    agent = make_agent("residual", dataclasses.replace(SEEN, cameras=cameras), SMALL | options, 5, prior)

    def moved(do):
        before = agent.policy_state()
        do()
        return {
            name.partition(".")[0]
            for name, t in agent.policy_state().items()
            if not torch.equal(t, before[name])
        }

    # rows of one buffer, which are not marked as offline
    batches = [random_batch(agent.spec, 8, offline=[False] * 8, seed=seed) for seed in range(5)]
    batches = [replace(batch, person=torch.ones_like(batch.person)) for batch in batches]
    assert agent.pretrains
    assert moved(lambda: agent.pretrain(batches[0])) == {
        "encoder"
    }  # the prior acts until critics know better
    rest = iter(batches)
    assert moved(lambda: agent.refresh(rest)) == {"encoder", "actor", "average"}
    assert len(list(rest)) == 2


def test_corrections_without_a_measure_of_absolute_positions_are_refused():
    spec = PolicySpec(3, 2, absolute=True)
    with pytest.raises(
        ConfigError, match="which 'bc' does not tell; expected act, diffusion, flow, qc or lerobot"
    ):
        make_agent("residual", replace(SEEN, absolute=True), SMALL, prior=make_agent("bc", spec))


@pytest.mark.parametrize("name", ["residual", "ibrl"])
def test_what_was_improved_can_be_improved_again(name, tmp_path):
    prior = flow()
    once = make_agent(name, SEEN, SMALL, 5, prior)
    once.encoder.normalizer.mean[:3] = torch.tensor([1.0, 2.0, 3.0])
    save_checkpoint(tmp_path / "once", once)
    twice = make_agent(name, SEEN, SMALL, 6, load_checkpoint(tmp_path / "once", policy_only=True)[0])
    assert_acts_as(twice, prior)  # neither has learnt a thing
    assert twice.encoder.normalizer.mean[:3].tolist() == [1.0, 2.0, 3.0]


def test_the_targets_actions_are_corrected_too():
    agent = residual(gamma=0.5, largest_return=0.0)
    # Q' is the action's first entry
    agent.target = lambda features, action, frozen=False: action[None, :, :1]
    with torch.no_grad():
        agent.actor.net.weights[-2].zero_()
        agent.actor.net.weights[-1].copy_(torch.tensor([50.0, 50.0, -99.0, -99.0]))
    batch = random_batch(SEEN, 4, seed=0)
    batch.next_observation["state"][:, 3:] = torch.tensor([-0.2, 0.0])
    expected = batch.chunk_return(0.5) + batch.bootstrap_discount(0.5) * (-0.2 + 0.3)
    torch.testing.assert_close(agent.td_target(batch), expected)


def test_the_bound_grows_with_the_ramp():
    agent = residual(residual_scale=0.4, residual_ramp=4, critic_warmup=2)
    scales = []
    for step in range(8):
        agent.update(random_batch(SEEN, 8, seed=step))
        scales.append(float(agent.scale.value))
    np.testing.assert_allclose(scales, [0.4, 0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4], atol=1e-6)


def test_a_checkpoint_holds_the_prior_that_acts_beneath(tmp_path):
    agent = residual()
    for step in range(3):
        agent.update(random_batch(SEEN, 8, seed=step))
    save_checkpoint(tmp_path / "c", agent)
    loaded, _ = load_checkpoint(tmp_path / "c", policy_only=True)
    observation = {"state": np.ones(3, np.float32), "images": {}}
    np.testing.assert_array_equal(
        PriorExecutor(loaded).act(observation, 3, 1, 0), PriorExecutor(agent).act(observation, 3, 1, 0)
    )
    np.testing.assert_array_equal(
        loaded.act(seen([1, 1, 1], [0.5, 0]), False), agent.act(seen([1, 1, 1], [0.5, 0]), False)
    )


def test_without_a_prior_or_in_chunks_it_is_refused_in_one_sentence():
    with pytest.raises(ConfigError, match="'residual' acts over an imitation policy: name its checkpoint"):
        make_agent("residual", SEEN, SMALL)
    with pytest.raises(ConfigError, match="chunk_size is 4, expected 1"):
        make_agent("residual", PolicySpec(5, 2, horizon=4), SMALL, 0, flow())


def passes(gate, *earned):
    return [gate.passes(value, prior_acted=False) for value in earned]


def test_the_gate_opens_when_the_newest_episodes_earned_what_the_priors_did():
    gate = Gate(episodes=4, confidence=0.0, margin=0.1)
    assert not any(gate.passes(value, prior_acted=True) for value in (1.0, 0.0, 1.0, 0.0))  # 0.5
    assert passes(gate, 1.0, 1.0, 1.0) == [False] * 3  # too few
    assert passes(gate, 0.0) == [True]  # 0.75
    assert passes(gate, 0.0, 1.0) == [False, False]  # 0.5, 0.5: less than 0.65
    assert passes(gate, 1.0, 1.0) == [False, True]  # 0.5, 0.75


def test_the_gate_opens_only_when_it_is_sure():
    gate = Gate(episodes=4, confidence=1.0, margin=0.1)
    gate.measured(0.6)
    # of four one failed: 0.75, with a standard error of 0.43 / 2
    assert passes(gate, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0) == [False] * 6
    assert passes(gate, 1.0, 0.0) == [True, False]


def test_the_gates_bar_never_falls_below_the_prior():
    gate = Gate(episodes=2, confidence=0.0, margin=0.5)
    gate.passes(0.8, prior_acted=True)
    assert passes(gate, 0.8, 0.8, 0.7) == [False, True, False]


def test_a_prior_that_was_measured_is_the_gates_bar_whatever_it_earned_explored():
    gate = Gate(episodes=2, confidence=0.0, margin=0.5)
    gate.passes(0.0, prior_acted=True)
    gate.measured(0.6)
    gate.passes(0.0, prior_acted=True)
    assert passes(gate, 0.5, 0.5, 0.7) == [False, False, True]
    gate.measured(0.1)
    assert passes(gate, 0.4, 0.4) == [False, False]


def test_a_warm_started_policy_takes_over_only_through_the_gate():
    agent = residual(
        gate_episodes=2, gate_confidence=0.0, critic_warmup=0, policy_update_freq=1, policy_average=1.0
    )
    observation = seen([1, 1, 1], [0.1, 0.2])
    agent.episode_over(0.5)  # the prior's
    for step in range(5):
        agent.update(random_batch(SEEN, 8, seed=step))
    prior = np.array([[0.1, 0.2]], np.float32)
    agent.episode_over(0.4)
    agent.episode_over(0.4)
    np.testing.assert_array_equal(agent.act(observation, False), prior)
    agent.episode_over(0.9)
    assert not np.array_equal(agent.act(observation, False), prior)


def test_the_gate_is_part_of_what_is_resumed(tmp_path):
    agent = residual(gate_episodes=3)
    for earned in (1.0, 0.5):
        agent.episode_over(earned)
    save_checkpoint(tmp_path / "c", agent)
    loaded, _ = load_checkpoint(tmp_path / "c")
    assert float(loaded.gate.prior) == 0.75 and int(loaded.gate.prior_count) == 2
