"""The ROS environment of the workspace that `hilrl` was installed with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .errors import UserError


def enter() -> None:
    """Go on in the workspace's environment: where it is not sourced yet, run this command again in it.

    A new process, because the dynamic linker reads LD_LIBRARY_PATH only when one starts.

    Raises:
        UserError: Where there is no workspace to enter.
    """
    marker = Path("share", "ament_index", "resource_index", "packages", "hilrl_cli")
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    setup = Path(sys.prefix, "setup.bash")
    # with a workspace of its own, another one's environment will not do
    mine = [p for p in prefixes if p == sys.prefix] if setup.is_file() else prefixes
    if any(prefix and (prefix / marker).is_file() for prefix in map(Path, mine)):
        return
    if not setup.is_file():
        raise UserError("the workspace is not sourced: run `source install/setup.bash` in it first")
    result = subprocess.run(
        ["bash", "-c", '. "$0" >&2 && env -0', str(setup)], stdout=subprocess.PIPE, text=True, check=False
    )
    if result.returncode:
        raise UserError(f"'{setup}' could not be sourced: run `make setup`")
    environment = dict(entry.split("=", 1) for entry in result.stdout.split("\0") if entry)
    if str(sys.prefix) not in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        raise UserError(f"'{setup}' does not name its own prefix: run `make clean setup`")
    sys.stdout.flush()
    os.execve(sys.executable, sys.orig_argv, environment)


def join_graph() -> None:
    """Let this process find the nodes of a launch: set what launch/common.launch.yaml sets for them."""
    from hilrl_ros.config import config_folder

    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(config_folder() / "fastdds.xml"))
