"""How agents learn from images: encoders that the critic trains, and frozen ones whose features are cached.

A frozen encoder is fitted by imitating what people did, and anew from time to time, or it comes from a file
(`resnet.py`). Replay then encodes every frame once, and an update costs about as much as one from state.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hilrl_agents.augmentation import augmented
from hilrl_agents.batch import Batch, Observation
from hilrl_agents.config import option
from hilrl_agents.networks import EnsembleMLP, ImageEncoder, ObservationEncoder, bc_loss
from hilrl_agents.optim import FlatAdam, minimise
from hilrl_agents.spec import PolicySpec

_versions = itertools.count(1)


@dataclass(frozen=True)
class ImageOptions:
    """Options of every agent that sees images."""

    image_channels: int = option(32, "Channels of the image encoder's convolutions", low=1)
    image_features: int = option(50, "Features per camera (DrQ-v2)", low=1)
    image_shift: int = option(4, "Largest random shift of the images (DrQ)", "pixels", low=0)
    image_colors: float = option(
        0.2,
        "Largest random change of the images' brightness, of 1, and half as much of each channel; light is never "
        "twice the same",
        low=0,
        high=1,
    )


@dataclass(frozen=True)
class EncoderOptions(ImageOptions):
    """Options of agents that learn values from images."""

    image_encoder: str = option(
        "trained",
        "trained: by the critic's loss; imitation: by imitating people, frozen in between, its features cached; "
        "or a file of ResNet-10, 18 or 34 weights with torchvision's names (.safetensors or .pth), frozen, cached",
    )
    encoder_refresh: int = option(
        500,
        "Updates after which an imitation encoder is fitted anew, to all interventions too; 0: never",
        low=0,
    )
    encoder_refresh_updates: int = option(200, "Imitation steps of such a fit", low=1)


class FrozenImages:
    """What replay calls to encode frames (`hilrl_agents.replay.Features`).

    Args:
        images: image encoder with a method `frozen`.

    Attributes:
        version: new whenever the weights changed; features of another version are of no use.
    """

    def __init__(self, images: nn.Module) -> None:
        self._images = images
        self.changed()

    def changed(self) -> None:
        """To be called when the weights have changed."""
        self.version = next(_versions)

    @torch.no_grad()
    def __call__(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """{name: uint8 [N, height, width, channels]} → [N, …], what the encoder's `head` takes."""
        return self._images.frozen({name: torch.from_numpy(i) for name, i in images.items()}).numpy()


class PriorImages(nn.Module):
    """What a policy that rests makes of images, then one layer that is trained, LayerNorm, tanh.

    The policy is no part of the state dict.

    Args:
        prior: an `Agent`.
        size: F, numbers of the whole.
    """

    def __init__(self, prior: Any, size: int) -> None:
        super().__init__()
        self._prior = (prior,)  # in a tuple, or its networks would be trained
        blank = {
            name: torch.zeros((1, *shape), dtype=torch.uint8) for name, shape in prior.spec.cameras.items()
        }
        seen = self.frozen(blank).shape[1]
        self.project = nn.Sequential(nn.Linear(seen, size), nn.LayerNorm(size), nn.Tanh())

    @torch.no_grad()
    def frozen(self, images: Mapping[str, Tensor]) -> Tensor:
        """{name: uint8 [B, height, width, channels]} → float32 [B, …], what the policy makes of them."""
        return self._prior[0].seen_images(images)

    def head(self, seen: Tensor) -> Tensor:
        """What `frozen` gave → float32 [B, F]."""
        return self.project(seen)

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """{name: uint8 [B, height, width, channels]} → float32 [B, F]."""
        return self.head(self.frozen(images))


class Vision:
    """The seeing part of an agent that learns values.

    Args:
        spec: shapes of the observation and the action.
        config: see `EncoderOptions`.
        hidden: sizes of the hidden layers of the imitation encoder's head.
        learning_rate: Adam's step size.
        bf16: encoder in bfloat16.
        generator: source of the augmentation.

    Attributes:
        encoder: observation → features.
        networks: modules that belong into a checkpoint, by name.
        optimizers: their optimizers, by name.
        with_values: the optimizers to move along with the critic's loss: those of a trained encoder, or of what
            follows on a frozen ResNet.
        features: what replay shall encode frames with; None: the agent takes images.
        pretrain_features: the same for samples to imitate.
        resting: weights of a ResNet from a file, else empty.
    """

    def __init__(
        self,
        spec: PolicySpec,
        config: EncoderOptions,
        hidden: Sequence[int],
        learning_rate: float,
        bf16: bool,
        generator: torch.Generator,
    ) -> None:
        self.config, self._generator, self._learning_rate = config, generator, learning_rate
        kind = config.image_encoder if spec.cameras else "none"
        weights = "" if kind in ("trained", "imitation", "prior", "none") else kind
        self.encoder = ObservationEncoder(spec, config.image_channels, config.image_features, bf16, weights)
        self.networks: dict[str, nn.Module] = {"encoder": self.encoder}
        self.features = None if kind in ("trained", "prior", "none") else FrozenImages(self.encoder.images)
        self.pretrain_features = self.features if weights else None
        self.resting = self.encoder.images.tensors if weights else {}
        self._head: EnsembleMLP | None = None
        modules: list[nn.Module] = [self.encoder]
        if kind == "imitation":
            # A head of its own: the encoder never follows the values, nor the policy that does.
            self._head = EnsembleMLP(1, self.encoder.size, hidden, spec.horizon * spec.action_dim)
            self.networks["imitation_head"] = self._head
            modules.append(self._head)
        self.optimizers = {"encoder": FlatAdam(modules, learning_rate)} if spec.cameras else {}
        self.with_values = [] if self._head else list(self.optimizers.values())

    def __call__(self, observation: Observation) -> Tensor:
        """Features [B, F] of an augmented observation, with gradient."""
        return self.encoder(self._augmented(observation))

    def imitate(self, batch: Batch) -> Tensor:
        """Features [B, F] of the batch for a policy's imitation, after a step of an imitation encoder."""
        features = self(batch.observation)
        if self._head is None:
            return features
        loss = bc_loss(self._head(features)[0], batch, batch.person.float())
        minimise(loss, *self.optimizers.values())
        self.features.changed()
        return features.detach()

    def rest_as(self, prior: nn.Module) -> None:
        """Leaves the encoder for good as another one is, whose weights it was given: no fit, no other precision."""
        self.with_values, self._head = [], None
        if isinstance(self.encoder.images, ImageEncoder) and isinstance(prior.images, ImageEncoder):
            self.encoder.images.bf16 = prior.images.bf16

    def see_through(self, prior: Any) -> None:
        """Sees with what another policy makes of images; what follows on it is new, and learnt with the values.

        Args:
            prior: an `Agent` whose `seen_images` does not change any more.
        """
        size = self.config.image_features * len(prior.spec.cameras)
        self.encoder.images = PriorImages(prior, size)
        self.optimizers["encoder"] = FlatAdam([self.encoder], self._learning_rate)
        self.with_values = [self.optimizers["encoder"]]
        self.features = FrozenImages(self.encoder.images)

    @property
    def imitates(self) -> bool:
        """Whether the encoder is fitted by imitation."""
        return self._head is not None

    def refresh_due(self, updates: int) -> bool:
        """Whether an imitation encoder is to be fitted anew after so many updates."""
        every = self.config.encoder_refresh
        return self._head is not None and every > 0 and updates > 0 and updates % every == 0

    def _augmented(self, observation: Observation) -> Observation:
        c = self.config
        return augmented(observation, c.image_shift, c.image_colors, self._generator)
