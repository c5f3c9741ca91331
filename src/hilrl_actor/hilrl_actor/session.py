"""What a run is made of: phases, episodes, their results, and when it ends. No ROS communication."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hilrl_msgs.msg import Episode

from hilrl_ros.messages import PHASE_NAMES

# what the graph is told of a phase; where the policy runs for good, the person may take over and nothing is learnt
PHASE_CODES = PHASE_NAMES | {"run": Episode.EVALUATE}
PLANS = {
    "record": ("label", "demonstrate"),
    "learn": ("label", "demonstrate", "pretrain", "baseline", "train", "evaluate", "showcase"),
    "improve": ("label", "pretrain", "baseline", "train", "evaluate", "showcase"),
    "evaluate": ("evaluate",),
    "run": ("run",),
}
# phases draw their scenes from seeds of their own, so that no test scene was ever trained on
_SEED_STRIDE = 1_000_000


@dataclass(frozen=True)
class Goals:
    """When phases end.

    Attributes:
        labels: Labelled frames of success for the reward classifier.
        demos: Demonstrations.
        baseline_episodes: Episodes that measure the imitation policy.
        target_success: Share of autonomous successes at which training ends, if an evaluation reaches it too; where
            `measure_every` counts, the newest evaluation alone decides.
        window: Newest episodes over which that share is taken.
        max_steps: Robot steps at which training ends anyway.
        measure_every: Robot steps from one evaluation to the next, each in the same scenes as the baseline and as long;
            0: evaluated is what seems to have reached the target, in scenes of its own.
        evaluate_episodes: Episodes of an evaluation, by the policy alone and without exploration.
        showcase_episodes: Episodes that are filmed.
        explore: Whether the policy samples also where it is measured.
    """

    labels: int = 200
    demos: int = 20
    baseline_episodes: int = 20
    target_success: float = 0.95
    window: int = 20
    max_steps: int = 20_000
    measure_every: int = 0
    evaluate_episodes: int = 50
    showcase_episodes: int = 3
    explore: bool = False


@dataclass(frozen=True)
class Result:
    """Outcome of one episode.

    Attributes:
        phase: Name of its phase.
        episode: Its number.
        robot_steps: Robot steps of training when it ended.
        steps: Its length in control periods.
        success: Whether the task was solved: in truth where that is known, else as the reward told.
        rewarded: Whether the reward said so.
        autonomous: Whether nobody intervened.
        person_steps: Steps that a person acted.
        episode_return: Sum of its rewards.
        wall_s: Seconds since the run began.
    """

    phase: str
    episode: int
    robot_steps: int
    steps: int
    success: bool
    rewarded: bool
    autonomous: bool
    person_steps: int
    episode_return: float
    wall_s: float


@dataclass
class Session:
    """State of a run: which phase and episode is on, what was achieved, where it is written.

    Attributes:
        folder: The run's folder.
        plan: Names of the phases in order.
        goals: When phases end.
        seed: Of all scenes.
        facts: What goes into the summary as it is (task, robot, agent, …).
        in_phase: Episodes of the phase that are done.
        labelled: Frames of success that were labelled.
        recorded_steps: Steps of the demonstrations that an interrupted recording left.
    """

    folder: Path
    plan: tuple[str, ...]
    goals: Goals
    seed: int
    facts: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    index: int = 0
    episode: int = 0
    in_phase: int = 0
    robot_steps: int = 0
    started: float = field(default_factory=time.monotonic)
    train_wall_s: float = 0.0
    reached: bool = False
    labelled: int = 0
    recorded_steps: int = 0

    def __post_init__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self._recent: deque[Result] = deque(maxlen=self.goals.window)
        self._evaluated_from = 0
        self._measure_at = self.goals.measure_every

    def go_on(self, episodes: int, newest: int, steps: int = 0, labelled: int = 0) -> None:
        """Go on where a recording was interrupted.

        Args:
            episodes: Episodes of the phase that are recorded whole.
            newest: Number of the newest of all; what follows is counted from there, so that none is overwritten.
            steps: Steps of the demonstrations among them.
            labelled: Frames of success that were labelled.
        """
        self.in_phase, self.episode = episodes, newest
        self.recorded_steps, self.labelled = steps, labelled

    @property
    def phase(self) -> str:
        """Name of the phase that is on, "done" behind the last."""
        return self.plan[self.index] if self.index < len(self.plan) else "done"

    @property
    def has_episodes(self) -> bool:
        """Whether the phase consists of episodes."""
        return self.phase not in ("pretrain", "done")

    def wanted(self) -> int:
        """Return how many episodes the phase has at most, 0 for no bound."""
        goals = self.goals
        return {
            "demonstrate": goals.demos,
            "baseline": goals.evaluate_episodes if goals.measure_every else goals.baseline_episodes,
            "evaluate": goals.evaluate_episodes,
            "showcase": goals.showcase_episodes,
        }.get(self.phase, 0)

    def finished(self) -> bool:
        """Return whether the phase that is on has reached its end."""
        if self.phase == "run":
            return False
        if self.phase == "train" and self.goals.measure_every:
            return self.robot_steps >= min(self._measure_at, self.goals.max_steps)
        if self.phase == "train":
            self.reached = (
                len(self._recent) == self.goals.window and self.autonomous_rate() >= self.goals.target_success
            )
            return self.reached or self.robot_steps >= self.goals.max_steps
        if self.phase == "label":
            return self.labelled >= self.goals.labels
        return self.has_episodes and self.in_phase >= self.wanted()

    def next_phase(self) -> str:
        """Enter the next phase and return its name; training goes on where the evaluation denies its success."""
        if self.phase == "train":
            self._evaluated_from = len(self.results)
        if self.goals.measure_every and self.phase in ("baseline", "evaluate"):
            self._after_measurement()
            return self.phase
        denied = self.phase == "evaluate" and self.eval_rate() < self.goals.target_success
        if denied and "train" in self.plan and self.robot_steps < self.goals.max_steps:
            self.index = self.plan.index("train")
            self._recent.clear()
        else:
            self.index += 1
        self.in_phase = 0
        return self.phase

    def _after_measurement(self) -> None:
        """Train on, or end where the newest measurement reached the target or no steps are left."""
        every = self.goals.measure_every
        self.reached = self.eval_curve()[-1][1] >= self.goals.target_success
        over = self.reached or self.robot_steps >= self.goals.max_steps
        self.index = self.plan.index("evaluate") + 1 if over else self.plan.index("train")
        self._measure_at = (self.robot_steps // every + 1) * every
        self.in_phase = 0

    def begin_episode(self, episode: int | None = None) -> Episode:
        """Return the announcement of the next episode (without its stamp)."""
        self.episode = self.episode + 1 if episode is None else episode
        code = PHASE_CODES[self.phase]
        # repeats of a discarded episode draw a new scene: the same one might be impossible
        scenes, scene = code, self.episode
        if self.goals.measure_every and self.phase in ("baseline", "evaluate"):
            scenes, scene = (
                Episode.EVALUATE,
                self.in_phase + 1,
            )  # the same each time: what differs is the policy
        return Episode(
            phase=code,
            status=Episode.RUNNING,
            episode=self.episode,
            seed=_SEED_STRIDE * (16 * self.seed + scenes) + scene,
            explore=self.phase == "train" or self.goals.explore,
            learn=self.phase == "train",
            person=self.phase in ("label", "demonstrate", "train", "run"),
            baseline_return=self.baseline_return(),
        )

    def end_episode(
        self,
        steps: int,
        success: bool,
        person_steps: int,
        episode_return: float,
        rewarded: bool | None = None,
    ) -> Result:
        """Count an episode of the phase that is on and write it down; `rewarded` None: what `success` is."""
        if self.phase == "train":
            self.robot_steps += steps
        result = Result(
            phase=self.phase,
            episode=self.episode,
            robot_steps=self.robot_steps,
            steps=steps,
            success=success,
            rewarded=success if rewarded is None else rewarded,
            autonomous=person_steps == 0,
            person_steps=person_steps,
            episode_return=episode_return,
            wall_s=round(time.monotonic() - self.started, 3),
        )
        self.results.append(result)
        self.in_phase += 1
        if self.phase in ("train", "run"):
            self._recent.append(result)
        path = self.folder / "episodes.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(result)))
            if new:
                writer.writeheader()
            writer.writerow(asdict(result))
        return result

    def of_phase(self, phase: str) -> list[Result]:
        """Return the results of a phase."""
        return [r for r in self.results if r.phase == phase]

    @property
    def recent(self) -> list[Result]:
        """Newest episodes of training or of a run, as many as `window` says."""
        return (self.of_phase("train") or self.of_phase("run"))[-self.goals.window :]

    def autonomous_rate(self) -> float:
        """Return the share of the newest episodes of training or of a run that succeeded without intervention."""
        return sum(r.success and r.autonomous for r in self._recent) / max(1, len(self._recent))

    def eval_rate(self) -> float | None:
        """Return the share of successes in the newest evaluation, None before there was one."""
        newest = self._newest_evaluation()
        return sum(r.success for r in newest) / len(newest) if newest else None

    def baseline_return(self) -> float:
        """Return what the episodes of the baseline earned on average, NaN without one."""
        earned = [r.episode_return for r in self.of_phase("baseline")]
        return sum(earned) / len(earned) if earned else math.nan

    def eval_curve(self) -> list[tuple[int, float]]:
        """Return robot steps and success of the policy alone, each time it was measured; first: before training."""
        return measured(self.results)

    def _newest_evaluation(self) -> list[Result]:
        return [r for r in self.results[self._evaluated_from :] if r.phase == "evaluate"]

    def intervention_rate(self) -> float:
        """Return the share of steps in the newest episodes of training or of a run that a person acted."""
        return sum(r.person_steps for r in self._recent) / max(1, sum(r.steps for r in self._recent))

    def summary(self, period: float) -> dict[str, Any]:
        """Return the figures of the run.

        A cycle time is the mean duration of the autonomous successes: of the episodes behind `success_rate`, of the
        imitation policy's (`bc_`) and of the newest evaluation's (`eval_`).

        Args:
            period: Control period, s.
        """
        train, ran = self.of_phase("train"), self.of_phase("run")
        judged = train[-self.goals.window :] or ran or self.of_phase("evaluate")
        autonomous = [r for r in judged if r.success and r.autonomous]
        baseline = self.of_phase("baseline")
        curve = self.eval_curve() if "train" in self.plan else []
        return self.facts | {
            "success_rate": round(len(autonomous) / len(judged), 4) if judged else None,
            "bc_rate": round(sum(r.success for r in baseline) / len(baseline), 4) if baseline else None,
            "eval_rate": self.eval_rate(),
            "eval_curve": curve,
            "start_rate": curve[0][1] if baseline else None,
            "worst_rate": min((rate for _, rate in curve), default=None),
            "cycle_time_s": cycle_time(judged, period),
            "bc_cycle_time_s": cycle_time(baseline, period),
            "eval_cycle_time_s": cycle_time(self._newest_evaluation(), period),
            "episodes": len(train) or len(judged),
            "robot_steps": self.robot_steps,
            "demo_steps": self.recorded_steps + sum(r.steps for r in self.of_phase("demonstrate")),
            "reached_target": self.reached,
            "wall_s": round(time.monotonic() - self.started, 1),
            "realtime_factor": round(self.robot_steps * period / self.train_wall_s, 2)
            if self.train_wall_s
            else None,
            "interventions": sum(r.person_steps > 0 for r in train or ran),
            "intervention_steps": sum(r.person_steps for r in train or ran),
        }


def measured(results: Sequence[Result]) -> list[tuple[int, float]]:
    """Return robot steps and share of successes of each run of episodes that measured the policy alone."""
    groups = itertools.groupby(results, lambda r: (r.phase, r.robot_steps))
    found = []
    for (phase, steps), group in groups:
        if phase in ("baseline", "evaluate"):
            successes = [r.success for r in group]
            found.append((steps, round(sum(successes) / len(successes), 4)))
    return found


def cycle_time(results: list[Result], period: float) -> float | None:
    """Return the mean duration of the autonomous successes in seconds of robot time, None without one."""
    steps = [r.steps for r in results if r.success and r.autonomous]
    return round(sum(steps) / len(steps) * period, 3) if steps else None


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file so that a reader never sees half of it."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(new, path)
