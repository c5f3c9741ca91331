"""Learner node: stores transitions as they come, learns in a thread of its own, publishes weights."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
import traceback
import uuid
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hilrl_msgs.msg import Episode, LearnerStatus, PolicyWeights, Transition, TransitionAck
from rclpy.node import Node
from std_msgs.msg import Header

from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.images import to_bytes_field
from hilrl_ros.messages import floats, seconds, to_time
from hilrl_ros.node import UserError, declare, param, run, step_back
from hilrl_ros.settings import load_agent_settings

if TYPE_CHECKING:
    from hilrl_learner.learner import Learner

_CHECKPOINT_S = 10.0
_STATUS_S = 0.5
_ALONE_S = 5.0
_PART_BYTES = 1 << 20


@dataclass
class LearnerParams:
    """Parameters of the learner."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    agent: str = param("sac", "Algorithm: a name from config/agents or a path")
    warm_start: str = param(
        "",
        "Checkpoint or run whose policy the agent starts from, in place of the one that its file names; empty: that "
        "one, if any",
    )
    seed: int = param(0, "Seed of initial weights and sampling", bounds=(0, 2**31 - 1))
    runs_dir: str = param("runs", "Folder of the runs; replay and checkpoint are kept in the run's folder")
    demos: str = param("", "Folder of recorded demonstrations; empty: <run>/demos")
    offline_data: str = param(
        "",
        "Folders of recorded episodes, with : between them, that are learnt from besides the demonstrations; with "
        "them, demonstrations may be missing",
    )
    pretrain_updates: int = param(
        1000, "Updates that imitate the demonstrations before the policy first acts", bounds=(0, 10**6)
    )
    learning_starts: int = param(100, "Transitions stored before updates begin", bounds=(0, 10**6))
    online_capacity: int = param(100_000, "Robot steps that the online buffer holds", bounds=(1000, 10**7))
    offline_capacity: int = param(
        20_000, "Steps of demonstrations and interventions that are held", bounds=(1000, 10**7)
    )
    policy_parameters_push_frequency: float = param(
        2.0, "Robot time between publications of the weights", unit="s", bounds=(0.1, 600.0)
    )
    storage_device: str = param(
        "cpu",
        "Where replay is held: cpu, in memory-mapped files of the run's folder; learning is on the CPU too",
        choices=("cpu",),
    )
    threads: int = param(
        1, "Threads of torch; one where control and learning share few cores", bounds=(1, 256)
    )


class LearnerNode(Node):
    """Subscribes to `transition`, publishes `transition_ack`, `learner_status` and `policy_weights`.

    The executor only stores; all learning happens in one worker thread, so ingest never waits for an update. One
    learner serves one run: when its session has gone, or another run begins, it saves and ends; a launch starts it
    anew, and it goes on where that run stood or begins another.
    """

    def __init__(self):
        super().__init__("learner")
        # here, because it takes seconds: an interruption meanwhile shall end as cleanly as any other
        from hilrl_learner.learner import Learner, LearnerSettings

        self.make = Learner, LearnerSettings
        step_back()
        self.params = declare(self, LearnerParams)
        self.contract, _ = load_contract(self.params.robot, self.params.task)
        self.agent_settings = load_agent_settings(self.params.agent, self.params.warm_start)
        self.instance = uuid.uuid4().hex
        self.learner: Learner | None = None
        self.episode: Episode | None = None
        self.state = LearnerStatus.WAITING
        self.entered = Episode.DEMONSTRATE
        self.newest_stamp = self.pushed_stamp = 0.0
        self.pushed_updates = -1
        self.saved_at = time.monotonic()
        self.exit_code = 0
        self.finished = False
        self.wake = threading.Event()
        self.stopping = threading.Event()
        self.weights = self.create_publisher(PolicyWeights, "policy_weights", qos.WEIGHTS)
        self.acks = self.create_publisher(TransitionAck, "transition_ack", qos.LATCHED)
        self.acknowledged, self.reporting = TransitionAck(), threading.Lock()
        self.status = self.create_publisher(LearnerStatus, "learner_status", qos.LATCHED)
        self.reported, self.reported_at = (-1, -1), 0.0
        self.create_subscription(Episode, "episode", self.on_episode, qos.LATCHED)
        self.led_at = time.monotonic()
        self.create_timer(1.0, self.look_for_session)
        self.create_subscription(Transition, "transition", self.on_transition, qos.TRANSITIONS)
        self.worker = threading.Thread(target=self.work, name="learning")
        self.worker.start()

    def on_episode(self, msg: Episode) -> None:
        """Enter the run; note its phase."""
        if self.learner and msg.run != self.learner.folder.name:
            self.get_logger().info(f"another run has begun, {msg.run}: ends")
            self.finished = True
            return
        if self.learner is None and msg.run:
            make_learner, make_settings = self.make
            values = {f.name: getattr(self.params, f.name) for f in fields(make_settings)}
            values["offline_data"] = tuple(Path(p) for p in self.params.offline_data.split(os.pathsep) if p)
            settings = make_settings(**values)
            folder = Path(self.params.runs_dir) / msg.run
            try:
                self.learner = make_learner(self.contract, self.agent_settings, folder, settings)
            except (ValueError, RuntimeError) as e:
                raise UserError(str(e)) from None
            for line in self.learner.agent.warm.describe() if self.learner.agent.warm else ():
                self.get_logger().info(line)
            if self.learner.pretrained:
                self.state = LearnerStatus.LEARNING
                self.get_logger().info(
                    f"goes on from {self.learner.agent.updates} updates and {self.learner.last_seq} transitions"
                )
        self.episode = msg
        self.wake.set()

    def look_for_session(self) -> None:
        """End when the run's session has gone, as it does on another machine."""
        now = time.monotonic()
        if self.learner is None or self.count_publishers("episode"):
            self.led_at = now
        elif now - self.led_at > _ALONE_S:
            self.get_logger().info("the session has gone: ends")
            self.finished = True

    def on_transition(self, msg: Transition) -> None:
        """Store a transition and let the worker know."""
        if self.learner is None:
            return  # the actor sends it again
        try:
            whole = self.learner.ingest(msg)
        except (ValueError, RuntimeError) as e:
            self.get_logger().error(f"transition {msg.seq} refused: {e}", throttle_duration_sec=5.0)
            return
        self.newest_stamp = seconds(msg.observation.header.stamp)
        if self.learner.due and whole:
            self.wake.set()
        else:
            self.report()

    def work(self) -> None:
        """Learn until told to stop; an error ends the node with its traceback."""
        try:
            while not self.stopping.is_set():
                if not self.step():
                    if self.learner:
                        self.report()
                    self.wake.wait(_STATUS_S)
                    self.wake.clear()
        except Exception as e:
            one_sentence = isinstance(e, ValueError | RuntimeError)
            self.get_logger().fatal(str(e) if one_sentence else traceback.format_exc())
            self.exit_code, self.finished = 1, True

    def step(self) -> bool:
        """Do the next piece of work; return whether there was any."""
        learner, episode = self.learner, self.episode
        if learner is None or episode is None:
            return False
        phase = episode.phase
        if phase not in (Episode.LABEL, Episode.DEMONSTRATE) and not learner.pretrained:
            self.pretrain(learner)
        elif learner.due:
            learner.update(self.stopping)
            # robot time may also jump back, when a simulator was restarted
            if abs(self.newest_stamp - self.pushed_stamp) >= self.params.policy_parameters_push_frequency:
                self.push(learner)
            if time.monotonic() - self.saved_at > _CHECKPOINT_S:
                self.save(learner)
        elif phase != self.entered or (learner.pretrained and self.pushed_updates < 0):
            if phase != Episode.BASELINE and not math.isnan(episode.baseline_return):
                learner.agent.measured(episode.baseline_return)
            # a phase begins with the newest weights
            if learner.pretrained and self.pushed_updates != learner.agent.updates:
                self.push(learner)
            if phase == Episode.DONE:
                self.save(learner)
                self.state = LearnerStatus.SAVED
            self.entered = phase
        else:
            return False
        self.report()
        return True

    def pretrain(self, learner: Learner) -> None:
        """Read the demonstrations and imitate them."""
        folder = Path(self.params.demos) if self.params.demos else learner.folder / "demos"
        warm = learner.agent.prior is not None
        needed = not (self.params.offline_data or warm) or folder.is_dir()
        steps = learner.load_offline(folder if needed else None)
        self.state = LearnerStatus.PRETRAINING
        self.report()
        if warm:
            self.get_logger().info(f"{len(learner.offline)} recorded steps to learn from")
        elif steps:
            self.get_logger().info(f"imitates {steps} demonstrated steps")
        else:
            self.get_logger().warning("no step of the offline data is a person's: nothing is imitated")
        learner.metrics = learner.pretrain(self.stopping)
        if learner.pretrained:
            self.save(learner)
            self.state = LearnerStatus.LEARNING

    def push(self, learner: Learner) -> None:
        """Publish the weights in parts."""
        version, data = learner.next_weights()
        # bounded by the depth of the latched history: a late actor must find all parts
        size = max(_PART_BYTES, -(-len(data) // qos.WEIGHT_PARTS))
        parts, learnt = range(0, len(data), size), header(learner.learnt_until)
        for i, start in enumerate(parts):
            msg = PolicyWeights(
                run=learner.folder.name, version=version, agent=learner.agent.name, contract_hash=self.contract.hash(),
                sha256=hashlib.sha256(data).hexdigest(), part=i, parts=len(parts),
                header=learnt,
                data=to_bytes_field(np.frombuffer(data[start : start + size], np.uint8)),
            )  # fmt: skip
            self.weights.publish(msg)
        self.pushed_stamp, self.pushed_updates = self.newest_stamp, learner.agent.updates

    def save(self, learner: Learner) -> None:
        """Write the checkpoint."""
        learner.save()
        self.saved_at = time.monotonic()

    def report(self) -> None:
        """Publish how far it is, and now and then all that is known of it."""
        learner, now = self.learner, time.monotonic()
        with self.reporting:  # both threads come here, and an older acknowledgement must not be the last
            ack = TransitionAck(
                instance=self.instance, last_seq=learner.last_seq, learnt_seq=learner.learnt_seq
            )
            if ack != self.acknowledged:
                self.acknowledged = ack
                self.acks.publish(ack)
        if (self.state, self.entered) == self.reported and now - self.reported_at < _STATUS_S:
            return
        self.reported, self.reported_at = (self.state, self.entered), now
        metrics = learner.metrics
        self.status.publish(
            LearnerStatus(
                header=header(self.newest_stamp),
                state=self.state,
                phase=self.entered,
                stored=learner.online.stored,
                updates=learner.agent.updates,
                policy_version=learner.version,
                updates_per_s=learner.updates_per_s,
                metric_names=list(metrics),
                metric_values=floats(metrics.values()),
            )
        )

    def close(self) -> None:
        """Stop learning, keep what was learnt."""
        self.stopping.set()
        self.wake.set()
        self.worker.join()
        if self.learner:
            if self.learner.pretrained and self.state != LearnerStatus.SAVED:
                self.learner.save()
            self.learner.close()


def header(stamp: float) -> Header:
    """Return a header with a robot time in s."""
    return Header(stamp=to_time(round(stamp * 1e9)))


def main() -> None:
    """Run the node."""
    run(LearnerNode)
