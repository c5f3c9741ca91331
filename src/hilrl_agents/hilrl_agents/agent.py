"""What every learning algorithm offers to the actor, the learner and the checkpoints."""

import abc
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hilrl_agents.batch import Batch
from hilrl_agents.chunks import check_execution
from hilrl_agents.networks import FlatAdam
from hilrl_agents.spec import PolicySpec
from hilrl_agents.vision import FrozenImages


class AgentStateError(ValueError):
    """Tensors that do not belong to this agent; the message is one sentence for the user."""


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
        features: frozen image encoder whose cached features `update` takes in place of images; goes to
            `sample_mixed`. None: images.
        pretrain_features: the same for samples that go to `pretrain` and `refresh`.
        resting: weights from a file that never change, by their names there. No part of `state` and
            `policy_state`: a checkpoint keeps a copy, an actor reads the same file.
        generator: source of all randomness in learning; part of the state, so that a resumed run is the same
            run.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    policy_networks: ClassVar[tuple[str, ...]]

    def __init__(self, spec: PolicySpec, config: Any, seed: int = 0) -> None:
        check_execution(config, spec.horizon, self.name)
        self.spec, self.config = spec, config
        self.updates = 0
        self.n_step = self.pretrain_n_step = 1
        self.path = False
        self.features: FrozenImages | None = None
        self.pretrain_features: FrozenImages | None = None
        self.resting: Mapping[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, FlatAdam] = {}

    @property
    @abc.abstractmethod
    def batch_size(self) -> int:
        """Rows that `update` wants: the batch of a gradient step, times the gradient steps of an update."""

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

    @property
    def refresh_due(self) -> bool:
        """Whether `refresh` shall be called before the next `update`."""
        return False

    def refresh(self, batches: Iterable[Batch]) -> None:
        """Fits a frozen encoder anew on offline rows; takes as many of the batches as it wants."""
        raise NotImplementedError

    def fit_normalizer(self, states: np.ndarray, actions: np.ndarray) -> None:
        """Fixes the normalisation from data; once, before learning.

        Args:
            states: float [N, S], e.g. `offline.states()`.
            actions: float [M, A], e.g. `offline.actions()`; most agents take them as they are.
        """
        self.networks["encoder"].normalizer.fit(
            torch.as_tensor(states, dtype=torch.float32), self.config.state_std_floor
        )

    def policy_state(self) -> dict[str, Tensor]:
        """Copies of the tensors that acting needs, observation normalisation included."""
        return {name: tensor.detach().clone() for name, tensor in self._tensors(self.policy_networks).items()}

    def load_policy(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what another agent's `policy_state` returned; effective from the next `act`.

        Raises:
            AgentStateError: a tensor is missing, unknown or has another shape; nothing is loaded.
        """
        self._load(state, self._tensors(self.policy_networks))

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

    def _everything(self) -> dict[str, Tensor]:
        tensors = self._tensors(self.networks)
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
