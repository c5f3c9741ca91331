"""Reward node: what each step earned by the task's terms, and whether it ended the episode."""

from dataclasses import dataclass

import numpy as np
from hilrl_msgs.msg import Action, Observation, OperatorEvent, Reward
from rclpy.node import Node

from hilrl_reward.terms import RewardFunction
from hilrl_ros import qos
from hilrl_ros.contract import ContractError, load_contract
from hilrl_ros.messages import floats, named_entries
from hilrl_ros.node import UserError, declare, param, run

_TRUTH = {None: Reward.UNKNOWN, False: Reward.NO, True: Reward.YES}


@dataclass
class RewardParams:
    """Parameters of the reward node."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")


class RewardNode(Node):
    """Subscribes to `observation`, `executed_action` and `operator_event`, publishes `reward`.

    The step k is judged when its executed action and the observation k + 1 are both there. The person's success
    or failure button ends the episode at the next judged step, whatever the terms say.
    """

    def __init__(self):
        super().__init__("reward")
        params = declare(self, RewardParams)
        self.contract, self.task = load_contract(params.robot, params.task)
        self.function = RewardFunction(self.task, self.contract.entry_names, self.contract.action.names)
        self.observations: dict[tuple[int, int], Observation] = {}
        self.actions: dict[tuple[int, int], Action] = {}
        self.episode: int | None = None
        self.verdict: bool | None = None
        self.last: Reward | None = None
        self.last_action = np.zeros(0)
        self.publisher = self.create_publisher(Reward, "reward", qos.STEP)
        self.create_subscription(Observation, "observation", self.on_observation, qos.STEP)
        self.create_subscription(Action, "executed_action", self.on_action, qos.STEP)
        self.create_subscription(OperatorEvent, "operator_event", self.on_event, qos.STEP)

    def on_observation(self, msg: Observation) -> None:
        """Keep the observation; judge the step that led to it."""
        if self.last and (msg.episode, msg.step) == (self.last.episode, self.last.step + 1):
            self.publisher.publish(self.last)  # offered again: somebody lost the reward
            return
        if msg.episode != self.episode:
            # a button pressed between the episodes judges neither
            self.episode, self.verdict = msg.episode, None
        self.observations[(msg.episode, msg.step)] = msg
        self.judge((msg.episode, msg.step - 1))

    def on_action(self, msg: Action) -> None:
        """Keep the executed action; judge its step if the next observation was faster."""
        self.actions[(msg.episode, msg.step)] = msg
        self.judge((msg.episode, msg.step))

    def on_event(self, msg: OperatorEvent) -> None:
        """Remember the person's verdict for the next judged step."""
        if msg.event in (OperatorEvent.SUCCESS, OperatorEvent.FAILURE):
            self.verdict = msg.event == OperatorEvent.SUCCESS

    def judge(self, key: tuple[int, int]) -> None:
        """Publish the reward of step `key` = (episode, step) if all of it is there."""
        before, action = self.observations.get(key), self.actions.get(key)
        after = self.observations.get((key[0], key[1] + 1))
        if before is None or action is None or after is None:
            return
        entries = named_entries(after, self.contract)
        try:
            terms, success = self.function(
                named_entries(before, self.contract),
                np.array(action.action),
                entries,
                self.action_before(key),
            )
        except ContractError as e:
            raise UserError(str(e)) from None
        msg = Reward(header=after.header, episode=key[0], step=key[1], source=Reward.TERMS)
        msg.controller = action.controller
        msg.term_names, msg.term_values = list(terms), floats(terms.values())
        msg.reward, msg.success, msg.terminated = sum(terms.values()), success, success
        if self.verdict is not None:
            msg.source, msg.success, msg.terminated = Reward.PERSON, self.verdict, True
            msg.reward = 1.0 if self.verdict else 0.0
        msg.truth = _TRUTH[self.function.solved(entries)]
        msg.truncated = not msg.terminated and after.step >= self.task.max_episode_steps
        self.last, self.last_action = msg, np.array(action.action)
        self.publisher.publish(msg)
        for store in (self.observations, self.actions):
            for old in [k for k in store if k <= key]:
                del store[old]

    def action_before(self, key: tuple[int, int]) -> np.ndarray | None:
        """Return the executed action of the step before `key`, None where it is not known."""
        known = self.last and (self.last.episode, self.last.step) == (key[0], key[1] - 1)
        return self.last_action if known else None


def main() -> None:
    """Run the node."""
    run(RewardNode)
