"""The real graph, all of its processes: a small run from demonstrations to the film, with two crashes in it."""

import csv

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import Reader

from hilrl_agents.replay import ReplayBuffer
from hilrl_agents.spec import PolicySpec

from .conftest import SMALL

pytestmark = pytest.mark.graph

SUMMARY_KEYS = {
    "task", "robot", "agent", "seed", "success_rate", "bc_rate", "cycle_time_s", "episodes", "robot_steps", "wall_s",
    "realtime_factor", "updates", "policy_version", "transitions_sent", "transitions_stored", "interventions",
}  # fmt: skip


def test_run_ends_by_itself_with_exit_code_0(run):
    assert run.code == 0, run.text()


def test_summary_has_all_figures(run):
    assert set(run.summary()) >= SUMMARY_KEYS
    assert run.summary()["robot_steps"] >= SMALL["max_steps"]


def test_supervisor_restarted_what_was_killed(run):
    assert "learner killed by SIGKILL; restarting it" in run.text()
    assert "actor killed by SIGKILL; restarting it" in run.text()


def test_no_transition_is_lost_over_the_crashes(run):
    summary = run.summary()
    assert summary["transitions_stored"] == summary["transitions_sent"] > 200
    checkpoint = yaml.safe_load((run.folder / "checkpoint" / "config.yaml").read_text())
    spec = PolicySpec.from_dict(checkpoint["spec"])
    online = ReplayBuffer(run.folder / "replay" / "online", spec, 100_000)
    assert online.stored == online.last_seq == summary["transitions_sent"]
    online.close()


def test_learning_goes_on_from_where_the_killed_learner_was(run):
    summary = run.summary()
    before = run.counts["learner"]
    assert before["transitions_stored"] > 0
    assert summary["policy_version"] > before["policy_version"]
    # one update per stored transition, also over the crash
    assert summary["updates"] == summary["transitions_stored"] - SMALL["learning_starts"]


def test_episodes_tell_success_and_who_acted(run):
    rows = list(csv.DictReader((run.folder / "episodes.csv").open()))
    by_phase = {phase: [r for r in rows if r["phase"] == phase] for phase in {r["phase"] for r in rows}}
    assert len(by_phase["demonstrate"]) == SMALL["demos"]
    assert all(r["success"] == "True" and r["person_steps"] == r["steps"] for r in by_phase["demonstrate"])
    assert len(by_phase["baseline"]) == SMALL["baseline_episodes"]
    assert all(r["person_steps"] == "0" for r in by_phase["baseline"] + by_phase["showcase"])
    assert sum(int(r["steps"]) for r in by_phase["train"]) == run.summary()["robot_steps"]


def test_demonstrations_are_bags_with_the_contracts_topics(run):
    bags = sorted((run.folder / "demos").iterdir())
    assert len(bags) == SMALL["demos"]
    with Reader(bags[0]) as reader:
        topics = {c.topic: c.msgtype for c in reader.connections}
        assert topics["/observation"] == "hilrl_msgs/msg/Observation"
        assert {"/joint_states", "/target/pose", "/executed_action", "/reward"} <= set(topics)


def test_film_and_curve_can_be_looked_at(run):
    import av
    from PIL import Image

    with av.open(str(run.folder / "policy.mp4")) as film:
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]
    assert len(frames) >= 2
    assert np.ptp(frames[0]) > 100, "the film shows nothing"
    assert Image.open(run.folder / "learning_curve.png").size[0] >= 600


def test_no_process_is_left(run):
    import psutil

    left = [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if str(run.folder.parent) in " ".join(p.info["cmdline"] or [])
    ]
    assert left == []
