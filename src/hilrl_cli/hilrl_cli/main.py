"""The hilrl command: finds the subcommand and turns the user's errors into one sentence."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from . import __version__
from .errors import UserError

COMMANDS = {  # name: what `hilrl --help` says of it; the code is in commands/<name>.py, - as _
    "doctor": "check arm, cameras, gamepad and machine",
    "setup-motors": "give the servos of a new arm their ids",
    "calibrate": "tell an arm where its joints' middles and ends are",
    "find-bounds": "find the box that the tip shall stay in, by moving the arm by hand",
    "crop": "choose what part of a camera's picture the policy sees",
    "teleop": "drive the arm and see how it is; nothing is learnt",
    "record": "record demonstrations, or go on with a recording",
    "train": "train a task, in simulation or on the arm",
    "bc": "make an imitation policy of recorded episodes, or of a LeRobot checkpoint",
    "improve": "make a policy better by reinforcement learning; it acts as before until that has earned more",
    "eval": "measure the policy of a run",
    "run": "let the policy of a run work; the person may take over",
    "reward": "label frames, train and measure the classifier that tells success",
    "runs": "list runs and how good they are",
    "data": "look at recorded episodes and datasets, and convert them",
    "plot": "draw learning curves of runs",
    "keyboard": "drive the arm with the keys of this terminal",
    "launch": "bring a graph up from a launch file",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; 2 is the exit code of what the user can mend."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="hilrl", description="Human-in-the-loop reinforcement learning on ROS 2."
    )
    parser.add_argument("--version", action="version", version=f"hilrl {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    module = None
    for name, description in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=description, description=description)
        if argv[:1] == [name]:  # only this one is imported: some need torch
            module = importlib.import_module(f"{__package__}.commands.{name.replace('-', '_')}")
            module.add_arguments(subparser)
    # argparse takes positional words only in one piece; name:=value may stand anywhere
    words = [word for word in argv if ":=" in word]
    arguments = parser.parse_args([word for word in argv if ":=" not in word])
    if words and not hasattr(arguments, "arguments"):
        parser.error(f"{arguments.command} takes no launch arguments, given {' '.join(words)}")
    if words:
        arguments.arguments = [*arguments.arguments, *words]
    try:
        return module.run(arguments)
    except UserError as error:
        print(f"hilrl {arguments.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
