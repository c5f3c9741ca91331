"""What every learning algorithm offers to the actor, the learner and the checkpoints."""

import abc
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hilrl_agents.batch import Batch
from hilrl_agents.chunks import ChunkOptions, check_execution
from hilrl_agents.config import ConfigError, option
from hilrl_agents.optim import FlatAdam
from hilrl_agents.spec import PolicySpec
from hilrl_agents.vision import FrozenImages
from hilrl_agents.warm_start import WarmStart, WarmStartError, copy_matching, fingerprint, matching


class AgentStateError(ValueError):
    """Tensors that do not belong to this agent; the message is one sentence for the user."""


@dataclass(frozen=True)
class TakeoverOptions:
    """What a person's take-over means to values."""

    takeovers_end: bool = option(
        False,
        "Where a person takes over, what the policy did counts as a failure's end: its values are then those of the "
        "policy alone, not of what the person makes of it (RLIF, arXiv 2311.12996, pays −1 there)",
    )


class Agent(abc.ABC):
    """A policy that acts and learns. A new algorithm is one subclass and one line in `registry.py`.

    A subclass fills `networks` and `optimizers` in its constructor, names in `policy_networks` what acting
    needs, and writes `act`, `update` and `pretrain`; storage follows from these.

    Args:
        spec: shapes of observations and actions.
        config: options; an instance of `Config`.
        seed: of the initial weights and of everything random in learning.

    Attributes:
        name: how the algorithm is called in launch files and checkpoints.
        Config: frozen dataclass of the algorithm's options.
        updates: calls of `update` so far.
        n_step: robot steps whose rewards a sample must carry; goes to `sample_mixed`.
        pretrain_n_step: the same for samples that go to `pretrain`.
        path: whether samples must carry the observations after each step; goes to `sample_mixed`.
        takeovers_end: whether what the policy did ends, for its samples, where a person took over; goes to the
            `ReplayBuffer` of what it does.
        features: frozen image encoder whose cached features `update` takes in place of images; goes to
            `sample_mixed`. None: images.
        pretrain_features: the same for samples that go to `pretrain` and `refresh`.
        resting: weights from a file that never change, by their names there. No part of `state` and
            `policy_state`: a checkpoint keeps a copy, an actor reads the same file.
        generator: source of all randomness in learning; part of the state, so that a resumed run is the same
            run.
        prior: the policy that it was warm-started from, which never changes; None: it began with fresh weights.
            A checkpoint keeps a copy.
        warm: what was taken over from the prior.
        prior_networks: for each algorithm that it can start from besides its own: which part of that policy each
            of its own parts is a copy of.
        observes_prior: whether its prior acts beneath it: the state of all its observations, in `act` and in batches,
            ends with the action [A] that the prior, executed as the prior's options say, does in that step.
        prior_options: options that are as in a prior of another algorithm unless something else is said, besides
            how chunks are executed.
        shows_images: whether there is `seen_images`.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    policy_networks: ClassVar[tuple[str, ...]]
    prior_networks: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    observes_prior: ClassVar[bool] = False
    prior_options: ClassVar[tuple[str, ...]] = ()
    shows_images: ClassVar[bool] = True

    def __init__(self, spec: PolicySpec, config: Any, seed: int = 0) -> None:
        check_execution(config, spec.horizon, self.name)
        if getattr(config, "image_encoder", "") == "prior" and not self.observes_prior:
            raise ConfigError(
                f"{self.name}.image_encoder: is prior, which ibrl and residual alone can see with; expected trained, "
                "imitation or a file of weights"
            )
        self.spec, self.config = spec, config
        self.updates = 0
        self.n_step = self.pretrain_n_step = 1
        self.path = False
        self.takeovers_end = isinstance(config, TakeoverOptions) and config.takeovers_end
        self.features: FrozenImages | None = None
        self.pretrain_features: FrozenImages | None = None
        self.resting: Mapping[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, FlatAdam] = {}
        self.prior: Agent | None = None
        self.warm: WarmStart | None = None
        self._origin: dict[str, Tensor] = {}

    @classmethod
    def starts_from(cls, prior: str) -> bool:
        """Whether `warm_start` takes a policy of this algorithm."""
        return prior == cls.name or prior in cls.prior_networks

    @torch.no_grad()
    def warm_start(self, prior: "Agent", freeze: Sequence[str] = ()) -> WarmStart:
        """Begins as an imitation policy; `make_agent` calls it, before anything is loaded.

        Tensors of the prior's that match in name and shape are copied, observation normalisation included; the
        rest stays fresh.

        Args:
            prior: agent whose policy acts as wanted, of an algorithm that `starts_from` knows; it is not trained
                any more.
            freeze: glob patterns of the agent's parameters that shall never move.

        Raises:
            WarmStartError: this policy is not one to start from, or a pattern fits nothing.
        """
        origins = self.prior_networks.get(prior.name) or {name: name for name in self.policy_networks}
        copied, fresh = copy_matching(
            self._tensors(self.networks), prior._tensors(prior.policy_networks), origins
        )
        differs = [(n, why) for n, why in fresh if n.partition(".")[0] in self.policy_networks]
        if not copied or (differs and prior.name == self.name):
            name, reason = (differs or fresh)[0]
            raise WarmStartError(
                f"'{self.name}' would not act as this policy of '{prior.name}': {name} {reason}; leave out of the "
                "agent's file what the policy was trained with otherwise"
            )
        return self._begun(prior, copied, fresh, freeze)

    def _begun(
        self,
        prior: "Agent",
        copied: Iterable[str],
        fresh: Iterable[tuple[str, str]],
        freeze: Sequence[str],
    ) -> WarmStart:
        """Notes what was taken over from a prior, and freezes what is named; ends every `warm_start`."""
        self.prior = prior
        self.warm = WarmStart(prior.name, tuple(copied), tuple(fresh), self.freeze(freeze))
        self._origin = {"prior.fingerprint": fingerprint(prior.policy_state())}
        if self.features is not None:
            self.features.changed()
        return self.warm

    def freeze(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Lets trained parameters rest for good that a glob pattern fits; returns their names.

        Raises:
            WarmStartError: a pattern fits no parameter that is trained.
        """
        trained = {id(p) for optimizer in self.optimizers.values() for p in optimizer.parameters}
        parameters = {
            f"{network}.{name}": parameter
            for network, module in self.networks.items()
            for name, parameter in module.named_parameters()
            if id(parameter) in trained
        }
        names = matching(patterns, parameters, self.name)
        if names:
            for optimizer in self.optimizers.values():
                optimizer.freeze(parameters[name] for name in names)
        return tuple(names)

    @property
    def spread(self) -> Tensor | None:
        """How much the actions vary that it was taught, float32 [A]; None: nothing is known of it."""
        return None

    def get_ready(self) -> None:
        """Does what acting needs and takes long; else the first `act` does it."""
        if self.prior is not None:
            self.prior.get_ready()

    def let_go(self) -> None:
        """Gives back what `get_ready` took; an `act` after it takes it again."""
        if self.prior is not None:
            self.prior.let_go()

    @property
    def pretrains(self) -> bool:
        """Whether `pretrain` has something to do before the policy first acts: not where a prior acts already."""
        return self.prior is None

    @property
    def execution(self) -> ChunkOptions:
        """How its chunks are executed now."""
        return self.config

    @property
    def batch_size(self) -> int:
        """Rows that `update` wants: the batch of a gradient step, times the gradient steps of an update."""
        return self.config.batch_size * self.config.utd_ratio

    @abc.abstractmethod
    def act(self, observation: Mapping[str, Any], explore: bool, seed: int | None = None) -> np.ndarray:
        """Action chunk for one observation.

        Args:
            observation: state float32 [S], images {name: uint8 [height, width, channels]}.
            explore: draw from the policy; False takes its mode.
            seed: decides the draw alone: same weights, observation and seed give the same bits. None draws
                from the agent's own generator.

        Returns:
            float32 [H, A] in [-1, 1].
        """

    @abc.abstractmethod
    def update(self, batch: Batch) -> dict[str, float]:
        """One learner step (all its gradient steps) on `batch_size` rows; returns what to log, by name."""

    @abc.abstractmethod
    def pretrain(self, batch: Batch) -> dict[str, float]:
        """One step of imitation on offline rows; returns what to log, by name."""

    def seen_images(self, images: Mapping[str, Tensor]) -> Tensor:
        """What the policy makes of images, before it knows the state: another agent may see with it.

        Args:
            images: {name: uint8 [B, height, width, channels]}.

        Returns:
            float32 [B, F].
        """
        return self.networks["encoder"].images(images)

    def measured(self, earned: float) -> None:  # noqa: B027
        """Takes note of what the policy that it began as earned, measured without exploration before any learning.

        Args:
            earned: mean sum of the rewards of an episode.
        """

    def episode_over(self, earned: float) -> None:  # noqa: B027
        """Takes note of an episode of training whose transitions `update` has had.

        Args:
            earned: sum of its rewards; 0 where a person helped.
        """

    @property
    def refresh_due(self) -> bool:
        """Whether `refresh` shall be called before the next `update`."""
        return False

    def refresh(self, batches: Iterable[Batch]) -> None:
        """Fits a frozen encoder anew on offline rows; takes as many of the batches as it wants."""
        raise NotImplementedError

    def fit_normalizer(self, states: np.ndarray, actions: np.ndarray) -> None:
        """Fixes the normalisation from data; once, before learning. A warm-started agent keeps its prior's.

        Args:
            states: float [N, S], e.g. `offline.states()`.
            actions: float [M, A], e.g. `offline.actions()`; most agents take them as they are.
        """
        self.networks["encoder"].normalizer.fit(
            torch.as_tensor(states, dtype=torch.float32), self.config.state_std_floor
        )

    def policy_state(self) -> dict[str, Tensor]:
        """Copies of the tensors that acting needs, observation normalisation included; averaged where that is done."""
        with self.averaged():
            return {name: tensor.detach().clone() for name, tensor in self._acting().items()}

    def load_policy(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what another agent's `policy_state` returned; effective from the next `act`.

        Raises:
            AgentStateError: a tensor is missing, unknown or has another shape; nothing is loaded.
        """
        self._load(state, self._acting())
        for optimizer in self.optimizers.values():
            optimizer.begin_anew()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, parameters are their running averages, where an optimizer keeps one."""
        with contextlib.ExitStack() as stack:
            for optimizer in self.optimizers.values():
                stack.enter_context(optimizer.averaged())
            yield

    def state(self) -> dict[str, Tensor]:
        """Copies of everything: networks, targets, optimizer states, counters and the random generator."""
        return {name: tensor.detach().clone() for name, tensor in self._everything().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` returned; learning then goes on exactly as it would have there.

        Raises:
            AgentStateError: a tensor is missing, unknown or has another shape; nothing is loaded.
        """
        self._load(state, self._everything())
        for name, optimizer in self.optimizers.items():
            optimizer.load_state({key: state[f"optimizer.{name}.{key}"] for key in optimizer.state()})
        self.updates = int(state["updates"])
        self.generator.set_state(state["generator"])

    def _tensors(self, names: Any) -> dict[str, Tensor]:
        return {f"{n}.{key}": tensor for n in names for key, tensor in self.networks[n].state_dict().items()}

    def _acting(self) -> dict[str, Tensor]:
        return self._tensors(self.policy_networks) | self._origin

    def _everything(self) -> dict[str, Tensor]:
        tensors = self._tensors(self.networks) | self._origin
        for name, optimizer in self.optimizers.items():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state().items()}
        return tensors | {"updates": torch.tensor(self.updates), "generator": self.generator.get_state()}

    def _load(self, state: Mapping[str, Tensor], own: dict[str, Tensor]) -> None:
        """Copies `state` into this agent's tensors of the same names, all or nothing."""
        for name in [*own, *state]:
            if name not in state:
                raise AgentStateError(f"'{name}' is missing from these weights of a '{self.name}' agent")
            if name not in own:
                raise AgentStateError(f"'{name}' in these weights is unknown to this '{self.name}' agent")
            if state[name].shape != own[name].shape:
                raise AgentStateError(
                    f"'{name}' has shape {tuple(state[name].shape)}, this agent's is {tuple(own[name].shape)}"
                )
            if name == "prior.fingerprint" and not torch.equal(state[name], own[name]):
                raise AgentStateError(
                    "these weights were learnt over another prior policy than the one given here; give the same"
                )
            if name.endswith("fingerprint") and not torch.equal(state[name], own[name]):
                raise AgentStateError(
                    f"these weights belong to another image encoder than {self.config.image_encoder}; "
                    "give the file that they were trained with"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        if self.features is not None:
            self.features.changed()


def to_batch(observation: Mapping[str, Any]) -> dict[str, Any]:
    """Observation of one step as a batch of one: arrays to tensors with a leading 1."""
    images = {
        name: torch.from_numpy(np.ascontiguousarray(i))[None] for name, i in observation["images"].items()
    }
    return {"state": torch.as_tensor(observation["state"], dtype=torch.float32)[None], "images": images}
