"""hilrl plot: learning curves of several runs in one PNG."""

from __future__ import annotations

import argparse
from pathlib import Path

from hilrl_cli import environment
from hilrl_cli.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("curves.png"), help="PNG (default: curves.png)"
    )
    parser.add_argument(
        "--window", type=int, default=20, help="episodes a point is the mean of (default: 20)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw."""
    environment.enter()
    from hilrl_actor.curves import RunError, draw, read_curve

    if arguments.window < 1:
        raise UserError(f"--window is {arguments.window}, expected at least 1")
    try:
        draw([read_curve(folder) for folder in arguments.runs], arguments.output, arguments.window)
    except RunError as error:
        raise UserError(str(error)) from None
    print(arguments.output)
    return 0
