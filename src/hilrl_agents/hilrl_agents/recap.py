"""Advantage-conditioned flow policy: imitates all that was done, told what went better than expected, and acts so.

RECAP: Physical Intelligence, π*0.6 (arXiv 2511.14759); classifier-free guidance: Ho and Salimans, arXiv 2207.12598. A
value function says how an episode will go on from here; a chunk that led to more than that is labelled positive, as is
whatever a person did. B rows, H steps a chunk, A action entries, F features, K bins.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilrl_agents.augmentation import augmented
from hilrl_agents.batch import Batch, fold, unfold
from hilrl_agents.config import option
from hilrl_agents.flow import flow_loss, integrate
from hilrl_agents.imitation import Imitation, ImitationOptions, gone_on
from hilrl_agents.networks import EnsembleMLP, ObservationEncoder, RunningMean
from hilrl_agents.optim import FlatAdam, minimise
from hilrl_agents.spec import PolicySpec

UNKNOWN, NEGATIVE, POSITIVE = 0, 1, 2


@dataclass(frozen=True)
class RecapConfig(ImitationOptions):
    """Options of `recap`; the paper's where nothing else is said."""

    hidden: tuple = option((512, 512, 512, 512), "Hidden layers of the velocity field")
    value_hidden: tuple = option((256, 256), "Hidden layers of the value function")
    learning_rate: float = option(3e-4, "Adam's step size, both networks", low=0)
    flow_steps: int = option(10, "Euler steps from noise to chunk", low=1)
    episode_steps: int = option(
        80, "Longest episode: a value of −1 is as many steps from success", "steps", low=1
    )
    failure_cost: float = option(
        1.0, "What an episode that ends unsolved costs; 1: as much as a longest episode", low=0
    )
    value_bins: int = option(201, "K, bins of the value's distribution over [−1, 0]", low=2)
    advantage_steps: int = option(
        10,
        "Steps that were really done before the value takes over in an advantage (paper: 50, at 50 Hz)",
        low=1,
    )
    positive_share: float = option(
        0.4,
        "Share of the policy's own chunks that count as positive (paper: 0.3 in pre-training, 0.4 in fine-tuning)",
        low=0,
        high=1,
    )
    condition_dropout: float = option(
        0.3, "Share of chunks whose label is hidden in learning, for guidance", low=0, high=1
    )
    guidance: float = option(
        1.0,
        "β: 1 acts as the positive chunks, more exaggerates what sets them apart (paper: 1 to 2.5)",
        low=0,
    )


class Recap(Imitation):
    """Flow policy v(s, x, t, label) and the distribution of the return V(s)."""

    name = "recap"
    Config = RecapConfig

    def __init__(self, spec: PolicySpec, config: RecapConfig, seed: int = 0) -> None:
        super().__init__(spec, config, seed)
        self.n_step = self.pretrain_n_step = config.advantage_steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            self.value_net = EnsembleMLP(1, self.encoder.size, config.value_hidden, config.value_bins)
        self.threshold = RunningMean()
        self.networks |= {"value": self.value_net, "threshold": self.threshold}
        self.optimizers["value"] = FlatAdam([self.value_net], config.learning_rate)
        self.bins = torch.linspace(-1, 0, config.value_bins)

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Observation encoder, and a perceptron of features, noisy chunk, time and label."""
        c, flat = self.config, self.spec.horizon * self.spec.action_dim
        encoder = ObservationEncoder(self.spec, c.image_channels, c.image_features, weights=self.frozen_file)
        return encoder, EnsembleMLP(1, encoder.size + flat + 1 + 3, c.hidden, flat)

    def pretrain(self, batch: Batch) -> dict[str, float]:
        """One step of value function and policy; demonstrations are positive.

        In `update` on all data: one round of RECAP never ends, it goes on.
        """
        c = self.config
        metrics = super().pretrain(batch)
        with torch.no_grad():
            features = self.encoder(
                augmented(batch.observation, c.image_shift, c.image_colors, self.generator)
            )
        loss = self.value_loss(features, batch)
        minimise(loss, self.optimizers["value"])
        return metrics | {"value_loss": loss.item()}

    def loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow matching of every chunk under its label (RECAP, eq. 3), see `flow_loss` → scalar, metrics."""
        label, advantage = self.labels(features, batch)
        kept = torch.rand(len(batch), generator=self.generator) >= self.config.condition_dropout
        label = torch.where(kept, label, UNKNOWN)
        action, _ = gone_on(batch)
        everything = torch.ones(action.shape[:2])
        velocity = partial(self.velocity, features, label)
        loss = flow_loss(velocity, self.actions(action), everything, self.generator)
        positive = (label == POSITIVE).float().sum() / kept.sum().clamp_min(1)
        metrics = {"bc_loss": loss, "positive": positive, "advantage": advantage.mean()}
        return loss, {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def labels(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which chunks are positive: a person's, and those with A(s, a) > ε; ε leaves `positive_share` of the others.

        Returns:
            int64 [B] of NEGATIVE and POSITIVE, and the advantages [B].
        """
        advantage = self.advantage(features, batch)
        person = (batch.person | (batch.valid() == 0)).all(1)
        if not person.all():
            self.threshold.follow(advantage[~person].quantile(1 - self.config.positive_share))
        positive = person | (advantage > self.threshold.value)
        return torch.where(positive, POSITIVE, NEGATIVE), advantage

    def advantage(self, features: Tensor, batch: Batch) -> Tensor:
        """A = Σ_{i<N} r_i + V(s_N) − V(s) with r = −1 / `episode_steps` (RECAP, sec. IV), features [B, F] → [B].

        At an end within the N steps its cost stands in place of V(s_N).
        """
        after = self.expected(self.encoder(batch.next_observation))
        ended = (batch.left > 0) & (batch.left <= batch.steps)
        ended |= batch.bootstrap == 0
        reached = torch.where(ended, self.closing(batch), after)
        done = batch.steps / self.config.episode_steps
        return (reached - done).clamp_min(-1) - self.expected(features)

    def closing(self, batch: Batch) -> Tensor:
        """What the end of each row's episode adds to its return, [B]: nothing if it was solved."""
        return torch.where(batch.solved, 0.0, -self.config.failure_cost)

    def value_loss(self, features: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the return's bin, over rows whose episode's end is stored (RECAP, eq. 1) → scalar."""
        known = (batch.left > 0).float()
        returns = (self.closing(batch) - batch.left / self.config.episode_steps).clamp(-1, 0)
        label = ((returns + 1) * (len(self.bins) - 1)).round().long()
        error = F.cross_entropy(self.value_net(features)[0], label, reduction="none")
        return (error * known).sum() / known.sum().clamp_min(1)

    def expected(self, features: Tensor) -> Tensor:
        """V(s), mean of the distribution: [B, F] → [B]."""
        return self.value_net(features)[0].softmax(1) @ self.bins

    def velocity(self, features: Tensor, label: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """v(s, x, t, label): features [B, F], label int64 [B], x [B, H, A], time [B, 1] → [B, H, A]."""
        told = F.one_hot(label, 3).float()
        return unfold(self.policy(features, fold(x), time, told)[0], self.spec.horizon)

    def guided(self, features: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """v_0 + β (v_positive − v_0) (arXiv 2207.12598, eq. 6 with β = 1 + w) → [B, H, A]."""
        positive = torch.full((len(x),), POSITIVE)
        velocity = self.velocity(features, positive, x, time)
        if self.config.guidance == 1:
            return velocity
        untold = self.velocity(features, torch.full_like(positive, UNKNOWN), x, time)
        return untold + self.config.guidance * (velocity - untold)

    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """A positive chunk, see `integrate` → [1, H, A]."""
        noise = torch.randn((1, self.spec.horizon, self.spec.action_dim), generator=generator)
        return integrate(partial(self.guided, features), noise, self.config.flow_steps)
