"""YAML that the pages show is YAML that the code takes."""

import re

import pytest
import yaml
from documentation import ROOT, reference

from hilrl_reward.terms import RewardFunction
from hilrl_ros.contract import load_contract
from hilrl_sim.objects import scene_objects

BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.M | re.S)
ROBOT = ROOT / "config" / "robots" / "so101.yaml"


def blocks(page):
    return [match for match in BLOCK.findall((ROOT / "docs" / page).read_text())]


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
    for text in re.findall(r"^```python\n(.*?)^```", file.read_text(), re.M | re.S):
        compile(text, file.name, "exec")
