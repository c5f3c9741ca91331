"""Stores transitions, imitates demonstrations, follows with updates, keeps checkpoints. No ROS communication."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hilrl_msgs.msg import Action, Observation, Transition

from hilrl_agents.batch import Batch
from hilrl_agents.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    pack_policy,
    read_checkpoint,
    save_checkpoint,
    start_agent,
)
from hilrl_agents.chunks import PriorExecutor, with_prior_action
from hilrl_agents.registry import own_settings
from hilrl_agents.replay import ReplayBuffer, sample_mixed
from hilrl_agents.tuning import tune_process
from hilrl_data.bags import EpisodeInfo, episode_folders, read_episode, read_info
from hilrl_ros.contract import Contract
from hilrl_ros.messages import Step, observation_arrays, seconds
from hilrl_ros.settings import AgentSettings


@dataclass(frozen=True)
class LearnerSettings:
    """What the learner does around the algorithm.

    Attributes:
        seed: Of initial weights and sampling.
        pretrain_updates: Updates that imitate the demonstrations before the policy first acts.
        learning_starts: Transitions stored before updates begin.
        online_capacity: Robot steps that the online buffer holds.
        offline_capacity: Robot steps of demonstrations and interventions that are held, besides `offline_data`.
        offline_data: Folders of recorded episodes that are learnt from besides the demonstrations.
        threads: Threads of torch.
    """

    seed: int = 0
    pretrain_updates: int = 1000
    learning_starts: int = 100
    online_capacity: int = 100_000
    offline_capacity: int = 20_000
    offline_data: tuple[Path, ...] = ()
    threads: int = 1


class Earnings:
    """What the episodes of a stream of transitions earned."""

    def __init__(self) -> None:
        self._episode: int | None = None
        self._sum, self._helped = 0.0, False
        self._over: deque[tuple[int, float]] = deque()  # number of an episode's last transition, and its sum

    def add(self, msg: Transition) -> None:
        """Take the next transition."""
        if msg.observation.step == 0:
            self._episode, self._sum, self._helped = msg.observation.episode, 0.0, False
        elif msg.observation.episode != self._episode:
            self._episode = None  # its beginning is missing, or it went on with another learner
            return
        self._sum += msg.reward
        self._helped |= msg.controller == Action.PERSON
        if msg.terminated or msg.truncated:
            self._over.append((msg.seq, 0.0 if self._helped else self._sum))
            self._episode = None

    def until(self, seq: int) -> Iterator[float]:
        """Give, once, what each episode earned that ended with this transition or before; 0 where a person helped."""
        while self._over and self._over[0][0] <= seq:
            yield self._over.popleft()[1]


class Learner:
    """One algorithm at work on the buffers of one run.

    `ingest` may be called from another thread than the rest. One update of the agent follows each stored transition
    (with the agent's UTD ratio inside it), exactly: `due` counts the updates that are still to be done.

    Args:
        contract: Contract of the run.
        agent: The algorithm and its options.
        folder: The run's folder; `replay/`, `checkpoint/` and `policy_version` live in it.
        settings: See `LearnerSettings`.
    """

    def __init__(self, contract: Contract, agent: AgentSettings, folder: Path, settings: LearnerSettings):
        tune_process(settings.threads)
        self.contract, self.folder, self.settings = contract, folder, settings
        self.checkpoint = folder / "checkpoint"
        self.pretrained = has_checkpoint(self.checkpoint)
        if self.pretrained:
            options = self._check_algorithm(agent)
            self.agent, _ = load_checkpoint(self.checkpoint, contract.to_dict(), overrides=options)
        else:
            self.agent = start_agent(agent, contract.to_dict(), settings.seed)
        spec = self.agent.spec
        replay, ends = folder / "replay", self.agent.takeovers_end
        self.online = ReplayBuffer(replay / "online", spec, settings.online_capacity, ends)
        self._prior = [episode for data in settings.offline_data for episode in self._recorded(data)]
        capacity = settings.offline_capacity + sum(info.steps + 1 for _, info in self._prior)
        self.offline = ReplayBuffer(replay / "offline", spec, capacity, ends)
        # of the updates too: a restarted learner shall not draw the batches of its beginning again
        self.rng = np.random.default_rng((settings.seed, self.agent.updates))
        self.lock = threading.Lock()
        self.earnings = Earnings()
        # seq and robot time of the newest transition learnt from, and of those stored since
        self._stamps: deque[tuple[int, float]] = deque([(self.last_seq, 0.0)])
        self.metrics: dict[str, float] = {}
        self.recent: deque[float] = deque(maxlen=200)
        self.version = self._read_version()

    def load_offline(self, demos: Path | None) -> int:
        """Read demonstrations and the offline data into the offline buffer.

        Of demonstrations what the person did is learnt from: nothing is shown before a person takes hold of the
        device, and after letting go. Of offline data every step is, and what the person did is imitated. Reading the
        same episodes again after a restart adds nothing twice.

        Args:
            demos: Folder of the demonstrations; None if there are none.

        Returns:
            Number of steps that a person did.

        Raises:
            BagError: An episode is damaged or was recorded under another contract.
        """
        demonstrated = self._recorded(demos) if demos else []
        episodes = [*demonstrated, *self._prior]
        seq, shown = -sum(info.steps for _, info in episodes), 0
        for number, (path, info) in enumerate(episodes):
            prior = PriorExecutor(self.agent)
            for step in read_episode(path, info):
                person = step.executed.controller == Action.PERSON
                if person or number >= len(demonstrated):
                    self._add_demo(seq, number - len(episodes), step, prior)
                if person:
                    prior.interrupt()
                shown += person
                seq += 1
        self.agent.let_go()  # from now on an actor says what a prior does
        return shown

    def _recorded(self, folder: Path) -> list[tuple[Path, EpisodeInfo]]:
        return [(path, read_info(path, self.contract.hash())) for path in episode_folders(folder)]

    def _add_demo(self, seq: int, episode: int, step: Step, prior: PriorExecutor) -> None:
        def seen(msg: Observation) -> dict[str, Any]:
            arrays = observation_arrays(msg, self.contract)
            return with_prior_action(arrays, prior.act(arrays, seq, episode, msg.step))

        self.offline.add(
            seq, episode, step.observation.step, seen(step.observation),
            np.array(step.executed.action, np.float32), step.reward.reward,
            step.reward.terminated, step.reward.truncated, step.executed.controller, 0,
            seen(step.final) if step.final else None,
        )  # fmt: skip

    def _seen(self, msg: Observation, prior_action: Sequence[float]) -> dict[str, Any]:
        """An observation of a transition, as the agent sees it."""
        return with_prior_action(observation_arrays(msg, self.contract), np.array(prior_action, np.float32))

    def pretrain(self, stop: threading.Event, done: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Fit the normalisation and imitate the demonstrations; return the last metrics.

        A warm-started agent has its normalisation; it learns what it `pretrains`, from what there is.

        Args:
            stop: Set to end early; nothing is pretrained then.
            done: Called after each update.
        """
        if self.agent.prior is None:
            self.agent.fit_normalizer(self.offline.states(), self.offline.actions())
        metrics: dict[str, float] = {}
        batches = self._demonstrated(stop, self.agent.pretrain_n_step)
        count = self.settings.pretrain_updates if self.agent.pretrains and len(self.offline) else 0
        for batch in itertools.islice(batches, count):
            metrics = self.agent.pretrain(batch)
            done()
        self.pretrained = not stop.is_set()
        return metrics

    def _demonstrated(self, stop: threading.Event, n_step: int) -> Iterator[Batch]:
        """Batches of demonstrations and interventions, until told to stop."""
        agent = self.agent
        while not stop.is_set():
            with self.lock:
                batch = self.offline.sample(
                    agent.config.batch_size,
                    self.rng,
                    agent.spec.horizon,
                    n_step,
                    agent.pretrain_features,
                    agent.path,
                )
            yield batch

    def ingest(self, msg: Transition) -> bool:
        """Store a transition if it is the next one; return whether all up to it are stored now.

        What was stored before is acknowledged again; what comes after a gap is refused, the actor sends again.

        Raises:
            ValueError: It does not fit the contract or is not finite.
        """
        if msg.seq <= self.last_seq:
            return True
        if msg.seq != self.last_seq + 1:
            return False
        action = np.array(msg.action, np.float32)
        obs = self._seen(msg.observation, msg.prior_action)
        final = (
            self._seen(msg.final_observation[0], msg.final_prior_action) if msg.final_observation else None
        )
        row = (
            msg.seq, msg.observation.episode, msg.observation.step, obs, action, msg.reward,
            msg.terminated, msg.truncated, msg.controller, msg.policy_version, final,
        )  # fmt: skip
        with self.lock:
            # offline first: after a kill in between, the transition comes again and is added only where it lacks
            if msg.controller == Action.PERSON:
                self.offline.add(*row)
            elif self.offline.open_end == (msg.seq - 1, msg.observation.episode, msg.observation.step - 1):
                self.offline.add_observation(obs)
            self.online.add(*row)
        self.earnings.add(msg)
        self._stamps.append((msg.seq, seconds(msg.observation.header.stamp)))
        return True

    @property
    def last_seq(self) -> int:
        """Newest stored transition, 0 before the first."""
        return max(self.online.last_seq, 0)

    @property
    def due(self) -> int:
        """Updates that the stored transitions ask for and that are not done yet."""
        wanted = self.online.stored - self.settings.learning_starts
        return max(0, wanted - self.agent.updates) if self.pretrained else 0

    @property
    def learnt_seq(self) -> int:
        """Newest transition whose updates are done."""
        return self.last_seq - self.due

    @property
    def learnt_until(self) -> float:
        """Robot time of the newest transition whose updates are done, s; 0 before the first one of this process."""
        seq = self.learnt_seq
        while len(self._stamps) > 1 and self._stamps[1][0] <= seq:
            self._stamps.popleft()
        return self._stamps[0][1]

    @property
    def updates_per_s(self) -> float:
        """Updates per second over the newest updates."""
        if len(self.recent) < 2:
            return 0.0
        return (len(self.recent) - 1) / max(self.recent[-1] - self.recent[0], 1e-6)

    def update(self, stop: threading.Event) -> None:
        """Do one update, and what the agent wants to be done before it."""
        agent = self.agent
        if agent.refresh_due and self.offline.can_sample(agent.spec.horizon, agent.n_step):
            agent.refresh(self._demonstrated(stop, agent.n_step))
        with self.lock:
            batch = sample_mixed(
                self.online,
                self.offline,
                self.agent.batch_size,
                self.rng,
                self.agent.spec.horizon,
                self.agent.n_step,
                self.agent.features,
                self.agent.path,
            )
        self.metrics = self.agent.update(batch)
        for earned in self.earnings.until(self.learnt_seq):
            self.agent.episode_over(earned)
        self.recent.append(time.monotonic())

    def next_weights(self) -> tuple[int, bytes]:
        """Return a new version number and the policy's bytes."""
        self.version += 1
        # written first: a restarted learner must not use a number again that an actor has seen
        new = self.folder / "policy_version.new"
        new.write_text(f"{self.version}\n")
        os.replace(new, self.folder / "policy_version")
        return self.version, pack_policy(self.agent.policy_state())

    def save(self) -> None:
        """Write the checkpoint; a kill in the middle leaves the former one."""
        counters = {
            "updates": self.agent.updates,
            "stored": self.online.stored,
            "last_seq": self.last_seq,
            "policy_version": self.version,
        }
        save_checkpoint(self.checkpoint, self.agent, self.contract.to_dict(), counters)

    def close(self) -> None:
        """Flush and release the buffers."""
        self.online.close()
        self.offline.close()

    def _check_algorithm(self, agent: AgentSettings) -> dict[str, Any]:
        """Refuse to go on with another algorithm; return the options that the agent's file decides."""
        found = read_checkpoint(self.checkpoint)
        chunk_size, options = own_settings(agent)
        chunk_size = chunk_size or found.spec.horizon
        if (found.algorithm, found.spec.horizon) != (agent.algorithm, chunk_size):
            raise ValueError(
                f"{self.checkpoint} is of '{found.algorithm}' with chunks of {found.spec.horizon}, asked for is "
                f"'{agent.algorithm}' with chunks of {chunk_size}: go on with its agent, or begin a new run"
            )
        return options

    def _read_version(self) -> int:
        try:
            return int((self.folder / "policy_version").read_text())
        except FileNotFoundError:
            return 0
