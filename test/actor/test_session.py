"""What leads a run: its phases, when they end, and what is written down."""

import csv
import dataclasses
import math

import pytest
from hilrl_msgs.msg import Episode

from hilrl_actor.curves import RunError, draw, draw_measured, read_curve, read_measured
from hilrl_actor.session import PLANS, Goals, Session

GOALS = Goals(demos=2, baseline_episodes=2, target_success=0.9, window=4, max_steps=200, evaluate_episodes=5)


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path / "run", PLANS["learn"][1:], GOALS, seed=3, facts={"task": "reach"})


def play(session, *outcomes, person_steps=0, steps=10):
    """Play one episode for each outcome, and enter the next phase when this one has reached its end."""
    for success in outcomes:
        session.begin_episode()
        session.end_episode(steps, success, person_steps, float(success))
    if session.finished():
        session.next_phase()


def train(session):
    play(session, True, True, person_steps=10)
    session.next_phase()  # pretraining has no episodes
    play(session, False, True)
    assert session.phase == "train"


def test_a_run_goes_through_its_phases(session):
    assert session.phase == "demonstrate"
    train(session)
    play(session, True, True, True, True)
    assert session.phase == "evaluate"
    play(session, *[True] * 5)
    assert session.phase == "showcase"
    play(session, *[True] * GOALS.showcase_episodes)
    assert session.phase == "done"
    summary = session.summary(0.1)
    assert summary["reached_target"]
    assert (summary["success_rate"], summary["bc_rate"], summary["eval_rate"]) == (1.0, 0.5, 1.0)
    assert (summary["robot_steps"], summary["episodes"], summary["interventions"]) == (40, 4, 0)
    assert summary["cycle_time_s"] == summary["bc_cycle_time_s"] == summary["eval_cycle_time_s"] == 1.0


def test_the_cycle_time_is_that_of_what_the_policy_solved_alone(session):
    train(session)
    for steps, success, person_steps in ((8, True, 0), (12, True, 0), (80, False, 0), (40, True, 5)):
        session.begin_episode()
        session.end_episode(steps, success, person_steps, 0.0)
    assert session.summary(0.1)["cycle_time_s"] == 1.0
    assert session.summary(0.1)["eval_cycle_time_s"] is None


def test_labels_are_given_until_there_are_enough_frames_of_success(tmp_path):
    session = Session(tmp_path / "run", PLANS["learn"], dataclasses.replace(GOALS, labels=20), 3, {})
    announced = session.begin_episode()
    assert (announced.phase, announced.person, announced.learn) == (Episode.LABEL, True, False)
    session.go_on(episodes=2, newest=7, labelled=12)  # an interrupted recording
    play(session, False, False)
    assert session.phase == "label"
    session.labelled += 8
    play(session)
    assert session.phase == "demonstrate" and session.episode == 9


def test_a_success_with_the_persons_help_is_none_of_the_policys(session):
    train(session)
    play(session, True, True, True)
    play(session, True, person_steps=1)
    assert session.phase == "train"
    assert session.autonomous_rate() == 0.75
    assert session.intervention_rate() == 1 / 40


def test_training_goes_on_where_the_evaluation_denies_its_success(session):
    train(session)
    play(session, *[True] * 4)
    play(session, True, True, True, True, False)
    assert session.phase == "train"
    assert session.eval_rate() == 0.8
    play(session, True, True)
    assert session.phase == "train", "the window begins anew"
    play(session, True, True)
    assert session.phase == "evaluate"
    play(session, *[True] * 5)
    assert session.phase == "showcase"
    assert session.summary(0.1)["eval_rate"] == 1.0


def test_training_ends_at_the_last_step_whatever_was_reached(session):
    train(session)
    play(session, False, steps=200)
    assert session.phase == "evaluate"
    play(session, *[False] * 5)
    assert session.phase == "showcase"
    assert not session.summary(0.1)["reached_target"]


def test_no_phase_sees_the_scenes_of_another_nor_another_seeds(tmp_path):
    seeds = []
    for seed in (0, 1):
        session = Session(tmp_path / str(seed), PLANS["learn"], GOALS, seed, {})
        for _ in PLANS["learn"]:
            if session.has_episodes:
                seeds += [session.begin_episode(episode).seed for episode in range(50)]
            session.index += 1
    assert len(set(seeds)) == len(seeds)


def test_only_training_explores_and_learns_and_nobody_helps_where_it_is_measured(tmp_path):
    session, seen = Session(tmp_path / "run", PLANS["learn"], GOALS, 3, {}), {}
    for phase in PLANS["learn"]:
        if session.has_episodes:
            seen[phase] = session.begin_episode()
        session.index += 1
    assert [p for p, e in seen.items() if e.learn] == ["train"]
    assert [p for p, e in seen.items() if e.explore] == ["train"]
    assert [p for p, e in seen.items() if e.person] == ["label", "demonstrate", "train"]
    assert seen["evaluate"].phase == Episode.EVALUATE


def test_the_curve_shows_training_imitation_and_evaluations(session):
    train(session)
    play(session, *[True] * 4)
    play(session, True, True, True, True, False)
    play(session, *[True] * 4)
    play(session, *[True] * 5)
    curve = read_curve(session.folder)
    assert curve.evaluations == [(40, 0.8), (80, 1.0)]
    assert curve.bc_rate == 0.5
    assert list(curve.steps) == [10, 20, 30, 40, 50, 60, 70, 80]
    draw([curve], session.folder / "curve.png")
    assert (session.folder / "curve.png").stat().st_size > 10_000
    rows = list(csv.DictReader((session.folder / "episodes.csv").open()))
    assert len(rows) == 2 + 2 + 8 + 10


def test_an_interrupted_recording_goes_on_behind_what_is_recorded(tmp_path):
    session = Session(tmp_path / "run", PLANS["record"][1:], GOALS, 3, {})
    session.go_on(episodes=1, newest=4, steps=30)
    assert not session.finished()
    assert session.begin_episode().episode == 5
    session.end_episode(10, True, 9, 1.0)
    assert session.finished()
    assert session.summary(0.1)["demo_steps"] == 40


def test_a_run_has_no_end_learns_nothing_and_lets_the_person_take_over(tmp_path):
    session = Session(tmp_path / "run", PLANS["run"], GOALS, 3, {})
    for success, person_steps in ((True, 0), (True, 4), (False, 0), (True, 0), (True, 0)):
        episode = session.begin_episode()
        session.end_episode(10, success, person_steps, 0.0)
    assert (episode.phase, episode.person, episode.learn, episode.explore) == (
        Episode.EVALUATE,
        True,
        False,
        False,
    )
    assert session.phase == "run" and not session.finished()
    assert len(session.recent) == GOALS.window
    summary = session.summary(0.1)
    assert (summary["success_rate"], summary["episodes"]) == (0.6, 5)
    assert (summary["interventions"], summary["intervention_steps"]) == (1, 4)


def test_truth_counts_and_what_the_reward_took_it_for_is_written_beside_it(session):
    session.begin_episode()
    session.end_episode(10, False, 0, 1.0, rewarded=True)
    with (session.folder / "episodes.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["success"], row["rewarded"]) == ("False", "True")


# -- a policy that is improved


IMPROVE = dataclasses.replace(GOALS, target_success=0.8, measure_every=50, max_steps=120, evaluate_episodes=4)


@pytest.fixture
def improving(tmp_path):
    session = Session(tmp_path / "run", PLANS["improve"][1:], IMPROVE, seed=3, facts={"task": "reach"})
    session.next_phase()  # pretraining has no episodes
    return session


def test_an_improved_policy_is_measured_at_the_start_and_every_so_many_steps(improving):
    play(improving, True, True, False, False)
    play(improving, True, True, True, True, True)  # 50 robot steps
    assert improving.phase == "evaluate", "however good training looked, the measurement decides"
    play(improving, True, False, False, False)
    assert improving.phase == "train"
    play(improving, *[True] * 4, steps=12)
    assert improving.phase == "train" and improving.robot_steps == 98
    play(improving, True, steps=12)
    assert improving.phase == "evaluate" and improving.robot_steps == 110
    play(improving, True, True, True, False)
    play(improving, False)
    assert improving.phase == "evaluate", "no steps are left"
    play(improving, True, True, True, False)
    assert improving.phase == "showcase"
    summary = improving.summary(0.1)
    assert summary["eval_curve"] == [(0, 0.5), (50, 0.25), (110, 0.75), (120, 0.75)]
    assert (summary["start_rate"], summary["worst_rate"], summary["eval_rate"]) == (0.5, 0.25, 0.75)
    assert (summary["robot_steps"], summary["reached_target"]) == (120, False)


def test_improving_ends_when_a_measurement_reaches_the_target(improving):
    play(improving, True, True, False, False)
    play(improving, *[False] * 5)
    play(improving, True, True, True, True)
    assert improving.phase == "showcase" and improving.summary(0.1)["reached_target"]


def test_a_policy_that_is_good_enough_is_not_trained(improving):
    play(improving, *[True] * 4)
    assert improving.phase == "showcase"
    assert improving.summary(0.1)["eval_curve"] == [(0, 1.0)]
    assert read_measured(improving.folder) == [(0, 1.0)]


def test_every_measurement_is_of_the_same_scenes_which_training_never_sees(improving):
    seen = {}
    for outcomes in ([False] * 4, [True] * 5, [False] * 4):
        for success in outcomes:
            announced = improving.begin_episode()
            seen.setdefault((improving.phase, improving.robot_steps > 40), []).append(announced.seed)
            improving.end_episode(10, success, 0, 0.0)
        improving.next_phase()
    assert len(set(seen["baseline", False])) == 4
    assert seen["baseline", False] == seen["evaluate", True]
    assert not set(seen["baseline", False]) & set(seen["train", False])


def test_nobody_helps_or_explores_where_an_improved_policy_is_measured(improving):
    announced = improving.begin_episode()
    assert (announced.phase, announced.person) == (Episode.BASELINE, False)
    assert (announced.explore, announced.learn) == (False, False)


def test_training_is_told_what_the_policy_earned_before(improving):
    assert math.isnan(improving.begin_episode().baseline_return)
    play(improving, True, True, True, False)
    assert improving.begin_episode().baseline_return == 0.75


def test_one_picture_compares_methods_by_what_was_measured(improving, tmp_path):
    play(improving, True, True, False, False)
    play(improving, *[False] * 5)
    play(improving, True, True, True, True)
    assert read_measured(improving.folder) == [(0, 0.5), (50, 1.0)]
    draw([read_curve(improving.folder)], tmp_path / "one.png")
    runs = [[(0, 0.5), (50, 1.0)], [(0, 0.7), (60, 0.6), (110, 0.9)]]
    draw_measured({"residual": runs, "sac": runs[:1]}, tmp_path / "all.png", "reach")
    assert (tmp_path / "all.png").stat().st_size > 10_000
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "episodes.csv").write_text("phase,robot_steps,success\ntrain,10,True\n")
    with pytest.raises(
        RunError, match=r"none: its policy was never measured: it has no episodes of baseline"
    ):
        read_measured(tmp_path / "none")
