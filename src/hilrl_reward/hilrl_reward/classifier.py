"""Success from camera images: a small network, trained on labelled frames in seconds on a CPU.

As HIL-SERL's reward classifier (arXiv 2410.21845, sec. 3.3; balanced batches, binary cross-entropy), but without a
pretrained backbone: four convolutions that all cameras of one shape share, and one projection for each camera.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from hilrl_agents.augmentation import random_shift
from hilrl_reward.evaluation import Evaluation
from hilrl_reward.labels import Frames
from hilrl_ros.contract import Contract

FORMAT = 1
Shape = tuple[int, int, int]


class ClassifierError(ValueError):
    """A classifier that cannot be read or used here; the message says why and what would be right."""


@dataclass(frozen=True)
class Training:
    """How a classifier is trained.

    Attributes:
        steps: Gradient steps.
        batch: Frames of success in a batch, and as many others.
        lr: Largest learning rate; it rises at first and falls to zero.
        shift: Pixels by which a frame of 64 rows is moved at random, larger ones by more.
        jitter: Largest change of brightness, contrast and each colour, as a share.
        seed: Of weights, batches and augmentation.
    """

    steps: int = 150
    batch: int = 64
    lr: float = 2e-3
    shift: int = 2
    jitter: float = 0.2
    seed: int = 0


class SuccessNetwork(nn.Module):
    """Images → logit of success.

    Args:
        cameras: Shapes (height, width, channels) by name.
        channels: Of the first convolution; the last has four times as many.
        features: Numbers per camera.
    """

    def __init__(self, cameras: Mapping[str, Shape], channels: int = 8, features: int = 32):
        super().__init__()
        self.cameras = dict(cameras)
        self.convolutions, self.projections = nn.ModuleDict(), nn.ModuleDict()
        for name, shape in self.cameras.items():
            if _key(shape) not in self.convolutions:
                sizes = [shape[2], channels, 2 * channels, 2 * channels, 4 * channels]
                layers: list[nn.Module] = []
                for size_in, size_out in pairwise(sizes):
                    layers += [
                        nn.Conv2d(size_in, size_out, 3, 2, padding=1),
                        nn.GroupNorm(4, size_out),
                        nn.ReLU(),
                    ]
                self.convolutions[_key(shape)] = nn.Sequential(*layers)
            side = [math.ceil(length / 16) for length in shape[:2]]
            self.projections[name] = nn.Sequential(
                nn.Dropout(0.1), nn.Linear(4 * channels * side[0] * side[1], features), nn.ReLU()
            )
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(features * len(self.cameras), 1))

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """{name: uint8 [B, H, W, C]} → [B]."""
        maps: dict[str, Tensor] = {}
        for key, network in self.convolutions.items():
            names = [name for name, shape in self.cameras.items() if _key(shape) == key]
            pixels = torch.cat([images[name] for name in names]).permute(0, 3, 1, 2).float()
            output = network(pixels.div_(255.0).sub_(0.5)).flatten(1)
            maps |= dict(zip(names, output.chunk(len(names)), strict=True))
        features = [self.projections[name](maps[name]) for name in self.cameras]
        return self.head(torch.cat(features, 1))[:, 0]


class Classifier:
    """Tells success from the images of an observation, as `observation_arrays` returns them.

    Attributes:
        network: The network.
        threshold: Probability above which it takes a frame for success.
        facts: What it was trained on and how good it is, plain YAML types.
    """

    def __init__(
        self, network: SuccessNetwork, threshold: float = 0.5, facts: Mapping[str, Any] | None = None
    ):
        self.network, self.threshold, self.facts = network.eval(), threshold, dict(facts or {})

    def probability(self, images: Mapping[str, np.ndarray]) -> float:
        """Return the probability of success of one observation's images, uint8 [H, W, C] by camera."""
        return float(self.probabilities({name: pixels[None] for name, pixels in images.items()})[0])

    @torch.no_grad()
    def probabilities(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probabilities [N] of N frames, uint8 [N, H, W, C] by camera."""
        count = len(next(iter(images.values())))
        parts = []
        for start in range(0, count, 256):
            batch = {
                name: torch.from_numpy(images[name][start : start + 256]) for name in self.network.cameras
            }
            parts.append(torch.sigmoid(self.network(batch)))
        return torch.cat(parts).numpy()

    def evaluate(self, frames: Frames) -> Evaluation:
        """Return what it says of labelled frames, together with the task's other conditions."""
        return Evaluation(frames, self.probabilities(frames.images) * frames.possible)

    def save(self, folder: Path) -> None:
        """Write `classifier.safetensors`, then `classifier.yaml`, which makes the folder a classifier."""
        folder.mkdir(parents=True, exist_ok=True)
        described = {
            "format": FORMAT,
            "cameras": {name: list(shape) for name, shape in self.network.cameras.items()},
            "threshold": self.threshold,
            **self.facts,
        }
        _replace(folder / "classifier.safetensors", save(self.network.state_dict()))
        _replace(folder / "classifier.yaml", yaml.safe_dump(described, sort_keys=False).encode())

    @classmethod
    def load(cls, folder: Path, contract: Contract) -> Classifier:
        """Read a classifier for the cameras of a contract.

        Raises:
            ClassifierError: There is none, it is damaged, or it was trained for other cameras.
        """
        path = folder / "classifier.yaml"
        try:
            described = yaml.safe_load(path.read_text())
            cameras = {name: tuple(shape) for name, shape in described.pop("cameras").items()}
            threshold, version = float(described.pop("threshold")), described.pop("format")
        except FileNotFoundError:
            raise ClassifierError(f"{folder} is no classifier: there is no classifier.yaml in it") from None
        except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ClassifierError(f"{path} is damaged: {' '.join(str(error).split())[:120]}") from None
        if version != FORMAT:
            raise ClassifierError(f"{path} has format {version}, but this version reads {FORMAT}")
        wanted = camera_shapes(contract)
        if cameras != wanted:
            raise ClassifierError(
                f"{folder} looks at {_list(cameras)}, but here it would get {_list(wanted)}: "
                "train one on labels of these cameras"
            )
        network = SuccessNetwork(cameras)
        try:
            network.load_state_dict(load((folder / "classifier.safetensors").read_bytes()))
        except (OSError, SafetensorError, RuntimeError) as error:
            why = " ".join(str(error).split())[:120]
            raise ClassifierError(f"{folder}/classifier.safetensors cannot be read: {why}") from None
        return cls(network, threshold, described)


def camera_shapes(contract: Contract) -> dict[str, Shape]:
    """Return the shapes (height, width, channels) of a contract's images by camera."""
    return {name: (*camera.size, 3 * camera.stack) for name, camera in contract.cameras.items()}


def train(
    frames: Frames, training: Training | None = None, stop: threading.Event | None = None
) -> Classifier:
    """Train a classifier on labelled frames; every fifth episode is held out to choose its threshold.

    It learns from the frames that it will decide: those in which the task's other conditions (`and`) hold. What joints
    tell exactly it need not learn from pixels.

    Args:
        frames: At least two episodes, with success in both parts.
        training: How.
        stop: Ends the training early when set.

    Returns:
        The classifier; `facts` has the counts, and `held_out` what `Evaluation.metrics` says of the episodes held out.

    Raises:
        ClassifierError: There are too few labelled episodes to hold some out.
    """
    part, held_out = frames.split()
    part = part.chosen(part.possible)
    if not all(0 < f.success.sum() < len(f) for f in (part, held_out)):
        raise ClassifierError(
            f"labels of {len(frames.names)} episodes, {int(part.success.sum())} frames of success and "
            f"{int((~part.success).sum())} others that meet the task's other conditions, are too few: every fifth "
            "episode is held out for the evaluation, and both parts need success and near misses"
        )
    network = fit(part, training or Training(), stop)
    classifier = Classifier(network)
    evaluation = classifier.evaluate(held_out)
    classifier.threshold = evaluation.choose_threshold()
    classifier.facts = {
        "successes": int(part.success.sum()),
        "others": int((~part.success).sum()),
        "held_out": evaluation.metrics(classifier.threshold),
    }
    return classifier


def fit(frames: Frames, training: Training, stop: threading.Event | None = None) -> SuccessNetwork:
    """Return a network that was trained on labelled frames, balanced between success and the rest."""
    generator = torch.Generator().manual_seed(training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = SuccessNetwork({name: pixels.shape[1:] for name, pixels in frames.images.items()})
        optimizer = torch.optim.AdamW(network.parameters(), training.lr, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, training.lr, total_steps=training.steps, pct_start=0.1
        )
        images = {name: torch.from_numpy(pixels) for name, pixels in frames.images.items()}
        kinds = [torch.from_numpy(np.flatnonzero(frames.success == kind)) for kind in (True, False)]
        target = torch.tensor([1.0, 0.0]).repeat_interleave(training.batch)
        network.train()
        for _ in range(training.steps):
            if stop and stop.is_set():
                break
            rows = torch.cat(
                [kind[torch.randint(len(kind), (training.batch,), generator=generator)] for kind in kinds]
            )
            batch = {name: augment(pixels[rows], training, generator) for name, pixels in images.items()}
            loss = F.binary_cross_entropy_with_logits(network(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def augment(images: Tensor, training: Training, generator: torch.Generator) -> Tensor:
    """Move frames at random and change their brightness, contrast and colours.

    Args:
        images: uint8 [B, H, W, C].
        training: Says how much.
        generator: Source of the changes.

    Returns:
        The changed frames, same shape and type.
    """

    def change(*shape: int) -> Tensor:
        return training.jitter * (2.0 * torch.rand(len(images), *shape, generator=generator) - 1.0)

    moved = random_shift(images, max(1, round(training.shift * images.shape[1] / 64)), generator)
    gain = 1.0 + change(1, 1, 1) + 0.5 * change(1, 1, images.shape[3])
    return moved.float().mul_(gain).add_(100.0 * change(1, 1, 1)).clamp_(0.0, 255.0).to(torch.uint8)


def _key(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _list(cameras: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} ({h}x{w}x{c})" for name, (h, w, c) in cameras.items()) or "no camera"


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    new.replace(path)
