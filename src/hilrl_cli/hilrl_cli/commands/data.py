"""hilrl data: looks at recorded episodes and datasets, and converts them."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hilrl_cli import environment
from hilrl_cli.errors import UserError

if TYPE_CHECKING:
    from hilrl_data.episodes import Recorded, Source
    from hilrl_ros.contract import Contract, Task

VERBS = {
    "info": "say what a dataset holds",
    "check": "say what is wrong with a dataset",
    "view": "draw some of its episodes into a picture, or all into a file for rerun",
    "import": "make episode bags, as demonstrations are, of a LeRobot dataset or of bags",
    "export": "make a LeRobot dataset or episode bags of a run, of demonstrations or of another dataset",
}
PATH_HELP = "run, folder of episode bags, bag (MCAP or sqlite3), or LeRobot dataset (v3.0, v2.1)"
ROBOT, TASK = "so101", "pick_cube"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, description in VERBS.items():
        verb = verbs.add_parser(name, help=description, description=description)
        verb.add_argument("path", type=Path, help=PATH_HELP)
        verb.add_argument(
            "--robot", help=f"robot contract: a name or a path (default: the recording's own, or {ROBOT})"
        )
        verb.add_argument("--task", help=f"task: a name or a path (default: the recording's own, or {TASK})")
        verb.add_argument(
            "--map",
            type=Path,
            metavar="YAML",
            help="which columns of a LeRobot dataset are which of the contract",
        )
        verb.add_argument(
            "--success",
            choices=("last",),
            help="the last step of each episode is a success, whatever is recorded of rewards",
        )
        if name == "info":
            verb.add_argument("--json", action="store_true", help="print JSON")
        if name == "view":
            verb.add_argument(
                "--out",
                type=Path,
                help="picture (.png) or rerun file (.rrd) to write (default: <name>.png in this folder)",
            )
        if name == "export":
            verb.add_argument("--format", required=True, choices=("lerobot", "mcap"), help="what to write")
            verb.add_argument(
                "--lossless",
                action="store_true",
                help="videos of a LeRobot dataset keep every bit; larger files",
            )
        if name in ("import", "export"):
            verb.add_argument(
                "--only",
                choices=("person", "success"),
                help="person: what a person did, each take-over as an episode; success: episodes that succeeded",
            )
            verb.add_argument(
                "--out",
                type=Path,
                help="folder to write; must not exist (default: datasets/<name> in this folder)",
            )


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says."""
    environment.enter()
    from hilrl_data.sources import ERRORS

    if arguments.verb == "check":
        verb = check
    else:
        verb = {"info": info, "view": view, "import": convert, "export": convert}[arguments.verb]
    try:
        return verb(arguments)
    except ERRORS as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{error.filename or arguments.path}: {error.strerror or error}") from None


def info(arguments: argparse.Namespace) -> int:
    """Print what a dataset holds."""
    report = _inspected(arguments, images=False)
    summary = report.summary()
    ranges = {
        what: {
            name: [round(float(v), 4) for v in (low, total / max(r.count, 1), high)]
            for name, low, total, high in zip(names, r.low, r.total, r.high, strict=True)
        }
        for what, names, r in (
            ("state", report.contract.state_names, report.state),
            ("action", report.contract.action.names, report.action),
        )
    }  # fmt: skip
    if arguments.json:
        print(json.dumps(summary | ranges))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for key, value in summary.items():
        table.add_row(key.replace("_", " "), _shown(value))
    numbers = Table(box=None, header_style="bold")
    for column in ("", "unit", "min", "mean", "max"):
        numbers.add_column(column, justify="left" if column in ("", "unit") else "right")
    units = {entry.name: entry.unit for entry in report.contract.state}
    for what, of_what in ranges.items():
        for name, values in of_what.items():
            unit = units[name] if what == "state" else ""
            numbers.add_row(f"{what} {name}", unit, *(f"{v:.4g}" for v in values))
    Console().print(table, numbers)
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ({_shown(of)})" for name, of in value.items())
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value)


def check(arguments: argparse.Namespace) -> int:
    """Print what is wrong; exit code 2 if anything is."""
    report = _inspected(arguments)
    for finding in report.findings:
        print(finding)
    if not report.findings:
        print(f"{arguments.path}: nothing wrong in {len(report.lengths)} episodes, {report.steps} steps")
    return 2 if report.findings else 0


def _inspected(arguments: argparse.Namespace, images: bool = True):
    from hilrl_data.inspection import inspect

    contract, source, episodes = opened(arguments, images)
    with progress(source.count, "reading") as (seen, done):
        report = inspect(each(episodes, done), contract, seen)
    report.findings += source.notes
    return report


def view(arguments: argparse.Namespace) -> int:
    """Draw episodes."""
    contract, source, episodes = opened(arguments)
    out = arguments.out or Path(f"{arguments.path.resolve().name}.png")
    if out.suffix == ".rrd":
        from hilrl_cli.rerun_file import write
    elif out.suffix == ".png":
        from hilrl_cli.contact_sheet import write
    else:
        raise UserError(f"--out is {out}, expected a name that ends in .png or .rrd")
    with progress(source.count, "reading") as (seen, done):
        write(out, each(episodes, done), contract, source.count, seen)
    print(out)
    return 0


def convert(arguments: argparse.Namespace) -> int:
    """Write a dataset in another form."""
    from hilrl_data.episodes import only

    contract, source, episodes = opened(arguments)
    if arguments.only:
        episodes = only(arguments.only, episodes)
    out = arguments.out or Path("datasets", arguments.path.resolve().name)
    lerobot = arguments.verb == "export" and arguments.format == "lerobot"
    steps, count = write(out, contract, source, episodes, lerobot, lerobot and arguments.lossless)
    for note in source.notes:
        print(f"note: {note}")
    print(f"{count} episodes, {steps} steps in {out}")
    return 0


def write(
    out: Path,
    contract: Contract,
    source: Source,
    episodes: Iterator[Recorded],
    lerobot: bool,
    lossless: bool = False,
) -> tuple[int, int]:
    """Write episodes, with a progress bar; return the numbers of steps and episodes."""
    from hilrl_data.episodes import write_episodes
    from hilrl_data.lerobot_writer import write_lerobot

    steps = 0

    def count(step) -> None:
        nonlocal steps
        steps += 1
        seen(step)

    with progress(source.count, f"writing {out}") as (seen, done):
        if lerobot:
            written = write_lerobot(out, episodes, contract, lossless, count, done)
        else:
            written = write_episodes(out, episodes, count, done)
    return steps, written


def opened(arguments: argparse.Namespace, images: bool = True) -> tuple[Contract, Source, Iterator[Recorded]]:
    """Return contract, source and episodes of the path that the arguments name."""
    from hilrl_data.episodes import succeeding
    from hilrl_data.mapping import load_mapping
    from hilrl_data.sources import open_source

    contract, task = described(arguments.path, arguments.robot, arguments.task)
    mapping = load_mapping(arguments.map, contract) if arguments.map else None
    source = open_source(
        arguments.path, contract, (task.name, task.text), mapping, arguments.success is None, images
    )
    episodes = source.episodes()
    if arguments.success:
        episodes = succeeding(episodes, payment(task))
    return contract, source, episodes


def described(path: Path, robot: str | None, task: str | None) -> tuple[Contract, Task]:
    """Return the contract and task that a dataset is for: those named, else the recording's own."""
    from hilrl_data.bags import EPISODE_FILE, read_info
    from hilrl_data.episodes import bags_of
    from hilrl_data.lerobot_reader import own_contract
    from hilrl_data.sources import is_lerobot
    from hilrl_ros.contract import contract_from_dict
    from hilrl_ros.contract_reader import load_contract

    if robot is None and task is None and is_lerobot(path) and (own := own_contract(path)):
        return contract_from_dict(own), load_contract(ROBOT, TASK)[1]
    if (path / "demos").is_dir() or (path / "episodes").is_dir():
        from hilrl_actor.curves import RunError, read_summary

        with contextlib.suppress(RunError):
            summary = read_summary(path)
            robot, task = robot or summary["robot"], task or summary["task"]
    if task is None and not is_lerobot(path):
        first = bags_of(path)[0]
        task = read_info(first).task if (first / EPISODE_FILE).is_file() else None
    return load_contract(robot or ROBOT, task or TASK)


def payment(task: Task) -> float:
    """Return what a task pays for success: the weight of its term `success`, or 1."""
    weights = [float(t.get("weight", 1.0)) for t in task.reward.values() if t.get("term") == "success"]
    return sum(weights) or 1.0


def each(episodes: Iterable[Recorded], done: Callable[[Any], None]) -> Iterator[Recorded]:
    """Yield episodes; call `done` after each."""
    for episode in episodes:
        yield episode
        done(episode.info)


@contextlib.contextmanager
def progress(total: int, what: str):
    """Show a progress bar on a terminal; yield what to call with each step and with each finished episode."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("episodes, {task.fields[steps]} steps"), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total or None, steps=0)
        steps = 0

        def seen(step) -> None:
            nonlocal steps
            steps += 1
            if steps % 100 == 0:
                bar.update(task, steps=steps)

        yield seen, lambda info: bar.advance(task)
