"""Imitation-bootstrapped RL: the imitation policy's action or the actor's, whichever the critics value more.

IBRL: Hu et al., arXiv 2311.02198. The learning is SAC's, see `sac.py`. B rows, E critics, K candidates, A action
entries, F features.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hilrl_agents.agent import Agent, to_batch
from hilrl_agents.batch import Batch
from hilrl_agents.config import option
from hilrl_agents.networks import Handover, bc_loss
from hilrl_agents.optim import flatten
from hilrl_agents.over_prior import OverPrior
from hilrl_agents.sac import SACConfig
from hilrl_agents.spec import PolicySpec
from hilrl_agents.warm_start import WarmStart


@dataclass(frozen=True)
class IBRLConfig(SACConfig):
    """Options of `ibrl`; those of `sac`, and how the prior is explored around and imitated."""

    image_encoder: str = option(
        "prior",
        "prior: what the prior makes of images, its features cached, and one layer on top that is trained by the "
        "critic's loss; or as in `sac`: what has been handed over then changes with the encoder",
    )
    prior_noise: float = option(
        0.1,
        "Standard deviation of the noise on the prior's action while exploring: critics must see what is beside it",
        low=0,
    )
    clone: str = option(
        "solved",
        "What the actor imitates (bc_loss_weight): people's steps; solved: also those of episodes that solved the task",
        choices=("people", "solved"),
    )


class IBRL(OverPrior):
    """a = argmax of min_E Q'(s, a) over {b, the actor's} (IBRL, algorithm 1), b the prior's action; so in targets.

    The critics choose, so nothing is lost where the actor is still worse than the prior. It is a policy of its own,
    taught by demonstrations and what solved the task: it may go as far from the prior as values lead.
    """

    name = "ibrl"
    Config = IBRLConfig
    policy_networks = ("encoder", "actor", "average", "values", "judges", "begun", "handover")

    def __init__(self, spec: PolicySpec, config: IBRLConfig, seed: int = 0) -> None:
        super().__init__(spec, config, seed)
        self.values = copy.deepcopy(self.critic).requires_grad_(False)
        self._flat_values = flatten(list(self.values.parameters()))
        # who acts beside the prior while exploring, and where nothing is explored
        self.begun = self.handover = Handover()
        self.judges = self.values
        self.networks |= {"values": self.values, "begun": self.begun}
        self.networks |= {"judges": self.judges, "handover": self.handover}

    @torch.no_grad()
    def warm_start(self, prior: Agent, freeze: Sequence[str] = ()) -> WarmStart:
        """Puts the prior beneath; what it does is a candidate, but no input of actor and critics, as in the paper."""
        warm = super().warm_start(prior, freeze)
        self.encoder.normalizer.std[-self.spec.action_dim :] = torch.inf
        self._gated()
        return warm

    def _gated(self) -> None:
        """Lets the prior alone act where nothing is explored, until what is learnt has earned it."""
        super()._gated()
        if self.gate is not None:
            self.judges, self.handover = copy.deepcopy(self.values), Handover()
            self.networks |= {"judges": self.judges, "handover": self.handover}

    def hand_over(self) -> None:
        """Lets the running averages of actor and critics act where nothing is explored."""
        super().hand_over()
        self.judges.load_state_dict(self.values.state_dict())
        self.handover.done.fill_(True)

    @property
    def imitates(self) -> bool:
        """The actor is new, whatever lies beneath."""
        return True

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any], explore: bool, seed: int | None = None) -> np.ndarray:
        """The better one of the prior's action and the actor's, both drawn if exploring → [1, A].

        The prior's until the critics are warm, and where nothing is explored until they have earned it.
        """
        self.spec.check(observation)
        seen = to_batch(observation)
        prior = self.prior_action(seen)
        if explore:
            generator = self.generator if seed is None else torch.Generator().manual_seed(seed)
            noise = torch.randn((2, *prior.shape), generator=generator)
            prior = (prior + self.config.prior_noise * noise[0]).clamp(-1, 1)
        begun, critic = (self.begun, self.values) if explore else (self.handover, self.judges)
        if not begun.done:
            return prior.numpy()
        features = self.encoder(seen)
        mean, log_std = (self.actor if explore else self.average)(features)
        if explore:
            mean = mean + log_std.exp() * noise[1]
        return self.best(critic, features, torch.stack([prior, torch.tanh(mean)])).numpy()

    def best(self, critic: nn.Module, features: Tensor, candidates: Tensor) -> Tensor:
        """The candidate whose least value is largest: features [B, F], candidates [K, B, A] → [B, A]."""
        count, rows = candidates.shape[:2]
        values = self.value(critic, features.repeat(count, 1), candidates.flatten(0, 1)).amin(0)
        return candidates[values.view(count, rows).argmax(0), torch.arange(rows)]

    def next_action(self, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
        """The better one of b and a draw of the actor (IBRL, algorithm 1) → [B, A], and the draw's log-density [B].

        While the critics warm up, b: it alone acts then.
        """
        prior = self.prior_action(batch.next_observation)
        action, log_density = self.sample_action(features)
        if not self.begun.done:
            return prior, log_density
        return self.best(self.target, features, torch.stack([prior, action])), log_density

    def cloning(self, mean: Tensor, batch: Batch) -> Tensor:
        """As `sac`'s, of episodes that were solved too (`clone`)."""
        weight = batch.shown()
        if self.config.clone == "solved":
            weight = torch.maximum(weight, batch.solved.float()[:, None])
        return bc_loss(mean, batch, weight)

    def update(self, batch: Batch) -> dict[str, float]:
        """As `sac`'s; the values that choose follow the critics as the averaged actor follows the newest one."""
        metrics = super().update(batch)
        self._flat_values.lerp_(self.optimizers["critic"].flat, self.config.policy_average or 1.0)
        self.begun.done |= self.updates >= self.config.critic_warmup
        return metrics
