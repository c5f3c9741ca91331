"""From the labels of runs to a saved classifier with its evaluation: what the reward node and `hilrl reward` share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from hilrl_reward.classifier import Classifier, train
from hilrl_reward.evaluation import draw
from hilrl_reward.labels import read_frames, run_folders
from hilrl_ros.contract import Contract, Task

PICTURE = "held_out.png"


def train_and_save(
    runs: Sequence[Path], folder: Path, contract: Contract, task: Task, stop: threading.Event | None = None
) -> Classifier:
    """Train a classifier on all labels of runs (or of folders of labelled episodes) and write it to a folder.

    Beside the classifier, `held_out.png` shows precision and recall on the episodes that were held out, and the
    frames that it gets wrong.

    Raises:
        LabelError, BagError: The labels cannot be read.
        ClassifierError: They are too few.
    """
    frames = read_frames([kind for run in runs for kind in run_folders(run)], contract, task)
    classifier = train(frames, stop=stop)
    if not (stop and stop.is_set()):
        classifier.save(folder)
        draw(classifier.evaluate(frames.split()[1]), classifier.threshold, folder / PICTURE)
    return classifier
