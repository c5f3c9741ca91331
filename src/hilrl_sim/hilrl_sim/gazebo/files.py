"""Writes the world and the bridge's configuration of a robot and a task, and prints the folder that they are in.

    ros2 run hilrl_sim gazebo_files --robot so101 --task pick_cube

The folder is named after what is in it, below ~/.cache/hilrl/gazebo (XDG_CACHE_HOME): world.sdf, bridge.yaml, meshes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract

from .bridge import make_bridge
from .release import RELEASES, release_named
from .world import make_world


def write_files(
    robot: str, task: str, release: str, cameras: Sequence[str], cache: Path, real_time_factor: float = 1.0
) -> Path:
    """Write what Gazebo and the bridge need below `cache`, unless it is there; return the folder.

    Raises:
        ContractError: Robot or task do not fit, see `make_world`; or Gazebo would not move, or run ahead of the graph.
    """
    if not 0.01 <= real_time_factor <= 1.0:
        raise ContractError(f"real_time_factor is {real_time_factor:g}, expected a number from 0.01 to 1")
    contract, scene = load_contract(robot, task)
    names = release_named(release)
    world = make_world(contract, scene, names, cameras, real_time_factor)
    bridge = yaml.safe_dump(make_bridge(contract, scene, names, cameras), sort_keys=False)
    digest = hashlib.sha256(f"{world.text(Path())}{bridge}".encode())
    for mesh in world.meshes.values():
        digest.update(mesh)
    folder = cache / f"{contract.robot}_{scene.name}_{release}_{digest.hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=cache, prefix=".unfinished-"))
    try:
        (unfinished / "world.sdf").write_text(world.text(folder / "meshes"))
        (unfinished / "bridge.yaml").write_text(bridge)
        (unfinished / "meshes").mkdir()
        for name, mesh in world.meshes.items():
            (unfinished / "meshes" / name).write_bytes(mesh)
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # or another process was quicker
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, print their folder; return 1 after one sentence on stderr if that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--robot", default="so101", help="robot contract: a name from config/robots or a path"
    )
    parser.add_argument("--task", default="pick_cube", help="task: a name from config/tasks or a path")
    parser.add_argument(
        "--release", default="harmonic", choices=list(RELEASES), help="Gazebo's release, for its names"
    )
    parser.add_argument(
        "--cameras",
        nargs="*",
        default=["front", "wrist"],
        help="cameras of the robot file that the world has",
    )
    parser.add_argument(
        "--real-time-factor", type=float, default=1.0, help="simulated seconds that a second has at most"
    )
    options = parser.parse_args(arguments)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hilrl", "gazebo")
    try:
        folder = write_files(
            options.robot, options.task, options.release, options.cameras, cache, options.real_time_factor
        )
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{cache}: the world cannot be written: {error.strerror or error}", file=sys.stderr)
        return 1
    print(folder, end="")
    return 0
