import os
import subprocess
import sys
from pathlib import Path

import pytest

from hilrl_cli import environment
from hilrl_cli.errors import UserError

HILRL = Path(sys.prefix, "bin", "hilrl")


@pytest.mark.skipif(not HILRL.is_file(), reason="this environment was not made by `make setup`")
def test_the_command_works_from_any_folder_without_sourcing(tmp_path):
    (tmp_path / "x.launch.yaml").write_text(
        "launch:\n- executable: {cmd: echo $(find-pkg-share hilrl_cli), output: screen}\n"
    )
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [HILRL, "launch", "./x.launch.yaml"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30)
    assert result.stdout == f"[echo] {sys.prefix}/share/hilrl_cli\n", result.stderr


def test_a_sourced_workspace_is_left_as_it_is(tmp_path, monkeypatch):
    marker = tmp_path / "share" / "ament_index" / "resource_index" / "packages" / "hilrl_cli"
    marker.parent.mkdir(parents=True)
    marker.touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join(["/opt/ros/jazzy", str(tmp_path)]))
    monkeypatch.setattr("sys.prefix", "/usr")
    monkeypatch.setattr("os.execve", lambda *arguments: pytest.fail("started anew"))
    environment.enter()


@pytest.mark.skipif(not HILRL.is_file(), reason="this environment was not made by `make setup`")
def test_the_command_leaves_another_workspace_for_its_own(tmp_path):
    other = tmp_path / "other"
    marker = other / "share" / "ament_index" / "resource_index" / "packages" / "hilrl_cli"
    marker.parent.mkdir(parents=True)
    marker.touch()
    (tmp_path / "x.launch.yaml").write_text(
        "launch:\n- executable: {cmd: echo $(find-pkg-share hilrl_cli), output: screen}\n"
    )
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "AMENT_PREFIX_PATH": str(other)}
    command = [HILRL, "launch", "./x.launch.yaml"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30)
    assert result.stdout == f"[echo] {sys.prefix}/share/hilrl_cli\n", result.stderr


def test_without_a_workspace_the_user_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(UserError, match=r"not sourced: run `source install/setup\.bash` in it first"):
        environment.enter()
