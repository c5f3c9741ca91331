"""What the imitation policies share: chunks in normalised actions, fitted to what people did (HG-DAgger).

HG-DAgger: Kelly et al., arXiv 1810.02890. A policy fills in its network, its loss and how it samples.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hilrl_agents.agent import Agent, to_batch
from hilrl_agents.augmentation import augmented
from hilrl_agents.batch import Batch, Observation
from hilrl_agents.chunks import ChunkOptions
from hilrl_agents.config import option
from hilrl_agents.optim import AverageOptions, FlatAdam, minimise
from hilrl_agents.spec import PolicySpec
from hilrl_agents.vision import FrozenImages, ImageOptions


@dataclass(frozen=True)
class ImitationOptions(AverageOptions, ChunkOptions, ImageOptions):
    """Options of every imitation policy."""

    batch_size: int = option(64, "Rows of one gradient step", "rows", low=1)
    utd_ratio: int = option(1, "Gradient steps per update", low=1)
    state_std_floor: float = option(
        0.01, "Smallest std in the state's normalisation: 1 cm, 0.6°", "state's unit", low=1e-9
    )
    action_std_floor: float = option(
        0.01, "Smallest std (half of the range) in the actions' normalisation, of the range [-1, 1]", low=1e-9
    )
    image_encoder: str = option(
        "trained",
        "trained: a small network, with the policy; or a file of ResNet weights with torchvision's names, or LeRobot's "
        "model.safetensors, frozen",
    )


class ActionNormalizer(nn.Module):
    """(action − mean) / std per entry; fitted once before learning and stored with the weights.

    Args:
        size: A, length of an action.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, actions: Tensor, to_range: bool, floor: float) -> None:
        """Takes mean and std of actions [N, A]; `to_range`: middle and half of their range, which becomes ±1."""
        if to_range:
            low, high = actions.amin(0), actions.amax(0)
            mean, std = (low + high) / 2, (high - low) / 2
        else:
            mean, std = actions.mean(0), actions.std(0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(floor))

    def forward(self, action: Tensor) -> Tensor:
        """[…, A] in [-1, 1] → [..., A] normalised."""
        return (action - self.mean) / self.std

    def inverse(self, normal: Tensor) -> Tensor:
        """[…, A] normalised → […, A] in [-1, 1]."""
        return (normal * self.std + self.mean).clamp(-1, 1)


class Imitation(Agent):
    """Base of the imitation policies.

    A subclass makes `encoder` (with a `normalizer` of the state, and `images`) and `policy` in `build`, and writes
    `loss` and `sample`.
    """

    policy_networks = ("encoder", "policy", "actions")
    to_range = False  # actions are normalised by their range instead of mean and std

    def __init__(self, spec: PolicySpec, config: ImitationOptions, seed: int = 0) -> None:
        super().__init__(spec, config, seed)
        self.frozen_file = (
            "" if config.image_encoder == "trained" or not spec.cameras else config.image_encoder
        )
        self.actions = ActionNormalizer(spec.action_dim)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.policy = self.build()
        self.networks = {"encoder": self.encoder, "policy": self.policy, "actions": self.actions}
        self.optimizers = {
            "policy": FlatAdam([self.encoder, self.policy], config.learning_rate, config.policy_average)
        }
        if self.frozen_file:
            self.features = self.pretrain_features = FrozenImages(self.encoder.images)
            self.resting = self.encoder.images.tensors

    @abc.abstractmethod
    def build(self) -> tuple[nn.Module, nn.Module]:
        """Encoder of the observation, and the policy's network."""

    @abc.abstractmethod
    def loss(self, seen: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (scalar) of what the encoder made of the batch's observation, and what to log, by name."""

    @abc.abstractmethod
    def sample(self, seen: Any, generator: torch.Generator) -> Tensor:
        """Normalised chunk [1, H, A] for what the encoder made of one observation."""

    @property
    def spread(self) -> Tensor:
        """How much the actions vary that it was taught [A]."""
        return self.actions.std.clamp_min(self.config.action_std_floor)

    def fit_normalizer(self, states: np.ndarray, actions: np.ndarray) -> None:
        """Fixes the normalisation of state and action from data; once, before learning."""
        super().fit_normalizer(states, actions)
        actions = torch.as_tensor(actions, dtype=torch.float32)
        self.actions.fit(actions, self.to_range, self.config.action_std_floor)

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any], explore: bool, seed: int | None = None) -> np.ndarray:
        """A chunk of the policy, as people might have gone on → [H, A]; exploring adds nothing."""
        self.spec.check(observation)
        generator = self.generator if seed is None else torch.Generator().manual_seed(seed)
        self.policy.eval()
        with self.averaged():
            chunk = self.sample(self.encoder(to_batch(observation)), generator)
        return self.actions.inverse(chunk)[0].numpy()

    def update(self, batch: Batch) -> dict[str, float]:
        """`utd_ratio` steps on the steps that a person acted (HG-DAgger, algorithm 1)."""
        self.updates += 1
        return [self.pretrain(part) for part in batch.split(self.config.utd_ratio)][-1]

    def pretrain(self, batch: Batch) -> dict[str, float]:
        """One step on what a person did in the batch."""
        self.policy.train()
        c = self.config
        observation: Observation = augmented(batch.observation, c.image_shift, c.image_colors, self.generator)
        loss, metrics = self.loss(self.encoder(observation), batch)
        minimise(loss, self.optimizers["policy"])
        return {name: float(value) for name, value in metrics.items()}

    def noise(self, *shape: int) -> Tensor:
        """Standard normal draw from the agent's generator."""
        return torch.randn(shape, generator=self.generator)


def imitated(batch: Batch) -> Tensor:
    """float32 [B, H], 1 on executed steps that a person acted: what is imitated."""
    return batch.valid() * batch.person.float()


def gone_on(batch: Batch) -> tuple[Tensor, Tensor]:
    """Actions [B, H, A] and which of them a person acted, [B, H], where padding goes on with the last real step.

    A generative policy sees its whole chunk at every sampling step: the end of it must not be left to chance.
    """
    span = torch.arange(batch.action.shape[1])
    real = torch.minimum(span, batch.steps[:, None] - 1)  # [B, H]
    action = batch.action.gather(1, real[..., None].expand_as(batch.action))
    return action, batch.person.float().gather(1, real)


def masked_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Mean of [B, H, A] over entries of the steps with weight [B, H] → scalar; 0 if there is none."""
    return (error * weight[..., None]).sum() / (weight.sum() * error.shape[-1]).clamp_min(1)
