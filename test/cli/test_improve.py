"""hilrl improve: from a policy to the launch arguments that improve it; mistakes are said before a graph runs."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lerobot_policy import write_act, write_other, write_python
from loop_messages import CONTRACT, ROBOT, TASK_FILE

from hilrl_agents import AGENTS, PolicySpec, make_agent, save_checkpoint
from hilrl_cli import environment
from hilrl_cli.commands import improve, launch
from hilrl_cli.main import main
from hilrl_data.episodes import BagSource, bags_of
from hilrl_data.lerobot_writer import write_lerobot

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from dataset_files import record

SUMMARY = {
    "eval_curve": [[0, 0.62], [510, 0.58], [1012, 0.98]], "start_rate": 0.62, "worst_rate": 0.58,
    "reached_target": True, "intervention_steps": 31,
}  # fmt: skip


@pytest.fixture(autouse=True)
def launched(tmp_path, monkeypatch):
    """No graph runs: what would be launched, by name."""
    given = {}

    def start(file, words):
        given.update(file=file, **launch.parse_arguments(words))
        folder = Path(given["runs_dir"], given["run"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(SUMMARY))
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "enter", lambda: None)
    monkeypatch.setattr(launch, "start", start)
    return given


@pytest.fixture
def policy(tmp_path):
    """The folder of a run with a policy that imitates."""
    folder = tmp_path / "runs" / "bc"
    agent = make_agent("bc", PolicySpec.from_contract(CONTRACT.to_dict()), {"hidden": [8]})
    save_checkpoint(folder / "checkpoint", agent, CONTRACT.to_dict())
    facts = {"task": str(TASK_FILE), "robot": str(ROBOT), "agent": "bc", "seed": 0}
    (folder / "summary.json").write_text(json.dumps(facts))
    return folder


def improved(*words):
    return main(["improve", *map(str, words)])


def test_a_run_is_all_that_must_be_named(policy, launched, tmp_path, capsys):
    assert improved(policy, "--seed", 4, "--run", "better") == 0
    assert launched == {
        "file": "sim", "improve": "true", "task": str(TASK_FILE), "robot": str(ROBOT), "agent": "residual",
        "warm_start": str(policy / "checkpoint"), "run": "better", "runs_dir": str(tmp_path / "runs"), "seed": "4",
        "port": "sim", "operator": "scripted", "target_success": "0.98", "max_steps": "5000",
        "evaluate_episodes": "50",
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert "start 62%, end 98% after 1012 robot steps (target reached), worst 58%" in shown
    assert "the person acted in 31 of the steps" in shown and str(tmp_path / "runs/better") in shown


def test_a_checkpoint_alone_and_with_nobody_and_other_goals(policy, launched):
    assert improved(policy / "checkpoint", "--alone", "max_steps:=900", "runs_dir:=elsewhere") == 0
    assert (launched["operator"], launched["max_steps"]) == ("none", "900")
    assert launched["runs_dir"] == os.path.abspath("elsewhere")
    assert launched["warm_start"] == str(policy / "checkpoint")


def test_recorded_episodes_join(policy, launched, tmp_path):
    record(tmp_path / "shown", (6, "terminated"), contract=CONTRACT)
    assert improved(policy, "--data", "shown") == 0
    assert launched["offline_data"] == str(tmp_path / "shown")


@pytest.mark.parametrize(
    ("words", "agent"),
    [
        ((), "residual"),
        (("--alone",), "ibrl"),
        (("operator:=none",), "ibrl"),
        (("--alone", "--agent", "sac"), "sac"),
    ],
)
def test_who_improves_depends_on_whether_a_person_helps(launched, policy, words, agent):
    assert improved(policy, *words) == 0
    assert launched["agent"] == agent


def test_a_flow_policy_is_chosen_from_by_a_critic(launched, policy):
    agent = make_agent("flow", PolicySpec.from_contract(CONTRACT.to_dict(), 4), {"hidden": [8]})
    save_checkpoint(policy / "checkpoint", agent, CONTRACT.to_dict())
    assert improved(policy) == 0
    assert launched["agent"] == "qc"


@pytest.mark.parametrize(("words", "agent"), [((), "residual"), (("--agent", "qc"), "qc")])
def test_a_large_policy_is_left_as_it_is_unless_an_agent_is_named(launched, policy, words, agent):
    flow = make_agent("flow", PolicySpec.from_contract(CONTRACT.to_dict(), 4), {"hidden": [8]})
    save_checkpoint(policy / "checkpoint", flow, CONTRACT.to_dict())
    os.truncate(policy / "checkpoint/policy.safetensors", 200_000_000)  # only its size is looked at
    assert improved(policy, *words) == 0
    assert launched["agent"] == agent


def test_an_incomplete_checkpoint_is_one_sentence(policy, capsys):
    (policy / "checkpoint/policy.safetensors").unlink()
    assert improved(policy) == 2
    assert "policy.safetensors is missing; the checkpoint is incomplete" in capsys.readouterr().err


@pytest.mark.parametrize("by_lerobot", [False, True])
def test_a_lerobot_policy_is_imported_first(launched, tmp_path, monkeypatch, by_lerobot):
    raw = yaml.safe_load(TASK_FILE.read_text())
    raw["privileged"] = raw.pop("state")
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(raw))
    numbers = {
        "observation.state.mean": torch.tensor([0.0, -40, 40, 80, 0, 20]),
        "observation.state.std": torch.full((6,), 10.0),
        "action.mean": torch.zeros(6),
        "action.std": torch.full((6,), 5.0),
    }
    if by_lerobot:
        theirs = write_other(tmp_path / "pretrained_model", 6, 6, numbers)
        monkeypatch.setenv("HILRL_LEROBOT_PYTHON", str(write_python(tmp_path / "python")))
    else:
        theirs = write_act(tmp_path / "pretrained_model", 6, 6, 0, numbers)
    words = [theirs, "--robot", ROBOT, "--task", "task.yaml", "--units", "degrees", "--run", "ours"]
    assert improved(*words) == 0
    assert launched["agent"] == ("residual_joints" if by_lerobot else "act_joints")
    assert "offline_data" not in launched
    assert launched["warm_start"] == str(tmp_path / "runs/ours/prior/checkpoint")
    assert launched["robot"] == str(tmp_path / "runs/ours/prior/robot.yaml")
    assert improved(*words[:-1], "other", "--alone") == 0
    assert launched["agent"] == "residual_alone"


def test_what_a_lerobot_policy_was_trained_on_is_learnt_from_too(launched, tmp_path, capsys):
    demos = record(tmp_path / "demos", (6, "terminated"), contract=CONTRACT)
    source = BagSource(bags_of(demos), CONTRACT, ("cube", "pick up the cube"))
    write_lerobot(tmp_path / "set", source.episodes(), CONTRACT, False, print, print)
    sizes = {"observation.state": len(CONTRACT.state), "action": len(CONTRACT.action.names)}
    numbers = {f"{name}.{key}": torch.ones(size) for name, size in sizes.items() for key in ("mean", "std")}
    theirs = write_act(tmp_path / "pretrained_model", *sizes.values(), 0, numbers)
    config = {"dataset": {"repo_id": "me/set", "root": str(tmp_path / "set")}}
    (theirs / "train_config.json").write_text(json.dumps(config))
    assert improved(theirs, "--robot", ROBOT, "--task", TASK_FILE, "--run", "ours") == 0
    assert launched["offline_data"] == str(tmp_path / "runs/ours/offline/001_set")
    assert f"learns from {tmp_path}/set as well" in capsys.readouterr().out
    assert improved(theirs, "--robot", ROBOT, "--task", TASK_FILE, "--run", "other", "--data", "demos") == 0
    assert launched["offline_data"] == str(demos)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["nowhere"],
            r"nowhere: is no policy: expected a run with a checkpoint, a checkpoint, or a LeRobot policy",
        ),
        (["runs/bc", "--units", "degrees"], r"--units, --rate and --by-lerobot are for LeRobot's policies; "),
        (
            ["runs/bc", "--agent", "flow"],
            r"'flow' cannot start from a policy of 'bc'; these can: bc, ibrl, residual, sac",
        ),
        (["runs/bc", "--task", "reach"], r"was trained under another contract: "),
        (
            ["runs/bc", "--alone", "--operator", "gamepad"],
            r"--alone means that nobody intervenes, but --operator is g",
        ),
        (
            ["runs/bc", "--alone", "--port", "emulated"],
            r"nobody presses pause to start an episode: add start:=timer",
        ),
        (["runs/bc", "--run", "bc"], r"bc: is there already; name another with --run"),
    ],
)
def test_mistakes_are_one_sentence(policy, launched, capsys, words, error):
    assert improved(*words) == 2
    assert not launched
    assert re.search(error, capsys.readouterr().err)


def test_a_start_that_failed_can_be_repeated_under_its_name(policy, launched, tmp_path):
    (tmp_path / "runs" / "again" / "log").mkdir(parents=True)
    assert improved("runs/bc", "--run", "again") == 0


def test_there_is_a_method_for_every_policy():
    assert all(any(AGENTS[m].starts_from(name) for m in improve._METHODS) for name in AGENTS)


def test_one_picture_of_several_runs_is_of_one_task(tmp_path, capsys):
    for name, task, agent in (
        ("a", "reach", "sac"),
        ("b", "reach", "config/agents/act.yaml"),
        ("c", "pick_cube", "sac"),
    ):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"task": task, "agent": agent}))
        rows = ["baseline,0,False", "baseline,0,True", "train,60,True", "evaluate,60,True"]
        (folder / "episodes.csv").write_text("\n".join(["phase,robot_steps,success", *rows]) + "\n")
    assert main(["plot", "--measured", "runs/a", "runs/b", "mine=runs/a", "-o", "m.png"]) == 0
    assert (tmp_path / "m.png").stat().st_size > 10_000
    for output, error in (
        ("m.foo", "expected a name that ends in .png"),
        ("nowhere/m.png", "cannot be written"),
    ):
        assert main(["plot", "--measured", "runs/a", "-o", output]) == 2
        assert error in capsys.readouterr().err
    assert main(["plot", "--measured", "runs/a", "runs/c"]) == 2
    assert "one picture is of one task, these are of several: runs/a of reach, runs/c of pick_cube" in (
        capsys.readouterr().err
    )
