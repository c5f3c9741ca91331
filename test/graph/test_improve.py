"""The real graph: hilrl improve from a policy that imitates, through its measurements to the end."""

import csv
import json
import shutil
import subprocess

import pytest
import yaml

from hilrl_agents import PolicySpec, load_checkpoint, make_agent, save_checkpoint
from hilrl_ros.contract_reader import load_contract

from .conftest import HILRL

pytestmark = pytest.mark.graph
EPISODES = 2


@pytest.fixture(scope="module")
def improved(tmp_path_factory, own_domain):
    """The folder of a run that improved a policy without skill, whose chunks are longer, and what it printed."""
    folder = tmp_path_factory.mktemp("improve")
    contract, _ = load_contract("so101", "reach")
    spec = PolicySpec.from_contract(contract.to_dict(), 4)
    agent = make_agent("flow", spec, {"hidden": [16], "flow_steps": 2, "n_action_steps": 3})
    save_checkpoint(folder / "prior", agent, contract.to_dict())
    words = [
        "prior", "--task", "reach", "--agent", "residual", "--run", "better", "runs_dir:=.",
        "measure_every:=50", "max_steps:=90", f"evaluate_episodes:={EPISODES}",
        "showcase_episodes:=1", "learning_starts:=20",
    ]  # fmt: skip
    done = subprocess.run([HILRL, "improve", *words], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "better", done.stdout


def test_it_is_measured_at_the_start_and_every_so_many_steps(improved):
    folder, shown = improved
    summary = json.loads((folder / "summary.json").read_text())
    steps = [point[0] for point in summary["eval_curve"]]
    rates = [point[1] for point in summary["eval_curve"]]
    assert steps[0] == 0 and steps[1] >= 50 and steps[-1] == summary["robot_steps"]
    assert summary["start_rate"] == rates[0] and summary["worst_rate"] == min(rates)
    assert f"start {rates[0]:.0%}, end {rates[-1]:.0%} after {steps[-1]} robot steps" in shown
    rows = list(csv.DictReader((folder / "episodes.csv").open()))
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    assert phases == ["baseline", "train", "evaluate", "showcase"]
    measured = [row for row in rows if row["phase"] in ("baseline", "evaluate")]
    assert len(measured) == EPISODES * len(steps)
    assert all(row["person_steps"] == "0" for row in measured)
    assert sum(int(row["steps"]) for row in rows if row["phase"] == "train") == summary["robot_steps"]


def test_learning_began_at_the_policy_and_keeps_a_copy_of_it(improved):
    folder, _ = improved
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["updates"] == summary["transitions_stored"] - 20
    shutil.rmtree(folder.parent / "prior")
    agent, checkpoint = load_checkpoint(folder / "checkpoint", policy_only=True)
    assert (agent.name, agent.prior.name, agent.prior.config.n_action_steps) == ("residual", "flow", 3)
    assert yaml.safe_load((folder / "checkpoint/config.yaml").read_text())["contract"] == checkpoint.contract
    assert (
        "starts from 'flow': copied encoder.normalizer.mean" in (folder / "log" / "learner.log").read_text()
    )


def test_the_curve_can_be_looked_at(improved):
    assert (improved[0] / "learning_curve.png").stat().st_size > 10_000
