"""Residual RL: a small bounded correction on top of an imitation policy that never changes.

Policy Decorator: Yuan et al., arXiv 2412.13630. ResFiT: Ankile et al., arXiv 2509.19301. The learning is SAC's, see
`sac.py`. B rows, E critics, A action entries, F features, S entries of the robot's state.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hilrl_agents.agent import Agent, to_batch
from hilrl_agents.batch import Batch, fold, unfold
from hilrl_agents.cloning import cloning_weight
from hilrl_agents.config import option
from hilrl_agents.networks import cloning_loss, squash
from hilrl_agents.over_prior import OverPrior, lowest_prior
from hilrl_agents.sac import SACConfig
from hilrl_agents.spec import PolicySpec
from hilrl_agents.warm_start import WarmStart, WarmStartError

STEP = 0.4  # of the standard deviation of absolute positions: about what they change by in a step, at 10 Hz


@dataclass(frozen=True)
class ResidualConfig(SACConfig):
    """Options of `residual`; those of `sac`, and how far it may go from its prior."""

    image_encoder: str = option(
        "prior",
        "prior: what the prior makes of images, its features cached, and one layer on top that is trained by the "
        "critic's loss and by what people show; or as in `sac`",
    )
    residual_scale: float = option(
        0.3,
        "Largest correction, as a share of the action's range to one side; of absolute joint positions, of 0.4 "
        "standard deviations of those that the prior was taught",
        low=1e-3,
        high=5,
    )
    residual_ramp: int = option(
        0,
        "Updates after critic_warmup over which the largest correction grows from 0 to residual_scale; 0: at once",
        "updates",
        low=0,
    )
    residual_penalty: float = option(
        0.02,
        "Price of a correction's square, as a share of its bound: what does not pay is left alone",
        low=0,
    )


class Residual(OverPrior):
    """a = clip(b + c tanh(u)), b the prior's action in this step, u ~ N(μ(s, b), σ(s, b)) (Policy Decorator, eq. 2).

    The prior may be any policy, executed in chunks as its own options say. Critics judge the sum.

    Absolute positions that differ by all that an arm does in one step differ by little of their range. So they are
    measured by how much the prior's vary, and critics judge the correction: the sum's other part they observe.
    """

    name = "residual"
    Config = ResidualConfig
    policy_networks = ("encoder", "actor", "average", "scale")

    def __init__(self, spec: PolicySpec, config: ResidualConfig, seed: int = 0) -> None:
        super().__init__(spec, config, seed)
        self.scale = torch.nn.Module()
        self.scale.register_buffer("value", torch.tensor(config.residual_scale))
        self.networks["scale"] = self.scale
        self._unit = torch.ones(spec.action_dim)  # of corrections
        with torch.no_grad():  # no correction before any learning (ResFiT, sec. III)
            for actor in (self.actor, self.average):
                actor.net.weights[-2][:, : spec.action_dim].zero_()

    @torch.no_grad()
    def warm_start(self, prior: Agent, freeze: Sequence[str] = ()) -> WarmStart:
        """Puts the prior beneath; it acts uncorrected where nothing is explored, until a correction has earned it."""
        warm = super().warm_start(prior, freeze)
        mine, size = self.encoder.normalizer, self.spec.state_dim - self.spec.action_dim
        if self.spec.absolute:
            lowest = lowest_prior(prior)
            if lowest.spread is None:
                raise WarmStartError(
                    f"{self.name} measures corrections of absolute positions by how much those vary that its prior "
                    f"was taught, which '{lowest.name}' does not tell; expected act, diffusion, flow, qc or lerobot"
                )
            mine.mean[size:], mine.std[size:] = lowest.actions.mean, lowest.actions.std
            self._unit = STEP * lowest.spread
        self._gated()
        return warm

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any], explore: bool, seed: int | None = None) -> np.ndarray:
        """The prior's action in the observation's state, corrected; exploring draws the correction → [1, A]."""
        self.spec.check(observation)
        features = self.encoder(to_batch(observation))
        mean, log_std = (self.actor if explore else self.average)(features)
        if explore:
            generator = self.generator if seed is None else torch.Generator().manual_seed(seed)
            mean = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
        return self.corrected(features, torch.tanh(mean)).numpy()

    def corrected(self, features: Tensor, correction: Tensor) -> Tensor:
        """clip(b + c · correction): features [B, F], correction [B, A] in [-1, 1] → action [B, A]."""
        return (self.base(features) + self.scale.value * self._unit * correction).clamp(-1, 1)

    def base(self, features: Tensor) -> Tensor:
        """The prior's action, the last entries of the state: features [B, F] → [B, A]."""
        normalizer = self.encoder.normalizer
        at = slice(self.spec.state_dim - self.spec.action_dim, self.spec.state_dim)
        return features[:, at] * normalizer.std[at] + normalizer.mean[at]

    def judged(self, features: Tensor, action: Tensor) -> Tensor:
        """What critics are shown of actions [B, A]: the same; of absolute ones the correction, in `STEP`s."""
        return (action - self.base(features)) / self._unit if self.spec.absolute else action

    def sample_action(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a ~ π(·|s, b): action [B, A] and the correction's log-density [B]."""
        correction, log_density = super().sample_action(features)
        return self.corrected(features, correction), log_density

    def actor_loss(self, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """α log π − min_E Q(s, a) + penalty · |tanh μ|² + weight · cloning of what a person showed.

        The least of the critics, not their mean: what they have not seen yet must not pull the correction away.
        features [B, F], without gradient.

        Returns:
            The loss (scalar), log π [B] for the temperature, and metrics.
        """
        c = self.config
        mean, log_std = self.actor(features)
        correction, log_density = squash(mean, log_std, self.noise(mean))
        action = self.corrected(features, correction)
        q = self.value(self.critic, features, action, frozen=True).amin(0).mean()
        steady = torch.tanh(mean)
        penalty = steady.square().sum(1).mean()
        if self.with_actor:  # what a person shows tells most of what is to be seen
            features = self.vision(batch.observation)
            steady = torch.tanh(self.actor(features)[0])
        cloning = self.taught(features, steady, batch, batch.shown())
        entropy_term = self.temperature().detach() * log_density.mean()
        loss = entropy_term - q + c.residual_penalty * penalty + cloning_weight(c, self.updates) * cloning
        metrics = {
            "actor_loss": loss, "bc_loss": cloning, "entropy": -log_density.mean(), "q_policy": q,
            "correction": steady.abs().mean() * self.scale.value,
        }  # fmt: skip
        return loss, log_density.detach(), {name: value.detach() for name, value in metrics.items()}

    def taught(self, features: Tensor, steady: Tensor, batch: Batch, weight: Tensor) -> Tensor:
        """Squared distance from what a person showed, as critics are shown it, as far as a correction goes → scalar.

        weight [B, 1] of the steps.
        """
        reach = max(1.0, self.config.residual_scale)
        shown = self.judged(features, fold(batch.action)).clamp(-reach, reach)
        own = self.judged(features, self.corrected(features, steady))
        return cloning_loss(own, replace(batch, action=unfold(shown, 1)), weight)

    def refresh(self, batches: Iterable[Batch]) -> None:
        """Fits an imitation encoder anew, and the correction to its features."""
        for batch in itertools.islice(batches, self.config.encoder_refresh_updates):
            features = self.vision.imitate(batch)
            steady = torch.tanh(self.actor(features)[0])
            self._improve_actor(self.taught(features, steady, batch, batch.person.float()))

    def update(self, batch: Batch) -> dict[str, float]:
        """As `sac`'s; then the bound of the correction grows."""
        metrics = super().update(batch)
        c, since = self.config, self.updates - self.config.critic_warmup
        grown = min(1.0, since / c.residual_ramp) if c.residual_ramp and since >= 0 else 1.0
        self.scale.value.fill_(c.residual_scale * grown)
        return metrics
