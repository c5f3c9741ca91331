"""Every arm of config/robots is one that the loop can use: a new file there is tested without a word here."""

import importlib.util
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from simulated_loop import CONFIG, Loop

from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import Kinematics, find_model
from hilrl_sim.skills import make_expert

EXAMPLE = Path(__file__).parents[2] / "examples" / "look_at_arm.py"


@pytest.fixture(params=sorted(path.stem for path in (CONFIG / "robots").glob("*.yaml")))
def robot(request):
    contract, _ = load_contract(CONFIG / f"robots/{request.param}.yaml")
    try:
        find_model(contract.model)
    except ContractError as error:
        pytest.skip(str(error))
    return request.param


def test_its_home_is_a_pose_in_the_box_and_its_tip_reaches_all_of_the_box(robot):
    contract, _ = load_contract(CONFIG / f"robots/{robot}.yaml")
    kinematics = Kinematics(contract)
    low, high = kinematics.joint_limits.T
    assert np.all(low <= contract.home) and np.all(contract.home <= high)
    home, R = kinematics.forward(np.array(contract.home))
    box = np.array([contract.box_min, contract.box_max])
    assert np.all(box[0] <= home) and np.all(home <= box[1])
    for corner in product(*box.T):
        q = np.array(contract.home)
        for _ in range(60):
            tip = kinematics.forward(q)[0]
            q = kinematics.step_ik(q, tip + np.clip(corner - tip, -0.01, 0.01), R)
        assert kinematics.forward(q)[0] == pytest.approx(corner, abs=0.005)


@pytest.mark.parametrize("task", ["reach", "pick_cube"])
def test_the_scripted_person_solves_the_standard_tasks_with_it(robot, task):
    loop = Loop(task, robot)
    expert = make_expert(loop.contract, loop.task, np.random.default_rng(0))
    assert sum(success for success, _ in loop.demonstrations(expert, range(10))) == 10


@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="opencv is not installed")
def test_a_look_at_an_arm_prints_a_pose_that_may_become_its_home(tmp_path):
    words = [CONFIG / "robots/so101.yaml", "--task", CONFIG / "tasks/reach.yaml", "--tip", "0.2", "0", "0.1"]
    command = [sys.executable, EXAMPLE, *words]
    ran = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True)
    assert "asked: tip [0.2, " in ran.stdout and "home: {shoulder_pan: " in ran.stdout, ran
    assert (tmp_path / "look_so101.png").is_file() or "rendering" in ran.stderr
