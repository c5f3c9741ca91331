"""What the commands that bring the loop up share: which arm, which device of the person, which run."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .arm import EMULATED, find_port
from .errors import UserError

FOLLOWER, SIM, GAZEBO = "/dev/so101_follower", "sim", "gazebo"
CONTROLLERS = ("joint_trajectory_controller", "forward_command_controller")
OPERATORS = ("gamepad", "keyboard", "leader", "scripted")
# devices that a second terminal completes
_SECOND_TERMINAL = {
    "keyboard": "the keyboard drives from a second terminal: run `hilrl keyboard` there",
    "leader": "for start, success and failure, run `hilrl keyboard --drives leader` in a second terminal",
}


def add_place(parser: argparse.ArgumentParser, port: str, operators: tuple[str, ...] = OPERATORS) -> None:
    """Add the arguments that say where the arm is and what the person holds; `port` is the default."""
    parser.add_argument(
        "--port",
        default=port,
        help=f"serial port, emulated (servos in MuJoCo), sim, gazebo, or the controller of ros2_control that moves the "
        f"arm: {' or '.join(CONTROLLERS)} (default: {port})",
    )
    parser.add_argument(
        "--operator",
        choices=operators,
        help="what the person holds, or the scripted person (default: gamepad)",
    )


def add_words(parser: argparse.ArgumentParser, file: str) -> None:
    """Add `name:=value` for all other arguments of a launch file."""
    parser.add_argument(
        "arguments", nargs="*", metavar="name:=value", help=f"more arguments of {file}.launch.yaml"
    )


def add_task(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name task and robot contract."""
    parser.add_argument("--task", default="pick_cube", help="name from config/tasks or a path")
    parser.add_argument("--robot", default="so101", help="name from config/robots or a path")


def place(arguments: argparse.Namespace, in_sim: str = "scripted", hint: bool = True) -> dict[str, str]:
    """Return the launch arguments that say where the arm is and what the person holds.

    Args:
        arguments: With those of `add_place`.
        in_sim: Who is at the simulated arm unless `--operator` says it.
        hint: Say what a second terminal is needed for.

    Raises:
        UserError: There is no such port, or it may not be opened.
    """
    port = arguments.port
    if port not in (SIM, GAZEBO, EMULATED, *CONTROLLERS):
        find_port(port, "follower")
    operator = arguments.operator or (in_sim if port in (SIM, GAZEBO) else "gamepad")
    if hint and operator in _SECOND_TERMINAL:
        print(_SECOND_TERMINAL[operator])
    values = {"port": port, "operator": operator}
    if port == SIM and operator not in ("scripted", "none"):
        values["lockstep"] = "false"  # a person needs real time
    return values


def check_start(values: dict[str, str]) -> None:
    """Refuse launch arguments with which no episode would begin.

    Raises:
        UserError: Nobody is at the arm.
    """
    waits = values["port"] not in (SIM, GAZEBO) and values.get("start") != "timer"
    if waits and values["operator"] == "none":
        raise UserError("with --operator none nobody presses pause to start an episode: add start:=timer")


def check_calibration(port: str, calibration: str) -> None:
    """Refuse to wait for an arm on a serial port that has no calibration.

    Raises:
        UserError: There is none of that name; says where it was looked for.
    """
    from so101_driver.calibration import Calibration, CalibrationError

    if port in (SIM, GAZEBO, EMULATED, *CONTROLLERS):
        return
    try:
        Calibration.find(calibration)
    except CalibrationError as error:
        raise UserError(
            f"{error}: make one with `hilrl calibrate`, or name another with calibration:="
        ) from None


def as_words(values: dict[str, Any]) -> list[str]:
    """Return launch arguments as `name:=value` words."""
    return [f"{name}:={value}" for name, value in values.items()]


def policy_of(folder: Path) -> dict[str, str]:
    """Return the launch arguments that name a run's policy, and the task and robot that it was trained for.

    Raises:
        UserError: It is no run, or has no checkpoint.
    """
    from hilrl_actor.curves import RunError, read_summary

    try:
        trained = read_summary(folder)
    except RunError as error:
        raise UserError(str(error)) from None
    checkpoint = folder / "checkpoint"
    if not (checkpoint / "config.yaml").is_file():
        raise UserError(f"{folder}: has no checkpoint yet (no checkpoint/config.yaml)")
    files = {}
    for kind in ("task", "robot"):
        if not isinstance(trained.get(kind), str):
            raise UserError(f"{folder}: its summary does not name its {kind}")
        named, beside = Path(trained[kind]), folder / Path(trained[kind]).name
        # a file of the run's own, after the run was moved
        moved = named.suffix and not named.is_file() and beside.is_file()
        files[kind] = str(beside) if moved else trained[kind]
    return {**files, "policy": str(checkpoint), "runs_dir": str(folder)}


def free_name(folder: Path, prefix: str) -> str:
    """Return the first name `prefix_001`, `prefix_002`, … that a folder does not hold yet."""
    number = 1
    while (folder / f"{prefix}_{number:03d}").exists():
        number += 1
    return f"{prefix}_{number:03d}"


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[None]:
    """Leave no part of a new folder behind where what fills it fails."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def offline_data(paths: list[Path], out: Path, robot: str, task: str) -> str:
    """Return the launch argument that names recorded episodes; what is no folder of episode bags is made into one.

    Args:
        paths: Runs, bags, LeRobot datasets.
        out: Folder for what is made.
        robot: Contract that all must fit.
        task: Task of it.

    Raises:
        UserError: One of them does not fit, or is damaged.
    """
    from hilrl_cli.commands import data
    from hilrl_data.bags import EPISODE_FILE
    from hilrl_data.episodes import bags_of
    from hilrl_data.sources import ERRORS, is_lerobot, open_source
    from hilrl_ros.contract_reader import load_contract

    folders: list[Path] = []
    try:
        contract, of_task = load_contract(robot, task)
        for number, path in enumerate(paths, 1):
            bags = [] if is_lerobot(path) else bags_of(path)
            if bags and bags[0] != path and all((bag / EPISODE_FILE).is_file() for bag in bags):
                folders += dict.fromkeys(bag.parent.resolve() for bag in bags)
                continue
            source = open_source(path, contract, (of_task.name, of_task.text))
            made = out / f"{number:03d}_{path.resolve().name}"
            data.write(made, contract, source, source.episodes(), lerobot=False)
            folders.append(made.resolve())
        for folder in folders:
            demonstrations(folder, robot, task)
    except ERRORS as error:
        raise UserError(str(error)) from None
    return os.pathsep.join(map(str, folders))


def demonstrations(folder: Path, robot: str, task: str) -> Path:
    """Return the absolute path of a folder with recorded demonstrations, given as it is or by its run.

    Raises:
        UserError: It holds none that is whole, or they were recorded with another robot contract or task.
    """
    from hilrl_data.bags import BagError, episode_folders, read_info
    from hilrl_ros.contract import ContractError
    from hilrl_ros.contract_reader import load_contract

    folder = folder.resolve()
    if (folder / "demos").is_dir():
        folder = folder / "demos"
    try:
        contract, _ = load_contract(robot, task)
        for episode in episode_folders(folder):
            read_info(episode, contract.hash())
    except (BagError, ContractError) as error:
        raise UserError(str(error)) from None
    return folder
