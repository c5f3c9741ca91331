"""hilrl eval: measures the policy of a run in fresh episodes, without exploration and without a person."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from hilrl_cli import environment
from hilrl_cli.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--episodes", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default: 0)")
    parser.add_argument("--explore", action="store_true", help="sample from the policy instead of its mode")
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    environment.enter()
    from hilrl_actor.curves import RunError, read_summary
    from hilrl_cli import launch_file
    from hilrl_cli.supervisor import Supervisor

    folder = arguments.run.resolve()
    try:
        trained = read_summary(folder)
    except RunError as error:
        raise UserError(str(error)) from None
    checkpoint = folder / "checkpoint"
    if not (checkpoint / "config.yaml").is_file():
        raise UserError(f"{folder}: has no checkpoint yet (no checkpoint/config.yaml)")
    if arguments.episodes < 1:
        raise UserError(f"--episodes is {arguments.episodes}, expected at least 1")
    name = _free_name(folder)
    values = {
        "task": trained["task"], "robot": trained["robot"], "policy": str(checkpoint), "runs_dir": str(folder),
        "run": name, "episodes": str(arguments.episodes), "seed": str(arguments.seed),
        "explore": str(arguments.explore).lower(),
    }  # fmt: skip
    logs = folder / name / "log"
    processes = launch_file.load(launch_file.find("eval"), values, logs / "parameters")
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
        cycle = f", {summary['cycle_time_s']:.2f} s a cycle" if summary["cycle_time_s"] else ""
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


def _free_name(folder: Path) -> str:
    number = 1
    while (folder / f"eval_{number:03d}").exists():
        number += 1
    return f"eval_{number:03d}"


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
            elif "[WARN]" in line or "[ERROR]" in line or "Traceback" in line:
                print(line, file=sys.stderr)
