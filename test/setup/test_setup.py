"""The set-up's decisions; that it works as a whole is shown by these tests running at all."""

import importlib.util
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup(monkeypatch):
    spec = importlib.util.spec_from_file_location("setup_tool", ROOT / "tools" / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "run", lambda *a, **k: pytest.fail("the test must not install anything"))
    return module


def test_missing_system_packages_are_named_with_the_one_command(setup, monkeypatch):
    monkeypatch.setattr(
        setup.shutil, "which", lambda name: None if name in ("g++", "uv") else f"/usr/bin/{name}"
    )
    monkeypatch.setattr(setup, "has_library", lambda name: name != "libGL.so.1")
    monkeypatch.setattr(setup.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(setup.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=1))
    message = (
        r"run `sudo apt-get install -y --no-install-recommends g\+\+ libgl1` once, then this command again\."
    )
    with pytest.raises(setup.SetupError, match=message):
        setup.install_system_packages()


def test_nothing_is_asked_for_where_nothing_is_missing(setup, monkeypatch):
    monkeypatch.setattr(setup.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(setup, "has_library", lambda name: True)
    monkeypatch.setattr(setup.Path, "is_file", lambda path: True)
    setup.install_system_packages()


def test_another_machine_or_python_gets_a_sentence(setup, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 15, 0))
    with pytest.raises(
        setup.SetupError, match=r"outside 3\.10 to 3\.13: name another one, .*PYTHON=python3\.12"
    ):
        setup.check_wheels_fit()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(
        setup.SetupError, match=r"Linux on x86-64 only, .* aarch64: source a ROS 2 installation first"
    ):
        setup.check_wheels_fit()


def test_another_clones_environment_is_no_ros_installation(setup, monkeypatch, tmp_path):
    ours, ros = tmp_path / "clone" / ".venv", tmp_path / "ros"
    (ours / ".setup").mkdir(parents=True)
    (ours / ".setup" / "kind").touch()
    monkeypatch.setattr(setup.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=0))
    for name in setup.SOURCED:
        monkeypatch.setenv(name, "of the clone")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{ours}:{ros}")
    setup.leave_clones()
    assert setup.sourced_ros() == "jazzy"
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(ours))
    setup.leave_clones()
    assert setup.sourced_ros() == "" and not any(name in setup.os.environ for name in setup.SOURCED)


def test_only_what_builds_a_package_asks_for_a_new_build(setup, monkeypatch, tmp_path):
    package = tmp_path / "src" / "p"
    (package / "p").mkdir(parents=True)
    (package / "package.xml").write_text("<package><name>p</name></package>")
    (package / "p" / "node.py").write_text("a = 1")
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "__file__", str(tmp_path / "setup.py"))
    (tmp_path / "colcon_defaults.yaml").touch()
    (tmp_path / "setup.py").touch()
    before = setup.build_fingerprint()
    (package / "p" / "node.py").write_text("a = 2")
    assert setup.build_fingerprint() == before
    (package / "p" / "table.csv").touch()
    with_data = setup.build_fingerprint()
    assert with_data != before
    (package / "package.xml").write_text("<package><name>p</name><version>2</version></package>")
    assert setup.build_fingerprint() != with_data


def test_a_second_set_up_has_nothing_to_do():
    if not (ROOT / ".venv" / ".setup" / "build").is_file() or not Path(sys.prefix).samefile(ROOT / ".venv"):
        pytest.skip("these tests run in another environment than .venv")
    result = subprocess.run([sys.executable, ROOT / "tools" / "setup.py"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
