"""SAC as RLPD and HIL-SERL use it, over action chunks, with a behaviour-cloning term.

RLPD: Ball et al., arXiv 2302.02948. HIL-SERL: Luo et al., arXiv 2410.21845. SAC: Haarnoja et al., arXiv
1812.05905. Chunks: Li et al. (Q-chunking), arXiv 2507.07969. B rows, E critics, H steps a chunk, A action
entries, F features.
"""

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hilrl_agents.agent import Agent, TakeoverOptions, to_batch
from hilrl_agents.batch import Batch, fold, unfold
from hilrl_agents.chunks import ChunkOptions
from hilrl_agents.cloning import CloningOptions, cloning_weight
from hilrl_agents.config import option
from hilrl_agents.critics import CriticOptions, backup, least, return_loss, td_loss, uses_bf16
from hilrl_agents.gate import Gate, GateOptions
from hilrl_agents.networks import (
    EnsembleMLP,
    GaussianActor,
    PriorActor,
    Temperature,
    bc_loss,
    squash,
)
from hilrl_agents.optim import FlatAdam, flatten, minimise
from hilrl_agents.spec import PolicySpec
from hilrl_agents.vision import EncoderOptions, Vision
from hilrl_agents.warm_start import WarmStart, WarmStartError


@dataclass(frozen=True)
class SACConfig(TakeoverOptions, GateOptions, CloningOptions, CriticOptions, ChunkOptions, EncoderOptions):
    """Options of `sac`; defaults for a robot at 10 Hz with some 20 demonstrations and a sparse reward."""

    batch_size: int = option(256, "Rows of one gradient step, half online and half offline", "rows", low=2)
    utd_ratio: int = option(1, "Critic steps per update; 2 needs fewer robot steps and twice the CPU", low=1)
    policy_update_freq: int = option(
        1, "Updates of the critics to one of the actor; 2 saves a quarter of the CPU (TD3)", "updates", low=1
    )
    n_step: int = option(
        1, "Rewards summed before bootstrapping, if more than the chunk; 3 for cameras", low=1
    )
    policy_average: float = option(
        0.003,
        "Share of the actor that its running average takes over per update; the average acts where nothing is "
        "explored: it is steadier than the newest actor; 0: the newest",
        low=0,
        high=1,
    )
    backup_entropy: bool = option(
        False, "Entropy in the target; off, or sparse rewards drown in it (HIL-SERL)"
    )
    hidden: tuple = option((256, 256), "Hidden layers of actor and critics")
    learning_rate: float = option(3e-4, "Adam's step size, all networks", low=0)
    grad_clip: float = option(
        0.0, "Bound on each network's gradient norm; 0 for none: LayerNorm tames it", low=0
    )
    temperature_init: float = option(
        1e-2, "Initial entropy temperature; 1 forgets the demonstrations", low=1e-8
    )
    target_entropy: float = option(
        -0.5, "Wanted entropy per action entry; −0.5 is a std of about 0.15", "nat"
    )
    initial_std: float = option(0.3, "Exploration before any learning; a robot should not flail", low=1e-3)
    std_min: float = option(0.01, "Smallest standard deviation of the policy", low=1e-6)
    std_max: float = option(2.0, "Largest standard deviation of the policy", low=1e-3)
    state_std_floor: float = option(
        0.01, "Smallest std in the state's normalisation: 1 cm, 0.6°", "state's unit", low=1e-9
    )


class SAC(Agent):
    """Soft actor-critic: LayerNorm critic ensemble, offline data in every batch, chunks of H actions."""

    name = "sac"
    Config = SACConfig
    policy_networks = ("encoder", "actor", "average")
    prior_networks: ClassVar = {
        "bc": {"encoder": "encoder", "actor.mean": "policy", "average.mean": "policy"},
        "sac": {"encoder": "encoder", "actor": "average", "average": "average"},
    }

    def __init__(self, spec: PolicySpec, config: SACConfig, seed: int = 0) -> None:
        super().__init__(spec, config, seed)
        c, self.n_step = config, config.n_step
        self.pretrain_n_step = c.pretrain_returns or c.n_step
        flat, bf16 = spec.horizon * spec.action_dim, uses_bf16(c)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.vision = Vision(spec, c, c.hidden, c.learning_rate, bf16, self.generator)
            self.encoder = self.vision.encoder
            self._actor_shape = (self.encoder.size, c.hidden, flat, c.std_min, c.std_max, c.initial_std, bf16)
            actor = GaussianActor(*self._actor_shape)
            self.critic = EnsembleMLP(c.critics, self.encoder.size + flat, c.hidden, 1, bf16)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.temperature = Temperature(c.temperature_init)
        self.networks = self.vision.networks | {
            "critic": self.critic,
            "target": self.target,
            "temperature": self.temperature,
        }
        self.features, self.pretrain_features = self.vision.features, self.vision.pretrain_features
        self.resting = self.vision.resting
        self.optimizers = {"critic": FlatAdam([self.critic], c.learning_rate)} | self.vision.optimizers
        self._flat_target = flatten(list(self.target.parameters()))
        self._entropy_goal = c.target_entropy * flat
        self.gate: Gate | None = None
        self.anchor: nn.Module | None = None  # the prior's actor
        self.with_actor: list[FlatAdam] = []  # optimizers that move along with the actor's loss
        self._act_with(actor)

    def _act_with(self, actor: nn.Module) -> None:
        """Takes an actor; its running average begins as it does, and acts where nothing is explored."""
        self.actor, self.running = actor, copy.deepcopy(actor).requires_grad_(False)
        self.average = self.running
        self.networks |= {"actor": self.actor, "average": self.average}
        self.optimizers["actor"] = FlatAdam([self.actor, self.temperature], self.config.learning_rate)
        self._flat_running = flatten(list(self.running.parameters()))

    @torch.no_grad()
    def warm_start(self, prior: Agent, freeze: Sequence[str] = ()) -> WarmStart:
        """Begins as the prior, bit for bit; the critic is new, and learns before the actor moves (WSRL, sec. 4).

        Of `bc` the whole policy is the actor's mean, of `sac` the averaged actor is taken. An image encoder stays
        for good as the prior has it, so that neither the values nor the actor lose what they were learnt on.
        """
        if prior.spec.horizon != self.spec.horizon:
            raise WarmStartError(
                f"sac acts in chunks of {self.spec.horizon}, its prior '{prior.name}' in chunks of "
                f"{prior.spec.horizon}: set chunk_size: {prior.spec.horizon}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
            actor = (
                copy.deepcopy(prior.average)
                if prior.name == self.name
                else PriorActor(copy.deepcopy(prior.policy), *self._actor_shape)
            )
        self._act_with(actor.requires_grad_(True))
        self.vision.rest_as(prior.encoder)
        warm = super().warm_start(prior, freeze)
        for name, reason in warm.fresh:
            if name.startswith(("encoder.", "actor.mean.")):
                raise WarmStartError(f"sac would not act as its prior '{prior.name}': {name} {reason}")
        self.anchor = copy.deepcopy(self.average)
        self._gated()
        return warm

    def _gated(self) -> None:
        """Lets the prior act where nothing is explored, until what is learnt has earned it."""
        c = self.config
        if c.gate_episodes:
            self.gate, self.average = (
                Gate(c.gate_episodes, c.gate_confidence, c.gate_margin),
                copy.deepcopy(self.running),
            )
            self.networks |= {"gate": self.gate, "running": self.running, "average": self.average}

    def measured(self, earned: float) -> None:
        """Sets what must be earned before the gate lets pass."""
        if self.gate is not None:
            self.gate.measured(earned)

    @torch.no_grad()
    def episode_over(self, earned: float) -> None:
        """Hands over to what is learnt if the gate lets it pass."""
        if self.gate is not None and self.gate.passes(earned, self.updates <= self.config.critic_warmup):
            self.hand_over()

    def hand_over(self) -> None:
        """Lets the running average act where nothing is explored."""
        self.average.load_state_dict(self.running.state_dict())

    @property
    def imitates(self) -> bool:
        """Whether the actor has to be taught what to do before values lead it: not where a prior's was taken over."""
        return self.prior is None

    @property
    def pretrains(self) -> bool:
        """Imitation where it is no prior's, an encoder that is fitted by it, and the critic's start on returns."""
        return self.imitates or self.vision.imitates or self.config.pretrain_returns > 0

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any], explore: bool, seed: int | None = None) -> np.ndarray:
        """tanh(mean) of the averaged actor, or tanh(mean + std · noise) with noise from `seed` → [H, A]."""
        self.spec.check(observation)
        actor = self.actor if explore else self.average
        mean, log_std = actor(self.encoder(to_batch(observation)))
        if explore:
            generator = self.generator if seed is None else torch.Generator().manual_seed(seed)
            mean = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
        return unfold(torch.tanh(mean), self.spec.horizon)[0].numpy()

    def update(self, batch: Batch) -> dict[str, float]:
        """`utd_ratio` critic steps on slices of the batch, then one step of actor and temperature."""
        c, metrics = self.config, {}
        for part in batch.split(c.utd_ratio):
            features = self.vision(part.observation)
            loss, metrics = self.critic_loss(part, features)
            minimise(loss, self.optimizers["critic"], *self.vision.with_values, clip=c.grad_clip)
            self._flat_target.lerp_(self.optimizers["critic"].flat, c.tau)
        warming = self.updates < c.critic_warmup
        if warming and self.imitates:
            cloning = self.cloning(self.actor(features.detach())[0], part)
            self._improve_actor(cloning)
            metrics |= {"bc_loss": cloning.detach()}
        elif not warming and self.updates % c.policy_update_freq == 0:
            loss, log_density, actor_metrics = self.actor_loss(part, features.detach())
            self._improve_actor(loss + self.temperature_loss(log_density), *self.with_actor)
            metrics |= actor_metrics
        self.updates += 1
        metrics |= {"temperature": self.temperature().detach()}
        return {name: float(value) for name, value in metrics.items()}

    def pretrain(self, batch: Batch) -> dict[str, float]:
        """One behaviour-cloning step of actor and trained image encoder on what a person did in the batch.

        With `pretrain_returns`, also one step of the critic towards the returns of all rows. A warm-started actor
        rests.
        """
        c, metrics = self.config, {}
        if self.imitates:
            loss, features = self._imitate(batch)
            metrics = {"bc_loss": loss.item()}
        else:
            features = self.vision.imitate(batch)
        if c.pretrain_returns:
            error = self.return_loss(batch, features)
            minimise(error, self.optimizers["critic"], clip=c.grad_clip)
            metrics["return_loss"] = error.item()
            self._flat_target.lerp_(self.optimizers["critic"].flat, c.tau)
        return metrics

    @property
    def refresh_due(self) -> bool:
        """Every `encoder_refresh` updates of an imitation encoder."""
        return self.vision.refresh_due(self.updates)

    def refresh(self, batches: Iterable[Batch]) -> None:
        """Fits an imitation encoder anew, and the actor to its features; the critic meets them afterwards."""
        for batch in itertools.islice(batches, self.config.encoder_refresh_updates):
            self._imitate(batch)

    def _imitate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One behaviour-cloning step → loss (scalar), features [B, F] without gradient."""
        features = self.vision.imitate(batch)
        loss = bc_loss(self.actor(features)[0], batch, batch.person.float())
        self._improve_actor(loss, *self.vision.with_values)
        return loss, features.detach()

    def _improve_actor(self, loss: Tensor, *others: FlatAdam) -> None:
        """One gradient step of actor (and temperature); its average follows (Polyak and Juditsky, 1992)."""
        optimizer = self.optimizers["actor"]
        minimise(loss, optimizer, *others, clip=self.config.grad_clip)
        # the temperature lies behind the actor in the optimizer's vector
        share = self.config.policy_average or 1.0
        self._flat_running.lerp_(optimizer.flat[: len(self._flat_running)], share)

    def critic_loss(self, batch: Batch, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`td_loss` of the executed chunks; features [B, F] → scalar, metrics."""
        q = self.value(self.critic, features, fold(batch.action))
        return td_loss(q, self.td_target(batch))

    def return_loss(self, batch: Batch, features: Tensor) -> Tensor:
        """`return_loss` of the executed chunks; features [B, F] → scalar."""
        return return_loss(self.value(self.critic, features, fold(batch.action)), batch, self.config.gamma)

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """Target y of `backup` with V(s) = min_E Q'(s, a'), a' ~ π(·|s) (RLPD, algorithm 1) → [B]."""
        c = self.config
        features = self.vision(batch.next_observation)
        action, log_density = self.next_action(batch, features)
        value = least(self.value(self.target, features, action), c.critic_subsample, self.generator)
        if c.backup_entropy:
            value = value - self.temperature() * log_density
        return backup(batch, value, c)

    def actor_loss(self, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """α log π(a|s) − mean_E Q(s, a) (RLPD, algorithm 1) + weight · cloning of what was shown, and of the prior.

        features [B, F], without gradient: images are learnt from the critic's loss alone (DrQ).

        Returns:
            The loss (scalar), log π [B] for the temperature, and metrics.
        """
        mean, log_std = self.actor(features)
        action, log_density = squash(mean, log_std, self.noise(mean))
        q = self.value(self.critic, features, action, frozen=True).mean()
        entropy_term = self.temperature().detach() * log_density.mean()
        cloning = self.cloning(mean, batch)
        if self.anchor is not None:
            cloning = cloning + self.drift(mean, batch, features)
        loss = entropy_term - q + cloning_weight(self.config, self.updates) * cloning
        metrics = {"actor_loss": loss, "bc_loss": cloning, "entropy": -log_density.mean(), "q_policy": q}
        return loss, log_density.detach(), {name: value.detach() for name, value in metrics.items()}

    def cloning(self, mean: Tensor, batch: Batch) -> Tensor:
        """Squared distance from what a person showed; mean [B, H·A] before tanh → scalar."""
        return bc_loss(mean, batch, batch.shown())

    def drift(self, mean: Tensor, batch: Batch, features: Tensor) -> Tensor:
        """Squared distance from the prior's action, where no person showed one → scalar."""
        with torch.no_grad():
            action = unfold(torch.tanh(self.anchor(features)[0]), self.spec.horizon)
        return bc_loss(mean, replace(batch, action=action), 1 - batch.shown())

    def next_action(self, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
        """What is done in the batch's next observations, of which features [B, F] are → as `sample_action`."""
        return self.sample_action(features)

    def temperature_loss(self, log_density: Tensor) -> Tensor:
        """α (H − H_target) with H = −mean log π (SAC, arXiv 1812.05905, eq. 18). log_density [B] → scalar."""
        return self.temperature() * (-log_density.mean() - self._entropy_goal)

    def sample_action(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a ~ π(·|s): folded chunk [B, H·A] and its log-density [B]."""
        mean, log_std = self.actor(features)
        return squash(mean, log_std, self.noise(mean))

    def value(self, critic: nn.Module, features: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """Q(s, a) of each critic: features [B, F], folded chunk [B, H·A] → [E, B]; frozen: without their gradient."""
        return critic(features, self.judged(features, action), frozen=frozen).squeeze(-1)

    def judged(self, features: Tensor, action: Tensor) -> Tensor:
        """What critics are shown of folded chunks [B, H·A] in their observations: the same."""
        return action

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal draw of the same shape, from the agent's generator."""
        return torch.randn(like.shape, generator=self.generator).to(like.device)
