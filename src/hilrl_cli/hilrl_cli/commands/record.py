"""hilrl record: a person shows the task; a recording that was interrupted goes on."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from hilrl_cli import environment, loop
from hilrl_cli.commands import launch
from hilrl_cli.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    loop.add_task(parser)
    parser.add_argument("--episodes", type=int, default=20, help="demonstrations to record (default: 20)")
    parser.add_argument("--run", help="name of the run's folder; that of an interrupted recording goes on")
    loop.add_place(parser, loop.FOLLOWER)
    loop.add_words(parser, "record_demos")


def run(arguments: argparse.Namespace) -> int:
    """Record, then say where the demonstrations are and what comes next."""
    environment.enter()
    from hilrl_data.bags import finished_episodes

    if arguments.episodes < 1:
        raise UserError(f"--episodes is {arguments.episodes}, expected at least 1")
    for option, word in (("--task", "task"), ("--robot", "robot"), ("--run", "run"), ("--episodes", "demos")):
        if word in launch.parse_arguments(arguments.arguments):
            raise UserError(f"{word}:= is said with {option}")
    name = arguments.run or launch.run_name({"task": arguments.task})
    values = {
        "task": arguments.task, "robot": arguments.robot, "demos": arguments.episodes, "run": name,
        **loop.place(arguments),
    }  # fmt: skip
    words = [*loop.as_words(values), *arguments.arguments]
    folder = Path(launch.parse_arguments(words).get("runs_dir", "runs"), name)
    demos = folder / "demos"
    if finished_episodes(demos):
        loop.demonstrations(demos, arguments.robot, arguments.task)  # of this task, or an error
        print(f"goes on: {len(finished_episodes(demos))} of {arguments.episodes} recorded")
    code = launch.start("record_demos", words)
    recorded = len(finished_episodes(demos))
    if code or not recorded:
        return code
    print(f"{recorded} of {arguments.episodes} demonstrations are in {demos}")
    given = [
        word for option in ("task", "robot", "port", "operator")
        if (value := getattr(arguments, option)) is not None for word in (f"--{option}", value)
    ]  # fmt: skip
    if recorded < arguments.episodes:
        following = ["hilrl", "record", *given, "--episodes", str(arguments.episodes), "--run", name]
    else:
        following = ["hilrl", "train", *given, "--demos", str(demos)]
    print(f"next: {shlex.join([*following, *arguments.arguments])}")
    return 0
