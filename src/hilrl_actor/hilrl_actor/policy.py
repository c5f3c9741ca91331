"""The policy that acts: from the learner's weights or from a checkpoint, one action per step of its chunks."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hilrl_msgs.msg import PolicyWeights

from hilrl_agents.checkpoint import load_checkpoint, start_agent, unpack_policy
from hilrl_agents.chunks import ChunkExecutor, PriorExecutor, with_prior_action
from hilrl_agents.lerobot_process import LeRobotProcessError
from hilrl_agents.tuning import tune_process
from hilrl_ros.contract import Contract
from hilrl_ros.messages import seconds
from hilrl_ros.node import UserError
from hilrl_ros.settings import AgentSettings


class Policy:
    """An agent that only acts.

    Attributes:
        version: Version of the weights, 0 before the first.
        learnt_until: Robot time of the newest transition that received weights were learnt from, s.
    """

    def __init__(self, contract: Contract, agent: Any, version: int = 0):
        agent.get_ready()
        self.contract, self.agent, self.version = contract, agent, version
        self.executor, self.prior = ChunkExecutor(agent), PriorExecutor(agent)
        self.prior_actions: dict[tuple[int, int], np.ndarray] = {}  # by episode and step, newest last
        self.learnt_until = 0.0
        self._acted_at = 0.0  # in an episode that is learnt from
        self._pauses: list[tuple[float, float]] = []  # between such episodes, s of robot time, newest last
        self.parts: dict[int, bytes] = {}
        self.receiving = 0

    @classmethod
    def untrained(cls, contract: Contract, settings: AgentSettings) -> Policy:
        """Make a policy that waits for its first weights.

        Raises:
            CheckpointError, ConfigError: The policy that it starts from does not fit.
        """
        tune_process()
        return cls(contract, start_agent(settings, contract.to_dict()))

    @classmethod
    def from_checkpoint(cls, contract: Contract, folder: Path) -> Policy:
        """Load the policy of a checkpoint.

        Raises:
            CheckpointError: It is no checkpoint, or of another contract; names the differing key.
        """
        tune_process()
        agent, checkpoint = load_checkpoint(folder, contract.to_dict(), policy_only=True)
        return cls(contract, agent, max(1, checkpoint.counters["policy_version"]))

    def receive(self, msg: PolicyWeights) -> bool:
        """Take a part of a policy; return True when a newer policy is complete and acts from now on.

        Raises:
            CheckpointError, ValueError: Checksum, algorithm or contract do not fit; the old weights stay.
        """
        if msg.version <= self.version or msg.version < self.receiving:
            return False
        if msg.part >= msg.parts:
            raise ValueError(
                f"weights refused: part {msg.part} of {msg.parts}, expected parts counted from 0"
            )
        if msg.version > self.receiving:
            self.receiving, self.parts = msg.version, {}
        self.parts[msg.part] = msg.data.tobytes()
        if len(self.parts) < msg.parts:
            return False
        data = b"".join(self.parts[i] for i in range(msg.parts))
        self.parts = {}
        if msg.agent != self.agent.name:
            raise ValueError(f"weights of agent '{msg.agent}' refused: this actor runs '{self.agent.name}'")
        if msg.contract_hash != self.contract.hash():
            raise ValueError(
                f"weights of contract {msg.contract_hash} refused: this actor's contract is {self.contract.hash()}"
            )
        self.agent.load_policy(unpack_policy(data, msg.sha256))
        self.version, self.learnt_until = msg.version, seconds(msg.header.stamp)
        return True

    def age(self, stamp: float, step: int) -> float:
        """Return the age of received weights in robot time, s; to be asked at every step that is learnt from.

        It counts from the newest transition that they were learnt from. Time between episodes, and in those that are
        not learnt from, makes weights no older: there was nothing to learn.
        """
        if step == 0 and self._acted_at:
            self._pauses.append((self._acted_at, stamp))
        self._acted_at = stamp
        self._pauses = [pause for pause in self._pauses if pause[0] >= self.learnt_until]
        return stamp - self.learnt_until - sum(end - begin for begin, end in self._pauses)

    def act(
        self, observation: dict[str, Any], explore: bool, seed: int, episode: int, step: int
    ) -> tuple[np.ndarray, int]:
        """Return the action [A] for a step of an episode, and the version of the weights that planned it.

        What is drawn depends on the weights, the episode's `seed` and the step alone.
        """
        seen = with_prior_action(observation, self.prior_action(observation, seed, episode, step))
        with _one_sentence():
            return self.executor.act(seen, explore, _draw(seed, step), episode, step, self.version)

    def prior_action(self, observation: dict[str, Any], seed: int, episode: int, step: int) -> np.ndarray:
        """Return what the agent's prior does in a step [A]; empty if the agent does not observe that.

        Asked again for one of the newest steps, it is the same.
        """
        key = episode, step
        if key not in self.prior_actions:
            with _one_sentence():
                action = self.prior.act(observation, _draw(seed, step, "prior"), episode, step)
            self.prior_actions = {k: v for k, v in self.prior_actions.items() if step - 10 < k[1] < step}
            self.prior_actions[key] = action
        return self.prior_actions[key]

    def interrupt(self) -> None:
        """Plan anew: a person acted."""
        self.executor.interrupt()
        self.prior.interrupt()


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Ends the node with a sentence where a policy's own process fails."""
    try:
        yield
    except LeRobotProcessError as error:
        raise UserError(str(error)) from None


def _draw(seed: int, step: int, *whose: str) -> int:
    """Seed of a draw; two that are made in the same step must not be alike."""
    digest = hashlib.sha256(repr((seed, step, *whose)).encode()).digest()
    return int.from_bytes(digest[:7], "little")
