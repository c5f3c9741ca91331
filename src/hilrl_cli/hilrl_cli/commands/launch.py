"""hilrl launch: brings a graph up from a ROS 2 YAML launch file."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from hilrl_cli import environment, loop
from hilrl_cli.errors import UserError
from hilrl_cli.supervisor import View


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("file", help="name of a launch file of package hilrl (sim), or a path")
    parser.add_argument("arguments", nargs="*", metavar="name:=value", help="arguments of the launch file")
    parser.add_argument(
        "-s", "--show-args", action="store_true", help="list the launch file's arguments and stop"
    )
    parser.add_argument("--print-commands", action="store_true", help="print what would be started and stop")
    parser.add_argument(
        "--log-folder", type=Path, help="where output is kept (default: below ROS_LOG_DIR or ~/.ros/log)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Launch, or show what would be launched."""
    environment.enter()
    from hilrl_cli import launch_file

    path = launch_file.find(arguments.file)
    if arguments.show_args:
        show_arguments(path)
        return 0
    if arguments.print_commands:
        values = parse_arguments(arguments.arguments)
        with tempfile.TemporaryDirectory(prefix="hilrl_") as folder:
            for process in launch_file.load(path, values, folder):
                print_process(process)
        return 0
    return start(arguments.file, arguments.arguments, arguments.log_folder)


def start(file: str, words: list[str], log_folder: Path | None = None, view: View | None = None) -> int:
    """Launch a file with `name:=value` words; on a terminal, a run shows its live view.

    Args:
        file: Name of a launch file of package hilrl, or a path.
        words: Arguments.
        log_folder: Where output is kept; by default in the run's folder, or where ROS 2 keeps its logs.
        view: What shows the output; by default the terminal, or the live view of the run.
    """
    environment.enter()
    from hilrl_cli import launch_file
    from hilrl_cli.supervisor import Supervisor

    path = launch_file.find(file)
    values = parse_arguments(words)
    declared = launch_file.declared_arguments(path)
    check(path, values)
    if {"run", "runs_dir"} <= set(declared):
        values["runs_dir"] = os.path.abspath(values.get("runs_dir", declared["runs_dir"].default))
        values.setdefault("run", run_name({n: a.default for n, a in declared.items()} | values))
        folder = Path(values["runs_dir"], values["run"])
        goes_on = path.name.startswith("record_demos.") and not (folder / "checkpoint").exists()
        if (folder / "episodes.csv").exists() and not goes_on:
            raise UserError(f"{folder}: is there already; name another with run:=")
        log_folder = log_folder or folder / "log"
        if view is None and sys.stdout.isatty():
            from hilrl_cli.view import RunView

            view = RunView(folder)
    log_folder = log_folder or default_log_folder()
    processes = launch_file.load(path, values, log_folder / "parameters")
    return Supervisor(processes, log_folder, view).run()


def check(path: Path, values: dict[str, str]) -> None:
    """Look at what a launch file is given before any of it is started, so that a mistake is told once.

    Raises:
        UserError: Contract, task, algorithm, calibration or the run's name do not fit, or a node runs already.
    """
    from hilrl_cli import launch_file
    from hilrl_cli.graph import refuse_running

    declared = launch_file.declared_arguments(path)
    given = {name: argument.default for name, argument in declared.items()} | values
    read(given)
    run = values.get("run", "")
    if run != Path(run).name:
        raise UserError(f"run is '{run}', expected a name without /; runs_dir:= says where runs are kept")
    if "calibration" in declared:
        loop.check_calibration(given["port"], given["calibration"])
    with tempfile.TemporaryDirectory(prefix="hilrl_") as folder:
        refuse_running(launch_file.load(path, values, folder))


def read(values: dict[str, str | None]) -> None:
    """Read the contract, task and algorithm that the nodes will read.

    Raises:
        UserError: One of them does not fit.
    """
    from hilrl_ros.contract import ContractError
    from hilrl_ros.contract_reader import load_contract
    from hilrl_ros.settings import load_agent_settings

    try:
        if values.get("robot"):
            load_contract(values["robot"], values.get("task"))
        if values.get("agent"):
            load_agent_settings(values["agent"], values.get("warm_start") or "")
    except ContractError as error:
        raise UserError(str(error)) from None


def run_name(values: dict[str, str]) -> str:
    """Name of a new run's folder: date, task, agent and seed."""
    parts = [Path(values[name]).stem for name in ("task", "agent") if values.get(name)]
    return "_".join([time.strftime("%Y%m%d-%H%M%S"), *parts, f"s{values.get('seed', 0)}"])


def parse_arguments(arguments: list[str]) -> dict[str, str]:
    """Names and values of `name:=value` words; the last of a name counts, as in `ros2 launch`."""
    from hilrl_cli.errors import LaunchError

    values = {}
    for argument in arguments:
        name, separator, value = argument.partition(":=")
        if not (name and separator and value):
            raise LaunchError(f"launch argument '{argument}' is malformed; expected name:=value")
        values[name] = value
    return values


def default_log_folder() -> Path:
    """A new folder for this launch where ROS 2 keeps its logs."""
    home = os.environ.get("ROS_HOME") or os.path.expanduser("~/.ros")
    root = os.environ.get("ROS_LOG_DIR") or os.path.join(home, "log")
    return Path(root, time.strftime(f"hilrl-%Y-%m-%d-%H-%M-%S-{os.getpid()}"))


def show_arguments(path: Path) -> None:
    """Print the arguments of a launch file."""
    from hilrl_cli import launch_file

    print("Arguments (pass them as name:=value):")
    for argument in launch_file.declared_arguments(path).values():
        default = "required" if argument.default is None else f"default: {argument.default!r}"
        choices = f"; one of {', '.join(argument.choices)}" if argument.choices else ""
        print(f"\n  {argument.name} ({default}{choices})\n      {argument.description}")


def print_process(process) -> None:
    """Print a process as a shell would start it, parameters below it."""
    changed = [f"{name}={shlex.quote(value)}" for name, value in process.env.items()]
    print(f"[{process.name}]", *changed, shlex.join(process.argv))
    for flag, value in zip(process.argv, process.argv[1:], strict=False):
        if flag == "--params-file":
            print(*(f"    {line}" for line in Path(value).read_text().splitlines()), sep="\n")
    sys.stdout.flush()
