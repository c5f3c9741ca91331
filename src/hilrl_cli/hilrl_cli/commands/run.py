"""hilrl run: the policy of a run at work, until ctrl-C; the person may take over, and nothing is learnt."""

from __future__ import annotations

import argparse
from pathlib import Path

from hilrl_cli import environment, loop
from hilrl_cli.commands import launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("run", type=Path, help="folder of the run")
    loop.add_place(parser, loop.FOLLOWER)
    loop.add_words(parser, "eval")


def run(arguments: argparse.Namespace) -> int:
    """Let the policy work; then say how it went."""
    environment.enter()
    from hilrl_actor.curves import read_summary

    folder = arguments.run.resolve()
    name = loop.free_name(folder, "run")
    values = {**loop.policy_of(folder), "run": name, "plan": "run", **loop.place(arguments)}
    code = launch.start("eval", [*loop.as_words(values), *arguments.arguments])
    if not code:
        print(describe(read_summary(folder / name)))
    return code


def describe(summary: dict) -> str:
    """Return how a run went, in one sentence."""
    count = summary["episodes"]
    if not count:
        return "no episode was finished"
    return (
        f"{count} episode{'s' * (count != 1)}: {summary['success_rate']:.0%} solved by the policy alone, "
        f"the person took over in {summary['interventions']} ({summary['intervention_steps']} steps)"
    )
