import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from agent_data import random_batch

from hilrl_agents import ConfigError, PolicySpec, load_checkpoint, make_agent, save_checkpoint
from hilrl_agents.act import kl_divergence
from hilrl_agents.diffusion import cosine_schedule
from hilrl_agents.imitation import ActionNormalizer, gone_on
from hilrl_agents.registry import observed_spec
from hilrl_agents.transformer import EncoderLayer, sinusoids, sinusoids_2d

SMALL = {
    "act": {
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 64,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
    },
    "diffusion": {"down_dims": [16, 32], "diffusion_step_embed_dim": 16, "condition_hidden": [16, 8]},
    "flow": {"hidden": [64, 64]},
}
FAST = {
    "act": SMALL["act"] | {"learning_rate": 1e-3, "dropout": 0.0},
    "diffusion": {"down_dims": [32, 64], "diffusion_step_embed_dim": 32, "learning_rate": 2e-3},
    "flow": {"hidden": [64, 64, 64], "learning_rate": 2e-3},
    "bc": {"hidden": [64, 64], "learning_rate": 1e-3},
}
CONFIG = Path(__file__).parents[2] / "config" / "agents"
CAMERAS = {"front": (16, 16, 3), "wrist": (16, 16, 3)}
policies = pytest.mark.parametrize("name", SMALL)


def agent_for(name, spec, **options):
    return make_agent(name, spec, SMALL[name] | options, seed=1)


def seen(spec, value=0.3):
    images = {name: np.full(shape, 90, np.uint8) for name, shape in spec.cameras.items()}
    return {"state": np.full(spec.state_dim, value, np.float32), "images": images}


def two_rows(steps, person):
    """Two rows of three steps with one action entry."""
    batch = random_batch(PolicySpec(2, 1, horizon=3), 2, steps=steps)
    batch.person[:] = torch.tensor(person)
    return batch


# -- losses ---------------------------------------------------------------------------------------------------


def test_loss_of_flow_is_the_squared_error_of_the_velocity_on_what_was_shown():
    spec = PolicySpec(2, 1, horizon=3)
    agent = agent_for("flow", spec)
    batch = two_rows([3, 2], [[True, True, False], [True, True, False]])
    noise = torch.randn(2, 3, 1, generator=agent.generator.clone_state())
    calls = []

    def velocity(features, x, time):
        calls.append((x, time))
        return torch.full_like(x, 0.25)

    agent.velocity = velocity
    loss, _ = agent.loss(torch.zeros(2, 2), batch)
    a = batch.action
    errors = [(0.25 - (a[0, i, 0] - noise[0, i, 0])) ** 2 for i in (0, 1)]
    errors += [(0.25 - (a[1, i, 0] - noise[1, i, 0])) ** 2 for i in (0, 1)]
    errors += [(0.25 - (a[1, 1, 0] - noise[1, 2, 0])) ** 2]  # padding goes on with the last action
    assert loss.item() == pytest.approx(sum(map(float, errors)) / 5, rel=1e-5)
    x, time = calls[0]
    t = time[0, 0]
    assert torch.allclose(x[0], (1 - t) * noise[0] + t * a[0]) and 0 <= t <= 1


@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_loss_of_diffusion_is_the_squared_error_of_noise_or_chunk(kind):
    spec = PolicySpec(2, 1, horizon=3)
    agent = agent_for("diffusion", spec, prediction_type=kind, past_actions=1)
    batch = two_rows([3, 3], [[True, False, True], [True, True, True]])
    draws = agent.generator.clone_state()
    noise = torch.randn(2, 4, 1, generator=draws)
    level = torch.randint(100, (2,), generator=draws)
    given = []
    agent.policy.forward = lambda x, step, features: given.append((x, step)) or torch.full_like(x, 0.5)
    loss, _ = agent.loss(torch.zeros(2, 2), batch)
    chunk = torch.cat([batch.action[:, :1], batch.action], 1)
    target = noise if kind == "epsilon" else chunk
    errors = (0.5 - target).square()[..., 0] * torch.tensor([[0.0, 1, 0, 1], [0, 1, 1, 1]])
    assert loss.item() == pytest.approx(errors.sum().item() / 5, rel=1e-5)
    kept = cosine_schedule(100)[level][:, None, None]
    assert torch.allclose(given[0][0], kept**0.5 * chunk + (1 - kept) ** 0.5 * noise)
    assert torch.equal(given[0][1], level)


def test_loss_of_act_is_the_absolute_error_plus_the_divergence_of_the_style():
    agent = agent_for("act", PolicySpec(2, 1, horizon=3), kl_weight=2.0)
    batch = two_rows([3, 2], [[True, True, False], [True, True, False]])
    agent.policy.latent_of = lambda state, action, padding: (torch.full((2, 32), 0.5), torch.zeros(2, 32))
    agent.policy.forward = lambda state, maps, latent: torch.full((2, 3, 1), 0.1)
    loss, metrics = agent.loss((torch.zeros(2, 2), []), batch)
    l1 = sum(abs(0.1 - float(batch.action[row, i, 0])) for row in (0, 1) for i in (0, 1)) / 4
    assert metrics["bc_loss"].item() == pytest.approx(l1, rel=1e-5)
    assert loss.item() == pytest.approx(l1 + 2.0 * 32 * 0.5 * 0.25, rel=1e-5)


def test_divergence_of_a_gaussian_from_the_standard_one():
    # 0.5 (σ² + μ² − 1 − log σ²), summed over entries
    found = kl_divergence(torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [0.0]]))
    assert found.tolist() == pytest.approx([0.5 * (math.e + 4 - 1 - 1), 0.0], rel=1e-6)


def test_rows_where_nobody_showed_a_thing_are_no_part_of_acts_divergence():
    agent = agent_for("act", PolicySpec(2, 2, horizon=4), dropout=0.0, n_vae_encoder_layers=1)
    whole = random_batch(agent.spec, 8, offline=[True] * 8)
    half = replace(whole, person=whole.person & (torch.arange(8) < 4)[:, None])
    seen = agent.encoder(whole.observation)
    rows = [replace(half, person=half.person & (torch.arange(8) == row)[:, None]) for row in range(4)]
    each = [agent.loss(seen, batch)[1]["kl"].item() for batch in rows]
    assert agent.loss(seen, half)[1]["kl"].item() == pytest.approx(np.mean(each), rel=1e-4)


@policies
def test_what_nobody_showed_is_not_imitated(name):
    agent = (
        agent_for(name, PolicySpec(2, 2, horizon=4), dropout=0.0)
        if name == "act"
        else agent_for(name, PolicySpec(2, 2, horizon=4))
    )
    batch = random_batch(agent.spec, 8, offline=[False] * 8)
    before = agent.policy_state()
    assert agent.update(batch)["bc_loss"] == 0.0 and agent.updates == 1
    if name != "act":  # its prior on styles needs no person
        assert all(torch.equal(t, before[key]) for key, t in agent.policy_state().items())


@pytest.mark.parametrize("name", ["act", "bc", "diffusion", "flow", "recap"])
def test_an_update_is_as_many_gradient_steps_as_utd_ratio_says(name):
    spec = PolicySpec(2, 1, horizon=2)
    small = {"recap": {"hidden": [8], "value_hidden": [8]}, "bc": {"hidden": [8]}} | SMALL
    whole, parts = (
        make_agent(name, spec, small[name] | {"batch_size": 4, "utd_ratio": utd}) for utd in (2, 1)
    )
    batch = random_batch(spec, whole.batch_size)
    whole.update(batch)
    for part in batch.split(2):
        parts.update(part)
    assert whole.updates == 1
    assert all(
        torch.equal(whole.state()[key], value) for key, value in parts.state().items() if "policy" in key
    )


def test_padding_goes_on_with_the_last_real_step():
    batch = two_rows([3, 1], [[True, False, True], [True, False, False]])
    action, weight = gone_on(batch)
    assert torch.equal(action[1], batch.action[1, :1].expand(3, 1)) and torch.equal(
        action[0], batch.action[0]
    )
    assert weight.tolist() == [[1, 0, 1], [1, 1, 1]]


# -- networks -------------------------------------------------------------------------------------------------


def test_an_encoder_layer_is_that_of_torch_where_positions_are_zero():
    torch.manual_seed(0)
    ours, theirs = (
        EncoderLayer(8, 2, 16, 0.0),
        torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
    )
    theirs.load_state_dict(ours.state_dict())
    x, hidden = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    hidden[1, 3:] = True
    expected = theirs(x, src_key_padding_mask=hidden)
    found = ours(x, torch.zeros(5, 8), hidden)
    assert torch.allclose(found[~hidden], expected[~hidden], atol=1e-5)
    assert not torch.allclose(ours(x, torch.randn(5, 8), hidden)[~hidden], found[~hidden], atol=1e-3)


def test_steps_that_are_not_seen_do_not_change_the_style():
    agent = agent_for("act", PolicySpec(2, 2, horizon=4))
    agent.policy.eval()
    state, action = torch.randn(1, 2), torch.randn(1, 4, 2)
    hidden = torch.tensor([[False, False, True, True]])
    first = agent.policy.latent_of(state, action, hidden)
    other = agent.policy.latent_of(state, torch.cat([action[:, :2], torch.randn(1, 2, 2)], 1), hidden)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, other, strict=True))
    assert not torch.allclose(first[0], agent.policy.latent_of(state, action, ~hidden)[0], atol=1e-4)


def test_sinusoids_by_hand():
    table = sinusoids(3, 4)
    assert table[2].tolist() == pytest.approx(
        [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)], abs=1e-6
    )
    cells = sinusoids_2d(1, 2, 4)
    assert cells[0].tolist() == pytest.approx([0, 1, 0, -1], abs=1e-4)  # row 2π, column π
    assert cells[1].tolist() == pytest.approx([0, 1, 0, 1], abs=1e-4)


@pytest.mark.parametrize("sampler", ["DDIM", "DDPM"])
@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_a_perfect_noise_predictor_leads_to_the_one_chunk_there_is(sampler, kind):
    options = {"noise_scheduler_type": sampler, "prediction_type": kind, "num_inference_steps": 20}
    agent = agent_for("diffusion", PolicySpec(2, 2, horizon=4), **options)
    chunk = torch.rand(1, 4, 2) * 2 - 1

    def told(x, step, features):
        kept = agent.schedule[step]
        return (x - kept.sqrt() * chunk) / (1 - kept).sqrt() if kind == "epsilon" else chunk

    agent.policy.forward = told
    assert np.allclose(agent.act(seen(agent.spec), False, 3), chunk[0], atol=1e-4)


@pytest.mark.parametrize(("bound", "opened"), [(1.0, 0.0), (4.0, 1.0)])
def test_a_correction_may_go_beyond_what_demonstrations_did_as_far_as_wanted(bound, opened):
    agent = agent_for(
        "diffusion", PolicySpec(2, 1, horizon=4), prediction_type="sample", clip_sample_range=bound
    )
    agent.fit_normalizer(np.zeros((2, 2)), np.array([[-1.0], [0.0]]))  # nobody opened the gripper
    agent.policy.forward = lambda x, step, features: agent.actions(torch.ones_like(x))
    assert np.allclose(agent.act(seen(agent.spec), False, 3), opened, atol=1e-6)


def test_a_perfect_velocity_leads_to_the_one_chunk_there_is():
    agent = agent_for("flow", PolicySpec(2, 2, horizon=4))
    chunk = torch.rand(1, 4, 2) * 2 - 1
    agent.velocity = lambda features, x, time: (chunk - x) / (1 - time[..., None])
    assert np.allclose(agent.act(seen(agent.spec), False, 3), chunk[0], atol=1e-5)


def test_actions_are_normalised_by_mean_and_std_or_by_range():
    actions = torch.tensor([[0.0, 0.5], [0.2, 0.5], [0.1, 0.5]])
    normalizer = ActionNormalizer(2)
    normalizer.fit(actions, to_range=True, floor=0.01)
    assert torch.allclose(normalizer(actions), torch.tensor([[-1.0, 0], [1, 0], [0, 0]]), atol=1e-6)
    normalizer.fit(actions, to_range=False, floor=0.01)
    assert normalizer(actions)[:, 0].std(correction=0).item() == pytest.approx(1)
    assert torch.allclose(normalizer.inverse(normalizer(actions)), actions, atol=1e-6)
    assert normalizer.inverse(torch.full((2,), 1e6)).tolist() == [1, 1]


# -- as agents ------------------------------------------------------------------------------------------------


@policies
def test_a_chunk_follows_from_weights_observation_and_seed(name):
    spec = PolicySpec(2, 3, CAMERAS, horizon=4)
    agent, other = agent_for(name, spec), make_agent(name, spec, SMALL[name], seed=2)
    other.load_policy(agent.policy_state())
    chunk = agent.act(seen(spec), True, 5)
    assert chunk.shape == (4, 3) and chunk.dtype == np.float32 and np.abs(chunk).max() <= 1
    other.act(seen(spec), True, 9)
    assert np.array_equal(chunk, other.act(seen(spec), False, 5))
    assert np.array_equal(chunk, agent.act(seen(spec), False, 6)) == (name == "act")
    changed = seen(spec) | {
        "images": {"front": np.zeros((16, 16, 3), np.uint8), "wrist": np.full((16, 16, 3), 90, np.uint8)}
    }
    assert not np.array_equal(chunk, agent.act(changed, False, 5))


@policies
def test_a_checkpoint_goes_on_bit_for_bit(name, tmp_path):
    spec = PolicySpec(2, 2, {"front": (16, 16, 3)}, horizon=4)
    agent = agent_for(name, spec)
    agent.fit_normalizer(
        np.random.default_rng(0).normal(size=(9, 2)), np.random.default_rng(1).uniform(-1, 1, (9, 2))
    )
    batches = [random_batch(spec, 4, seed=k) for k in range(4)]
    for batch in batches[:2]:
        agent.update(batch)
    save_checkpoint(tmp_path / "checkpoint", agent)
    loaded, _ = load_checkpoint(tmp_path / "checkpoint")
    for batch in batches[2:]:
        assert agent.update(batch) == loaded.update(batch)
    assert np.array_equal(agent.act(seen(spec), False, 1), loaded.act(seen(spec), False, 1))


@pytest.mark.parametrize("name", ["act", "bc", "diffusion", "flow", "qc", "qc_fql", "recap"])
def test_the_running_average_of_the_weights_acts_here_and_where_the_weights_go(name, tmp_path):
    spec = PolicySpec(2, 2, horizon=4)
    small = {"bc": {"hidden": [8]}, "recap": {"hidden": [8], "value_hidden": [8]}} | SMALL
    options = small.get(name, {"hidden": [8], "critic_hidden": [8], "flow_steps": 2, "critic_warmup": 4})
    agent, newest = (make_agent(name, spec, options | {"policy_average": share}) for share in (0.01, 0.0))
    for k in range(8):
        for one in (agent, newest):
            one.update(random_batch(spec, 4, seed=k))
    actor, save = make_agent(name, spec, options), save_checkpoint(tmp_path / "c", agent)
    actor.load_policy(agent.policy_state())
    loaded, _ = load_checkpoint(save, policy_only=True)
    chunks = [one.act(seen(spec), False, 1) for one in (agent, actor, loaded, newest)]
    assert np.array_equal(chunks[0], chunks[1]) and np.array_equal(chunks[0], chunks[2])
    assert not np.array_equal(chunks[0], chunks[3])


def fitted(name, spec, batches, updates, **options):
    agent = make_agent(name, spec, FAST[name] | options, seed=0)
    first = batches(0)
    agent.fit_normalizer(first.observation["state"].numpy(), first.action.flatten(0, 1).numpy())
    for k in range(updates):
        agent.pretrain(batches(k))
    return agent


def demonstration(spec, k, action_of):
    """64 rows of states in [-1, 1] and the chunks that a person showed there."""
    batch = random_batch(spec, 64, offline=[True] * 64, seed=k)
    state = torch.rand(64, spec.state_dim, generator=torch.Generator().manual_seed(k)) * 2 - 1
    batch.observation["state"].copy_(state)
    batch.action.copy_(action_of(state))
    return batch


@pytest.mark.parametrize(
    ("name", "updates", "options"),
    [
        ("act", 250, {}),
        ("diffusion", 200, {}),
        ("diffusion", 200, {"condition_hidden": [64, 32]}),
        ("flow", 500, {}),
    ],
)
def test_chunks_are_fitted(name, updates, options):
    spec = PolicySpec(2, 1, horizon=4)
    ramp = torch.linspace(0, 1, 4)

    def action_of(state):
        return (state[:, :1] * (1 - ramp) + state[:, 1:] * ramp)[..., None] * 0.8

    agent = fitted(name, spec, lambda k: demonstration(spec, k, action_of), updates, **options)
    states = torch.rand(20, 2, generator=torch.Generator().manual_seed(99)) * 1.6 - 0.8
    found = [agent.act({"state": s.numpy(), "images": {}}, False, k) for k, s in enumerate(states)]
    error = np.abs(np.array(found) - action_of(states).numpy()).mean()
    assert error < 0.12, "the mean of all chunks has an error of 0.3"


@pytest.mark.parametrize(("name", "updates"), [("bc", 300), ("diffusion", 200), ("flow", 600)])
def test_two_ways_are_kept_apart_by_diffusion_and_flow_and_averaged_by_bc(name, updates):
    spec = PolicySpec(1, 1, horizon=4)

    def action_of(state):  # left or right, all along the chunk
        return torch.where(state > 0, 0.8, -0.8)[..., None].expand(-1, 4, -1)

    def batches(k):
        batch = demonstration(spec, k, action_of)
        batch.observation["state"].zero_()  # nothing tells which
        return batch

    agent = fitted(name, spec, batches, updates)
    chunks = np.array(
        [agent.act({"state": np.zeros(1, np.float32), "images": {}}, False, k) for k in range(40)]
    )
    if name == "bc":
        assert np.abs(chunks).max() < 0.3
    else:
        decided = np.abs(np.abs(chunks) - 0.8).max((1, 2)) < 0.25
        rightwards = chunks.mean((1, 2)) > 0
        assert decided.mean() > 0.7 and 0.2 < rightwards.mean() < 0.8


@pytest.mark.parametrize(
    ("name", "horizon", "options", "error"),
    [
        ("diffusion", 5, {}, r"diffusion\.chunk_size: is 5, expected with past_actions a multiple of 2"),
        (
            "diffusion",
            4,
            {"down_dims": [12, 16]},
            r"diffusion\.down_dims: is \(12, 16\), expected multiples of",
        ),
        ("diffusion", 4, {"kernel_size": 4}, r"diffusion\.kernel_size: is 4, expected an odd number"),
        (
            "diffusion",
            4,
            {"num_inference_steps": 7},
            r"num_inference_steps: is 7, expected a divisor of .* \(100\)",
        ),
        ("act", 4, {"n_heads": 3}, r"act\.dim_model: is 32, expected a multiple of 4 and of n_heads \(3\)"),
        (
            "act",
            4,
            {"environment_state": 2},
            r"act\.environment_state: is 2, expected less than the state's 2",
        ),
    ],
)
def test_sizes_that_do_not_go_together_are_one_clear_sentence(name, horizon, options, error):
    with pytest.raises(ConfigError, match=error):
        agent_for(name, PolicySpec(2, 1, horizon=horizon), **options)


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_file_in_config_makes_an_agent(path):
    from hilrl_ros.settings import load_agent_settings

    settings = load_agent_settings(str(path))
    robot = PolicySpec(17, 4, horizon=settings.chunk_size or 4)
    spec = observed_spec(settings.algorithm, robot)
    prior = None if spec == robot else make_agent("bc", robot)
    assert make_agent(settings.algorithm, spec, settings.options, 0, prior).name == settings.algorithm
