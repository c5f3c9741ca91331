"""hilrl teleop: a person drives the arm; nothing is learnt, the terminal shows how the arm is."""

from __future__ import annotations

import argparse

from hilrl_cli import environment, loop
from hilrl_cli.commands import launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    loop.add_task(parser)
    loop.add_place(parser, loop.FOLLOWER)
    loop.add_words(parser, "teleop")


def run(arguments: argparse.Namespace) -> int:
    """Drive until ctrl-C."""
    environment.enter()
    from hilrl_cli.arm_view import ArmView

    place = loop.place(arguments, hint=False)
    place.pop("lockstep", None)  # teleoperation always runs in real time
    values = {"task": arguments.task, "robot": arguments.robot, **place}
    words = [*loop.as_words(values), *arguments.arguments]
    values |= launch.parse_arguments(words)
    launch.read(values)
    environment.join_graph()
    view = ArmView(values["robot"], values["operator"] == "keyboard", values.get("namespace", ""))
    return launch.start("teleop", words, view=view)
