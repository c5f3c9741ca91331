"""Policies that lerobot runs in a process; here a small script stands in for it, `test_lerobot` asks the real one."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from agent_data import random_batch
from lerobot_policy import act_config, write_config, write_other, write_python
from over_prior import SMALL

from hilrl_agents import ConfigError, PolicySpec, load_checkpoint, make_agent, save_checkpoint
from hilrl_agents.chunks import ChunkExecutor, PriorExecutor, with_prior_action
from hilrl_agents.lerobot import LeRobotError, Units, lerobot_agent, read_lerobot_policy
from hilrl_agents.lerobot_process import LeRobotProcessError, find_python
from hilrl_agents.residual import STEP

NUMBERS = {
    "observation.state.mean": torch.tensor([10.0, 20.0, 30.0]),
    "observation.state.std": torch.tensor([1.0, 2.0, 4.0]),
    "action.mean": torch.tensor([5.0, -5.0]),
    "action.std": torch.tensor([2.0, 0.0]),
}
HERE = {"state": np.array([0.4, 0.2, 0.1], np.float32), "images": {}}


@pytest.fixture
def folder(tmp_path):
    return write_other(tmp_path / "pretrained_model", 3, 2, NUMBERS)


@pytest.fixture
def python(tmp_path, monkeypatch):
    path = write_python(tmp_path / "python")
    monkeypatch.setenv("HILRL_LEROBOT_PYTHON", str(path))
    return path


@pytest.fixture
def made(folder, python):
    """Makes the agent of a policy; state and actions are tenths of LeRobot's."""

    def make(task="pick up the cube", **options):
        policy = read_lerobot_policy(folder)
        overrides = {"task": task} | options
        return lerobot_agent(policy, Units(np.full(3, 0.1)), Units(np.full(2, 0.1)), overrides)

    return make


def test_chunks_are_asked_for_in_lerobots_units_and_come_in_the_suites(made, folder):
    agent = made()
    assert (agent.spec.horizon, agent.config.n_action_steps) == (5, 3)
    np.testing.assert_allclose(agent.act(HERE, False, 0), [[0.2, 0.1]] * 5, rtol=1e-6)
    np.testing.assert_allclose(agent.act(HERE, True, 500), [[0.25, 0.15]] * 5, rtol=1e-6)
    assert agent.act(HERE | {"state": np.full(3, 9, np.float32)}, False, 0).max() == 1
    seeds = set()
    for _ in range(2):  # its own draws
        agent.act(HERE, False)
        with np.load(folder / "asked.npz") as asked:
            np.testing.assert_allclose(asked["observation.state"], [[4, 2, 1]], rtol=1e-6)
            seeds.add(int(asked["seed"][0]))
    assert len(seeds) == 2


def test_several_observations_go_oldest_first_under_the_names_that_were_recorded(folder, python):
    images = {
        "observation.images.camera1": {"type": "VISUAL", "shape": [3, 4, 6]},
        "observation.images.empty_camera_0": {"type": "VISUAL", "shape": [3, 480, 640]},
    }
    config = act_config(3, 2, type="vqbet", n_obs_steps=2)
    write_config(folder, config | {"input_features": config["input_features"] | images})
    rename = {
        "registry_name": "rename_observations_processor",
        "config": {"rename_map": {"observation.images.front": "observation.images.camera1"}},
    }
    text = (folder / "policy_preprocessor.json").read_text()
    (folder / "policy_preprocessor.json").write_text(text.replace("[", f"[{json.dumps(rename)}, ", 1))
    policy = read_lerobot_policy(folder)
    assert policy.spec() == PolicySpec(6, 2, {"front": (4, 6, 6)})
    agent = lerobot_agent(policy)
    old, new = np.full((4, 6, 3), 1, np.uint8), np.full((4, 6, 3), 2, np.uint8)
    state = np.arange(6, dtype=np.float32) / 10  # the newest three first
    agent.act({"state": state, "images": {"front": np.concatenate([old, new], 2)}}, False, 0)
    with np.load(folder / "asked.npz") as asked:
        np.testing.assert_allclose(asked["observation.state"], [state[3:], state[:3]])
        np.testing.assert_array_equal(asked["observation.images.front"], [old, new])
        assert set(asked) == {"observation.state", "observation.images.front", "seed"}


def test_what_it_was_taught_is_the_measure_of_what_is_learnt_over_it(made, folder):
    prior = made()
    np.testing.assert_allclose(prior.encoder.normalizer.mean, [1, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(prior.spread, [0.2, 0.01], rtol=1e-6)
    spec = PolicySpec(5, 2, absolute=True)
    agent = make_agent("residual", spec, SMALL, 0, prior)
    np.testing.assert_allclose(agent._unit, STEP * np.array([0.2, 0.01]), rtol=1e-6)
    for file in ("policy_preprocessor", "policy_postprocessor"):  # its processors keep it to themselves
        (folder / f"{file}.json").write_text('{"steps": []}')
    np.testing.assert_allclose(made().spread, [0.2, 0.2])


@pytest.mark.parametrize("name", ["residual", "ibrl"])
def test_what_is_learnt_over_it_begins_as_it_acts_and_is_kept_with_it(made, name, tmp_path):
    prior = made()
    agent = make_agent(name, PolicySpec(5, 2), SMALL, 0, prior)
    alone, beneath = ChunkExecutor(prior), PriorExecutor(agent)
    for step in range(7):
        expected, _ = alone.act(HERE, False, step, 1, step)
        whole = with_prior_action(HERE, beneath.act(HERE, step, 1, step))
        np.testing.assert_array_equal(agent.act(whole, False), [expected])
    agent.update(random_batch(agent.spec, 8))
    save_checkpoint(tmp_path / "run", agent)
    loaded, _ = load_checkpoint(tmp_path / "run")
    assert loaded.prior.config == prior.config
    np.testing.assert_array_equal(loaded.prior.act(HERE, False, 3), prior.act(HERE, False, 3))
    other = made()
    other.units.digest[0] += 1
    state = agent.state()
    with pytest.raises(ValueError, match="learnt over another prior policy"):
        make_agent(name, PolicySpec(5, 2), SMALL, 0, other).load_state(state)


def test_an_agent_sees_with_an_encoder_of_its_own_over_it(made):
    prior = made()
    prior.spec = replace(prior.spec, cameras={"front": (32, 32, 3)})
    spec = PolicySpec(5, 2, {"front": (32, 32, 3)})
    assert make_agent("residual", spec, SMALL, 0, prior).config.image_encoder == "trained"
    with pytest.raises(
        ConfigError, match=r"residual\.image_encoder: is prior, but 'lerobot' does not tell what"
    ):
        make_agent("residual", spec, SMALL | {"image_encoder": "prior"}, 0, prior)


def test_it_is_made_of_a_folder_and_learns_nothing(made):
    with pytest.raises(ConfigError, match=r"'lerobot' is what LeRobot trained; .* hilrl bc --lerobot FOLDER"):
        make_agent("lerobot", PolicySpec(3, 2))
    agent = made()
    for learn in (agent.update, agent.pretrain):
        with pytest.raises(LeRobotProcessError, match=r"learns nothing here; start from it: hilrl improve"):
            learn(random_batch(agent.spec, 2))
    with pytest.raises(
        ConfigError, match="'lerobot' cannot start from a policy of 'lerobot'; these can: ibrl, resid"
    ):
        make_agent("lerobot", agent.spec, {}, 0, agent)


@pytest.mark.parametrize(
    ("task", "options", "error"),
    [
        ("dies", {}, r"pretrained_model: its process \(.*python\) has ended with status 1: Out of memory$"),
        ("is silent", {"patience": 1.0}, r"has said nothing for 1 s \(option patience: 1\)$"),
    ],
)
def test_a_process_that_ends_or_is_silent_is_one_clear_sentence_for_good(made, task, options, error):
    agent = made(task, **options)
    agent.act(HERE, False, 0)
    for _ in range(2):
        with pytest.raises(LeRobotProcessError, match=error):
            agent.act(HERE, False, 1)
    assert agent.process._child.poll() is not None


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("lacks lerobot", r"has ended with status 1: ModuleNotFoundError: No module named 'lerobot'$"),
        ("fails", r"gives up: KeyError: 'observation\.language tokens'$"),
    ],
)
def test_a_policy_that_cannot_be_run_is_no_agent(made, task, error):
    with pytest.raises(LeRobotProcessError, match=error):
        made(task)


def test_the_real_script_says_that_lerobot_is_missing(made, monkeypatch):
    monkeypatch.setenv("HILRL_LEROBOT_PYTHON", sys.executable)
    with pytest.raises(
        LeRobotProcessError, match=r"gives up: ModuleNotFoundError: No module named 'lerobot'"
    ):
        made()


def test_a_folder_that_changed_or_is_gone_is_one_clear_sentence(made, folder, tmp_path):
    save_checkpoint(tmp_path / "c", made())
    (folder / "model.safetensors").write_bytes(b"trained on")
    error = (
        "pretrained_model is gone, or has changed since this policy was made of it: make it again, hilrl bc "
    )
    with pytest.raises(LeRobotProcessError, match=error):
        load_checkpoint(tmp_path / "c")[0].act(HERE, False, 0)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(LeRobotProcessError, match=error):
        load_checkpoint(tmp_path / "c")[0].act(HERE, False, 0)


def test_a_python_that_is_missing_is_one_clear_sentence(made, python, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c", made())
    python.write_text("no program")
    with pytest.raises(
        LeRobotProcessError, match=r"python cannot be started \(Exec format error\), expected a Python"
    ):
        load_checkpoint(tmp_path / "c")[0].act(HERE, False, 0)
    python.unlink()
    with pytest.raises(
        LeRobotProcessError, match=r"python: no such program; name a Python that has it: export HILRL_LEROBOT"
    ):
        load_checkpoint(tmp_path / "c")[0].act(HERE, False, 0)
    monkeypatch.delenv("HILRL_LEROBOT_PYTHON", raising=False)
    with pytest.raises(
        LeRobotProcessError, match=r"needs lerobot, which this Python lacks; name a Python .* this mak"
    ):
        find_python()
    monkeypatch.setenv("HILRL_LEROBOT_PYTHON", sys.executable)
    assert find_python() == sys.executable


def test_an_option_or_input_that_does_not_fit_is_one_clear_sentence(made, folder):
    with pytest.raises(
        LeRobotError, match=r"lerobot\.n_action_steps: is 9, expected at most chunk_size \(5\)"
    ):
        made(n_action_steps=9)
    write_config(folder, act_config(3, 2, 2, type="smolvla"))
    with pytest.raises(
        LeRobotError, match=r"its inputs are .*environment_state \[2\]; expected observation\.state, "
    ):
        read_lerobot_policy(folder)


def test_it_ends_with_the_process_that_asks(made, folder, tmp_path):
    save_checkpoint(tmp_path / "c", made())
    (folder / "ended").unlink(missing_ok=True)
    code = f"""
import numpy as np, time
from hilrl_agents import load_checkpoint
agent, _ = load_checkpoint({str(tmp_path / "c")!r})
agent.act({{"state": np.zeros(3, np.float32), "images": {{}}}}, False, 0)
print("acted", flush=True)
time.sleep(600)
"""
    asks = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert asks.stdout.readline() == "acted\n" and not (folder / "ended").exists()
    os.kill(asks.pid, signal.SIGKILL)
    asks.wait()
    asks.stdout.close()
    patience = time.monotonic() + 60
    while not (folder / "ended").exists() and time.monotonic() < patience:
        time.sleep(0.05)
    assert (folder / "ended").exists()
