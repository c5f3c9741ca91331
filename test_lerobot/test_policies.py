"""Checkpoints that the real lerobot wrote act in the suite as they do there; `policies.py` runs in its environment."""

import os
from pathlib import Path

import numpy as np
import pytest
from environment import needs_lerobot, run

from hilrl_agents import load_checkpoint, save_checkpoint
from hilrl_agents.lerobot import ENVIRONMENT, IMAGES, STATE, Units, lerobot_agent, read_lerobot_policy

pytestmark = needs_lerobot

SEED = 5  # of policies.py
KINDS = ("act", "act_no_vae", "act_environment", "diffusion", "diffusion_ddim")


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    folder = os.environ.get("LEROBOT_POLICIES")
    if folder:
        return Path(folder)
    folder = tmp_path_factory.mktemp("policies")
    run("policies.py", folder)
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
    return {"state": state, "images": images}, given["chunk"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_lerobots_chunk(kind, written, tmp_path):
    policy = read_lerobot_policy(written / kind / "pretrained_model")
    observation, expected = example(written / kind, policy)
    # degrees there, radians here; actions in a range there, in [-1, 1] here
    degree, size = np.pi / 180, policy.state + policy.environment
    state, action = (
        Units(np.full(size, degree)),
        Units(np.full(policy.action, 0.05), np.full(policy.action, 0.01)),
    )
    agent = lerobot_agent(policy, state, action)
    observation["state"] = observation["state"] * np.float32(degree)
    chunk = agent.act(observation, False, SEED)
    assert chunk.shape[0] == policy.chunk_size >= len(expected) == policy.config[
        "n_action_steps"
    ] or kind.startswith("act")
    assert np.abs(expected).max() > 0.1 and np.abs(chunk).max() < 1
    np.testing.assert_allclose((chunk[: len(expected)] - 0.01) / 0.05, expected, atol=1e-5)
    save_checkpoint(tmp_path / "checkpoint", agent)
    loaded, _ = load_checkpoint(tmp_path / "checkpoint", policy_only=True)
    assert np.array_equal(loaded.act(observation, False, SEED), chunk)
