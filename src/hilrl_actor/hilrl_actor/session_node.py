"""Session node: leads a run through its phases and episodes, counts, and ends it."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

from hilrl_msgs.msg import (
    Action,
    ActorStatus,
    Episode,
    LearnerStatus,
    OperatorEvent,
    Recording,
    Reward,
    RewardStatus,
)
from hilrl_msgs.srv import Reset
from rclpy.node import Node

from hilrl_actor.curves import draw, read_curve
from hilrl_actor.session import PHASE_CODES, PLANS, Goals, Session, write_json
from hilrl_data.bags import STEP_TOPICS, finished_episodes, read_info, read_steps
from hilrl_ros import qos
from hilrl_ros.config import absolute
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import CONTROLLER_NAMES
from hilrl_ros.metrics import EventLog
from hilrl_ros.node import SettingsError, declare, param, run

# recorder and film must be connected to everything before the first episode that they keep
_SETTLE_S = 2.0
_RECORDING_S = 5.0
_STATUS_S = 0.5


@dataclass
class SessionParams:
    """Parameters of the session."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    agent: str = param("none", "Algorithm, for the summary")
    plan: str = param("learn", "What the run does", choices=tuple(PLANS))
    seed: int = param(0, "Seed of all scenes", bounds=(0, 10**6))
    runs_dir: str = param("runs", "Folder of the runs")
    run: str = param("", "Name of the run's folder; empty: date, task, agent and seed")
    labels: int = param(
        200, "Labelled frames of success that the task's classifier learns from; 0: none", bounds=(0, 100_000)
    )
    demos: int = param(20, "Demonstrations that are recorded first; 0: none", bounds=(0, 10_000))
    baseline_episodes: int = param(20, "Episodes that measure the imitation policy", bounds=(0, 10_000))
    target_success: float = param(
        0.95,
        "Share of autonomous successes of the newest episodes at which training ends, if an evaluation reaches it; in "
        "the plan improve, share of successes of the newest evaluation",
        bounds=(0.0, 1.0),
    )
    window: int = param(20, "Newest episodes over which that share is taken", bounds=(1, 1000))
    max_steps: int = param(20_000, "Robot steps at which training ends anyway", bounds=(1, 10**9))
    measure_every: int = param(
        500,
        "In the plan improve, robot steps from one evaluation to the next, each in the same scenes",
        bounds=(1, 10**9),
    )
    evaluate_episodes: int = param(
        50,
        "Episodes of an evaluation: the policy alone, without exploration; 0: none. In the plan improve, of the "
        "baseline too",
        bounds=(0, 10_000),
    )
    showcase_episodes: int = param(3, "Episodes of the final policy that are filmed", bounds=(0, 100))
    stall_timeout: float = param(
        30.0, "A new episode begins when nothing moved for so long; 0: never", unit="s", bounds=(0.0, 3600.0)
    )
    record: str = param(
        "demos", "Which episodes the recorder keeps, as its own parameter says", choices=("demos", "all")
    )
    recorders: int = param(
        1, "Recorders that must have an episode before it counts, where episodes are kept", bounds=(1, 10)
    )
    explore: bool = param(False, "Sample from the policy also where it is measured")


class SessionNode(Node):
    """Publishes `episode` (latched), asks `reset_episode` for each start, writes the run's folder.

    In it: `status.json` (what is on now, for `hilrl` to show), `episodes.csv`, TensorBoard events and, at the end,
    `summary.json`.
    """

    def __init__(self):
        super().__init__("session")
        self.params = declare(self, SessionParams)
        self.contract, self.task = load_contract(self.params.robot, self.params.task)
        self.session = self._open()
        self.log = EventLog(self.session.folder / "metrics")
        self.learner, self.actor, self.judge = LearnerStatus(), ActorStatus(), RewardStatus()
        self.announcement = Episode(run=self.session.folder.name)
        self.steps = self.person_steps = self.told = 0  # told: steps whose reward says success
        self.episode_return = 0.0
        self.reward: Reward | None = None
        self.recordings: list[Recording] = []
        self.waiting_since = self.recording_since = self.moved_at = time.monotonic()
        self.resetting, self.asked_at = False, 0.0
        self.stage = "begin"
        self.train_since: float | None = None
        self.ages: list[float] = []  # of the weights, at the end of each episode of training, s
        self.exit_code, self.finished = 0, False

        self.publisher = self.create_publisher(Episode, "episode", qos.LATCHED)
        self.reset = self.create_client(Reset, "reset_episode")
        self.create_subscription(Reward, "reward", self.on_reward, qos.STEP_ASIDE)
        self.create_subscription(OperatorEvent, "operator_event", self.on_event, qos.STEP)
        self.create_subscription(LearnerStatus, "learner_status", self.on_learner, qos.LATCHED)
        self.create_subscription(ActorStatus, "actor_status", self.on_actor, qos.LATCHED)
        self.create_subscription(RewardStatus, "reward_status", self.on_judge, qos.LATCHED)
        self.create_subscription(Recording, "recording", self.on_recording, qos.STEP)
        self.create_timer(0.05, self.advance)
        self.create_timer(_STATUS_S, self.show)
        self.enter(self.session.phase)

    def _open(self) -> Session:
        p = self.params
        made = "_".join([time.strftime("%Y%m%d-%H%M%S"), Path(p.task).stem, Path(p.agent).stem, f"s{p.seed}"])
        name = p.run or made
        if name != Path(name).name:
            raise SettingsError(
                f"run is '{name}', expected a name without /; runs_dir says where runs are kept"
            )
        folder = Path(p.runs_dir) / name
        goes_on = p.plan == "record" and not (folder / "checkpoint").exists()
        if (folder / "episodes.csv").exists() and not goes_on:
            raise SettingsError(
                f"run '{name}' exists already in {p.runs_dir}; choose another name with run:="
            )
        improves = p.plan == "improve"
        if improves and p.evaluate_episodes == 0:
            raise SettingsError(
                "evaluate_episodes is 0, expected at least 1: the plan improve measures the policy"
            )
        plan = tuple(
            phase
            for phase in PLANS[p.plan]
            if not (
                (phase == "label" and (p.labels == 0 or not self._classified()))
                or (phase == "demonstrate" and p.demos == 0)
                or (phase == "baseline" and p.baseline_episodes == 0 and not improves)
                or (phase == "evaluate" and p.evaluate_episodes == 0)
                or (phase == "showcase" and p.showcase_episodes == 0)
            )
        )
        goals = Goals(**{f.name: getattr(p, f.name) for f in fields(Goals)})
        goals = goals if improves else replace(goals, measure_every=0)
        facts = {name: absolute(getattr(p, name)) for name in ("task", "robot", "agent")} | {"seed": p.seed}
        session = Session(folder, plan, goals, p.seed, facts)
        self._go_on(session)
        return session

    def _classified(self) -> bool:
        return self.task.success.get("term") == "classifier"

    def _go_on(self, session: Session) -> None:
        """Go on where a recording was interrupted."""
        bags = {kind: finished_episodes(session.folder / kind) for kind in ("labels", "demos")}
        recorded = {
            kind: [read_info(path, self.contract.hash()) for path in found] for kind, found in bags.items()
        }
        newest = max((info.episode for infos in recorded.values() for info in infos), default=0)
        if newest and session.phase == "label":
            labelled = sum(step.reward.success for path in bags["labels"] for step in read_steps(path))
            session.go_on(len(bags["labels"]), newest, labelled=labelled)
            self.get_logger().info(f"goes on: {labelled} of {self.params.labels} frames labelled")
            if session.finished():
                session.next_phase()
        if newest and session.phase == "demonstrate":
            steps = sum(info.steps for info in recorded["demos"])
            session.go_on(len(bags["demos"]), newest, steps, session.labelled)
            self.get_logger().info(f"goes on: {len(bags['demos'])} of {self.params.demos} recorded")

    # -- phases and episodes, one stage after the other: begin → reset → episode → record → begin …

    def enter(self, phase: str) -> None:
        """Announce a phase."""
        code = PHASE_CODES.get(phase, Episode.DONE)
        self.announcement = Episode(
            run=self.session.folder.name,
            phase=code,
            status=Episode.IDLE,
            episode=self.session.episode,
            baseline_return=self.session.baseline_return(),
        )
        self.publisher.publish(self.announcement)
        self.waiting_since = time.monotonic()
        self.stage = "begin"
        self.train_since = time.monotonic() if phase == "train" else self.train_since
        self.get_logger().info(f"phase: {phase}")

    def advance(self) -> None:
        """Go on where nothing more is waited for."""
        session = self.session
        if self.stage == "begin":
            if session.phase == "done":
                self.conclude()
            elif session.finished() or (session.phase == "pretrain" and self._learnt()):
                self.leave()
            elif session.has_episodes and self._ready():
                self.begin()
        elif self.stage == "reset":
            # who was asked may have been killed before it answered
            limit = self.params.stall_timeout
            if not self.resetting or (limit and time.monotonic() - self.asked_at > limit):
                self.ask_reset()
        elif self.stage == "episode" and self._stands_still():
            self.get_logger().warning(
                f"episode {session.episode}: no action for {self.params.stall_timeout:g} s; a new one begins"
            )
            self.stage = "begin"
        elif self.stage == "record" and (
            self._in_bags() or time.monotonic() - self.recording_since > _RECORDING_S
        ):
            if self._in_bags() and all(recording.complete for recording in self.recordings):
                self.count()
            elif self._shown():
                self.get_logger().warning(
                    f"episode {session.episode} was not recorded whole: it is shown again"
                )
                self.stage = "begin"
            else:
                self.get_logger().warning(f"episode {session.episode} was not recorded whole")
                self.count()

    def _in_bags(self) -> bool:
        return len(self.recordings) >= self.params.recorders

    def _shown(self) -> bool:
        return self.session.phase in ("label", "demonstrate")

    def _kept(self) -> bool:
        return self._shown() or self.params.record == "all"

    def _stands_still(self) -> bool:
        # a simulator or driver that was restarted no longer knows the episode
        limit = self.params.stall_timeout
        paused = self.announcement.status == Episode.PAUSED
        return bool(limit) and not paused and time.monotonic() - self.moved_at > limit

    def leave(self) -> None:
        """Go to the next phase."""
        if self.session.phase == "train":
            self.session.train_wall_s += time.monotonic() - self.train_since
        self.enter(self.session.next_phase())

    def _ready(self) -> bool:
        phase = PHASE_CODES[self.session.phase]
        if not all(map(self.count_publishers, STEP_TOPICS)):
            # an arm may be there before what moves it and what judges it
            self.waiting_since = time.monotonic()
            return False
        if not self._shown():
            if not self._judged():
                return False
            if not self.actor.policy_version:
                return False  # in real time an episode would go by until the policy is loaded
            # measured and filmed is what the learner has now, not what the actor had before
            current = self.learner.phase == phase and self.actor.policy_version >= self.learner.policy_version
            if self._learns() and not current:
                return False
        if self._kept() and self.count_publishers("recording") < self.params.recorders:
            self.waiting_since = time.monotonic()  # a recorder is not there yet
        settle = _SETTLE_S if self._kept() or self.session.phase == "showcase" else 0.0
        return time.monotonic() - self.waiting_since >= settle

    def _learns(self) -> bool:
        return "train" in PLANS[self.params.plan]

    def _learnt(self) -> bool:
        policy = self.learner.state == LearnerStatus.LEARNING and self.actor.policy_version >= 1
        return policy and self._judged()

    def _judged(self) -> bool:
        return not self._classified() or self.judge.state == RewardStatus.READY

    def begin(self) -> None:
        """Begin the next episode with a reset."""
        run = self.announcement.run
        self.announcement = self.session.begin_episode()
        self.announcement.run = run
        self.steps = self.person_steps = self.told = 0
        self.episode_return = 0.0
        self.reward, self.recordings = None, []
        self.stage = "reset"
        self.ask_reset()

    def ask_reset(self) -> None:
        """Ask for the reset; without an answer it is asked again."""
        if not self.reset.service_is_ready():
            self.get_logger().info(
                "waits for the robot: its service reset_episode comes with its joint_states",
                throttle_duration_sec=10.0,
            )
            return
        self.resetting, self.asked_at = True, time.monotonic()
        request = Reset.Request(episode=self.announcement.episode, seed=self.announcement.seed)
        self.reset.call_async(request).add_done_callback(self.on_reset)

    def on_reset(self, future) -> None:
        """Announce the episode when robot and scene are at its start."""
        if self.stage != "reset":
            return  # the answer to a question that was asked twice
        self.resetting = False
        response = future.result()
        if response is None or not response.success:
            why = response.message if response else "no answer"
            self.get_logger().error(f"reset failed: {why}; it is tried again", throttle_duration_sec=5.0)
            return
        self.announcement.header.stamp = response.stamp
        self.stage, self.moved_at = "episode", time.monotonic()
        self.publisher.publish(self.announcement)

    def on_reward(self, msg: Reward) -> None:
        """Count a step and its reward; end the episode where it says so."""
        if self.stage != "episode" or msg.episode != self.announcement.episode:
            return
        self.moved_at = time.monotonic()
        if self.reward is None or msg.step > self.reward.step:
            self.steps += 1
            self.person_steps += msg.controller == Action.PERSON
            self.episode_return += msg.reward
            self.told += msg.success
        self.reward = msg
        if not (msg.terminated or msg.truncated):
            return
        if self.session.phase == "demonstrate" and not msg.success:
            self.get_logger().warning(f"demonstration {self.announcement.episode} failed: it is shown again")
            self.stage = "begin"
        elif self._kept():
            self.stage, self.recording_since = "record", time.monotonic()
            self.advance()
        else:
            self.count()

    def on_judge(self, msg: RewardStatus) -> None:
        """Note whether the reward judges, and how well."""
        if msg.state != self.judge.state:
            if msg.state == RewardStatus.TRAINING:
                self.get_logger().info("the reward classifier learns from the labels")
            elif msg.metric_names:
                figures = zip(msg.metric_names, msg.metric_values, strict=True)
                self.get_logger().info("reward classifier: " + ", ".join(f"{n} {v:.4g}" for n, v in figures))
        self.judge = msg

    def on_recording(self, msg: Recording) -> None:
        """Note that an episode is in its bag."""
        if msg.episode == self.announcement.episode:
            self.recordings.append(msg)
            self.advance()

    def count(self) -> None:
        """Count the episode and go on."""
        if self.session.phase == "label":
            self.session.labelled += self.told
        told, truth = self.reward.success, self.reward.truth
        success = told if truth == Reward.UNKNOWN else truth == Reward.YES
        result = self.session.end_episode(self.steps, success, self.person_steps, self.episode_return, told)
        step = result.robot_steps if result.phase == "train" else result.episode
        self.log.add(step, **{
            f"{result.phase}/success": float(result.success),
            f"{result.phase}/autonomous_success": float(result.success and result.autonomous),
            f"{result.phase}/return": result.episode_return,
            f"{result.phase}/length": result.steps,
            f"{result.phase}/person_share": result.person_steps / max(1, result.steps),
        })  # fmt: skip
        if result.phase == "train":
            self.ages.append(self.actor.weights_age)
            self.log.add(step, **{"train/weights_age": self.ages[-1]})
            names, values = self.learner.metric_names, self.learner.metric_values
            self.log.add(step, **{f"learner/{n}": v for n, v in zip(names, values, strict=True)})
        self.get_logger().info(self._line(result))
        self.stage = "begin"
        self.advance()

    def _line(self, result) -> str:
        who = "alone" if result.autonomous else f"person {result.person_steps}"
        if result.phase == "label":
            labelled = f"{self.session.labelled} of {self.params.labels} frames of success"
            return f"label {self.session.in_phase}: {result.steps} steps; {labelled}"
        line = f"{result.phase} {self.session.in_phase}: {'success' if result.success else 'failure'}"
        if result.success != result.rewarded:
            line += " that the reward missed" if result.success else " that the reward took for a success"
        line += f", {result.steps} steps, {who}"
        if result.phase == "train":
            line += (
                f"; {result.robot_steps} robot steps, success {self.session.autonomous_rate():.0%},"
                f" person {self.session.intervention_rate():.0%}"
            )
        return line

    def on_event(self, msg: OperatorEvent) -> None:
        """Discard the episode, pause or go on."""
        if self.stage != "episode":
            return
        if msg.event == OperatorEvent.DISCARD:
            self.get_logger().info(f"episode {self.announcement.episode} is discarded")
            self.stage = "begin"
        elif msg.event == OperatorEvent.PAUSE:
            paused = self.announcement.status == Episode.PAUSED
            self.announcement.status = Episode.RUNNING if paused else Episode.PAUSED
            self.moved_at = time.monotonic()
            self.publisher.publish(self.announcement)

    def on_learner(self, msg: LearnerStatus) -> None:
        """Note the learner's status."""
        self.learner = msg

    def on_actor(self, msg: ActorStatus) -> None:
        """Note the actor's status."""
        self.actor = msg

    # -- the end, and what is shown

    def conclude(self) -> None:
        """Write the summary when the learner has saved, then end the run."""
        if self._learns() and self.learner.state != LearnerStatus.SAVED:
            return
        summary = self.session.summary(self.contract.period) | self._counters()
        write_json(self.session.folder / "summary.json", summary)
        if self.session.of_phase("train"):
            draw(
                [read_curve(self.session.folder)],
                self.session.folder / "learning_curve.png",
                self.params.window,
            )
        self.log.close()
        self.show()
        self.get_logger().info(f"done: {self.session.folder}/summary.json")
        self.stage, self.finished = "over", True

    def close(self) -> None:
        """Write the summary of a run that only ctrl-C ends."""
        if self.session.phase == "run":
            self.conclude()

    def _counters(self) -> dict:
        return {
            "updates": self.learner.updates,
            "policy_version": self.learner.policy_version,
            "transitions_sent": self.actor.transitions_sent,
            "transitions_stored": self.learner.stored,
            "weights_age_s": round(sum(self.ages) / len(self.ages), 2) if self.ages else None,
            "classifier": dict(
                zip(self.judge.metric_names, map(float, self.judge.metric_values), strict=True)
            ),
        }

    def show(self) -> None:
        """Write what is on now."""
        session = self.session
        controller = self.reward.controller if self.reward else Action.NOBODY
        write_json(
            session.folder / "status.json",
            session.facts | self._counters() | {
                "plan": session.plan,
                "phase": session.phase,
                "episode": session.episode,
                "in_phase": session.in_phase,
                "wanted": session.wanted(),
                "labelled": session.labelled,
                "labels": session.goals.labels,
                "robot_steps": session.robot_steps + (self.steps if self._training() else 0),
                "max_steps": session.goals.max_steps,
                "autonomous_success": session.autonomous_rate(),
                "target_success": session.goals.target_success,
                "window": session.goals.window,
                "person_share": session.intervention_rate(),
                "evaluation": session.eval_rate(),
                "eval_curve": session.eval_curve() if self._learns() else [],
                "baseline": [r.success for r in session.of_phase("baseline")],
                "recent": [[r.success, r.autonomous] for r in session.recent],
                "control": CONTROLLER_NAMES[controller] if self.stage == "episode" else "nobody",
                "learner_state": int(self.learner.state),
                "updates_per_s": round(self.learner.updates_per_s, 1),
                "wall_s": round(time.monotonic() - session.started, 1),
                "stamp": time.time(),
            },
        )  # fmt: skip

    def _training(self) -> bool:
        return self.session.phase == "train" and self.stage == "episode"


def main() -> None:
    """Run the node."""
    run(SessionNode)
