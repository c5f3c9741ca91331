"""Checkpoints that the real lerobot wrote act in the suite as they do there; `policies.py` runs in its environment."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from environment import needs_lerobot, run

from hilrl_agents import load_checkpoint, make_agent, save_checkpoint
from hilrl_agents.chunks import ChunkExecutor, PriorExecutor, with_prior_action
from hilrl_agents.lerobot import ACTION, ENVIRONMENT, IMAGES, STATE, Units, lerobot_agent, read_lerobot_policy
from hilrl_agents.residual import STEP

pytestmark = needs_lerobot

SEED = 5  # of policies.py
DEGREE = np.pi / 180
KINDS = ("act", "act_no_vae", "act_environment", "diffusion", "diffusion_ddim")
BY_LEROBOT = ("vqbet", "smolvla", "diffusion")  # the last one although the suite has its network


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    folder = os.environ.get("LEROBOT_POLICIES")
    if folder:
        return Path(folder)
    folder = tmp_path_factory.mktemp("policies")
    run("policies.py", folder)
    run("smolvla.py", folder)
    return folder


def example(folder, policy):
    """The observation as the suite has it, and lerobot's chunk."""
    with np.load(folder / "example.npz") as found:
        given = dict(found)
    images = {}
    for name, (height, width) in policy.cameras.items():
        x, y, width, height = policy.crops.get(name, (0, 0, width, height))
        frames = given[IMAGES + name][:, y : y + height, x : x + width]
        images[name] = np.concatenate(list(frames), axis=2)
    state = given[STATE][::-1].ravel()  # the newest first
    if ENVIRONMENT in given:
        state = np.concatenate([state, given[ENVIRONMENT].ravel()])
    return {"state": (state * DEGREE).astype(np.float32), "images": images}, given["chunk"]


def units(size, action):
    """Degrees there, radians here; actions in a range there, in [-1, 1] here."""
    return Units(np.full(size, DEGREE)), Units(np.full(action, 0.05), np.full(action, 0.01))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_lerobots_chunk(kind, written, tmp_path):
    policy = read_lerobot_policy(written / kind / "pretrained_model")
    observation, expected = example(written / kind, policy)
    agent = lerobot_agent(policy, *units(policy.state + policy.environment, policy.action))
    chunk = agent.act(observation, False, SEED)
    assert chunk.shape[0] == policy.chunk_size >= len(expected) == policy.config[
        "n_action_steps"
    ] or kind.startswith("act")
    assert np.abs(expected).max() > 0.1 and np.abs(chunk).max() < 1
    np.testing.assert_allclose((chunk[: len(expected)] - 0.01) / 0.05, expected, atol=1e-5)
    save_checkpoint(tmp_path / "checkpoint", agent)
    loaded, _ = load_checkpoint(tmp_path / "checkpoint", policy_only=True)
    assert np.array_equal(loaded.act(observation, False, SEED), chunk)


@pytest.fixture(scope="session", params=BY_LEROBOT)
def by_lerobot(request, written):
    """A policy that lerobot runs, and an observation with lerobot's chunk."""
    policy = read_lerobot_policy(written / request.param / "pretrained_model", native=False)
    agent = lerobot_agent(policy, *units(policy.state, policy.action), {"task": "pick up the cube"})
    yield agent, policy, *example(written / request.param, policy)
    process = agent.process
    process._stream.close()
    process._socket.close()
    assert process._child.wait() == 0  # it ends with its standard input


def test_a_policy_that_lerobot_runs_gives_lerobots_chunk(by_lerobot, tmp_path):
    agent, policy, observation, expected = by_lerobot
    assert agent.name == "lerobot" and set(policy.cameras) <= {"front", "wrist"}
    chunk = agent.act(observation, False, SEED)
    assert len(chunk) == agent.spec.horizon >= agent.config.n_action_steps == len(expected) > 1
    assert np.abs(expected).max() > 0.1 and np.abs(chunk).max() < 1
    np.testing.assert_allclose((chunk[: len(expected)] - 0.01) / 0.05, expected, atol=1e-5)
    assert np.array_equal(agent.act(observation, True, SEED), chunk)
    assert not np.array_equal(agent.act(observation, False, SEED + 1), chunk)
    save_checkpoint(tmp_path / "checkpoint", agent)
    loaded, _ = load_checkpoint(tmp_path / "checkpoint", policy_only=True)
    loaded.process = agent.process  # another one would do the same, later
    assert np.array_equal(loaded.act(observation, False, SEED), chunk)


def test_what_is_learnt_over_it_begins_as_it_acts(by_lerobot, tmp_path):
    prior, policy, observation, _ = by_lerobot
    mean, width = policy.statistics[ACTION]
    np.testing.assert_allclose(prior.actions.mean, 0.05 * mean + 0.01, rtol=1e-6)
    spec = dataclasses.replace(
        prior.spec, horizon=1, absolute=True, state_dim=prior.spec.state_dim + policy.action
    )
    for name in ("residual", "ibrl"):
        agent = make_agent(name, spec, {"hidden": [16], "image_channels": 4, "image_features": 4}, 0, prior)
        assert agent.config.image_encoder == "trained"
        if name == "residual":
            np.testing.assert_allclose(agent._unit, STEP * (0.05 * width).clip(0.01), rtol=1e-5)
        alone, beneath = ChunkExecutor(prior), PriorExecutor(agent)
        for step in range(prior.spec.horizon + 1):
            expected, _ = alone.act(observation, False, step, 1, step)
            whole = with_prior_action(observation, beneath.act(observation, step, 1, step))
            np.testing.assert_allclose(agent.act(whole, False), [expected], atol=1e-6)
    save_checkpoint(tmp_path / "run", agent)
    loaded, _ = load_checkpoint(tmp_path / "run")
    assert loaded.prior.config == prior.config
    assert np.array_equal(loaded.act(whole, False), agent.act(whole, False))
