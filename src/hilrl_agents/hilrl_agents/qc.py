"""Q-chunking: of N chunks that a flow policy proposes, the one that the critic values most is executed.

QC: Li et al., arXiv 2507.07969. The flow policy imitates (`flow.py`); it is never pulled away from what was done by
a critic that errs. B rows, E critics, N draws, H steps a chunk, A action entries, F features.
"""

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hilrl_agents.agent import Agent, TakeoverOptions, to_batch
from hilrl_agents.batch import Batch, fold, unfold
from hilrl_agents.chunks import ChunkOptions
from hilrl_agents.config import option
from hilrl_agents.critics import CriticOptions, backup, least, return_loss, td_loss, uses_bf16
from hilrl_agents.flow import flow_loss, integrate
from hilrl_agents.imitation import ActionNormalizer, gone_on
from hilrl_agents.networks import EnsembleMLP, Handover
from hilrl_agents.optim import AverageOptions, FlatAdam, flatten, minimise
from hilrl_agents.spec import PolicySpec
from hilrl_agents.vision import EncoderOptions, Vision
from hilrl_agents.warm_start import WarmStart, WarmStartError


@dataclass(frozen=True)
class QChunkingOptions(AverageOptions, CriticOptions, ChunkOptions, EncoderOptions, TakeoverOptions):
    """Options of `qc` and `qc_fql`; defaults are the paper's where nothing else is said."""

    batch_size: int = option(256, "Rows of one gradient step, half online and half offline", "rows", low=2)
    utd_ratio: int = option(
        1,
        "Steps of critic and policy per update: the flow policy, too, needs many to take over what a person corrects",
        low=1,
    )
    critic_warmup: int = option(
        500,
        "Updates until the critic has a say: before, the flow policy alone acts and is valued; an untrained critic "
        "would mislead",
        "updates",
        low=0,
    )
    clone: str = option(
        "people",
        "What the flow policy imitates: people's steps; solved: also the policy's own episodes that solved the task; "
        "all: everything, as in the paper, failures too",
        choices=("people", "solved", "all"),
    )
    correction_weight: float = option(
        1.0,
        "What a person's step counts in imitation in a batch's online half, where it is a correction; in the other "
        "half, with demonstrations, 1; corrections are few, and show what the policy lacks",
        low=0,
    )
    hidden: tuple = option((512, 512, 512, 512), "Hidden layers of the velocity field")
    critic_hidden: tuple = option((256, 256), "Hidden layers of the critics (paper: four times 512)")
    flow_steps: int = option(10, "Euler steps from noise to chunk", low=1)
    learning_rate: float = option(3e-4, "Adam's step size, all networks", low=0)
    grad_clip: float = option(0.0, "Bound on each network's gradient norm; 0 for none", low=0)
    state_std_floor: float = option(
        0.01, "Smallest std in the state's normalisation: 1 cm, 0.6°", "state's unit", low=1e-9
    )
    action_std_floor: float = option(
        0.01, "Smallest std in the actions' normalisation, of the range [-1, 1]", low=1e-9
    )


@dataclass(frozen=True)
class QCConfig(QChunkingOptions):
    """Options of `qc`."""

    best_of: int = option(32, "N, draws of which the best one is taken, in acting and in targets", low=1)


class QC(Agent):
    """Flow policy that imitates, chunk critic that chooses.

    `encoder`, `policy` and `actions` are `flow`'s, so that a trained flow policy can be copied into them.
    """

    name = "qc"
    Config = QCConfig
    policy_networks = ("encoder", "policy", "actions", "critic", "handover")
    prior_networks = {"flow": {"encoder": "encoder", "policy": "policy", "actions": "actions"}}  # noqa: RUF012
    prior_options = ("hidden", "flow_steps", "image_encoder", "image_channels", "image_features")

    def __init__(self, spec: PolicySpec, config: QChunkingOptions, seed: int = 0) -> None:
        super().__init__(spec, config, seed)
        c, flat = config, spec.horizon * spec.action_dim
        self.pretrain_n_step = c.pretrain_returns or 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.vision = Vision(spec, c, c.critic_hidden, c.learning_rate, False, self.generator)
            self.encoder = self.vision.encoder
            self.policy = EnsembleMLP(1, self.encoder.size + flat + 1, c.hidden, flat)
            self.critic = EnsembleMLP(c.critics, self.encoder.size + flat, c.critic_hidden, 1, uses_bf16(c))
            self.actors = self.build_actors(flat)
        self.actions, self.handover = ActionNormalizer(spec.action_dim), Handover()
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.networks = self.vision.networks | {
            "policy": self.policy,
            "actions": self.actions,
            "critic": self.critic,
            "target": self.target,
            "handover": self.handover,
        }
        self.networks |= self.actors
        self.features, self.pretrain_features = self.vision.features, self.vision.pretrain_features
        self.resting = self.vision.resting
        acting = [self.policy, *self.actors.values()]
        self.optimizers = {
            "critic": FlatAdam([self.critic], c.learning_rate),
            "policy": FlatAdam(acting, c.learning_rate, c.policy_average),
        }
        self.optimizers |= self.vision.optimizers
        self._flat_target = flatten(list(self.target.parameters()))

    def build_actors(self, flat: int) -> dict[str, nn.Module]:
        """Further networks that act, by name; `flat` is H·A."""
        return {}

    @torch.no_grad()
    def warm_start(self, prior: Agent, freeze: Sequence[str] = ()) -> WarmStart:
        """Begins as a flow policy (or an agent like itself), bit for bit; what is new learns before it has a say.

        An image encoder stays for good as the prior has it.
        """
        for key, own, theirs in (
            ("chunk_size", self.spec.horizon, prior.spec.horizon),
            ("flow_steps", self.config.flow_steps, prior.config.flow_steps),
        ):
            if own != theirs:
                raise WarmStartError(
                    f"{self.name}.{key}: is {own}, expected {theirs}, as in its prior '{prior.name}'"
                )
        self.vision.rest_as(prior.encoder)
        warm = super().warm_start(prior, freeze)
        for name, reason in warm.fresh:
            if name.startswith(("encoder.", "policy.", "actions.")):
                raise WarmStartError(
                    f"{self.name} would not act as its prior '{prior.name}': {name} {reason}"
                )
        self.target.load_state_dict(self.critic.state_dict())
        return warm

    @property
    def spread(self) -> Tensor:
        """How much the actions vary that it was taught [A]."""
        return self.actions.std.clamp_min(self.config.action_std_floor)

    @property
    def execution(self) -> ChunkOptions:
        """As its prior, so that it acts just as that one, until the critic has a say."""
        return self.config if self.prior is None or self.handover.done else self.prior.execution

    @property
    def pretrains(self) -> bool:
        """Imitation where it is no prior's, and the critic's start on returns."""
        return self.prior is None or self.config.pretrain_returns > 0

    @property
    def ready(self) -> bool:
        """Whether the critic was updated often enough to have a say."""
        return self.updates >= self.config.critic_warmup

    def fit_normalizer(self, states: np.ndarray, actions: np.ndarray) -> None:
        """Fixes the normalisation of state and action from data; once, before learning."""
        super().fit_normalizer(states, actions)
        actions = torch.as_tensor(actions, dtype=torch.float32)
        self.actions.fit(actions, to_range=False, floor=self.config.action_std_floor)

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any], explore: bool, seed: int | None = None) -> np.ndarray:
        """The best of N draws, of one until the critic is warm → [H, A]; exploring adds nothing."""
        self.spec.check(observation)
        generator = self.generator if seed is None else torch.Generator().manual_seed(seed)
        with self.averaged():
            return self.choose(self.encoder(to_batch(observation)), generator)[0].numpy()

    def update(self, batch: Batch) -> dict[str, float]:
        """A step of critic and policy on each of `utd_ratio` slices of the batch."""
        c = self.config
        for part in batch.split(c.utd_ratio):
            features = self.vision(part.observation)
            loss, metrics = self.critic_loss(part, features)
            minimise(loss, self.optimizers["critic"], *self.vision.with_values, clip=c.grad_clip)
            self._flat_target.lerp_(self.optimizers["critic"].flat, c.tau)
            loss, policy_metrics = self.policy_loss(part, features.detach(), self.imitated(part))
            minimise(loss, self.optimizers["policy"], clip=c.grad_clip)
        self.updates += 1
        self.handover.done |= self.ready
        return {name: float(value) for name, value in (metrics | policy_metrics).items()}

    def pretrain(self, batch: Batch) -> dict[str, float]:
        """One imitation step of policy and trained image encoder on what a person did in the batch.

        With `pretrain_returns`, also one step of the critic towards the returns of all rows. What was taken over from
        a prior rests.
        """
        c, metrics = self.config, {}
        if self.prior is None:
            features, metrics = self._imitate(batch)
        else:
            features = self.vision(batch.observation)
        if c.pretrain_returns:
            error = self.return_loss(batch, features)
            minimise(error, self.optimizers["critic"], clip=c.grad_clip)
            metrics |= {"return_loss": error.detach()}
            self._flat_target.lerp_(self.optimizers["critic"].flat, c.tau)
        return {name: float(value) for name, value in metrics.items()}

    @property
    def refresh_due(self) -> bool:
        """Every `encoder_refresh` updates of an imitation encoder."""
        return self.vision.refresh_due(self.updates)

    def refresh(self, batches: Iterable[Batch]) -> None:
        """Fits an imitation encoder anew, and the policy to its features; the critic meets them afterwards."""
        for batch in itertools.islice(batches, self.config.encoder_refresh_updates):
            self._imitate(batch)

    def _imitate(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """One imitation step → features [B, F] without gradient, metrics."""
        features = self.vision.imitate(batch)
        loss, metrics = self.imitation_loss(batch, features, gone_on(batch)[1])
        minimise(loss, self.optimizers["policy"], *self.vision.with_values, clip=self.config.grad_clip)
        return features.detach(), metrics

    def imitated(self, batch: Batch) -> Tensor:
        """float32 [B, H], weight of each step in imitation; 0: `clone` leaves it out."""
        c, person = self.config, gone_on(batch)[1]
        own = {"people": torch.zeros(()), "solved": batch.solved.float()[:, None], "all": torch.ones(())}
        corrected = person * (~batch.offline).float()[:, None]  # among online rows a person only corrects
        return torch.maximum(person, own[c.clone]) + (c.correction_weight - 1) * corrected

    def critic_loss(self, batch: Batch, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`td_loss` of the executed chunks (QC, sec. 4); features [B, F] → scalar, metrics."""
        q = self.value(self.critic, features, gone_on(batch)[0])
        return td_loss(q, self.td_target(batch))

    def return_loss(self, batch: Batch, features: Tensor) -> Tensor:
        """`return_loss` of the executed chunks; features [B, F] → scalar."""
        return return_loss(self.value(self.critic, features, gone_on(batch)[0]), batch, self.config.gamma)

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """Target y of `backup` with V(s) = min_E Q'(s, a'), a' the best of N (QC, sec. 4) → [B].

        The paper takes the mean over critics; with few data it overestimates.
        """
        features = self.vision(batch.next_observation)
        with self.averaged():
            chunk = self.choose(features, self.generator)
        q = self.value(self.target, features, chunk)
        return backup(batch, least(q, self.config.critic_subsample, self.generator), self.config)

    def policy_loss(self, batch: Batch, features: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the acting networks (scalar) and metrics; features [B, F], weight of imitated steps [B, H]."""
        return self.cloning_loss(batch, features, weight)

    def imitation_loss(
        self, batch: Batch, features: Tensor, weight: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the acting networks follow where nothing but imitation counts, as `policy_loss`."""
        return self.cloning_loss(batch, features, weight)

    def cloning_loss(
        self, batch: Batch, features: Tensor, weight: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow matching of the weighted steps (QC, sec. 4), see `flow_loss` → scalar, metrics."""
        chunk = self.actions(gone_on(batch)[0])
        loss = flow_loss(partial(self.velocity, features), chunk, weight, self.generator)
        return loss, {"bc_loss": loss.detach()}

    def value(self, critic: nn.Module, features: Tensor, chunk: Tensor, frozen: bool = False) -> Tensor:
        """Q(s, a) of each critic: features [B, F], chunk in [-1, 1] [B, H, A] → [E, B]."""
        return critic(features, fold(self.actions(chunk)), frozen=frozen).squeeze(-1)

    def velocity(self, features: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Velocity v(s, x, t): features [B, F], x [B, H, A], time [B, 1] → [B, H, A]."""
        return unfold(self.policy(features, fold(x), time)[0], self.spec.horizon)

    def draw(self, features: Tensor, noise: Tensor) -> Tensor:
        """Normalised chunks of the flow policy: features [B, F], noise [B, H, A] → [B, H, A]."""
        return integrate(partial(self.velocity, features), noise, self.config.flow_steps)

    def noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Standard normal draw [rows, H, A]."""
        return torch.randn((rows, self.spec.horizon, self.spec.action_dim), generator=generator)

    def choose(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Chunks to execute in [-1, 1]: argmax over N draws of min_E Q (QC, sec. 4); features [B, F] → [B, H, A]."""
        count = self.config.best_of if self.handover.done else 1
        features = features.repeat_interleave(count, 0)
        chunk = self.actions.inverse(self.draw(features, self.noise(len(features), generator)))
        if count == 1:
            return chunk
        best = self.value(self.critic, features, chunk).amin(0).view(-1, count).argmax(1)
        return chunk.unflatten(0, (-1, count))[torch.arange(len(best)), best]
