"""Behaviour cloning on demonstrations and interventions: HG-DAgger when a person corrects, plain BC when not.

HG-DAgger: Kelly et al., arXiv 1810.02890.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hilrl_agents.agent import Agent, to_batch
from hilrl_agents.augmentation import augmented
from hilrl_agents.batch import Batch, unfold
from hilrl_agents.chunks import ChunkOptions
from hilrl_agents.config import option
from hilrl_agents.networks import EnsembleMLP, ObservationEncoder, bc_loss
from hilrl_agents.optim import AverageOptions, FlatAdam, minimise
from hilrl_agents.spec import PolicySpec
from hilrl_agents.vision import ImageOptions


@dataclass(frozen=True)
class BCConfig(AverageOptions, ChunkOptions, ImageOptions):
    """Options of `bc`."""

    batch_size: int = option(256, "Rows of one gradient step", "rows", low=1)
    utd_ratio: int = option(1, "Gradient steps per update", low=1)
    hidden: tuple = option((256, 256), "Hidden layers of the policy")
    learning_rate: float = option(3e-4, "Adam's step size", low=0)
    exploration_std: float = option(0.1, "Noise on explored actions, before tanh; 0 for none", low=0)
    state_std_floor: float = option(
        0.01, "Smallest std in the state's normalisation: 1 cm, 0.6°", "state's unit", low=1e-9
    )


class BC(Agent):
    """Deterministic policy a = tanh(μ(s)), fitted by squared error to what people did."""

    name = "bc"
    Config = BCConfig
    policy_networks = ("encoder", "policy")

    def __init__(self, spec: PolicySpec, config: BCConfig, seed: int = 0) -> None:
        super().__init__(spec, config, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = ObservationEncoder(spec, config.image_channels, config.image_features)
            self.policy = EnsembleMLP(1, self.encoder.size, config.hidden, spec.horizon * spec.action_dim)
        self.networks = {"encoder": self.encoder, "policy": self.policy}
        self.optimizers = {
            "policy": FlatAdam([self.encoder, self.policy], config.learning_rate, config.policy_average)
        }

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any], explore: bool, seed: int | None = None) -> np.ndarray:
        """tanh(μ(s)), with noise before tanh if exploring → [H, A]."""
        self.spec.check(observation)
        with self.averaged():
            mean = self.policy(self.encoder(to_batch(observation)))[0]
        if explore:
            generator = self.generator if seed is None else torch.Generator().manual_seed(seed)
            mean = mean + self.config.exploration_std * torch.randn(mean.shape, generator=generator)
        return unfold(torch.tanh(mean), self.spec.horizon)[0].numpy()

    def update(self, batch: Batch) -> dict[str, float]:
        """`utd_ratio` steps on the steps that a person acted (HG-DAgger, algorithm 1)."""
        self.updates += 1
        return [self.pretrain(part) for part in batch.split(self.config.utd_ratio)][-1]

    def pretrain(self, batch: Batch) -> dict[str, float]:
        """One step on what a person did in the batch."""
        c = self.config
        observation = augmented(batch.observation, c.image_shift, c.image_colors, self.generator)
        mean = self.policy(self.encoder(observation))[0]
        loss = bc_loss(mean, batch, batch.person.float())
        minimise(loss, self.optimizers["policy"])
        return {"bc_loss": loss.item()}
