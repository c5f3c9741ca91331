"""hilrl reward: trains, measures and labels for the reward classifier of a task."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hilrl_cli import environment
from hilrl_cli.errors import UserError

if TYPE_CHECKING:
    from hilrl_ros.contract import Contract, Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    train = actions.add_parser(
        "train",
        help="train a classifier on labelled frames",
        description="train a classifier on labelled frames",
    )
    _add_labels(train, "run, or folder of labelled episodes, to learn from")
    train.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where to write it (default: classifier in the first)",
    )
    measure = actions.add_parser(
        "eval",
        help="measure a classifier on labelled frames",
        description="measure a classifier on labelled frames",
    )
    measure.add_argument("classifier", type=Path, help="folder of the classifier, or its run")
    _add_labels(measure, "run, or folder of labelled episodes, that it was not trained on")
    measure.add_argument(
        "--threshold", type=float, help="probability above which it is success (default: its own)"
    )
    measure.add_argument(
        "-o", "--output", type=Path, metavar="PNG", default=Path("classifier.png"),
        help="curve and wrong frames (default: classifier.png)",
    )  # fmt: skip
    label = actions.add_parser(
        "label", help="label recorded episodes", description="label recorded episodes in the browser"
    )
    label.add_argument("folder", type=Path, help="run, or folder of recorded episodes")
    _add_task(label)
    label.add_argument("--port", type=int, default=8322, help="of the page on this machine (default: 8322)")


def _add_labels(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("labels", type=Path, nargs="+", metavar="LABELS", help=meaning)
    _add_task(parser)


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", help="name from config/tasks or a path (default: the run's)")
    parser.add_argument("--robot", help="name from config/robots or a path (default: the run's)")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    environment.enter()
    from hilrl_data.bags import BagError
    from hilrl_reward.labels import LabelError
    from hilrl_ros.contract import ContractError

    chosen = {"train": _train, "eval": _eval, "label": _label}[arguments.action]
    try:
        return chosen(arguments)
    except (BagError, ContractError, LabelError) as error:
        raise UserError(str(error)) from None


def _train(arguments: argparse.Namespace) -> int:
    from hilrl_reward.classifier import ClassifierError
    from hilrl_reward.evaluation import describe
    from hilrl_reward.training import PICTURE, train_and_save

    first = arguments.labels[0]
    contract, task = _contract(arguments, first)
    folder = arguments.output or first / "classifier"
    try:
        classifier = train_and_save(arguments.labels, folder, contract, task)
    except ClassifierError as error:
        raise UserError(str(error)) from None
    facts = classifier.facts
    print(f"trained on {facts['successes']} frames of success and {facts['others']} others")
    print(f"held out: {describe(facts['held_out'])}")
    print(f"{folder}: give it as classifier:={folder}; {PICTURE} shows what it gets wrong")
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    from hilrl_reward.classifier import Classifier, ClassifierError
    from hilrl_reward.evaluation import describe, draw
    from hilrl_reward.labels import read_frames, run_folders

    folder = arguments.classifier
    if (folder / "classifier").is_dir():
        folder = folder / "classifier"
    contract, task = _contract(arguments, arguments.labels[0])
    try:
        classifier = Classifier.load(folder, contract)
    except ClassifierError as error:
        raise UserError(str(error)) from None
    frames = read_frames([kind for run in arguments.labels for kind in run_folders(run)], contract, task)
    threshold = classifier.threshold if arguments.threshold is None else arguments.threshold
    evaluation = classifier.evaluate(frames)
    draw(evaluation, threshold, arguments.output)
    print(describe(evaluation.metrics(threshold)))
    print(arguments.output)
    return 0


def _label(arguments: argparse.Namespace) -> int:
    from hilrl_cli.label_page import serve

    return serve(arguments.folder, _contract(arguments, arguments.folder)[0], arguments.port)


def _contract(arguments: argparse.Namespace, folder: Path) -> tuple[Contract, Task]:
    """Return the contract and task of the named robot and task, else of the run that a folder is or lies in."""
    from hilrl_actor.curves import RunError, read_summary
    from hilrl_ros.contract_reader import load_contract

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    names = {"robot": arguments.robot, "task": arguments.task}
    if None in names.values():
        for place in (folder.resolve(), folder.resolve().parent):
            try:
                summary = read_summary(place)
            except RunError:
                continue
            names = {key: given or summary[key] for key, given in names.items()}
            break
        else:
            raise UserError(f"{folder}: is no run, so say what was recorded with --task (and --robot)")
    return load_contract(names["robot"], names["task"])
