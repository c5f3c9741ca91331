"""What the real lerobot's trainer makes of an export comes back with nothing but its folder and the task."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dataset_files import record
from environment import PYTHON, needs_lerobot

from hilrl_actor.policy import Policy
from hilrl_cli.main import main
from hilrl_data.bags import read_steps
from hilrl_data.episodes import BagSource, bags_of
from hilrl_data.lerobot_writer import write_lerobot
from hilrl_ros.contract_reader import load_contract

pytestmark = needs_lerobot
TASK = "pick_cube_joints"
# as in the Makefile, but for the sizes
OPTIONS = {
    "steps": 1, "batch_size": 2, "num_workers": 0, "wandb.enable": "false", "dataset.repo_id": "test/set",
    "dataset.video_backend": "pyav", "policy.type": "act", "policy.device": "cpu", "policy.push_to_hub": "false",
    "policy.pretrained_backbone_weights": "null", "policy.chunk_size": 4, "policy.n_action_steps": 2,
    "policy.dim_model": 16, "policy.n_heads": 2, "policy.dim_feedforward": 32, "policy.n_encoder_layers": 1,
    "policy.n_vae_encoder_layers": 1,
}  # fmt: skip


def nothing(_):
    pass


@pytest.fixture
def trained(tmp_path):
    """A policy of one training step on two exported episodes, and their actions."""
    contract, _ = load_contract("so101", TASK)
    demos = record(tmp_path / "demos", (8, "terminated"), (8, "terminated"), contract=contract)
    source = BagSource(bags_of(demos), contract, (TASK, "pick up the cube"))
    write_lerobot(tmp_path / "set", source.episodes(), contract, False, nothing, nothing)
    options = OPTIONS | {"dataset.root": tmp_path / "set", "output_dir": tmp_path / "out"}
    words = [
        Path(PYTHON).with_name("lerobot-train"),
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    done = subprocess.run(words, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    actions = [step.executed.action for bag in bags_of(demos) for step in read_steps(bag)]
    return tmp_path / "out/checkpoints/last/pretrained_model", np.array(actions)


def test_a_policy_trained_on_an_export_needs_no_more_than_its_task(trained, tmp_path, monkeypatch):
    folder, actions = trained
    monkeypatch.chdir(tmp_path)
    assert main(["bc", "--lerobot", str(folder), "--task", TASK, "--run", "ours"]) == 0
    contract, _ = load_contract("so101", TASK)
    agent = Policy.from_checkpoint(contract, tmp_path / "runs/ours/checkpoint").agent
    assert (agent.spec.state_dim, agent.spec.horizon) == (len(contract.state), 4)
    assert agent.config.n_action_steps == 2
    np.testing.assert_allclose(agent.actions.mean, actions.mean(0), atol=1e-5)
    np.testing.assert_allclose(agent.actions.std, actions.std(0), atol=1e-5)
