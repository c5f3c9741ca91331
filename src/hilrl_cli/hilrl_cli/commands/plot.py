"""hilrl plot: learning curves of several runs in one PNG, or how good their policies were when they were measured."""

from __future__ import annotations

import argparse
from pathlib import Path

from hilrl_cli import environment
from hilrl_cli.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folders of runs; with --measured also NAME=RUN, to name its line",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("curves.png"), help="PNG (default: curves.png)"
    )
    parser.add_argument(
        "--window", type=int, default=20, help="episodes a point is the mean of (default: 20)"
    )
    parser.add_argument(
        "--measured",
        action="store_true",
        help="draw the success of the policy alone, each time it was measured; runs of one agent are one line",
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw."""
    environment.enter()
    from hilrl_actor.curves import RunError, draw, draw_measured, read_curve

    if arguments.output.suffix != ".png":
        raise UserError(f"--output is {arguments.output}, expected a name that ends in .png")
    if arguments.window < 1:
        raise UserError(f"--window is {arguments.window}, expected at least 1")
    try:
        if arguments.measured:
            draw_measured(*measured(arguments.runs, arguments.output))
        else:
            curves = [read_curve(Path(folder)) for folder in arguments.runs]
            draw(curves, arguments.output, arguments.window)
    except RunError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{arguments.output}: cannot be written ({error.strerror})") from None
    print(arguments.output)
    return 0


def measured(words: list[str], output: Path) -> tuple[dict[str, list], Path, str]:
    """Return the measurements of runs by the name of their line, where to draw them, and the runs' task."""
    from hilrl_actor.curves import read_measured, read_summary

    lines: dict[str, list] = {}
    tasks = {}
    for word in words:
        name, _, folder = word.rpartition("=")
        summary = read_summary(Path(folder))
        tasks[Path(summary["task"]).stem] = folder
        lines.setdefault(name or Path(summary["agent"]).stem, []).append(read_measured(Path(folder)))
    if len(tasks) > 1:
        of = ", ".join(f"{folder} of {task}" for task, folder in tasks.items())
        raise UserError(f"one picture is of one task, these are of several: {of}")
    return lines, output, next(iter(tasks))
