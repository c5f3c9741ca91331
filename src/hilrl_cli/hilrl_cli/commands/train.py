"""hilrl train: trains a task in simulation; the same as `hilrl launch sim`, with plain options."""

from __future__ import annotations

import argparse

from hilrl_cli.commands import launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("--task", help="name from config/tasks or a path")
    parser.add_argument("--agent", help="name from config/agents or a path")
    parser.add_argument("--robot", help="name from config/robots or a path")
    parser.add_argument("--seed", type=int, help="of scenes, exploration and learning")
    parser.add_argument("--run", help="name of the run's folder")
    parser.add_argument(
        "arguments", nargs="*", metavar="name:=value", help="more arguments of sim.launch.yaml"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train."""
    names = ("task", "agent", "robot", "seed", "run")
    given = [f"{name}:={getattr(arguments, name)}" for name in names if getattr(arguments, name) is not None]
    return launch.start("sim", [*given, *arguments.arguments])
