"""YAML that the pages show is YAML that the code takes."""

import re

import numpy as np
import pytest
import torch
import yaml
from documentation import ROOT, reference

from hilrl_agents import Batch, PolicySpec, load_checkpoint, registry
from hilrl_reward.terms import RewardFunction
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.settings import load_agent_settings
from hilrl_sim.objects import scene_objects

BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.M | re.S)
ROBOT = ROOT / "config" / "robots" / "so101.yaml"


def blocks(page):
    return [match for match in BLOCK.findall((ROOT / "docs" / page).read_text())]


def python(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


def test_the_new_task_loads(tmp_path):
    (text,) = blocks("how-to/new_task.md")
    file = tmp_path / "lift_can.yaml"
    file.write_text(text)
    contract, task = load_contract(ROBOT, file)
    assert scene_objects(task)["can"].collides
    assert RewardFunction(task, contract.entry_names, contract.action.names)


@pytest.mark.parametrize(
    ("page", "task", "terms"),
    [
        ("how-to/own_reward.md", "pick_cube", {"success", "near", "lift", "calm", "time"}),
        ("how-to/compose_a_reward.md", "open_drawer", {"success", "opening", "pull", "time"}),
    ],
)
def test_a_composed_reward_loads(tmp_path, page, task, terms):
    (text,) = blocks(page)
    task = yaml.safe_load((ROOT / "config" / "tasks" / f"{task}.yaml").read_text()) | yaml.safe_load(text)
    file = tmp_path / "composed.yaml"
    file.write_text(yaml.safe_dump(task, sort_keys=False))
    contract, task = load_contract(ROBOT, file)
    assert set(RewardFunction(task, contract.entry_names, contract.action.names).terms) == terms


def test_the_arm_that_is_shown_is_the_one_that_is_there():
    there = yaml.safe_load((ROOT / "config" / "robots" / "viperx.yaml").read_text())
    for text in blocks("how-to/bring_your_own_arm.md"):
        for key, shown in yaml.safe_load(text).items():
            if key == "sim":
                assert shown == {k: there[key][k] for k in shown}
            else:
                assert shown == there[key]


def test_the_launch_file_with_a_namespace_launches(tmp_path):
    from hilrl_cli import launch_file

    (text,) = blocks("how-to/lab_workspace.md")
    file = tmp_path / "left.launch.yaml"
    file.write_text(text)
    assert set(reference.launch_arguments(file)) == set(
        reference.launch_arguments(ROOT / "launch" / "sim.launch.yaml")
    )
    processes = launch_file.load(file, {}, tmp_path)
    assert processes and all("__ns:=/left" in process.argv for process in processes)


@pytest.mark.parametrize("file", sorted((ROOT / "docs").rglob("*.md")), ids=lambda f: f.name)
def test_python_that_is_shown_compiles(file):
    for text in python(file):
        compile(text, file.name, "exec")


def test_the_policy_of_ones_own_learns_and_is_kept(tmp_path, monkeypatch):
    page = "how-to/own_policy.md"
    network, storage = ({"__name__": "own"}, {})
    for text, names in zip(python(ROOT / "docs" / page), (network, storage), strict=True):
        exec(compile(text, page, "exec"), names)
    monkeypatch.setitem(registry.AGENTS, "linear", network["Linear"])
    (text,) = blocks(page)
    (tmp_path / "linear.yaml").write_text(text)
    settings = load_agent_settings(str(tmp_path / "linear.yaml"))
    contract, _ = load_contract(ROBOT, "pick_cube")
    spec = PolicySpec.from_contract(contract.to_dict(), settings.chunk_size)

    # what people did is an affine function of what they saw
    rng = np.random.default_rng(0)
    states = rng.normal(size=(64, spec.state_dim)).astype(np.float32)
    actions = np.tanh(states[:, : spec.action_dim] / 4)
    batch = Batch(
        observation={"state": torch.from_numpy(states), "images": {}},
        action=torch.from_numpy(actions)[:, None].repeat(1, spec.horizon, 1),
        reward=torch.zeros(64, spec.horizon), steps=torch.full((64,), spec.horizon), bootstrap=torch.ones(64),
        next_observation={"state": torch.from_numpy(states), "images": {}}, offline=torch.ones(64, dtype=bool),
        person=torch.ones(64, spec.horizon, dtype=bool), left=torch.full((64,), spec.horizon),
        solved=torch.ones(64, dtype=bool),
    )  # fmt: skip
    agent = registry.make_agent(settings.algorithm, spec, settings.options | {"learning_rate": 0.02})
    agent.fit_normalizer(states, actions)
    losses = [agent.pretrain(batch)["l1_loss"] for _ in range(300)]
    assert losses[-1] < 0.2 * losses[0]

    options = {"chunk_size": settings.chunk_size}
    weights = {
        name.removeprefix("policy."): weight
        for name, weight in agent.policy_state().items()
        if name.startswith("policy.")
    }
    storage["keep"]("linear", options, weights, states, actions, tmp_path / "mine")
    kept, _ = load_checkpoint(tmp_path / "mine" / "checkpoint", contract.to_dict(), policy_only=True)
    seen = {"state": states[0], "images": {}}
    assert kept.act(seen, False).shape == (spec.horizon, spec.action_dim)
    assert kept.act(seen, False) == pytest.approx(agent.act(seen, False), abs=1e-6)
