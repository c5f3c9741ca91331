"""hilrl data, from the command line, on tiny files; and offline data of a training."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hilrl_msgs.msg import Action, Observation, Reward
from loop_messages import ROBOT
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer

from hilrl_cli import loop
from hilrl_cli.commands import data
from hilrl_cli.main import main
from hilrl_data.bags import episode_folders, finished_episodes, read_info, read_steps, typestore_for
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import nanoseconds

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from dataset_files import foreign, record, steps

TASK = "pick_cube_vision"
CONTRACT, _ = load_contract("so101", TASK)


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Episodes of a shipped task with two cameras, as the recorder leaves them."""
    folder = tmp_path_factory.mktemp("recorded") / "demos"
    record(folder, (5, "terminated"), (4, "truncated"), contract=CONTRACT, person=lambda k: k != 1)
    for bag in finished_episodes(folder):
        info = json.loads((bag / "episode.json").read_text())
        (bag / "episode.json").write_text(json.dumps(info | {"task": TASK}))
    return folder


@pytest.fixture
def joints(tmp_path):
    """A task whose policy has joints and one camera, as datasets of others do."""
    task = yaml.safe_load((ROBOT.parents[1] / "tasks" / f"{TASK}.yaml").read_text())
    scale = dict.fromkeys(load_contract(ROBOT)[0].joints, 1.0)
    task |= {"action": {"type": "joint_position", "scale": scale}, "cameras": ["front"]}
    robot = yaml.safe_load(ROBOT.read_text()) | {"motion": {"x": 0.02, "y": 0.02, "z": 0.02, "gripper": 0.2}}
    (tmp_path / "joints.yaml").write_text(yaml.safe_dump(task))
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(robot))
    return ["--task", "joints.yaml", "--robot", "arm.yaml"]


def plain_bag(folder, storage, topics=("observation", "executed_action", "reward"), namespace=""):
    """What `ros2 bag record` leaves of two episodes: one bag, nothing beside it."""
    messages = []
    for episode in (3, 4):
        for step in steps(episode, 3, contract=CONTRACT):
            messages += [
                ("observation", step.observation),
                ("executed_action", step.executed),
                ("reward", step.reward),
            ]
            messages += [("observation", step.final)] if step.final else []
    kinds = {Observation: "Observation", Action: "Action", Reward: "Reward"}
    with Writer(folder, version=9, storage_plugin=storage) as writer:
        connections = {}
        for topic, msg in messages:
            if topic in topics:
                name = f"hilrl_msgs/msg/{kinds[type(msg)]}"
                if topic not in connections:
                    connections[topic] = writer.add_connection(
                        f"{namespace}/{topic}", name, typestore=typestore_for(name)
                    )
                writer.write(connections[topic], nanoseconds(msg.header.stamp), serialize_message(msg))
    return folder


def test_a_recording_goes_out_and_comes_back(demos, tmp_path, capsys):
    assert main(["data", "export", str(demos), "--format", "lerobot", "--out", "set"]) == 0
    assert "2 episodes, 9 steps in set" in capsys.readouterr().out
    assert main(["data", "import", "set"]) == 0
    back = episode_folders(tmp_path / "datasets" / "set")
    assert [read_info(bag) for bag in back] == [read_info(bag) for bag in episode_folders(demos)]
    # what is imported can be trained from at once
    assert loop.demonstrations(tmp_path / "datasets" / "set", "so101", TASK) == tmp_path / "datasets" / "set"
    assert (
        main(["data", "export", str(demos), "--format", "mcap", "--only", "person", "--out", "corrections"])
        == 0
    )
    assert "4 episodes, 7 steps in corrections" in capsys.readouterr().out
    assert main(["data", "import", "set", "--out", "set"]) == 2
    assert "set: exists already; name another folder" in capsys.readouterr().err


def test_info_says_what_is_in_it(demos, capsys):
    assert main(["data", "info", str(demos), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = {"episodes": 2, "steps": 9, "seconds": 0.9, "rate_hz": 10.0, "successes": 1, "lost_steps": 0}
    assert expected.items() <= found.items() and found["person_share"] == pytest.approx(7 / 9, abs=1e-4)
    assert found["cameras"] == {"front": [64, 64], "wrist": [64, 64]}
    low, mean, high = found["action"]["gripper"]
    assert -1 <= low < mean < high <= 1
    assert main(["data", "info", str(demos)]) == 0
    assert "pick up the cube 1 (1)" in capsys.readouterr().out


def test_check_names_what_is_wrong(demos, tmp_path, capsys):
    assert main(["data", "check", str(demos)]) == 0
    assert "nothing wrong in 2 episodes, 9 steps" in capsys.readouterr().out
    record(tmp_path / "bad", (6, "truncated"), contract=CONTRACT, lost=(2,))
    assert main(["data", "check", "bad", "--task", TASK]) == 2
    out = capsys.readouterr().out.splitlines()
    assert out == ["episode 1: 1 steps are missing after step 1", "no episode succeeded"]


def test_view_draws_episodes(demos, tmp_path):
    assert main(["data", "view", str(demos)]) == 0
    assert (tmp_path / "demos.png").read_bytes().startswith(b"\x89PNG")


def test_view_writes_a_file_for_rerun(demos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert main(["data", "view", str(demos), "--out", "demos.rrd"]) == 2
    assert "demos.rrd: needs the package rerun-sdk" in capsys.readouterr().err
    assert main(["data", "view", str(demos), "--out", "demos.pdf"]) == 2
    assert "expected a name that ends in .png or .rrd" in capsys.readouterr().err


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_bags_of_ros2_bag_record_are_split_into_episodes(tmp_path, storage, capsys):
    plain_bag(tmp_path / "bag", storage, namespace="/follower")
    assert main(["data", "import", "bag", "--task", TASK, "--out", "made"]) == 0
    made = episode_folders(tmp_path / "made")
    infos = [read_info(bag, CONTRACT.hash()) for bag in made]
    assert [(i.episode, i.steps, i.success, i.task) for i in infos] == [
        (3, 3, True, TASK),
        (4, 3, True, TASK),
    ]
    found = [s.observation for bag in made for s in read_steps(bag)]
    assert found == [s.observation for e in (3, 4) for s in steps(e, 3, contract=CONTRACT)]


def test_bags_without_rewards_end_with_success_where_one_says_so(tmp_path, capsys):
    plain_bag(tmp_path / "bag", StoragePlugin.MCAP, topics=("observation", "executed_action"))
    assert main(["data", "import", "bag", "--task", TASK]) == 2
    assert "bag: has no topic reward" in capsys.readouterr().err
    assert main(["data", "import", "bag", "--task", TASK, "--success", "last", "--out", "made"]) == 0
    rewards = [s.reward for bag in episode_folders(tmp_path / "made") for s in read_steps(bag)]
    assert [r.reward for r in rewards] == [0, 0, 1] * 2 and [r.success for r in rewards] == [
        False,
        False,
        True,
    ] * 2


def test_a_dataset_of_joints_is_imported_through_the_contract(tmp_path, joints, capsys):
    columns = foreign(tmp_path / "set", cameras=("top", "side"), size=(96, 128), fps=30)
    command = ["data", "import", "set", *joints]
    assert main(command) == 2
    assert (
        "set: has 30 frames per second, the contract's control_rate is 10 Hz; take one frame of 3"
        in capsys.readouterr().err
    )
    (tmp_path / "map.yaml").write_text("every: 3\n")
    assert main([*command, "--map", "map.yaml"]) == 2
    err = capsys.readouterr().err
    assert (
        "no images 'observation.images.front' for the contract's camera front; it has observation.images.top"
        in err
    )
    (tmp_path / "map.yaml").write_text("every: 3\ncameras: {front: observation.images.top}\n")
    assert main([*command, "--map", "map.yaml"]) == 2
    assert "has no feature next.reward; say with --success last" in capsys.readouterr().err
    assert main([*command, "--map", "map.yaml", "--success", "last"]) == 0
    first, second = episode_folders(tmp_path / "datasets" / "set")
    (one, two), (three,) = list(read_steps(first)), list(read_steps(second))
    assert (one.observation.images[0].height, one.observation.images[0].width) == (64, 64)
    # frames 0 and 3 of four, 4 of three; the action is the one that is held at the end of the control period
    state = [s.observation.state[:6] for s in (one, two, three)]
    np.testing.assert_array_equal(state, columns["observation.state"][[0, 3, 4]])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "nowhere: there is nothing"),
        (
            "empty",
            "empty: is neither a LeRobot dataset (no meta/info.json) nor a bag (no metadata.yaml), nor a folder",
        ),
        ("bag/bag.mcap", "bag.mcap: is a file; name its folder, bag"),
        ("lone.mcap", "lone.mcap: is a file; it lacks the metadata.yaml that lies beside a bag's file"),
    ],
)
def test_what_is_no_dataset_is_one_sentence(tmp_path, path, message, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "lone.mcap").touch()
    plain_bag(tmp_path / "bag", StoragePlugin.MCAP)
    assert main(["data", "info", path]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_bag_of_another_contract_says_what_differs(tmp_path, demos, capsys):
    plain_bag(tmp_path / "bag", StoragePlugin.MCAP)
    assert main(["data", "import", "bag", "--task", "reach"]) == 2
    err = capsys.readouterr().err
    assert "bag: episode 3, step 0 has a state of 10, the contract of 'so101' has 16" in err
    assert main(["data", "import", str(demos), "--task", "reach"]) == 2
    assert "recorded under contract" in capsys.readouterr().err


def test_two_arms_in_one_bag_are_refused(tmp_path, capsys):
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for name in ("left", "right"):
            for topic, kind in (
                ("observation", "Observation"),
                ("executed_action", "Action"),
                ("reward", "Reward"),
            ):
                kind = f"hilrl_msgs/msg/{kind}"
                writer.add_connection(f"/{name}/{topic}", kind, typestore=typestore_for(kind))
    assert main(["data", "import", "bag", "--task", TASK]) == 2
    assert (
        "bag: holds /left/observation and /right/observation; record each arm in a bag"
        in capsys.readouterr().err
    )


def test_the_task_says_what_success_pays():
    _, task = load_contract("so101", TASK)
    assert data.payment(task) == 1.0


def test_any_source_is_offline_data_of_a_training(tmp_path, demos, monkeypatch):
    plain_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    assert main(["data", "export", str(demos), "--format", "lerobot", "--out", "set"]) == 0
    started = []
    monkeypatch.setattr("hilrl_cli.commands.launch.start", lambda file, words: started.append(words) or 0)
    command = ["train", "--task", TASK, "--run", "mine", "--offline-data", str(demos.parent), "bag", "set"]
    assert main(command) == 0
    (word,) = [w for w in started[0] if w.startswith("offline_data:=")]
    made = tmp_path / "runs/mine/offline"
    assert word.removeprefix("offline_data:=").split(":") == [
        str(demos), str(made / "002_bag"), str(made / "003_set"),
    ]  # fmt: skip
    assert [len(finished_episodes(f)) for f in sorted(made.iterdir())] == [2, 2]


def test_offline_data_that_does_not_fit_stops_before_anything_starts(demos, capsys):
    assert main(["train", "--task", "reach", "--offline-data", str(demos)]) == 2
    assert "recorded under contract" in capsys.readouterr().err
