"""hilrl crop on recorded frames."""

import shutil

import numpy as np
import pytest
import yaml
from hilrl_msgs.msg import Action, Observation, Reward
from loop_messages import ROBOT, episode_messages
from matplotlib.testing.widgets import click_and_drag
from rclpy.serialization import serialize_message

from hilrl_cli.commands import crop
from hilrl_cli.main import main
from hilrl_data.bags import EpisodeInfo, EpisodeWriter
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.images import from_rgb
from hilrl_ros.messages import nanoseconds

TYPES = {"observation": Observation, "executed_action": Action, "reward": Reward}


def record(folder, cameras):
    """An episode of five steps with frames of 96×64, whose left half is bright."""
    writer = EpisodeWriter(folder)
    messages = episode_messages(1, 5)
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :48] = 200
    for topic, kind in TYPES.items():
        for msg in messages[topic]:
            stamp = nanoseconds(msg.header.stamp)
            writer.write(f"/{topic}", f"hilrl_msgs/msg/{kind.__name__}", stamp, serialize_message(msg))
    for msg in messages["observation"]:
        for camera in cameras:
            image = serialize_message(from_rgb(picture, msg.header.stamp))
            writer.write(
                f"/{camera}/image_raw", "sensor_msgs/msg/Image", nanoseconds(msg.header.stamp), image
            )
    writer.finish(EpisodeInfo(1, 0, "pick_cube", "pick up the cube", "abc", True, 5))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    record(run / "demos" / "episode_000001", ["front", "wrist"])
    return run


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_numbers_given_are_in_a_copy_of_the_contract_and_nothing_else_changes(recorded, tmp_path, capsys):
    assert main(["crop", str(recorded), "--robot", str(ROBOT), "--box", "front=0,8,48,48"]) == 0
    made, _ = load_contract(tmp_path / "so101_cropped.yaml")
    before, _ = load_contract(ROBOT)
    assert made.cameras["front"].crop == (0, 8, 48, 48) and made.cameras["wrist"] == before.cameras["wrist"]
    lines = zip(
        ROBOT.read_text().splitlines(),
        (tmp_path / "so101_cropped.yaml").read_text().splitlines(),
        strict=True,
    )
    assert [new for old, new in lines if old != new] == [
        "  front: {topic: front/image_raw, crop: [0, 8, 48, 48], size: [64, 64]}"
    ]
    assert (tmp_path / "so101_cropped.png").read_bytes().startswith(b"\x89PNG")
    assert "front: [0, 8, 48, 48]\n" in capsys.readouterr().out


def test_without_a_screen_it_asks_until_the_box_fits(recorded, tmp_path, monkeypatch, capsys):
    answers = iter(["60 0 48 48", "a b c d", "0, 0, 96, 48", ""])
    monkeypatch.setattr(crop.Lines, "ask", lambda self, question: next(answers))
    monkeypatch.setattr(crop, "has_screen", lambda: False)
    assert main(["crop", str(recorded / "demos"), "--robot", str(ROBOT), "--out", "mine.yaml"]) == 0
    made, _ = load_contract(tmp_path / "mine.yaml")
    assert (made.cameras["front"].crop, made.cameras["wrist"].crop) == ((0, 0, 96, 48), None)
    out = capsys.readouterr().out
    assert "the box [60, 0, 48, 48] does not lie in front's picture of 96x64" in out
    assert "a b c d: expected four whole numbers of pixels" in out
    assert "front: [0, 0, 96, 48], squeezed into 64x64" in out


def test_the_mouse_draws_the_box():
    import matplotlib

    matplotlib.use("Agg")
    selection = crop.Selection("front", [np.zeros((64, 96, 3), np.uint8)] * 2, None)
    click_and_drag(selection.selector, start=(10, 5), end=(40, 35))
    assert selection.box == (10, 5, 30, 30)
    click_and_drag(selection.selector, start=(60, 40), end=(95, 63))
    assert selection.box == (60, 40, 35, 23)


def test_the_picture_shows_what_the_policy_sees(tmp_path, recorded):
    frames = crop.recorded(recorded, "front/image_raw")
    assert frames[0].shape == (64, 96, 3)
    crop.draw(tmp_path / "p.png", {"front": frames}, {"front": (0, 0, 48, 64)}, {"front": (64, 48)})
    from PIL import Image

    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    left, right = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    grey = (200, 200, 200)
    assert (left == 0).all(-1).sum() > 1000 and (left == grey).all(-1).sum() > 1000
    assert (right == grey).all(-1).sum() > 1000 and (right == 0).all(
        -1
    ).sum() < 1000  # the dark half is cut off


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", "top=0,0,8,8"], "--box top=0,0,8,8: the robot has no camera 'top'; it has front, wrist"),
        (
            ["--box", "front=0,0,8"],
            "--box front=0,0,8: expected four whole numbers of pixels: x y width height",
        ),
        (["--box", "front=90,0,8,8"], "the box [90, 0, 8, 8] does not lie in front's picture of 96x64"),
        (
            ["--out", "mine.txt", "--box", "front=0,0,8,8"],
            "--out is mine.txt, expected a name that ends in .yaml",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(recorded, capsys, arguments, message):
    assert main(["crop", str(recorded), "--robot", str(ROBOT), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_recordings_without_frames_say_how_to_get_some(recorded, tmp_path, capsys):
    shutil.copytree(recorded, tmp_path / "run")
    robot = yaml.safe_load(ROBOT.read_text())
    robot["cameras"] = {"top": {"topic": "top/image_raw", "size": [8, 8]}}
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(robot))
    assert main(["crop", "run", "--robot", "arm.yaml"]) == 2
    assert "run holds no frames of top: record with a task whose `cameras` name it" in capsys.readouterr().err
    assert main(["crop", "nothing", "--robot", str(ROBOT)]) == 2
    assert "nothing: no such folder" in capsys.readouterr().err
