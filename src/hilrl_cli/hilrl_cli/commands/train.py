"""hilrl train: trains a task; the same as `hilrl launch sim` or `real_so101`, with plain options."""

from __future__ import annotations

import argparse
from pathlib import Path

from hilrl_cli import environment, loop
from hilrl_cli.commands import launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    loop.add_task(parser)
    parser.add_argument("--agent", help="name from config/agents or a path")
    parser.add_argument("--seed", type=int, help="of scenes, exploration and learning")
    parser.add_argument("--run", help="name of the run's folder")
    parser.add_argument(
        "--demos",
        type=Path,
        metavar="FOLDER",
        help="demonstrations, or the run that recorded them; without it they are recorded first",
    )
    loop.add_place(parser, loop.SIM)
    loop.add_words(parser, "sim")


def run(arguments: argparse.Namespace) -> int:
    """Train."""
    environment.enter()
    return launch.start("sim", words(arguments))


def words(arguments: argparse.Namespace) -> list[str]:
    """Return the launch arguments."""
    values = {name: getattr(arguments, name) for name in ("task", "robot", "agent", "seed", "run")}
    values = {name: value for name, value in values.items() if value is not None}
    if arguments.demos is not None:
        values["demos_from"] = loop.demonstrations(arguments.demos, arguments.robot, arguments.task)
    return [*loop.as_words(values | loop.place(arguments)), *arguments.arguments]
