"""Actor node: asks the policy for each step's action, joins the step's messages, sends transitions to the learner."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hilrl_msgs.msg import (
    Action,
    ActorStatus,
    Episode,
    Observation,
    PolicyWeights,
    Reward,
    Transition,
    TransitionAck,
)
from rclpy.node import Node
from rclpy.serialization import serialize_message

from hilrl_actor.outbox import Outbox, OutboxError
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import Joiner, Step, floats, observation_arrays, seconds
from hilrl_ros.node import SettingsError, UserError, ask_for_realtime, declare, param, run
from hilrl_ros.settings import load_agent_settings

# unacknowledged transitions are sent again after this time
_RESEND_S = 1.0


@dataclass
class ActorParams:
    """Parameters of the actor."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    agent: str = param(
        "sac", "Algorithm: a name from config/agents or a path; 'none': no policy, a person drives"
    )
    warm_start: str = param(
        "",
        "Checkpoint or run whose policy the agent starts from, in place of the one that its file names; the same as "
        "the learner's; empty: that one, if any",
    )
    policy: str = param("", "Checkpoint folder whose policy acts; empty: the learner's weights")
    window: int = param(
        0,
        "In lockstep, how many transitions the learner may be behind; 0: never wait for it",
        bounds=(0, 1000),
    )
    runs_dir: str = param("runs", "Folder of the runs; the actor's unacknowledged transitions are kept in it")
    realtime: bool = param(False, "Ask for real-time priority (SCHED_FIFO)")


class ActorNode(Node):
    """Publishes `policy/action` for each observation and `transition` for each complete step.

    The next action waits for the reward of the last one, so no action follows an observation that ended its
    episode. What is offered again (same step) is answered again with the same action.
    """

    def __init__(self):
        super().__init__("actor")
        self.params = declare(self, ActorParams)
        self.contract, _ = load_contract(self.params.robot, self.params.task)
        self.episode: Episode | None = None
        self.learnt_from: dict[int, bool] = {}
        self.outbox: Outbox | None = None
        self.joiner = Joiner()
        self.observation: Observation | None = None  # waits to be acted on
        self.answer: Action | None = None  # newest action sent
        self.rewarded: tuple[int, int] = (-1, -1)  # newest step whose reward came
        self.over = -1  # newest episode that ended
        self.oldest = self.weights_age = 0.0  # of the weights that acted, in this episode and in the last, s
        self.learner: TransitionAck | None = None
        self.sent_at = time.monotonic()

        self.actions = self.create_publisher(Action, "policy/action", qos.STEP)
        self.transitions = self.create_publisher(Transition, "transition", qos.TRANSITIONS)
        self.status = self.create_publisher(ActorStatus, "actor_status", qos.LATCHED)
        self.create_subscription(Episode, "episode", self.on_episode, qos.LATCHED)
        self.policy = self._load_policy()
        self.create_subscription(Reward, "reward", self.on_reward, qos.STEP)
        self.create_subscription(Action, "executed_action", self.on_executed, qos.STEP)
        self.create_subscription(Observation, "observation", self.on_observation, qos.STEP)
        if self.policy and not self.params.policy:
            self.create_subscription(TransitionAck, "transition_ack", self.on_learner, qos.LATCHED)
        self.create_timer(_RESEND_S / 2, self.send_again)
        ask_for_realtime(self, self.params.realtime)
        self.report()

    def _load_policy(self):
        if self.params.agent == "none" and not self.params.policy:
            return None
        from hilrl_actor.policy import Policy  # torch, only where a policy acts
        from hilrl_agents.checkpoint import CheckpointError

        try:
            if self.params.policy:
                return Policy.from_checkpoint(self.contract, Path(self.params.policy))
            settings = load_agent_settings(self.params.agent, self.params.warm_start)
            return Policy.untrained(self.contract, settings)
        except (ValueError, CheckpointError) as e:
            raise SettingsError(str(e)) from None
        except RuntimeError as e:
            raise UserError(str(e)) from None

    def on_episode(self, msg: Episode) -> None:
        """Enter an episode, a pause or another phase."""
        if self.outbox is None and msg.run:
            try:
                self.outbox = Outbox(Path(self.params.runs_dir) / msg.run / "actor" / "outbox.bin")
            except OutboxError as e:
                raise UserError(str(e)) from None
            if self.policy and not self.params.policy:
                # not earlier: a learner of the run before may still offer its weights
                self.create_subscription(PolicyWeights, "policy_weights", self.on_weights, qos.WEIGHTS)
            self.report()
        self.episode = msg
        if msg.status == Episode.RUNNING:
            self.learnt_from[msg.episode] = msg.learn
        self.act()

    def on_weights(self, msg: PolicyWeights) -> None:
        """Load weights of this run as soon as they arrive."""
        if msg.run != self.episode.run:
            return
        try:
            if self.policy.receive(msg):
                self.report()
                self.act()
        except (ValueError, RuntimeError) as e:
            self.get_logger().error(f"weights version {msg.version} refused: {e}", throttle_duration_sec=5.0)

    def on_observation(self, msg: Observation) -> None:
        """Act on an observation, once its predecessor's reward is known."""
        for step in self.joiner.add(msg):
            self.send_transition(step)
        if self.answer and (msg.episode, msg.step) == (self.answer.episode, self.answer.step):
            self.actions.publish(self.answer)
            return
        # the same again: the reward of the step before got lost, and waiting for it would stop the loop
        again = self.observation is not None and (msg.episode, msg.step) == (
            self.observation.episode,
            self.observation.step,
        )
        self.observation = msg
        if again:
            self.rewarded = (msg.episode, msg.step - 1)
        self.act()

    def on_executed(self, msg: Action) -> None:
        """Note what was executed; what was planned before a person acted is of no use afterwards."""
        if self.policy and msg.controller == Action.PERSON:
            self.policy.interrupt()
        for step in self.joiner.add(msg):
            self.send_transition(step)

    def on_reward(self, msg: Reward) -> None:
        """Note what a step earned, and whether it ended the episode; act first, the learner can wait."""
        self.rewarded = (msg.episode, msg.step)
        if msg.terminated or msg.truncated:
            self.over = msg.episode
        complete = list(self.joiner.add(msg))
        self.act(unsent=len(complete))
        for step in complete:
            self.send_transition(step)

    def on_learner(self, msg: TransitionAck) -> None:
        """Forget what is acknowledged; a restarted learner gets again what it lacks."""
        restarted = self.learner is not None and msg.instance != self.learner.instance
        self.learner = msg
        if self.outbox is not None:
            self.outbox.acknowledge(msg.last_seq)
            if restarted:
                self.send_again(now=True)
        self.act()

    def act(self, unsent: int = 0) -> None:
        """Answer the waiting observation if nothing more is to be waited for.

        Args:
            unsent: Complete transitions that are still to be sent.
        """
        obs, episode = self.observation, self.episode
        if (
            obs is None
            or episode is None
            or episode.status != Episode.RUNNING
            or obs.episode != episode.episode
        ):
            return
        if (
            obs.episode == self.over
            or not self._may_follow(obs)
            or not self._learner_follows(episode, unsent)
        ):
            return
        msg = Action(header=obs.header, episode=obs.episode, step=obs.step, controller=Action.POLICY)
        if self.policy and episode.phase not in (Episode.LABEL, Episode.DEMONSTRATE):
            if self.policy.version == 0:
                return
            action, msg.policy_version = self.policy.act(
                observation_arrays(obs, self.contract), episode.explore, episode.seed, obs.episode, obs.step
            )
            msg.action = floats(action)
            if episode.learn and self.policy.learnt_until:
                self.oldest = max(self.oldest, self.policy.age(seconds(obs.header.stamp), obs.step))
        self.observation, self.answer = None, msg
        self.actions.publish(msg)

    def _may_follow(self, obs: Observation) -> bool:
        acted_before = self.answer is not None and (self.answer.episode, self.answer.step) == (
            obs.episode,
            obs.step - 1,
        )
        return not acted_before or self.rewarded >= (obs.episode, obs.step - 1)

    def _learner_follows(self, episode: Episode, unsent: int) -> bool:
        if not self.params.window or not episode.learn or self.outbox is None:
            return True
        learnt = self.learner.learnt_seq if self.learner else 0
        return self.outbox.sent + unsent - learnt < self.params.window

    def send_transition(self, step: Step) -> None:
        """Send a complete step to the learner."""
        # by its own episode: its last messages may come after the announcement of what follows
        if self.outbox is None or not self.learnt_from.get(step.observation.episode, False):
            return
        final = step.final.state if step.final else ()
        if not np.isfinite(
            [*step.observation.state, *final, *step.executed.action, step.reward.reward]
        ).all():
            self.get_logger().error(
                f"step {step.observation.step} of episode {step.observation.episode} is not learnt from: "
                "its state, action or reward is not finite",
                throttle_duration_sec=5.0,
            )
            return
        msg = Transition(
            seq=self.outbox.sent + 1,
            observation=step.observation,
            action=step.executed.action,
            reward=step.reward.reward,
            terminated=step.reward.terminated,
            truncated=step.reward.truncated,
            controller=step.executed.controller,
            policy_version=step.executed.policy_version,
            final_observation=[step.final] if step.final else [],
        )
        msg.prior_action = self.prior_action(step.observation)
        if step.final:
            msg.final_prior_action = self.prior_action(step.final)
        data = serialize_message(msg)
        self.outbox.add(data)
        self.sent_at = time.monotonic()
        self.transitions.publish(data)
        if step.final:
            self.weights_age, self.oldest = self.oldest, 0.0
            self.report()

    def prior_action(self, msg: Observation) -> array:
        """Return what the policy's prior does at an observation; empty if the policy does not observe that."""
        if not self.policy or not self.policy.agent.observes_prior:
            return floats(())
        arrays = observation_arrays(msg, self.contract)
        return floats(self.policy.prior_action(arrays, self.episode.seed, msg.episode, msg.step))

    def send_again(self, now: bool = False) -> None:
        """Send again what is not acknowledged, oldest first."""
        if self.outbox is None or not self.outbox.waiting or self.learner is None:
            return
        if now or time.monotonic() - self.sent_at > _RESEND_S:
            self.sent_at = time.monotonic()
            for _, data in list(self.outbox.waiting)[: qos.TRANSITIONS.depth // 2]:
                self.transitions.publish(data)

    def report(self) -> None:
        """Publish the actor's status."""
        msg = ActorStatus(transitions_sent=self.outbox.sent if self.outbox else 0)
        if self.policy:
            msg.policy_version = self.policy.version
            msg.weights_age = self.weights_age
        self.status.publish(msg)

    def close(self) -> None:
        """Close the outbox."""
        if self.outbox:
            self.outbox.close()


def main() -> None:
    """Run the node."""
    run(ActorNode)
