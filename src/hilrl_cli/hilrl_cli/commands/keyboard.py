"""hilrl keyboard: the keyboard node in this terminal, next to a graph that a launch file brought up."""

from __future__ import annotations

import argparse

from hilrl_cli import environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("--mapping", default="terminal", help="name from config/keyboards or a path")
    parser.add_argument(
        "--drives",
        choices=("tip", "leader"),
        default="tip",
        help="the tip, moved by keys, or a leader arm, of which the keys are the dead-man (default: tip)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the node; it ends with ctrl-C."""
    environment.enter()
    from hilrl_teleop.keyboard_node import main

    environment.join_graph()
    values = {"mapping": arguments.mapping, "drives": arguments.drives}
    words = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
    return main(["--ros-args", *words])
