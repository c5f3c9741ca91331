import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from agent_data import random_batch

from hilrl_agents import (
    CheckpointError,
    ConfigError,
    PolicySpec,
    load_checkpoint,
    load_prior,
    make_agent,
    pack_policy,
    save_checkpoint,
)
from hilrl_agents.agent import AgentStateError
from hilrl_agents.cloning import cloning_weight
from hilrl_agents.warm_start import WarmStartError

STATE = PolicySpec(state_dim=3, action_dim=2)
CAMERA = PolicySpec(state_dim=3, action_dim=2, cameras={"front": (16, 16, 3)})
SMALL = {"batch_size": 8, "hidden": [16, 16]}
IMAGES = {"image_channels": 4, "image_features": 5}


def imitation(spec=STATE, name="bc", seed=1, **options):
    """A policy that has learnt a little."""
    small = {"batch_size": 8, "hidden": [24]} | (IMAGES if spec.cameras else {})
    agent = make_agent(name, spec, small | options, seed)
    rng = np.random.default_rng(seed)
    agent.fit_normalizer(
        rng.normal(2, 3, (40, spec.state_dim)), rng.uniform(-0.5, 0.5, (40, spec.action_dim))
    )
    for step in range(5):
        agent.pretrain(random_batch(spec, 8, seed=step))
    return agent


def observations(spec, count=20):
    batch = random_batch(spec, count, seed=7)
    for row in range(count):
        images = {name: i[row].numpy() for name, i in batch.observation["images"].items()}
        yield {"state": batch.observation["state"][row].numpy() * 4, "images": images}


def acts_as(agent, other):
    spec = agent.spec
    return all(np.array_equal(agent.act(o, False, 3), other.act(o, False, 3)) for o in observations(spec))


@pytest.mark.parametrize("spec", [STATE, CAMERA], ids=["state", "camera"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sac_acts_bit_for_bit_as_the_imitation_policy_until_the_actor_may_move(spec, precision):
    prior = imitation(spec)
    options = {
        "precision": precision,
        "critic_warmup": 3,
        "image_encoder": "imitation",
        "policy_update_freq": 1,
    }
    agent = make_agent("sac", spec, SMALL | IMAGES | options, seed=5, prior=prior)
    assert acts_as(agent, prior)
    before = agent.state()
    features = agent.features
    for step in range(3):
        batch = random_batch(spec, 8, seed=step)
        if features:
            for seen in (batch.observation, batch.next_observation):
                images = {name: i.numpy() for name, i in seen.pop("images").items()}
                seen["features"] = torch.from_numpy(features(images))
        assert np.isfinite(list(agent.update(batch).values())).all()
        assert not agent.refresh_due
    assert acts_as(agent, prior)
    assert not torch.equal(agent.state()["critic.weights.0"], before["critic.weights.0"])
    agent.update(batch)
    assert not torch.equal(agent.state()["actor.mean.weights.0"], before["actor.mean.weights.0"])
    assert torch.equal(
        agent.state()["encoder.normalizer.mean"], prior.policy_state()["encoder.normalizer.mean"]
    )


def test_sac_reports_what_matched_and_what_did_not():
    agent = make_agent("sac", STATE, SMALL, prior=imitation())
    warm = agent.warm
    own = {f"{part}.weights.{i}" for part in ("actor.mean", "average.mean") for i in range(4)}
    assert set(warm.copied) == own | {"encoder.normalizer.mean", "encoder.normalizer.std"}
    fresh = dict(warm.fresh)
    assert {"critic", "target", "temperature", "actor.spread.weights.0"} <= set(fresh)
    assert set(fresh.values()) == {"the prior has nothing of the kind"}
    assert "not copied: " in warm.describe()[1] and "critic" in warm.describe()[1]


def test_sac_goes_on_from_a_sac_policy_with_new_values():
    prior = make_agent("sac", STATE, SMALL | {"policy_average": 0.5, "critic_warmup": 0}, seed=2)
    for step in range(3):
        prior.update(random_batch(STATE, 8, seed=step))
    agent = make_agent("sac", STATE, {"precision": prior.config.precision}, seed=9, prior=prior)
    assert agent.config.hidden == (16, 16)  # what is not said is as in the prior
    assert acts_as(agent, prior)
    assert not torch.equal(agent.critic.weights[0], prior.critic.weights[0])
    again = make_agent("sac", STATE, seed=4, prior=make_agent("sac", STATE, SMALL, prior=imitation()))
    assert acts_as(again, imitation())


@pytest.mark.parametrize("name", ["act", "flow", "diffusion"])
def test_sac_refuses_a_generative_policy_and_names_what_can(name):
    spec = PolicySpec(3, 2, horizon=4)
    sizes = {
        "act": {"dim_model": 8, "n_heads": 2, "dim_feedforward": 8, "n_encoder_layers": 1, "latent_dim": 2},
        "flow": {"hidden": [8]},
        "diffusion": {"down_dims": [8], "diffusion_step_embed_dim": 4},
    }[name]
    prior = make_agent(name, spec, sizes)
    with pytest.raises(
        WarmStartError, match=rf"'sac' cannot start from a policy of '{name}'; these can: .*{name}"
    ):
        make_agent("sac", spec, prior=prior)
    same = make_agent(name, spec, prior=prior, seed=8)  # of its own sizes
    assert acts_as(same, prior)


def test_sac_refuses_what_it_could_not_begin_with():
    with pytest.raises(
        WarmStartError, match=r"sac acts in chunks of 1, .* in chunks of 4: set chunk_size: 4"
    ):
        make_agent("sac", STATE, SMALL, prior=imitation(PolicySpec(3, 2, horizon=4)))
    with pytest.raises(
        WarmStartError,
        match=r"sac would not act as its prior 'bc': encoder\.images.* is \(6, 3, 6, 6\), the prior",
    ):
        make_agent("sac", CAMERA, SMALL | {"image_channels": 6}, prior=imitation(CAMERA))


def test_how_chunks_are_executed_is_as_in_the_prior_unless_it_is_said():
    prior = imitation(PolicySpec(3, 2, horizon=4), n_action_steps=3)
    assert make_agent("sac", prior.spec, SMALL, prior=prior).config.n_action_steps == 3
    told = SMALL | {"n_action_steps": 1}
    assert make_agent("sac", prior.spec, told, prior=prior).config.n_action_steps == 1


# -- frozen parameters


def learnt(agent, updates=6):
    for step in range(updates):
        agent.update(random_batch(agent.spec, 8, seed=step))
    return agent.state()


def test_frozen_parameters_rest_to_the_last_bit_and_the_others_move():
    options = SMALL | {"critic_warmup": 0, "policy_update_freq": 1, "policy_average": 0.1, "grad_clip": 0.5}
    agent = make_agent("sac", STATE, options, prior=imitation(), freeze=["actor.mean.weights.[01]"])
    assert agent.warm.frozen == ("actor.mean.weights.0", "actor.mean.weights.1")
    before, after = agent.state(), learnt(agent)
    for net in ("actor", "running"):
        for index in (0, 1):
            name = f"{net}.mean.weights.{index}"
            assert torch.equal(before[name], after[name])
        assert not torch.equal(before[f"{net}.mean.weights.2"], after[f"{net}.mean.weights.2"])


def test_a_frozen_part_does_not_count_in_the_gradients_norm():
    options = SMALL | {"critic_warmup": 0, "policy_update_freq": 1, "grad_clip": 0.01}
    agent = make_agent("sac", STATE, options, prior=imitation(), freeze=["actor.mean.*"])
    agent.update(random_batch(STATE, 8))
    gradient, rests = agent.optimizers["actor"].flat.grad, agent.optimizers["actor"].frozen
    assert rests.any() and not rests.all()
    assert (gradient[rests] == 0).all()
    assert gradient.norm().item() == pytest.approx(0.01, rel=1e-4)


def test_a_pattern_that_fits_nothing_is_named():
    with pytest.raises(
        WarmStartError, match=r"'encoder\.conv\*' fits no parameter that 'sac' trains; they are .*actor"
    ):
        make_agent("sac", STATE, SMALL, prior=imitation(), freeze=["encoder.conv*"])


# -- the pull towards what was taught


def test_cloning_pulls_towards_the_prior_where_nobody_showed_anything():
    agent = make_agent("sac", STATE, SMALL, prior=imitation())
    batch = random_batch(STATE, 6, offline=[True, True, False, False, False, False])
    features = agent.encoder(batch.observation)
    mean = torch.randn(6, 2)
    wanted = torch.tanh(agent.anchor(features)[0])
    expected = (torch.tanh(mean) - wanted).square().sum(1)[2:].mean()
    assert agent.drift(mean, batch, features).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("updates", "weight"), [(0, 0.8), (10, 0.8), (15, 0.5), (20, 0.2), (99, 0.2)])
def test_the_weight_of_cloning_falls_after_the_warm_up(updates, weight):
    options = {"bc_loss_weight": 0.8, "bc_loss_weight_end": 0.2, "bc_loss_decay": 10, "critic_warmup": 10}
    agent = make_agent("sac", STATE, SMALL | options)
    assert cloning_weight(agent.config, updates) == pytest.approx(weight)


def test_a_warm_started_sac_pretrains_its_critic_alone():
    assert not make_agent("sac", STATE, SMALL, prior=imitation()).pretrains
    agent = make_agent("sac", STATE, SMALL | {"pretrain_returns": 1}, prior=imitation())
    assert agent.pretrains
    before = agent.state()
    agent.pretrain(replace(random_batch(STATE, 8), bootstrap=torch.zeros(8)))
    moved = {name.partition(".")[0] for name, t in agent.state().items() if not torch.equal(before[name], t)}
    assert moved == {"critic", "target", "optimizer"}


# -- checkpoints


@pytest.mark.parametrize("freeze", [[], ["actor.mean.*"]])
def test_a_checkpoint_goes_on_bit_for_bit_when_the_priors_folder_has_gone(tmp_path, freeze):
    save_checkpoint(tmp_path / "bc" / "checkpoint", imitation(), {"rate": 10})
    prior = load_prior(tmp_path / "bc", {"rate": 10}, "bc")
    options = SMALL | {"critic_warmup": 0, "policy_update_freq": 1}
    agent = make_agent("sac", STATE, options, 3, prior, freeze)
    learnt(agent, 2)
    for _ in range(2):  # the second one links what never changes
        save_checkpoint(tmp_path / "run" / "checkpoint", agent, {"rate": 10})
    shutil.rmtree(tmp_path / "bc")
    (tmp_path / "run").rename(tmp_path / "moved")
    resumed, checkpoint = load_checkpoint(tmp_path / "moved" / "checkpoint", {"rate": 10})
    assert checkpoint.freeze == agent.warm.frozen == resumed.warm.frozen
    assert acts_as(resumed.prior, imitation())
    here, there = learnt(agent, 4), learnt(resumed, 4)
    assert all(torch.equal(here[name], there[name]) for name in here)
    acting, _ = load_checkpoint(tmp_path / "moved" / "checkpoint", {"rate": 10}, policy_only=True)
    assert (tmp_path / "moved" / "checkpoint" / "prior" / "policy.safetensors").stat().st_nlink == 1
    assert not (tmp_path / "moved" / "checkpoint" / "prior" / "agent.safetensors").exists()
    assert acting.prior is not None


def test_an_improved_policy_can_be_improved_again(tmp_path):
    first = make_agent("sac", STATE, SMALL, prior=imitation())
    save_checkpoint(tmp_path / "first", first)
    second = make_agent("sac", STATE, {}, 4, load_prior(tmp_path / "first", {}))
    save_checkpoint(tmp_path / "second", second)
    loaded, _ = load_checkpoint(tmp_path / "second", policy_only=True)
    assert acts_as(loaded, imitation()) and loaded.prior.prior.name == "bc"


def test_weights_learnt_over_another_prior_are_refused():
    agent = make_agent("sac", STATE, SMALL, prior=imitation())
    other = make_agent("sac", STATE, SMALL, prior=imitation(seed=2))
    assert len(pack_policy(agent.policy_state())) > 0
    with pytest.raises(AgentStateError, match="these weights were learnt over another prior policy"):
        other.load_policy(agent.policy_state())
    fresh = make_agent("sac", STATE, SMALL)
    with pytest.raises(AgentStateError, match=r"is missing from these weights|is unknown to this"):
        fresh.load_policy(agent.policy_state())


def test_what_is_no_prior_is_one_clear_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere is no checkpoint: there is no config\.yaml in it"):
        load_prior(tmp_path / "nowhere", {})
    save_checkpoint(tmp_path / "c", imitation(), {"rate": 10})
    with pytest.raises(CheckpointError, match=r"another contract: rate was 10, but here it is 30"):
        load_prior(tmp_path / "c", {"rate": 30})
    with pytest.raises(CheckpointError, match=r"holds a policy of 'bc', expected 'act'"):
        load_prior(tmp_path / "c", {"rate": 10}, "act")
    (tmp_path / "lerobot").mkdir()
    (tmp_path / "lerobot" / "config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"is a LeRobot policy; make a checkpoint of it: hilrl bc --lerobot"
    ):
        load_prior(tmp_path / "lerobot", {})
    with pytest.raises(ConfigError, match="unknown agent 'sax'"):
        make_agent("sax", STATE, prior=imitation())
