"""hilrl eval: measures the policy of a run in fresh episodes, without exploration, while nobody helps."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from hilrl_cli import environment, loop
from hilrl_cli.commands import launch
from hilrl_cli.errors import UserError
from hilrl_cli.view import for_people


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--episodes", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default: 0)")
    parser.add_argument("--explore", action="store_true", help="sample from the policy instead of its mode")
    loop.add_place(parser, loop.SIM, (*loop.OPERATORS, "none"))
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    loop.add_words(parser, "eval")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    environment.enter()
    from hilrl_actor.curves import read_summary
    from hilrl_cli import launch_file
    from hilrl_cli.supervisor import Supervisor

    folder = arguments.run.resolve()
    policy = loop.policy_of(folder)
    if arguments.episodes < 1:
        raise UserError(f"--episodes is {arguments.episodes}, expected at least 1")
    name = loop.free_name(folder, "eval")
    values = {
        **policy, "run": name, "episodes": str(arguments.episodes), "seed": str(arguments.seed),
        "explore": str(arguments.explore).lower(),
        **loop.place(arguments, in_sim="none", hint=not arguments.json),
        **launch.parse_arguments(arguments.arguments),
    }  # fmt: skip
    loop.check_start(values)
    path, logs = launch_file.find("eval"), folder / name / "log"
    launch.check(path, values)
    processes = launch_file.load(path, values, logs / "parameters")
    view = _Progress(arguments.episodes)
    code = Supervisor(processes, logs, view).run()
    if code:
        raise UserError(f"the evaluation failed: {view.error or 'see ' + str(logs)}")
    summary = read_summary(folder / name)
    low, high = wilson(round(summary["success_rate"] * arguments.episodes), arguments.episodes)
    result = {
        "run": str(folder), "episodes": arguments.episodes, "success_rate": summary["success_rate"],
        "confidence_95": [round(low, 4), round(high, 4)], "cycle_time_s": summary["cycle_time_s"],
    }  # fmt: skip
    if arguments.json:
        print(json.dumps(result))
    else:
        cycle = f", {summary['cycle_time_s']:.2f} s a success" if summary["cycle_time_s"] else ""
        print(
            f"success {summary['success_rate']:.1%} of {arguments.episodes} episodes "
            f"(95 % confidence {low:.0%} to {high:.0%}){cycle}"
        )
    return 0


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's score interval of a rate (95 % for z = 1.96)."""
    rate = successes / trials
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


class _Progress:
    """Shows episodes as they end; keeps the last error."""

    def __init__(self, episodes: int):
        self.episodes, self.error = episodes, ""

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, lines: list[str]) -> None:
        """Print an episode's line to stderr, so that stdout holds the result alone."""
        for line in lines:
            if "[FATAL]" in line:
                self.error = self.error or line.split("]: ", 1)[-1]
            elif "evaluate " in line and "]: " in line:
                print(line.split("]: ", 1)[-1].replace("evaluate ", "episode "), file=sys.stderr)
            elif text := for_people(line):
                print(text, file=sys.stderr)
