"""Checkpoints as LeRobot writes them, made by hand; `test_lerobot` compares with the real lerobot."""

import numpy as np
import pytest
import torch
from agent_data import random_batch
from lerobot_policy import act_config, write_act, write_config
from safetensors.torch import load_file, save_file

from hilrl_agents import PolicySpec, load_checkpoint, save_checkpoint
from hilrl_agents.lerobot import LeRobotError, Units, lerobot_agent, read_lerobot_policy

CONFIG = act_config(3, 2, 2)
NUMBERS = {
    "observation.state.mean": torch.tensor([10.0, 20.0, 30.0]),
    "observation.state.std": torch.tensor([1.0, 2.0, 4.0]),
    "observation.environment_state.min": torch.tensor([0.0, -1.0]),
    "observation.environment_state.max": torch.tensor([1.0, 3.0]),
    "action.mean": torch.tensor([5.0, -5.0]),
    "action.std": torch.tensor([2.0, 3.0]),
}


@pytest.fixture
def folder(tmp_path):
    return write_act(tmp_path / "pretrained_model", 3, 2, 2, NUMBERS)


def changed(**values):
    return CONFIG | values


def test_what_a_checkpoint_says_about_itself(folder):
    policy = read_lerobot_policy(folder)
    assert (policy.kind, policy.state, policy.environment, policy.action) == ("act", 3, 2, 2)
    assert policy.spec() == PolicySpec(5, 2, horizon=5)
    mean, width = policy.statistics["observation.environment_state"]
    assert mean.tolist() == [0.5, 1.0] and width.tolist() == [0.5, 2.0]


def test_a_diffusion_policy_sees_its_newest_observations_and_the_middle_of_the_images(folder):
    features = {
        "observation.state": {"type": "STATE", "shape": [3]},
        "observation.images.front": {"type": "VISUAL", "shape": [3, 48, 64]},
    }
    config = {
        "type": "diffusion", "n_obs_steps": 2, "horizon": 16, "num_train_timesteps": 100,
        "n_action_steps": 8, "crop_shape": [40, 41],
        "input_features": features, "output_features": CONFIG["output_features"],
    }  # fmt: skip
    write_config(folder, config)
    policy = read_lerobot_policy(folder)
    assert policy.spec() == PolicySpec(6, 2, {"front": (40, 41, 6)}, horizon=15)
    assert policy.crops == {"front": (12, 4, 41, 40)}  # x is 11.5, rounded to even as torchvision does


def test_options_and_execution_are_the_checkpoints(folder):
    config = lerobot_agent(read_lerobot_policy(folder)).config
    assert (config.n_action_steps, config.temporal_ensemble_coeff, config.dim_model) == (3, 0.0, 16)
    assert (config.environment_state, config.learning_rate, config.n_vae_encoder_layers) == (2, 1e-5, 1)
    write_config(folder, changed(temporal_ensemble_coeff=0.01, n_action_steps=1))
    assert lerobot_agent(read_lerobot_policy(folder)).config.temporal_ensemble_coeff == 0.01
    # 0 is no average here; there all plans weigh alike
    write_config(folder, changed(temporal_ensemble_coeff=0.0, n_action_steps=1))
    assert 0 < lerobot_agent(read_lerobot_policy(folder)).config.temporal_ensemble_coeff < 1e-6
    assert lerobot_agent(read_lerobot_policy(folder), overrides={"dropout": 0}).config.dropout == 0


def test_statistics_are_turned_into_the_suites_units(folder):
    policy = read_lerobot_policy(folder)
    scale, offset = np.array([0.5, 2.0, -1.0, 1.0, 1.0]), np.array([1.0, 0, 0, 0, 0])
    agent = lerobot_agent(policy, Units(scale, offset), Units([0.1, 0.2], [0.0, 0.5]))
    theirs = torch.tensor([[11.0, 22.0, 34.0, 0.75, 3.0]])
    normal = agent.encoder.normalizer(theirs * torch.tensor(scale) + torch.tensor(offset))
    assert torch.allclose(normal.float(), torch.tensor([[1.0, 1.0, 1.0, 0.5, 1.0]]), atol=1e-6)
    assert agent.actions.inverse(torch.tensor([1.0, 0.0])).tolist() == pytest.approx(
        [0.1 * 7, 0.2 * -5 + 0.5]
    )


def test_what_never_moved_is_taken_as_lerobot_takes_it(folder):
    numbers = load_file(folder / "policy_preprocessor.safetensors")
    numbers["observation.environment_state.max"] = numbers["observation.environment_state.min"].clone()
    save_file(numbers, folder / "policy_preprocessor.safetensors")
    actions = {"action.mean": torch.tensor([0.5, 0.2]), "action.std": torch.zeros(2)}
    save_file(actions, folder / "policy_postprocessor.safetensors")
    agent = lerobot_agent(read_lerobot_policy(folder))
    assert agent.encoder.normalizer(torch.tensor([10.0, 20, 30, 0, -1]))[3:].tolist() == pytest.approx(
        [-1, -1]
    )
    assert agent.actions.inverse(torch.tensor([3.0, -3.0])).tolist() == pytest.approx([0.5, 0.2], abs=1e-5)
    assert agent.actions(torch.tensor([0.5, 0.2])).abs().max() < 1


def test_an_imported_policy_is_kept_in_a_checkpoint_and_learns_on(folder, tmp_path):
    agent = lerobot_agent(read_lerobot_policy(folder), action=Units(0.02))
    observation = {"state": np.array([10, 21, 33, 0.1, 0.2], np.float32), "images": {}}
    chunk = agent.act(observation, False)
    save_checkpoint(tmp_path / "c", agent)
    loaded, _ = load_checkpoint(tmp_path / "c")
    assert np.array_equal(loaded.act(observation, False), chunk)
    loaded.update(random_batch(loaded.spec, 8))
    assert not np.array_equal(loaded.act(observation, False), chunk)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (changed(type=None), r"config\.json: its type is None, expected the name of a policy"),
        (
            changed(pre_norm=True),
            r"config\.json: pre_norm is True, expected False; with --by-lerobot lerobot itself runs it",
        ),
        (changed(n_obs_steps=2), r"config\.json: n_obs_steps is 2, expected 1"),
        (changed(type="diffusion", resize_shape=[96, 96]), r"resize_shape is \[96, 96\], expected None"),
        (
            {k: v for k, v in CONFIG.items() if k != "chunk_size"},
            r"lacks 'chunk_size', which LeRobot 0\.4 writes",
        ),
        (
            changed(input_features={"observation.effort": {"type": "STATE", "shape": [3]}}),
            r"its inputs are observation\.effort \[3\]; expected observation\.state, observation\.images\.<name>",
        ),
        (changed(output_features={}), r"its outputs are ; expected action"),
    ],
)
def test_a_setting_that_would_act_otherwise_is_one_clear_sentence(folder, config, error):
    write_config(folder, config)
    with pytest.raises(LeRobotError, match=error):
        read_lerobot_policy(folder)


def test_a_checkpoint_without_its_processors_is_one_clear_sentence(folder):
    (folder / "policy_preprocessor.json").unlink()
    with pytest.raises(
        LeRobotError, match=r"has no policy_preprocessor\.json, where the normalisation statistics are"
    ):
        read_lerobot_policy(folder)


def test_damaged_files_are_one_clear_sentence(folder):
    numbers = load_file(folder / "policy_preprocessor.safetensors")
    save_file(
        {k: v for k, v in numbers.items() if k != "observation.state.std"},
        folder / "policy_preprocessor.safetensors",
    )
    with pytest.raises(
        LeRobotError, match=r"statistics observation\.state\.std are absent, expected 3 numbers"
    ):
        read_lerobot_policy(folder)
    (folder / "policy_preprocessor.safetensors").write_bytes(b"junk")
    with pytest.raises(LeRobotError, match=r"policy_preprocessor\.safetensors: cannot be read"):
        read_lerobot_policy(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(LeRobotError, match=r"config\.json: is damaged"):
        read_lerobot_policy(folder)
    with pytest.raises(LeRobotError, match=r"No such file.*; expected a pretrained_model folder of LeRobot"):
        read_lerobot_policy(folder.parent)


def test_weights_that_do_not_fit_the_config_are_one_clear_sentence(folder):
    write_config(folder, changed(dim_feedforward=64))
    with pytest.raises(LeRobotError, match=r"linear1\.bias is \(32,\), expected \(64,\) by its config\.json"):
        lerobot_agent(read_lerobot_policy(folder))
    write_config(folder, changed(n_decoder_layers=2))
    with pytest.raises(LeRobotError, match=r"decoder\.layers\.1\.\S+ is absent, expected"):
        lerobot_agent(read_lerobot_policy(folder))
