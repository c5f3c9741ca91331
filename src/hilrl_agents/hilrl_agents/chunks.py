"""From chunks of actions to one action per robot step: open loop, or every step's plans averaged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hilrl_agents.config import ConfigError, option


@dataclass(frozen=True)
class ChunkOptions:
    """How every agent's chunks are executed."""

    n_action_steps: int = option(
        1, "Actions of a chunk that are executed before the next one is planned; 1 plans at every step", low=1
    )
    temporal_ensemble_coeff: float = option(
        0.0,
        "m: plan at every step and average all plans for it with weights exp(-m i), i = 0 the oldest (ACT: 0.01); "
        "below 0 the newest weigh more: a robot that failed notices it; 0: no average",
    )


def check_execution(config: ChunkOptions, horizon: int, where: str) -> None:
    """Refuses options that a chunk of `horizon` actions cannot be executed with.

    Raises:
        ConfigError: names the option and what would be right.
    """
    steps = config.n_action_steps
    if steps > horizon:
        raise ConfigError(f"{where}.n_action_steps: is {steps}, expected at most chunk_size ({horizon})")
    if config.temporal_ensemble_coeff and steps > 1:
        raise ConfigError(
            f"{where}.n_action_steps: is {steps}, expected 1 with a temporal_ensemble_coeff: an average needs a plan "
            "at every step"
        )


class ChunkExecutor:
    """Gives an action for each step of an episode and asks the agent for a chunk where one is needed.

    A plan is good for the steps that follow it in its episode, by their numbers: a lost step costs its action and
    delays nothing. It ends with the episode, and with `interrupt`.

    Args:
        agent: an `Agent`; its `execution` says how chunks are executed.
    """

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self._episode: int | None = None
        self.interrupt()

    def interrupt(self) -> None:
        """Forgets what was planned: a person moved the arm elsewhere."""
        self._plans: list[
            tuple[int, int, np.ndarray]
        ] = []  # step that it begins at, version, chunk; oldest first

    def act(
        self,
        observation: Mapping[str, Any],
        explore: bool,
        seed: int,
        episode: int,
        step: int,
        version: int = 0,
    ) -> tuple[np.ndarray, int]:
        """Action for one step.

        Args:
            observation: as `Agent.act` takes it.
            explore: see `Agent.act`.
            seed: see `Agent.act`.
            episode: number of the episode.
            step: number of the step in it, rising.
            version: of the agent's weights now.

        Returns:
            float32 [A] in [-1, 1], and the version of the weights that planned it.
        """
        config = self.agent.execution
        if episode != self._episode:
            self._episode = episode
            self.interrupt()
        reach = (
            len(self._plans[-1][2])
            if config.temporal_ensemble_coeff and self._plans
            else config.n_action_steps
        )
        self._plans = [plan for plan in self._plans if 0 < step - plan[0] < reach]
        if config.temporal_ensemble_coeff or not self._plans:
            self._plans.append((step, version, self.agent.act(observation, explore, seed)))
        begin, planned_by, chunk = self._plans[-1]
        if not config.temporal_ensemble_coeff:
            return chunk[step - begin], planned_by
        actions = np.stack([plan[step - first] for first, _, plan in self._plans])
        exponent = -config.temporal_ensemble_coeff * np.arange(len(actions), dtype=np.float32)
        weights = np.exp(exponent - exponent.max())
        return (weights @ actions / weights.sum()).astype(np.float32), planned_by


class PriorExecutor:
    """What an agent's prior does in each step, for an agent that observes it; else it does nothing.

    Args:
        agent: whose prior it is.
    """

    def __init__(self, agent: Any) -> None:
        self._executor = ChunkExecutor(agent.prior) if agent.observes_prior else None
        # the prior may have one too
        self._beneath = PriorExecutor(agent.prior) if agent.observes_prior else None

    def interrupt(self) -> None:
        """Forgets what was planned: a person moved the arm elsewhere."""
        if self._executor:
            self._executor.interrupt()
            self._beneath.interrupt()

    def act(self, observation: Mapping[str, Any], seed: int, episode: int, step: int) -> np.ndarray:
        """Action [A] of the prior in this step, see `ChunkExecutor.act`; empty if it is not observed."""
        if self._executor is None:
            return np.zeros(0, np.float32)
        seen = with_prior_action(observation, self._beneath.act(observation, seed, episode, step))
        return self._executor.act(seen, False, seed, episode, step)[0]


def with_prior_action(observation: Mapping[str, Any], action: np.ndarray) -> dict[str, Any]:
    """The observation as an agent sees it that observes its prior's action [A]; unchanged if that is empty."""
    return {**observation, "state": np.concatenate([observation["state"], action])}
