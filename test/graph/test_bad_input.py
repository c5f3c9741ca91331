"""What a user gets wrong ends with one clear sentence, not with a traceback or a hanging graph."""

import subprocess

import pytest

from .conftest import HILRL

pytestmark = pytest.mark.graph


def hilrl(*words) -> subprocess.CompletedProcess:
    return subprocess.run([HILRL, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)


def test_unknown_task(tmp_path, own_domain):
    result = hilrl("train", "--task", "pick_cub", f"runs_dir:={tmp_path}")
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert "task 'pick_cub' is unknown; did you mean 'pick_cube'?" in output
    assert "Traceback" not in output


def test_bad_contract_key(tmp_path, own_domain):
    from hilrl_ros.config import find_config

    robot = tmp_path / "mine.yaml"
    robot.write_text(find_config("robots", "so101").read_text().replace("control_rate", "control_rat"))
    result = hilrl("train", "--robot", robot, f"runs_dir:={tmp_path}")
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert "mine.yaml.control_rat: unknown key; did you mean 'control_rate'?" in output
    assert "Traceback" not in output


def test_unknown_launch_argument(own_domain):
    result = hilrl("launch", "sim", "tsk:=reach")
    assert result.returncode == 2
    assert "tsk" in result.stderr
    assert "did you mean 'task'?" in result.stderr


def test_eval_of_a_folder_that_is_no_run(tmp_path, own_domain):
    result = hilrl("eval", tmp_path)
    assert result.returncode == 2
    assert f"{tmp_path}: is no run" in result.stderr


def test_runs_and_plot_of_nothing(tmp_path, own_domain):
    assert "holds no runs" in hilrl("runs", tmp_path).stderr
    assert "is no run" in hilrl("plot", tmp_path).stderr
