"""hilrl improve: a policy that imitates becomes better by reinforcement learning, with or without a person's help."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hilrl_cli import environment, loop
from hilrl_cli.commands import bc, launch
from hilrl_cli.errors import UserError

# who improves a policy unless `--agent` says it: the first that starts from such a one; the last does from any
_METHODS = ("qc", "residual")
_ALONE = ("ibrl",)
_JOINTS = ("qc", "act_joints", "residual_joints")  # where actions are absolute joint positions
_JOINTS_ALONE = ("residual_alone",)
_TRAINED = 12_000_000  # bytes of a policy's weights (3 million): training more of them is nothing for a CPU
_POLICIES = ("checkpoint", "config.yaml", "config.json")  # what there is where a policy is
_TARGET, _STEPS = 0.98, 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="run of `hilrl bc`, a checkpoint, or a LeRobot policy's pretrained_model",
    )
    parser.add_argument("--task", help="name from config/tasks or a path (default: that of the policy's run)")
    parser.add_argument(
        "--robot", help="name from config/robots or a path (default: that of the policy's run)"
    )
    parser.add_argument(
        "--agent",
        metavar="METHOD",
        help="how: name from config/agents or a path (default: the first that starts from such a policy of "
        f"{', '.join(_METHODS)}, where nobody intervenes {', '.join(_ALONE)}; with absolute joint positions "
        f"{', '.join(_JOINTS)}, alone {', '.join(_JOINTS_ALONE)})",
    )
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="recorded episodes to learn from as well: runs, bags, LeRobot datasets; none are needed (default: what a "
        "LeRobot policy was trained on, if `hilrl data export` wrote it and it lies here)",
    )
    parser.add_argument("--seed", type=int, help="of scenes, exploration and learning")
    parser.add_argument("--run", help="name of the run's folder")
    parser.add_argument("--units", choices=bc.UNITS, help="of a LeRobot policy's joints, as in `hilrl bc`")
    parser.add_argument("--rate", type=float, help=bc.RATE_HELP)
    parser.add_argument("--by-lerobot", action="store_true", help=bc.BY_LEROBOT_HELP)
    loop.add_place(parser, loop.SIM, (*loop.OPERATORS, "none"))
    parser.add_argument("--alone", action="store_true", help="nobody intervenes, the same as --operator none")
    loop.add_words(parser, "sim")


def run(arguments: argparse.Namespace) -> int:
    """Improve, then say how good it was and is."""
    environment.enter()
    from hilrl_actor.curves import read_summary

    if arguments.alone and arguments.operator not in (None, "none"):
        raise UserError(f"--alone means that nobody intervenes, but --operator is {arguments.operator}")
    arguments.operator = "none" if arguments.alone else arguments.operator
    given = launch.parse_arguments(arguments.arguments)
    policy, task, robot = origin(arguments)
    seed = {} if arguments.seed is None else {"seed": str(arguments.seed)}
    named = given.get("run") or arguments.run or launch.run_name({"task": task, "agent": "improve", **seed})
    folder = Path(os.path.abspath(given.get("runs_dir", "runs")), named)
    if folder.exists() and any(path.name != "log" for path in folder.iterdir()):  # nothing but a failed start
        raise UserError(f"{folder}: is there already; name another with --run")
    data = arguments.data or []
    if policy is None:
        with loop.whole(folder):
            policy, robot, taught = imported(arguments, folder / "prior", task, robot)
        if taught and not data:
            print(f"learns from {taught} as well, which it was trained on")
            data = [taught]
    alone = (loop.place(arguments) | given).get("operator") == "none"
    values = {
        "improve": "true", "task": task, "robot": robot, "warm_start": str(policy),
        "agent": method(policy, arguments.agent, alone, robot, task),
        "target_success": str(_TARGET), "max_steps": str(_STEPS), "evaluate_episodes": "50",
        **seed, **loop.place(arguments), **given, "run": folder.name, "runs_dir": str(folder.parent),
    }  # fmt: skip
    loop.check_start(values)
    if data:
        values["offline_data"] = loop.offline_data(data, folder / "offline", robot, task)
    code = launch.start("sim", loop.as_words(values))
    if code or not (folder / "summary.json").is_file():  # interrupted
        return code
    print(f"{describe(read_summary(folder))}\n{folder}")
    return 0


def origin(arguments: argparse.Namespace) -> tuple[Path | None, str, str]:
    """Return the checkpoint to start from (None: LeRobot's, which is to be imported), its task and its robot contract.

    Raises:
        UserError: There is no policy, or nothing says what it is to do.
    """
    given = arguments.checkpoint.resolve()
    run = given if (given / "checkpoint").is_dir() else given.parent
    known: dict[str, str] = {}
    policy = None
    if not any((place / name).exists() for place in (given, run) for name in _POLICIES):
        raise UserError(
            f"{given}: is no policy: expected a run with a checkpoint, a checkpoint, or a LeRobot policy's folder "
            "(checkpoints/last/pretrained_model)"
        )
    if not (given / "config.json").is_file():
        if arguments.by_lerobot or arguments.units or arguments.rate is not None:
            raise UserError(f"--units, --rate and --by-lerobot are for LeRobot's policies; {given} is none")
        policy = given / "checkpoint" if run == given else given
        if any((run / name).is_file() for name in ("summary.json", "status.json")):
            known = loop.policy_of(run)
    task = arguments.task or known.get("task")
    if task is None:
        raise UserError(f"--task is missing: {given} does not say what its policy is to do")
    return policy, task, arguments.robot or known.get("robot", "so101")


def imported(
    arguments: argparse.Namespace, into: Path, task: str, robot: str
) -> tuple[Path, str, Path | None]:
    """Make a checkpoint of a LeRobot policy, as `hilrl bc --lerobot` does.

    Returns:
        The checkpoint, its robot contract, and what it was trained on if that lies here and fits the contract.
    """
    theirs = argparse.Namespace(
        lerobot=arguments.checkpoint,
        by_lerobot=arguments.by_lerobot,
        units=arguments.units,
        rate=arguments.rate,
        task=task,
        robot=robot,
        set=[],
    )
    facts = bc.imported(theirs, into)
    return into / "checkpoint", facts["robot"], Path(facts["dataset"]) if "dataset" in facts else None


def method(policy: Path, agent: str | None, alone: bool, robot: str, task: str) -> str:
    """Return the agent that improves a policy, after a look at whether it can; None: the first that can.

    A large policy is left as it is, beneath what is learnt, unless an agent is named.

    Raises:
        UserError: It cannot, or the policy was trained under another contract.
    """
    from hilrl_agents import AGENTS, CheckpointError, ConfigError, read_checkpoint
    from hilrl_agents.registry import check_start
    from hilrl_ros.contract import ContractError
    from hilrl_ros.contract_reader import load_contract
    from hilrl_ros.settings import load_agent_settings

    try:
        contract, _ = load_contract(robot, task)
        checkpoint = read_checkpoint(policy, contract.to_dict())
        found, small = checkpoint.algorithm, checkpoint.policy_bytes <= _TRAINED
        joints = contract.action.type == "joint_position"
        together, by_itself = (_JOINTS, _JOINTS_ALONE) if joints else (_METHODS, _ALONE)
        methods = by_itself if alone else together
        settings = {name: load_agent_settings(name, str(policy)) for name in ([agent] if agent else methods)}
        able = [
            name
            for name, s in settings.items()
            if s.algorithm in AGENTS
            and AGENTS[s.algorithm].starts_from(found)
            and (small or AGENTS[s.algorithm].observes_prior)
        ]
        agent = able[0] if able else agent
        check_start(settings[agent].algorithm, found)
    except (ContractError, CheckpointError, ConfigError) as error:
        raise UserError(str(error)) from None
    return agent


def describe(summary: dict) -> str:
    """Return how good the policy was at the start, is now, and was at worst, in one sentence."""
    steps, end = summary["eval_curve"][-1]
    reached = "reached" if summary["reached_target"] else "not reached"
    return (
        f"start {summary['start_rate']:.0%}, end {end:.0%} after {steps} robot steps (target {reached}), "
        f"worst {summary['worst_rate']:.0%}; the person acted in {summary['intervention_steps']} of the steps"
    )
