"""Reward node: what each step earned by the task's terms, and whether it ended the episode."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hilrl_msgs.msg import Action, Episode, Observation, OperatorEvent, Reward, RewardStatus
from rclpy.node import Node

from hilrl_reward.terms import RewardFunction
from hilrl_ros import qos
from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import floats, named_entries, observation_arrays
from hilrl_ros.node import UserError, declare, param, run, step_back

if TYPE_CHECKING:
    from hilrl_reward.classifier import Classifier

_TRUTH = {None: Reward.UNKNOWN, False: Reward.NO, True: Reward.YES}
# phases in which a person alone tells what success is: what a classifier learns from
_SHOWN = (Episode.LABEL, Episode.DEMONSTRATE)
_LOOK_S = 0.1


@dataclass
class RewardParams:
    """Parameters of the reward node."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    runs_dir: str = param("runs", "Folder of the runs; labels and classifier are kept in the run's folder")
    classifier: str = param(
        "",
        "Folder of a trained classifier, for a task that needs one; empty: trained on the labels of the run",
    )


class RewardNode(Node):
    """Subscribes to `observation`, `executed_action`, `episode` and `operator_event`, publishes `reward`.

    The step k is judged when its executed action and the observation k + 1 are both there. The person's success
    or failure button ends the episode at the next judged step, whatever the terms say. In phase LABEL nothing ends it
    before its time: the reward says whether the person held the success button in that step.

    Where the task's success needs a classifier, it is loaded, or trained in a thread once labels and demonstrations
    are there; `reward_status` says when it judges. What a person corrects it in is kept as a label.
    """

    def __init__(self):
        super().__init__("reward")
        self.params = declare(self, RewardParams)
        self.contract, self.task = load_contract(self.params.robot, self.params.task)
        self.function = RewardFunction(self.task, self.contract.entry_names, self.contract.action.names)
        self.classified = self.function.condition.needs_classifier
        self.classifier: Classifier | None = None
        self.worker: threading.Thread | None = None
        self.stopping = threading.Event()
        self.exit_code, self.finished = 0, False
        self.announced: Episode | None = None
        self.observations: dict[tuple[int, int], Observation] = {}
        self.actions: dict[tuple[int, int], Action] = {}
        self.episode: int | None = None
        self.verdict: bool | None = None
        self.holding = self.pressed = False  # the success button: it is down, it went down in this step
        self.taken: deque[tuple[bool, Observation]] = deque(maxlen=self.function.condition.recent.maxlen)
        self.last: Reward | None = None
        self.last_action = np.zeros(0)
        self.publisher = self.create_publisher(Reward, "reward", qos.STEP)
        self.status = self.create_publisher(RewardStatus, "reward_status", qos.LATCHED)
        self.create_subscription(Observation, "observation", self.on_observation, qos.STEP)
        self.create_subscription(Action, "executed_action", self.on_action, qos.STEP)
        self.create_subscription(OperatorEvent, "operator_event", self.on_event, qos.STEP)
        self.create_subscription(Episode, "episode", self.on_episode, qos.LATCHED)
        if self.classified and not self.contract.cameras:
            raise UserError(
                f"{self.task.name}.success: a classifier looks at images; name `cameras` in the task file"
            )
        self.report(RewardStatus.WAITING if self.classified else RewardStatus.READY)

    # -- the classifier

    @property
    def run_folder(self) -> Path:
        """Folder of the run that is on."""
        return Path(self.params.runs_dir) / self.announced.run

    def on_episode(self, msg: Episode) -> None:
        """Note phase and episode; get the classifier when its labels are there."""
        self.announced = msg
        if not self.classified or msg.phase == Episode.DONE:
            return
        if self.worker is None and msg.run and msg.phase not in _SHOWN:
            learns = msg.phase == Episode.PRETRAIN
            self.worker = threading.Thread(target=self.get_classifier, args=(self.run_folder, learns))
            self.worker.start()
            self.waiting = self.create_timer(_LOOK_S, self.look)
        self.judge_all()

    def get_classifier(self, run_folder: Path, learns: bool) -> None:
        """Load the classifier, or train it on what the run has recorded; an error ends the node.

        A run that learns keeps a copy of the one that it was given: its policy is measured by the same later.
        """
        step_back()  # of this thread alone: who trains now is not in the control path
        try:
            from hilrl_agents.tuning import tune_process
            from hilrl_reward.classifier import Classifier
            from hilrl_reward.training import train_and_save

            tune_process()
            own = run_folder / "classifier"
            given = Path(self.params.classifier) if self.params.classifier else own
            if self.params.classifier or (own / "classifier.yaml").exists():
                made = Classifier.load(given, self.contract)
                if learns and given != own:
                    made.save(own)
            else:
                self.report(RewardStatus.TRAINING)
                made = train_and_save([run_folder], own, self.contract, self.task, self.stopping)
            self.classifier = made
        except Exception as e:
            self.get_logger().fatal(str(e) if isinstance(e, ValueError | OSError) else traceback.format_exc())
            self.exit_code, self.finished = 1, True

    def look(self) -> None:
        """Judge what has waited for the classifier."""
        if self.classifier is None:
            return
        self.destroy_timer(self.waiting)
        figures = self.classifier.facts.get("held_out", {})
        self.report(RewardStatus.READY, {k: float(v) for k, v in figures.items()})
        self.judge_all()

    def report(self, state: int, metrics: dict[str, float] | None = None) -> None:
        """Publish whether the reward judges."""
        metrics = metrics or {}
        self.status.publish(
            RewardStatus(state=state, metric_names=list(metrics), metric_values=floats(metrics.values()))
        )

    # -- the steps

    def on_observation(self, msg: Observation) -> None:
        """Keep the observation; judge the step that led to it."""
        if self.last and (msg.episode, msg.step) == (self.last.episode, self.last.step + 1):
            self.publisher.publish(self.last)  # offered again: somebody lost the reward
            return
        if msg.episode != self.episode:
            # a button pressed between the episodes judges neither
            self.episode, self.verdict = msg.episode, None
            self.holding = self.pressed = False
            self.function.condition.reset()
            self.taken.clear()
        self.observations[(msg.episode, msg.step)] = msg
        self.judge((msg.episode, msg.step - 1))

    def on_action(self, msg: Action) -> None:
        """Keep the executed action; judge its step if the next observation was faster."""
        self.actions[(msg.episode, msg.step)] = msg
        self.judge((msg.episode, msg.step))

    def on_event(self, msg: OperatorEvent) -> None:
        """Remember the person's verdict for the next judged step; keep a failure that comes after the end."""
        if msg.event == OperatorEvent.SUCCESS:
            self.holding = self.pressed = True
        elif msg.event in (OperatorEvent.SUCCESS_RELEASED, OperatorEvent.FAILURE):
            self.holding = False
        if msg.event in (OperatorEvent.SUCCESS, OperatorEvent.FAILURE):
            self.verdict = msg.event == OperatorEvent.SUCCESS
        last = self.last
        if msg.event == OperatorEvent.FAILURE and last and last.source == Reward.CLASSIFIER and last.success:
            self.keep([seen for solved, seen in self.taken if solved], success=False)
            self.taken.clear()

    def judge_all(self) -> None:
        """Judge all steps that wait."""
        for key in sorted(self.actions):
            self.judge(key)

    def judge(self, key: tuple[int, int]) -> None:
        """Publish the reward of step `key` = (episode, step) if all of it is there."""
        before, action = self.observations.get(key), self.actions.get(key)
        after = self.observations.get((key[0], key[1] + 1))
        if before is None or action is None or after is None:
            return
        if self.classified:
            if self.announced is None or self.announced.episode != key[0]:
                return  # not told yet who judges this episode
            if self.announced.phase not in _SHOWN and self.classifier is None:
                return
        msg = Reward(header=after.header, episode=key[0], step=key[1])
        msg.source = Reward.CLASSIFIER if self.classified else Reward.TERMS
        msg.controller, msg.probability = action.controller, self.probability(after)
        entries = named_entries(after, self.contract)
        try:
            terms, success = self.function(
                named_entries(before, self.contract),
                np.array(action.action),
                entries,
                self.action_before(key),
                person=action.controller == Action.PERSON,
                probability=msg.probability,
                threshold=self.classifier.threshold if self.classifier else 1.0,
            )
        except ContractError as e:
            raise UserError(str(e)) from None
        msg.term_names, msg.term_values = list(terms), floats(terms.values())
        msg.reward, msg.success, msg.terminated = sum(terms.values()), success, success
        if self.classified and self.announced.phase == Episode.LABEL:
            msg.source, msg.success, msg.terminated = Reward.PERSON, self.pressed or self.holding, False
            msg.reward = float(msg.success)
            self.pressed, self.verdict = False, None
        elif self.verdict is not None:
            msg.source, msg.success, msg.terminated = Reward.PERSON, self.verdict, True
            msg.reward = 1.0 if self.verdict else 0.0
            if msg.probability >= 0.0 and self.verdict and not success:
                self.keep([before], success=True)  # what the person saw
        self.taken.append((self.function.condition.recent[-1], after))
        msg.truth = _TRUTH[self.function.solved(entries)]
        msg.truncated = not msg.terminated and after.step >= self.task.max_episode_steps
        self.last, self.last_action = msg, np.array(action.action)
        self.publisher.publish(msg)
        for store in (self.observations, self.actions):
            for old in [k for k in store if k <= key]:
                del store[old]

    def probability(self, seen: Observation) -> float:
        """Return the classifier's probability of success, -1 where none judges."""
        if self.classifier is None or self.announced.phase in _SHOWN:
            return -1.0
        return self.classifier.probability(observation_arrays(seen, self.contract)["images"])

    def keep(self, seen: list[Observation], success: bool) -> None:
        """Keep frames that the classifier got wrong as labels of the run."""
        from hilrl_reward.labels import keep_told

        if seen:
            path = keep_told(self.run_folder / "labels", seen, success, self.contract)
            self.get_logger().info(f"kept as a label: {path.name}, {'success' if success else 'no success'}")

    def action_before(self, key: tuple[int, int]) -> np.ndarray | None:
        """Return the executed action of the step before `key`, None where it is not known."""
        known = self.last and (self.last.episode, self.last.step) == (key[0], key[1] - 1)
        return self.last_action if known else None

    def close(self) -> None:
        """End a training that is on."""
        self.stopping.set()
        if self.worker:
            self.worker.join()


def main() -> None:
    """Run the node."""
    run(RewardNode)
