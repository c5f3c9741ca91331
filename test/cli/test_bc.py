"""hilrl bc: a policy of recorded episodes, or of a LeRobot checkpoint, in a folder that hilrl eval takes."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lerobot_policy import act_config, write_act, write_config, write_other, write_python
from loop_messages import CONTRACT, ROBOT, TASK_FILE

from hilrl_actor.policy import Policy
from hilrl_agents.lerobot import STATE, read_lerobot_policy
from hilrl_cli import environment, lerobot_contract, loop
from hilrl_cli.errors import UserError
from hilrl_cli.main import main
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import Kinematics
from hilrl_ros.node import UserError as NodeError

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from dataset_files import record

TINY = {"algorithm": "flow", "chunk_size": 2, "hidden": [8], "batch_size": 8, "flow_steps": 2}
JOINTS = CONTRACT.joints
MEAN = {
    "observation.state.mean": torch.tensor([0.0, -40, 40, 80, 0, 20]),
    "action.mean": torch.tensor([0.0] * 6),
}
NUMBERS = MEAN | {"observation.state.std": torch.full((6,), 10.0), "action.std": torch.full((6,), 5.0)}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "enter", lambda: None)


@pytest.fixture
def no_state_task(tmp_path):
    """A task that adds nothing to the state, and judges by what is privileged."""
    raw = yaml.safe_load(TASK_FILE.read_text())
    raw["privileged"] = raw.pop("state")
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(raw))
    return tmp_path / "task.yaml"


@pytest.fixture
def lerobot(tmp_path):
    return write_act(tmp_path / "pretrained_model", 6, 6, 0, NUMBERS)


def bc(*words):
    return main(["bc", "--robot", str(ROBOT), *map(str, words)])


def test_a_policy_of_demonstrations_is_a_run_that_eval_takes(tmp_path, capsys):
    record(tmp_path / "shown", (6, "terminated"), (5, "terminated"), contract=CONTRACT)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    words = ["tiny.yaml", "--task", TASK_FILE, "--data", "shown", "--updates", 5, "--run", "mine"]
    assert bc(*words) == 0
    assert "imitates 11 steps" in capsys.readouterr().out
    values = loop.policy_of(tmp_path / "runs" / "mine")
    assert (values["task"], values["robot"]) == (str(TASK_FILE), str(ROBOT))
    summary = json.loads((tmp_path / "runs/mine/summary.json").read_text())
    assert summary["updates"] == 5 and summary["demonstrated_steps"] == 11 and summary["bc_loss"] > 0
    policy = Policy.from_checkpoint(CONTRACT, tmp_path / "runs/mine/checkpoint")
    observation = {"state": np.zeros(len(CONTRACT.state), np.float32), "images": {}}
    assert policy.act(observation, False, 0, 1, 0)[0].shape == (4,)
    assert policy.agent.encoder.normalizer.mean.abs().max() > 0
    assert bc(*words) == 2
    assert "mine: is there already; name another with --run" in capsys.readouterr().err


def test_a_lerobot_policy_brings_its_contract_along(lerobot, no_state_task, tmp_path):
    assert (
        bc(
            "--lerobot",
            lerobot,
            "--units",
            "degrees",
            "--task",
            no_state_task,
            "--run",
            "theirs",
            "--set",
            "n_action_steps=2",
        )
        == 0
    )
    robot = loop.policy_of(tmp_path / "runs/theirs")["robot"]
    contract, _ = load_contract(robot, no_state_task)
    assert (contract.control_rate, contract.state_names, contract.cameras) == (30.0, JOINTS, {})
    assert (contract.action.type, contract.action.names) == ("joint_position", JOINTS)
    # a person's device moves as fast as before, in steps of a third
    assert contract.motion.scale == pytest.approx(np.array(CONTRACT.motion.scale) / 3, abs=1e-6)
    policy = Policy.from_checkpoint(contract, tmp_path / "runs/theirs/checkpoint")
    assert policy.agent.config.n_action_steps == 2
    low, high = Kinematics(contract).joint_limits.T
    target = torch.deg2rad(MEAN["action.mean"]).numpy()
    target[5] = low[5]  # 0 of 100
    expected = 2 * (target - low) / (high - low) - 1
    np.testing.assert_allclose(policy.agent.actions.mean, expected, atol=1e-6)
    mean = policy.agent.encoder.normalizer.mean
    assert mean[1].item() == pytest.approx(np.deg2rad(-40))
    assert mean[5].item() == pytest.approx(low[5] + 0.2 * (high[5] - low[5]))


@pytest.fixture
def taught(tmp_path):
    """Makes a policy that was trained on a dataset, which lies here, of so many frames a second."""

    def make(own, state, action):
        numbers = {"observation.state": state, "action": action}
        statistics = {
            f"{name}.{key}": torch.full((size,), value)
            for name, size in numbers.items()
            for key, value in (("mean", 0.1), ("std", 0.2))
        }
        dataset, folder = tmp_path / "set", write_act(tmp_path / "theirs", state, action, 0, statistics)
        (dataset / "meta/hilrl").mkdir(parents=True)
        (dataset / "meta/info.json").write_text(json.dumps({"fps": 20}))
        if own:
            (dataset / "meta/hilrl/contract.yaml").write_text(yaml.safe_dump(own.to_dict()))
        config = {"dataset": {"repo_id": "me/set", "root": str(dataset)}}
        (folder / "train_config.json").write_text(json.dumps(config))
        return folder

    return make


def test_a_policy_trained_on_an_export_acts_as_was_exported_whatever_that_is(taught, tmp_path):
    folder = taught(CONTRACT, len(CONTRACT.state), len(CONTRACT.action.names))
    assert bc("--lerobot", folder, "--task", TASK_FILE, "--run", "ours") == 0
    assert loop.policy_of(tmp_path / "runs/ours")["robot"] == str(ROBOT)
    agent = Policy.from_checkpoint(CONTRACT, tmp_path / "runs/ours/checkpoint").agent
    np.testing.assert_allclose(agent.encoder.normalizer.mean, 0.1)
    np.testing.assert_allclose(agent.actions.std, 0.2)


def test_a_policy_trained_on_an_export_of_another_task_is_refused(taught, no_state_task, capsys):
    folder = taught(CONTRACT, len(CONTRACT.state), len(CONTRACT.action.names))
    assert bc("--lerobot", folder, "--task", no_state_task) == 2
    assert "theirs was trained under another contract: the length of state" in capsys.readouterr().err


def test_a_policy_that_saw_less_than_was_exported_is_refused(taught, capsys):
    assert bc("--lerobot", taught(CONTRACT, 6, 4), "--task", TASK_FILE) == 2
    expected = f"sees 1 × 6 numbers and the cameras none, expected one observation of {len(CONTRACT.state)} n"
    assert expected in capsys.readouterr().err


def test_the_rate_is_that_of_the_dataset_that_a_policy_was_trained_on(taught, no_state_task, tmp_path):
    words = ["--lerobot", taught(None, 6, 6), "--task", no_state_task, "--units", "radians"]
    for name, more, rate in (("its", [], 20.0), ("said", ["--rate", 15], 15.0)):
        assert bc(*words, "--run", name, *more) == 0
        contract, _ = load_contract(tmp_path / f"runs/{name}/robot.yaml", no_state_task)
        assert contract.control_rate == rate


def test_a_policy_that_lerobot_runs_is_made_as_the_others_are(no_state_task, tmp_path, capsys, monkeypatch):
    theirs = write_other(tmp_path / "smolvla", 6, 6, NUMBERS)
    words = ["--lerobot", theirs, "--task", no_state_task, "--units", "degrees", "--run"]
    monkeypatch.delenv("HILRL_LEROBOT_PYTHON", raising=False)
    assert bc(*words, "theirs") == 2  # and leaves nothing behind
    assert "this policy needs lerobot, which this Python lacks; name a Python" in capsys.readouterr().err
    monkeypatch.setenv("HILRL_LEROBOT_PYTHON", str(write_python(tmp_path / "python")))
    assert bc(*words, "theirs") == 0
    robot = loop.policy_of(tmp_path / "runs/theirs")["robot"]
    contract, task = load_contract(robot, no_state_task)
    policy = Policy.from_checkpoint(contract, tmp_path / "runs/theirs/checkpoint")
    config = policy.agent.config
    assert (config.task, config.n_action_steps, config.folder) == (task.text, 3, str(theirs))
    # half of where the joints are, in degrees
    low, high = Kinematics(contract).joint_limits.T
    state = (low + high) / 3
    action, _ = policy.act({"state": state.astype(np.float32), "images": {}}, False, 0, 1, 0)
    with np.load(theirs / "asked.npz") as asked:
        target = state / 2 + np.deg2rad(int(asked["seed"][0]) % 1000 / 1000)
        np.testing.assert_allclose(asked["observation.state"][0, :5], np.rad2deg(state[:5]), rtol=1e-5)
    np.testing.assert_allclose(action[:5], (2 * (target - low) / (high - low) - 1)[:5], atol=1e-5)
    policy.agent.process._child.kill()
    policy.interrupt()
    with pytest.raises(
        NodeError, match=r"smolvla: its process \(.*\) has ended with status -9: it said nothing"
    ):
        policy.act({"state": state.astype(np.float32), "images": {}}, False, 0, 1, 1)
    assert bc(*words, "fails", "--set", "task=fails") == 2
    assert "gives up: KeyError" in capsys.readouterr().err


def test_range_is_from_limit_to_limit(lerobot, no_state_task):
    policy = read_lerobot_policy(lerobot)
    contract, _ = load_contract(ROBOT, no_state_task)
    state, action = lerobot_contract.units(policy, contract, "range")
    low, high = Kinematics(contract).joint_limits.T
    np.testing.assert_allclose(state.offset + state.scale * ([100] * 6), high)
    np.testing.assert_allclose(state.offset[:5] - 100 * state.scale[:5], low[:5])
    np.testing.assert_allclose(action.offset + action.scale * ([100] * 6), 1)


def test_cameras_and_earlier_observations_are_in_the_contract(tmp_path):
    config = act_config(6, 6) | {
        "type": "diffusion", "n_obs_steps": 2, "horizon": 16, "num_train_timesteps": 100, "crop_shape": [40, 50],
    }  # fmt: skip
    for name in ("front", "hand"):
        config["input_features"][f"observation.images.{name}"] = {"type": "VISUAL", "shape": [3, 48, 64]}
    folder = write_act(tmp_path / "policy", 6, 6, 0, NUMBERS)
    write_config(folder, config)
    policy = read_lerobot_policy(folder)
    (tmp_path / "robot.yaml").write_text(lerobot_contract.derived(policy, ROBOT, 15.0))
    contract, _ = load_contract(tmp_path / "robot.yaml")
    assert contract.state_names == (*JOINTS, *(f"{joint}_1_ago" for joint in JOINTS))
    assert [e.ago for e in contract.state] == [0] * 6 + [1] * 6
    hand = contract.cameras["hand"]
    assert (hand.topic, hand.size, hand.crop, hand.stack) == ("hand/image_raw", (40, 50), (7, 4, 50, 40), 2)
    assert contract.cameras["front"].topic == "front/image_raw"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], r"expected an agent with --data, or --lerobot: one of the two"),
        (["flow"], r"--data is missing: recorded episodes that are imitated"),
        (["flow", "--data", "x", "--updates", "0"], r"--updates is 0, expected at least 1"),
        (
            ["--lerobot", "pretrained_model"],
            r"--units is missing: what the arm's joints were recorded in, degrees,",
        ),
        (["flow", "--data", "x", "--set", "hidden"], r"--set hidden: expected OPTION=VALUE"),
        (
            ["flow", "--data", "x", "--set", "hidden=["],
            r"--set hidden=\[: a value is not YAML, as in hidden=",
        ),
        (
            ["flow", "--data", "x", "--runs-dir", __file__],
            r"cannot be made there; name another place with --runs",
        ),
        (
            ["--lerobot", "pretrained_model", "--units", "degrees", "--rate", "0"],
            r"--rate is 0, expected more than 0 Hz",
        ),
        (
            ["--lerobot", ".", "--units", "degrees"],
            r"config\.json: No such file or directory; expected a pretrained",
        ),
        (
            ["--lerobot", "pretrained_model", "--units", "radians"],
            r"shoulder_lift was at -40\.00 rad on average",
        ),
    ],
)
def test_what_is_missing_is_one_clear_sentence(words, error, lerobot, no_state_task, capsys):
    assert bc(*words, "--task", no_state_task) == 2
    assert re.search(error, capsys.readouterr().err)


def test_a_task_or_arm_that_does_not_fit_is_one_clear_sentence(lerobot, tmp_path):
    policy = read_lerobot_policy(write_act(tmp_path / "four", 4, 4, 0, {
        "observation.state.mean": torch.zeros(4), "observation.state.std": torch.ones(4),
        "action.mean": torch.zeros(4), "action.std": torch.ones(4),
    }))  # fmt: skip
    with pytest.raises(UserError, match=r"its state has 4 entries, expected the 6 joints of so101\.yaml"):
        lerobot_contract.derived(policy, ROBOT, 30.0)
    with pytest.raises(
        UserError, match=r"adds .*cube_x.* to the state, which this policy does not see; use a task"
    ):
        lerobot_contract.check_task(yaml.safe_load(Path(TASK_FILE).read_text()), "pick")
    assert STATE in policy.statistics
