"""hilrl runs: what runs there are, and how good they are."""

from __future__ import annotations

import argparse
from pathlib import Path

from hilrl_cli import environment
from hilrl_cli.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="folder of the runs")


def run(arguments: argparse.Namespace) -> int:
    """List the runs."""
    environment.enter()
    from rich.console import Console
    from rich.table import Table

    from hilrl_actor.curves import RunError, read_summary

    if not arguments.folder.is_dir():
        raise UserError(f"{arguments.folder}: no such folder; `hilrl train` makes runs below ./runs")
    table = Table(box=None, header_style="bold")
    columns = (
        "run",
        "task",
        "agent",
        "seed",
        "state",
        "success",
        "cycle s",
        "imitation",
        "its cycle s",
        "steps",
        "wall s",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("run", "task", "agent", "state") else "right")
    count = 0
    for folder in sorted(arguments.folder.iterdir()):
        try:
            summary = read_summary(folder)
        except (RunError, NotADirectoryError):
            continue
        count += 1
        finished = (folder / "summary.json").exists()
        success = summary["success_rate"] if finished else summary["autonomous_success"]
        imitation = summary.get("bc_rate")
        cycle, its_cycle = summary.get("cycle_time_s"), summary.get("bc_cycle_time_s")
        table.add_row(
            folder.name, summary["task"], summary["agent"], str(summary["seed"]),
            "finished" if finished else summary["phase"],
            "" if success is None else f"{success:.0%}", "" if cycle is None else f"{cycle:.1f}",
            "" if imitation is None else f"{imitation:.0%}", "" if its_cycle is None else f"{its_cycle:.1f}",
            str(summary["robot_steps"]), f"{summary['wall_s']:.0f}",
        )  # fmt: skip
    if not count:
        raise UserError(f"{arguments.folder}: holds no runs")
    Console().print(table)
    return 0
