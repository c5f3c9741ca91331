"""TD-MPC2: a world model without pictures, and planning in it at every step.

Hansen et al., arXiv 2310.16828. The model says, in its own latent state z, what follows on an action and what that is
worth; MPPI (Williams et al., arXiv 1509.01149) looks for the best H actions, and starts its search from a policy that
was learnt along. With demonstrations that policy imitates, too (MoDem, arXiv 2212.05698). B rows, H steps a plan (the
chunk), A action entries, Z latent entries, E critics, K bins, N plans.
"""

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hilrl_agents.agent import Agent, TakeoverOptions, to_batch
from hilrl_agents.batch import Batch, Observation
from hilrl_agents.chunks import ChunkOptions
from hilrl_agents.config import ConfigError, option
from hilrl_agents.networks import EnsembleMLP, GaussianActor, Handover, RunningMean, squash
from hilrl_agents.optim import FlatAdam, flatten, minimise
from hilrl_agents.spec import PolicySpec
from hilrl_agents.vision import EncoderOptions, Vision
from hilrl_agents.warm_start import WarmStart

GROUP = 8  # latent entries that sum up to 1


@dataclass(frozen=True)
class TDMPC2Config(TakeoverOptions, ChunkOptions, EncoderOptions):
    """Options of `tdmpc2`; defaults are the paper's, in its 1 million weights' size, where nothing else is said."""

    batch_size: int = option(256, "Rows of one gradient step, each of H steps", "rows", low=2)
    utd_ratio: int = option(1, "Gradient steps per update", low=1)
    gamma: float = option(0.97, "Discount per robot step (paper: by the episode's length)", low=0, high=1)
    tau: float = option(0.01, "Share of the critics that the target takes over per step", low=0, high=1)
    learning_rate: float = option(3e-4, "Adam's step size", low=0)
    encoder_scale: float = option(0.3, "The observation's encoder learns so much more slowly", low=0)
    grad_clip: float = option(20.0, "Bound on each optimizer's gradient norm; 0 for none", low=0)
    latent: int = option(128, "Z, a multiple of 8", low=8)
    hidden: tuple = option((384, 384), "Hidden layers of every network; the encoder has the first of them")
    critics: int = option(2, "Ensemble size (paper: 5 in larger models)", low=2)
    value_bins: int = option(101, "K, bins that rewards and values are told in", low=2)
    largest_symlog: float = option(
        10.0, "They span ± this, of symlog; 1 is ±1.7, where no episode earns more than 1", low=0.1
    )
    largest_return: float = option(0.0, "Bound on the target; 0 for none (paper: none)", low=0)
    rho: float = option(0.5, "What a step weighs in the losses, compared with the one before", low=0, high=1)
    consistency_weight: float = option(20.0, "Weight of the latent state's prediction", low=0)
    reward_weight: float = option(0.1, "Weight of the reward's prediction", low=0)
    value_weight: float = option(0.1, "Weight of the critics' loss", low=0)
    termination_weight: float = option(1.0, "Weight of the prediction that the episode ends", low=0)
    entropy_weight: float = option(1e-4, "Entropy per action entry in the policy's loss", low=0)
    initial_std: float = option(
        0.15,
        "The policy's standard deviation before any learning; a robot should not flail",
        low=0.01,
        high=2,
    )
    bc_loss_weight: float = option(
        0.1, "Behaviour cloning of what a person showed, in the policy's loss (paper: none)", low=0
    )
    bc_latent_weight: float = option(
        0.0,
        "The same in the latent state's loss: it then tells what imitation needs to know (MoDem; TD-MPC2: none)",
        low=0,
    )
    critic_warmup: int = option(
        500, "Updates in which the policy only imitates, before it follows the critics", "updates", low=0
    )
    planning_warmup: int = option(
        500,
        "Updates until plans are made: before, the policy acts (paper: random actions)",
        "updates",
        low=0,
    )
    iterations: int = option(3, "Rounds of search (paper: 6)", low=1)
    samples: int = option(128, "N, plans in each round (paper: 512)", low=2)
    policy_samples: int = option(24, "So many of them are the policy's", low=1)
    elites: int = option(32, "So many shape the next round (paper: 64)", low=1)
    elite_temperature: float = option(0.5, "How much more the better of them count", low=0)
    plan_std_min: float = option(0.05, "Smallest standard deviation of plans", low=0)
    plan_std_max: float = option(
        2.0, "Largest standard deviation of plans, that of the first round: of actions in [-1, 1]", low=0
    )
    state_std_floor: float = option(
        0.01, "Smallest std in the state's normalisation: 1 cm, 0.6°", "state's unit", low=1e-9
    )


class TDMPC2(Agent):
    """Encoder, dynamics, reward, termination, critics and policy over a latent state; MPPI over them.

    The search of one step knows nothing of the step before (the paper shifts the former plan): what is planned follows
    from weights, observation and seed alone. It starts from the mean of the policy's plans instead.
    """

    name = "tdmpc2"
    Config = TDMPC2Config
    policy_networks = (
        "encoder", "latent", "dynamics", "reward", "termination", "critic", "policy", "handover",
    )  # fmt: skip

    def __init__(self, spec: PolicySpec, config: TDMPC2Config, seed: int = 0) -> None:
        super().__init__(spec, config, seed)
        c, self.path = config, True
        _check(c)
        self.n_step = self.pretrain_n_step = spec.horizon
        pair = c.latent + spec.action_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.vision = Vision(spec, c, c.hidden, c.learning_rate * c.encoder_scale, False, self.generator)
            self.encoder = self.vision.encoder
            self.latent = EnsembleMLP(1, self.encoder.size, c.hidden[:1], c.latent)
            self.dynamics = EnsembleMLP(1, pair, c.hidden, c.latent)
            self.reward = EnsembleMLP(1, pair, c.hidden, c.value_bins, final_scale=0.0)
            self.termination = EnsembleMLP(1, c.latent, c.hidden, 1)
            self.critic = EnsembleMLP(c.critics, pair, c.hidden, c.value_bins, final_scale=0.0)
            self.policy = GaussianActor(c.latent, c.hidden, spec.action_dim, 0.01, 2.0, c.initial_std)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.scale, self.handover = RunningMean(1.0), Handover()
        self.bins = torch.linspace(-c.largest_symlog, c.largest_symlog, c.value_bins)
        self.networks = self.vision.networks | {
            name: getattr(self, name) for name in (*self.policy_networks[1:], "target", "scale")
        }
        self.features, self.pretrain_features = self.vision.features, self.vision.pretrain_features
        self.resting = self.vision.resting
        self.optimizers = {
            "latent": FlatAdam([self.latent], c.learning_rate * c.encoder_scale),
            "model": FlatAdam([self.dynamics, self.reward, self.termination], c.learning_rate),
            "critic": FlatAdam([self.critic], c.learning_rate),
            "policy": FlatAdam([self.policy], c.learning_rate),
        } | self.vision.optimizers
        self._flat_target = flatten(list(self.target.parameters()))

    @torch.no_grad()
    def warm_start(self, prior: Agent, freeze: Sequence[str] = ()) -> WarmStart:
        """Begins as another `tdmpc2`, whose critics the policy goes on following; their target begins as they do."""
        warm = super().warm_start(prior, freeze)
        self.target.load_state_dict(self.critic.state_dict())
        return warm

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any], explore: bool, seed: int | None = None) -> np.ndarray:
        """The best plan [H, A]; until plans are made, the policy's."""
        self.spec.check(observation)
        generator = self.generator if seed is None else torch.Generator().manual_seed(seed)
        z = simplex(self.latent(self.encoder(to_batch(observation)))[0])
        if self.handover.done:
            return self.plan(z, explore, generator).numpy()
        return self.roll_out(z, generator if explore else None)[0].numpy()

    def update(self, batch: Batch) -> dict[str, float]:
        """`utd_ratio` steps of the model and of the policy, each on a slice of the batch."""
        metrics: dict[str, float] = {}
        warming = self.prior is None and self.updates < self.config.critic_warmup
        for part in batch.split(self.config.utd_ratio):
            metrics = self._step(part, self.vision(part.observation), part.shown(), warming)
        self.updates += 1
        self.handover.done |= self.updates >= self.config.planning_warmup
        return metrics

    def pretrain(self, batch: Batch) -> dict[str, float]:
        """One step of the model on all rows; the policy imitates what a person did."""
        return self._step(batch, self.vision.imitate(batch), batch.person.float(), imitates=True)

    @property
    def refresh_due(self) -> bool:
        """Every `encoder_refresh` updates of an imitation encoder."""
        return self.vision.refresh_due(self.updates)

    def refresh(self, batches: Iterable[Batch]) -> None:
        """Fits an imitation encoder anew; the model learns its features along."""
        for batch in itertools.islice(batches, self.config.encoder_refresh_updates):
            self.pretrain(batch)

    def _step(self, batch: Batch, features: Tensor, shown: Tensor, imitates: bool) -> dict[str, float]:
        c, names = self.config, ("latent", "model", "critic")
        loss, z, metrics = self.model_loss(batch, features, shown)
        model = [self.optimizers[name] for name in names]
        minimise(loss, *model, *self.vision.with_values, clip=c.grad_clip)
        self._flat_target.lerp_(self.optimizers["critic"].flat, c.tau)
        loss = cloning = self.cloning_loss(z[:, :-1], batch, shown)
        if not imitates:
            loss = c.bc_loss_weight * cloning + self.policy_loss(z)
        minimise(loss, self.optimizers["policy"], clip=c.grad_clip)
        metrics |= {"bc_loss": cloning.detach()}
        return {name: float(value) for name, value in metrics.items()}

    def model_loss(
        self, batch: Batch, features: Tensor, shown: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Σ_t ρ^t (w_z |z_{t+1} − sg h(s_{t+1})|² + w_r CE(r_t) + w_q CE(Q_t) + w_d BCE(d_t)) / H (TD-MPC2, eq. 3).

        z_0 = h(s_0), z_{t+1} = d(z_t, a_t); means over rows, steps behind a termination count nothing. What imitation
        from z costs is added (`bc_latent_weight`; MoDem).

        Args:
            batch: with the path.
            features: of its observation, [B, F].
            shown: 1 on steps that are imitated, [B, H].

        Returns:
            The loss (scalar), z [B, H + 1, Z] without gradient, and metrics.
        """
        c, length = self.config, batch.action.shape[1]
        span = torch.arange(length)
        weight = batch.valid() * c.rho**span / length
        ended = (span == batch.steps[:, None] - 1) & (batch.bootstrap == 0)[:, None]
        with torch.no_grad():
            after = self.encode_path(batch.path)
            target = self.td_target(batch.reward, ended, after)
        z = [simplex(self.latent(features)[0])]
        for t in range(length):
            z.append(self.next(z[-1], batch.action[:, t]))
        path = torch.stack(z, 1)  # [B, H + 1, Z]
        before, action = path[:, :-1].flatten(0, 1), batch.action.flatten(0, 1)
        losses = {
            "consistency": (path[:, 1:] - after).square().mean(2),
            "reward": self.cross_entropy(self.reward(before, action), batch.reward),
            "value": self.cross_entropy(self.critic(before, action), target),
            "termination": F.binary_cross_entropy_with_logits(
                self.termination(path[:, 1:].flatten(0, 1)).view(ended.shape), ended.float(), reduction="none"
            ),
        }
        losses = {name: (weight * loss).sum() / len(batch) for name, loss in losses.items()}
        loss = c.consistency_weight * losses["consistency"] + c.reward_weight * losses["reward"]
        loss = loss + c.value_weight * losses["value"] + c.termination_weight * losses["termination"]
        loss = loss + c.bc_latent_weight * self.cloning_loss(path[:, :-1], batch, shown)
        metrics = {f"{name}_loss": value.detach() for name, value in losses.items()}
        return loss, path.detach(), metrics | {"td_target": target.mean()}

    def td_target(self, reward: Tensor, ended: Tensor, after: Tensor) -> Tensor:
        """Y = r + γ (1 − d) min of two random Q'(z', a'), a' ~ π(z') (TD-MPC2, eq. 4) → [B, H].

        Args:
            reward: [B, H].
            ended: bool [B, H], the episode terminated there.
            after: z' = h(s'), [B, H, Z].
        """
        c, z = self.config, after.flatten(0, 1)
        action, _ = self.sample_action(z)
        q = self.two(self.target(z, action)).amin(0).view(reward.shape)
        target = reward + c.gamma * ~ended * q
        return target.clamp(max=c.largest_return) if c.largest_return else target

    def policy_loss(self, z: Tensor) -> Tensor:
        """−Σ_t ρ^t (mean of two random Q(z_t, a) / S + w A H(π)) / (H + 1) (TD-MPC2, eq. 6); z [B, H + 1, Z] → scalar.

        S follows the range from the 5th to the 95th percentile of Q, and is at least 1.
        """
        c = self.config
        action, log_density = self.sample_action(z.flatten(0, 1))
        q = self.two(self.critic(z.flatten(0, 1), action, frozen=True)).mean(0)
        low, high = q.detach().quantile(torch.tensor([0.05, 0.95]))
        self.scale.follow(high - low)
        wanted = q / self.scale.value.clamp_min(1) - c.entropy_weight * self.spec.action_dim * log_density
        return -(wanted.view(z.shape[:2]) * c.rho ** torch.arange(z.shape[1])).mean()

    def cloning_loss(self, z: Tensor, batch: Batch, shown: Tensor) -> Tensor:
        """|tanh(μ(z_t)) − a_t|², summed over action entries, averaged over shown steps [B, H] → scalar."""
        mean = self.policy(z.flatten(0, 1))[0].view(batch.action.shape)
        error = (torch.tanh(mean) - batch.action).square().sum(2)
        shown = shown * batch.valid()
        return (error * shown).sum() / shown.sum().clamp_min(1)

    def plan(self, z: Tensor, explore: bool, generator: torch.Generator) -> Tensor:
        """MPPI (TD-MPC2, sec. 3.2): z [1, Z] → actions [H, A]; exploring draws an elite and adds noise to its start."""
        c = self.config
        z = z.expand(c.samples, -1)
        taught = self.roll_out(z[: c.policy_samples], generator)
        mean, std = taught.mean(0), torch.full_like(taught[0], c.plan_std_max)
        for _ in range(c.iterations):
            noise = torch.randn((c.samples - len(taught), *mean.shape), generator=generator)
            plans = torch.cat([taught, (mean + std * noise).clamp(-1, 1)])
            worth, best = self.worth(z, plans).topk(min(c.elites, c.samples))
            elites = plans[best]
            share = (c.elite_temperature * (worth - worth[0])).softmax(0)
            mean = torch.einsum("n,nha->ha", share, elites)
            std = torch.einsum("n,nha->ha", share, (elites - mean).square()).sqrt()
            std = std.clamp(c.plan_std_min, c.plan_std_max)
        if not explore:
            return mean
        chosen = elites[torch.multinomial(share, 1, generator=generator)[0]].clone()
        chosen[0] += std[0] * torch.randn(std[0].shape, generator=generator)
        return chosen.clamp(-1, 1)

    def worth(self, z: Tensor, plans: Tensor) -> Tensor:
        """Σ_t γ^t r_t + γ^H Q(z_H, π(z_H)), up to where an end is more likely than not: z [N, Z], [N, H, A] → [N]."""
        total, discount = torch.zeros(len(z)), torch.ones(len(z))
        for action in plans.unbind(1):
            total = total + discount * self.expected(self.reward(z, action))[0]
            z = self.next(z, action)
            discount = discount * self.config.gamma * (self.termination(z)[0, :, 0] <= 0)
        q = self.expected(self.critic(z, torch.tanh(self.policy(z)[0]))).mean(0)
        return total + discount * q

    def roll_out(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """The policy's actions in the model, without noise if there is no generator: z [N, Z] → [N, H, A]."""
        actions = []
        for _ in range(self.spec.horizon):
            mean, log_std = self.policy(z)
            if generator is not None:
                mean = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
            actions.append(torch.tanh(mean))
            z = self.next(z, actions[-1])
        return torch.stack(actions, 1)

    def next(self, z: Tensor, action: Tensor) -> Tensor:
        """Latent state after an action: [B, Z], [B, A] → [B, Z]."""
        return simplex(self.dynamics(z, action)[0])

    def encode_path(self, path: Observation) -> Tensor:
        """Latent states of observations [B, H, …] → [B, H, Z]."""
        images = "features" if "features" in path else "images"
        flat = path[images]
        flat = flat.flatten(0, 1) if images == "features" else {n: i.flatten(0, 1) for n, i in flat.items()}
        features = self.vision({"state": path["state"].flatten(0, 1), images: flat})
        return simplex(self.latent(features)[0]).unflatten(0, path["state"].shape[:2])

    def sample_action(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a ~ π(·|z): actions [B, A] and their log-densities [B]."""
        mean, log_std = self.policy(z)
        return squash(mean, log_std, torch.randn(mean.shape, generator=self.generator))

    def two(self, logits: Tensor) -> Tensor:
        """Values of two critics drawn at random: logits [E, B, K] → [2, B]."""
        return self.expected(logits[torch.randperm(len(logits), generator=self.generator)[:2]])

    def expected(self, logits: Tensor) -> Tensor:
        """Symexp of the mean over bins: [E, B, K] → [E, B]."""
        mean = logits.softmax(2) @ self.bins
        return mean.sign() * (mean.abs().exp() - 1)

    def cross_entropy(self, logits: Tensor, value: Tensor) -> Tensor:
        """Of logits [E, B·H, K] to two-hot symlog values [B, H], mean over E → [B, H]."""
        density = logits.log_softmax(2).mean(0)
        place = value.sign() * (value.abs() + 1).log()
        place = (place.flatten().clamp(self.bins[0], self.bins[-1]) - self.bins[0]) / (
            self.bins[1] - self.bins[0]
        )
        low = place.floor().long().clamp(0, len(self.bins) - 2)[:, None]
        share = place[:, None] - low
        told = density.gather(1, low) * (1 - share) + density.gather(1, low + 1) * share
        return -told.view(value.shape)


def _check(c: TDMPC2Config) -> None:
    """Refuses sizes that do not go together."""
    if c.latent % GROUP:
        raise ConfigError(f"tdmpc2.latent: is {c.latent}, expected a multiple of {GROUP}")
    if c.policy_samples >= c.samples:
        raise ConfigError(
            f"tdmpc2.policy_samples: is {c.policy_samples}, expected less than samples ({c.samples})"
        )


def simplex(z: Tensor) -> Tensor:
    """Normalises groups of entries to sums of 1 (SimNorm, TD-MPC2, eq. 5): [B, Z] → [B, Z]."""
    z = F.layer_norm(z, z.shape[-1:])
    return z.unflatten(-1, (-1, GROUP)).softmax(-1).flatten(-2)
