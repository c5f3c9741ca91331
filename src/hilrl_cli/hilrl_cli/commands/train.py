"""hilrl train: trains a task; the same as `hilrl launch sim` or `real_so101`, with plain options."""

from __future__ import annotations

import argparse
import os
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
    parser.add_argument(
        "--offline-data",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="recorded episodes that are learnt from: runs, bags, LeRobot datasets; what a person did is imitated",
    )
    parser.add_argument(
        "--compare",
        metavar="AGENT",
        help="afterwards let this agent learn from the same demonstrations for as many robot steps, for comparison "
        "(bc: imitation and interventions alone, HG-DAgger)",
    )
    loop.add_place(parser, loop.SIM)
    loop.add_words(parser, "sim")


def run(arguments: argparse.Namespace) -> int:
    """Train."""
    environment.enter()
    given = launch.parse_arguments(words(arguments))
    if arguments.compare:
        launch.read({"agent": arguments.compare})
    given.setdefault("run", launch.run_name({"agent": "sac"} | given))
    folder = Path(os.path.abspath(given.get("runs_dir", "runs")), given["run"])
    if arguments.offline_data:
        given["offline_data"] = loop.offline_data(
            arguments.offline_data, folder / "offline", arguments.robot, arguments.task
        )
    code = launch.start("sim", loop.as_words(given))
    return code or (compare(folder, arguments.compare, given) if arguments.compare else 0)


def compare(folder: Path, agent: str, given: dict[str, str]) -> int:
    """Train another agent in the same way within a finished run's folder, draw both, and say what each reached."""
    from hilrl_actor.curves import draw, read_curve, read_summary

    first = read_summary(folder)
    other = folder / f"compare_{Path(agent).stem}"
    same = {
        "agent": agent, "runs_dir": str(folder), "run": other.name, "demos_from": str(folder / "demos"),
        "max_steps": str(max(1, first["robot_steps"])), "baseline_episodes": "0", "showcase_episodes": "0",
    }  # fmt: skip
    if (folder / "classifier").is_dir():
        same["classifier"] = str(folder / "classifier")
    code = launch.start("sim", loop.as_words(given | same))
    if code:
        return code
    draw([read_curve(folder), read_curve(other)], folder / "comparison.png")
    for name, summary in ((first["agent"], first), (agent, read_summary(other))):
        rate = summary["eval_rate"]
        print(
            f"{name}: {'not evaluated' if rate is None else f'{rate:.0%} in the evaluation'} after "
            f"{summary['robot_steps']} robot steps, {summary['intervention_steps']} of them by the person"
        )
    print(folder / "comparison.png")
    return 0


def words(arguments: argparse.Namespace) -> list[str]:
    """Return the launch arguments."""
    values = {name: getattr(arguments, name) for name in ("task", "robot", "agent", "seed", "run")}
    values = {name: value for name, value in values.items() if value is not None}
    if arguments.demos is not None:
        values["demos_from"] = loop.demonstrations(arguments.demos, arguments.robot, arguments.task)
    return [*loop.as_words(values | loop.place(arguments)), *arguments.arguments]
