"""hilrl bc: makes an imitation policy, of recorded episodes or of a LeRobot checkpoint; no arm moves, no graph runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from hilrl_cli import environment, loop
from hilrl_cli.commands import launch
from hilrl_cli.errors import UserError

UNITS = ("degrees", "range", "radians")
_RATE = 30.0  # Hz, LeRobot's arms
BY_LEROBOT_HELP = (
    "lerobot itself runs the LeRobot policy, also ACT and diffusion, which do without; its Python is that of "
    "HILRL_LEROBOT_PYTHON, else this one if it has lerobot"
)
RATE_HELP = (
    "of the LeRobot policy, Hz (default: that of the dataset that it was trained on, where that lies here; else "
    f"{_RATE:g})"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument(
        "agent", nargs="?", help="name from config/agents or a path: act, diffusion, flow, bc"
    )
    loop.add_task(parser)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="what is imitated: runs, demonstrations, bags, LeRobot datasets; of these what a person did",
    )
    parser.add_argument("--updates", type=int, default=5000, help="gradient steps (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and sampling (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument(
        "--lerobot",
        type=Path,
        metavar="FOLDER",
        help="instead: a LeRobot policy's pretrained_model",
    )
    parser.add_argument("--by-lerobot", action="store_true", help=BY_LEROBOT_HELP)
    parser.add_argument(
        "--units",
        choices=UNITS,
        help="of the LeRobot arm's joints: degrees (its use_degrees: true), range (its default: -100 to 100 between "
        "the calibrated ends), radians; its gripper's 0 to 100 is understood with the first two. Not needed where the "
        "policy was trained on what `hilrl data export` wrote and that lies here",
    )
    parser.add_argument("--rate", type=float, help=RATE_HELP)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="OPTION=VALUE", help="options of the agent that shall differ"
    )
    parser.add_argument("--run", help="name of the folder")
    parser.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), help="where it is made (default: runs)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the policy; print its folder."""
    environment.enter()
    from hilrl_ros.config import absolute

    if (arguments.lerobot is None) == (arguments.agent is None):
        raise UserError("expected an agent with --data, or --lerobot: one of the two")
    agent = arguments.agent or "lerobot"
    names = {"task": arguments.task, "agent": agent, "seed": str(arguments.seed)}
    folder = Path(os.path.abspath(arguments.runs_dir), arguments.run or launch.run_name(names))
    if folder.exists():
        raise UserError(f"{folder}: is there already; name another with --run")
    if not os.access(next(place for place in folder.parents if place.exists()), os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be made there; name another place with --runs-dir")
    began = time.monotonic()
    with loop.whole(folder):
        facts = imported(arguments, folder) if arguments.lerobot else imitated(arguments, folder)
    # what `hilrl runs` lists; a policy that nobody has measured has no success rate
    figures = {
        "success_rate": None,
        "cycle_time_s": None,
        "robot_steps": 0,
        "wall_s": time.monotonic() - began,
    }
    summary = {"task": absolute(arguments.task), "robot": absolute(arguments.robot)}
    summary |= {"agent": agent, "seed": arguments.seed}
    (folder / "summary.json").write_text(json.dumps(summary | figures | facts, indent=1) + "\n")
    print(f"{folder}\nmeasure it: hilrl eval {folder}")
    return 0


def imitated(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train on recorded episodes, as the learner does before a run begins; return what to note of it."""
    from hilrl_data.bags import BagError
    from hilrl_learner.learner import Learner, LearnerSettings
    from hilrl_ros.contract import ContractError
    from hilrl_ros.contract_reader import load_contract
    from hilrl_ros.settings import load_agent_settings

    if not arguments.data:
        raise UserError("--data is missing: recorded episodes that are imitated")
    if arguments.updates < 1:
        raise UserError(f"--updates is {arguments.updates}, expected at least 1")
    differing = options(arguments.set)
    data = loop.offline_data(arguments.data, folder / "offline", arguments.robot, arguments.task)
    settings = LearnerSettings(
        seed=arguments.seed,
        pretrain_updates=arguments.updates,
        online_capacity=1000,
        offline_data=tuple(map(Path, data.split(os.pathsep))),
        threads=arguments.threads,
    )
    try:
        contract, _ = load_contract(arguments.robot, arguments.task)
        agent = load_agent_settings(arguments.agent)
        agent = dataclasses.replace(agent, options=agent.options | differing)
        learner = Learner(contract, agent, folder, settings)
        steps = learner.load_offline(None)
        if not steps:
            raise UserError(
                f"{', '.join(map(str, arguments.data))}: no step is a person's, nothing can be imitated"
            )
        print(f"imitates {steps} steps", flush=True)
        metrics = trained(learner, arguments.updates)
        learner.version = 1
        learner.save()
        learner.close()
    except (ContractError, BagError, ValueError, RuntimeError) as error:
        raise UserError(str(error)) from None
    print(", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    return {"updates": arguments.updates, "demonstrated_steps": steps} | metrics


def options(words: list[str]) -> dict[str, Any]:
    """Return `name=value` words as options, the values read as YAML."""
    import yaml

    pairs = [word.partition("=") for word in words]
    for name, separator, _ in pairs:
        if not separator:
            raise UserError(f"--set {name}: expected OPTION=VALUE")
    try:
        return {name: yaml.safe_load(value) for name, _, value in pairs}
    except yaml.YAMLError:
        raise UserError(f"--set {' '.join(words)}: a value is not YAML, as in hidden=[64,64]") from None


def trained(learner: Any, updates: int) -> dict[str, float]:
    """Imitate, with a progress bar on a terminal; return the last metrics."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("imitating", total=updates)
        return learner.pretrain(threading.Event(), lambda: bar.advance(task))


def imported(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make a checkpoint of a LeRobot policy, and a robot contract unless it has one; return what to note of it."""
    from hilrl_agents import CheckpointError, save_checkpoint
    from hilrl_agents.lerobot import LeRobotError, lerobot_agent, read_lerobot_policy
    from hilrl_agents.lerobot_process import LeRobot, LeRobotProcessError, find_python
    from hilrl_cli import lerobot_contract
    from hilrl_data.sources import ERRORS
    from hilrl_ros.config import find_config, read_yaml
    from hilrl_ros.contract_reader import load_contract

    robot, units, known = arguments.robot, (), {}
    try:
        policy = read_lerobot_policy(arguments.lerobot, native=not arguments.by_lerobot)
        taught = lerobot_contract.taught_on(policy.folder)
        if taught and taught.own:
            contract, task = load_contract(robot, arguments.task)
            lerobot_contract.check_own(policy, taught, contract)
            known = {"dataset": str(taught.root.resolve())}
        else:
            if arguments.units is None:
                raise UserError(
                    f"--units is missing: what the arm's joints were recorded in, {', '.join(UNITS)}"
                )
            rate = arguments.rate if arguments.rate is not None else taught.rate if taught else _RATE
            if rate <= 0:
                raise UserError(f"--rate is {rate:g}, expected more than 0 Hz")
            lerobot_contract.check_task(read_yaml(find_config("tasks", arguments.task)), arguments.task)
            text = lerobot_contract.derived(policy, find_config("robots", robot), rate)
            folder.mkdir(parents=True)
            robot = str(folder / "robot.yaml")
            lerobot_contract.write(Path(robot), text)
            contract, task = load_contract(robot, arguments.task)
            lerobot_contract.check(policy, contract, arguments.task)
            units = lerobot_contract.units(policy, contract, arguments.units)
        told = {}
        if policy.kind == LeRobot.name:
            told = {"task": task.text or task.name}
            print(f"{find_python()} loads the policy", flush=True)
        agent = lerobot_agent(policy, *units, overrides=told | options(arguments.set))
        counters = {"updates": 0, "stored": 0, "last_seq": 0, "policy_version": 1}
        save_checkpoint(folder / "checkpoint", agent, contract.to_dict(), counters)
    except (LeRobotError, LeRobotProcessError, CheckpointError, *ERRORS) as error:
        raise UserError(str(error)) from None
    return {"robot": robot, "agent": policy.kind, "lerobot": str(arguments.lerobot.resolve())} | known
