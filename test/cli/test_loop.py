"""Options of the commands that bring the loop up become the launch arguments that they stand for."""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import pytest

from hilrl_actor.session import Goals, Session, write_json
from hilrl_cli import launch_file, loop
from hilrl_cli.commands import record, run, teleop, train
from hilrl_cli.errors import UserError
from hilrl_cli.main import main
from hilrl_cli.view import for_people
from hilrl_ros.contract_reader import load_contract


def parsed(module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def processes(file, words, folder):
    """The processes of a launch by name: their parameters, as text."""
    values = dict(word.split(":=", 1) for word in words)
    return {
        p.name: "".join(
            Path(value).read_text() for flag, value in pairwise(p.argv) if flag == "--params-file"
        )
        for p in launch_file.load(launch_file.find(file), values, folder)
    }


@pytest.fixture
def demos(tmp_path):
    """A run with one episode that looks whole."""
    contract, _ = load_contract("so101", "reach")
    episode = tmp_path / "shown" / "demos" / "episode_000004"
    episode.mkdir(parents=True)
    (episode / "metadata.yaml").touch()
    facts = {"episode": 4, "seed": 0, "task": "reach", "text": "", "success": True, "steps": 9}
    (episode / "episode.json").write_text(json.dumps(facts | {"contract": contract.hash()}))
    return episode.parent


def test_who_is_at_the_arm_unless_it_is_said():
    assert loop.place(parsed(train)) == {"port": "sim", "operator": "scripted"}
    assert loop.place(parsed(record, "--port", "emulated")) == {"port": "emulated", "operator": "gamepad"}
    assert loop.place(parsed(train, "--operator", "gamepad"))["lockstep"] == "false"


def test_a_port_that_is_not_there_is_said_before_anything_starts():
    for module in (record, teleop):
        with pytest.raises(UserError, match=r"there is no /dev/nothing; .*--port emulated"):
            loop.place(parsed(module, "--port", "/dev/nothing"))
    assert parsed(record).port == parsed(run, "x").port == parsed(teleop).port == "/dev/so101_follower"


def test_an_arm_without_calibration_is_not_waited_for(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("hilrl_cli.environment.enter", lambda: None)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert main(["teleop", "--port", "/dev/null"]) == 2
    err = capsys.readouterr().err
    assert (
        f"no calibration of the follower 'so101_follower'; looked for {tmp_path}/lerobot/calibration/" in err
    )
    assert "`hilrl calibrate`" in err
    (tmp_path / "file").touch()
    assert main(["teleop", "--port", str(tmp_path / "file")]) == 2
    assert "file is no serial port; there are: " in capsys.readouterr().err


def test_a_run_that_cannot_begin_touches_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("hilrl_cli.environment.enter", lambda: None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "episodes.csv").touch()
    for name, error in (
        ("mine", "mine: is there already; name another"),
        ("a/b", "run is 'a/b', expected a name"),
    ):
        assert main(["train", "--run", name, f"runs_dir:={tmp_path}"]) == 2
        assert error in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "episodes.csv"]


def test_a_run_that_was_moved_brings_its_contract_along(tmp_path):
    folder = tmp_path / "moved"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "config.yaml").touch()
    (folder / "robot.yaml").touch()
    facts = {"task": "reach", "robot": str(tmp_path / "made" / "robot.yaml")}
    (folder / "summary.json").write_text(json.dumps(facts))
    assert loop.policy_of(folder)["robot"] == str(folder / "robot.yaml")
    assert loop.policy_of(folder)["task"] == "reach"


def test_what_has_an_option_is_said_with_it(capsys, monkeypatch):
    monkeypatch.setattr("hilrl_cli.environment.enter", lambda: None)
    assert main(["record", "--port", "sim", "run:=x"]) == 2
    assert "run:= is said with --run" in capsys.readouterr().err


def test_a_device_that_needs_a_second_terminal_says_so(capsys):
    loop.place(parsed(record, "--port", "emulated", "--operator", "keyboard"))
    assert "run `hilrl keyboard`" in capsys.readouterr().out


def test_training_with_demonstrations_recorded_before_records_none(demos, tmp_path):
    words = train.words(parsed(train, "--task", "reach", "--demos", str(demos.parent), "demos:=7"))
    started = processes("sim", words, tmp_path / "parameters")
    assert f"demos: {demos}" in started["learner"]
    assert "demos: 0" in started["session"]
    assert "demos: 7" in processes("sim", ["demos:=7"], tmp_path / "more")["session"]


@pytest.mark.parametrize("file", ["sim", "real_so101"])
def test_actor_and_learner_start_from_the_same_policy_and_the_session_measures_it(file, tmp_path):
    words = [
        "warm_start:=/my/policy",
        "improve:=true",
        "measure_every:=300",
        "policy_parameters_push_frequency:=0.5",
    ]
    started = processes(file, words, tmp_path / "parameters")
    assert "warm_start: /my/policy" in started["learner"] and "warm_start: /my/policy" in started["actor"]
    assert "policy_parameters_push_frequency: 0.5" in started["learner"]
    assert "plan: improve" in started["session"] and "measure_every: 300" in started["session"]
    assert "plan: learn" in processes(file, [], tmp_path / "more")["session"]


def test_demonstrations_of_another_task_or_none_at_all_are_refused(demos, tmp_path):
    with pytest.raises(UserError, match="recorded under contract"):
        train.words(parsed(train, "--task", "pick_cube", "--demos", str(demos)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no finished episode"):
        train.words(parsed(train, "--demos", str(tmp_path / "empty")))


def test_a_comparison_learns_from_the_same_demonstrations_for_as_many_steps(monkeypatch, tmp_path, capsys):
    """The graph itself is replaced by what a run leaves behind."""
    started = []

    def leave_a_run(file, words):
        values = dict(word.split(":=", 1) for word in words)
        started.append(values)
        session = Session(
            Path(values["runs_dir"], values["run"]), ("train", "evaluate"), Goals(window=2, evaluate_episodes=1), 0,
            {"agent": values.get("agent", "sac")},
        )  # fmt: skip
        for steps in (30, 20):
            session.end_episode(steps, True, 0, 1.0)
        session.next_phase()
        session.end_episode(10, len(started) == 1, 0, 1.0)
        write_json(session.folder / "summary.json", session.summary(0.1))
        return 0

    monkeypatch.setattr(train.launch, "start", leave_a_run)
    command = ["train", "--compare", "bc", "--seed", "3", f"runs_dir:={tmp_path}", "run:=mine"]
    assert main(command) == 0
    first, second = started
    assert first["seed"] == second["seed"] == "3" and "agent" not in first
    expected = {"agent": "bc", "demos_from": f"{tmp_path}/mine/demos", "max_steps": "50"}
    assert expected.items() <= second.items()
    assert (tmp_path / "mine" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "sac: 100% in the evaluation after 50 robot steps, 0 of them by the person" in out
    assert "bc: 0% in the evaluation" in out
    assert main(["train", "--compare", "bd"]) == 2
    assert (
        "agent 'bd' is unknown; there are: act, act_joints, bc" in capsys.readouterr().err
        and len(started) == 2
    )


def test_teleoperation_has_no_observer_and_the_person_alone_drives(tmp_path):
    started = processes("teleop", ["port:=emulated"], tmp_path)
    assert set(started) == {
        "emulated_arm",
        "driver",
        "reset",
        "mux",
        "arm_controller",
        "joy_teleop",
        "gamepad",
    }
    assert "teleop: true" in started["mux"]


def test_a_run_at_work_is_not_recorded(tmp_path):
    assert "recorder" in processes("eval", ["policy:=x"], tmp_path / "a")
    started = processes("eval", ["policy:=x", "plan:=run", "operator:=gamepad"], tmp_path / "b")
    assert "recorder" not in started and "gamepad" in started
    assert "plan: run" in started["session"]


def test_how_a_run_went():
    summary = {"episodes": 12, "success_rate": 0.75, "interventions": 2, "intervention_steps": 31}
    assert run.describe(summary) == (
        "12 episodes: 75% solved by the policy alone, the person took over in 2 (31 steps)"
    )
    assert run.describe({"episodes": 0}) == "no episode was finished"


def test_what_a_person_sees_of_the_processes_lines():
    assert for_people("[reset] [INFO] [12.3] [reset]: press pause to start") == "press pause to start"
    assert for_people("[mux] [INFO] [12.3] [mux]: hello") is None
    warning = "[mux] [WARN] [12.3] [mux]: late"
    assert for_people(warning) == warning


def test_names_of_evaluations_and_runs_are_counted(tmp_path):
    (tmp_path / "run_001").mkdir()
    assert loop.free_name(tmp_path, "run") == "run_002"
    assert loop.free_name(tmp_path, "eval") == "eval_001"
