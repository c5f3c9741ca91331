"""With the real lerobot 0.4.4 (`make test-lerobot`): it opens what is exported, what it recorded is imported.

lerobot lives in an environment of its own, named by HILRL_LEROBOT_PYTHON; `frames.py` is what runs there.
"""

import dataclasses

import numpy as np
import pytest
from dataset_files import CONTRACT, JOINT_CONTRACT, record
from environment import needs_lerobot, run

from hilrl_data.bags import read_steps
from hilrl_data.episodes import BagSource, bags_of, write_episodes
from hilrl_data.lerobot_reader import LeRobotSource
from hilrl_data.lerobot_writer import write_lerobot
from hilrl_ros.contract import Camera
from hilrl_ros.images import to_rgb

TASK = ("cube", "pick up the cube")
pytestmark = needs_lerobot


def nothing(_):
    pass


def lerobot(*words):
    """Run frames.py in lerobot's environment."""
    run("frames.py", *words)


def frames_of(root, out):
    """Every frame of a dataset as lerobot gives it: {key: [N, …]}, images uint8 [N, height, width, 3]."""
    lerobot("read", root, out)
    with np.load(out) as found:
        return dict(found)


@pytest.mark.parametrize("lossless", [False, True])
def test_lerobot_yields_the_frames_that_were_exported(tmp_path, lossless):
    demos = record(
        tmp_path / "demos", (6, "terminated"), (5, "truncated"), person=lambda k: k not in (2, 3), lost=(4,)
    )
    source = BagSource(bags_of(demos), CONTRACT, TASK)
    write_lerobot(tmp_path / "set", source.episodes(), CONTRACT, lossless, nothing, nothing)
    found = frames_of(tmp_path / "set", tmp_path / "frames.npz")
    steps = [step for bag in bags_of(demos) for step in read_steps(bag)]
    expected = {
        "observation.state": [s.observation.state for s in steps],
        "action": [s.executed.action for s in steps],
        "next.reward": [s.reward.reward for s in steps],
        "next.done": [s.reward.terminated or s.reward.truncated for s in steps],
        "next.terminated": [s.reward.terminated for s in steps],
        "next.truncated": [s.reward.truncated for s in steps],
        "complementary_info.is_intervention": [s.executed.controller == 1 for s in steps],
        "episode_index": [0] * 5 + [1] * 4,
    }
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], np.array(values, found[key].dtype), key)
    assert list(found["task"]) == ["pick up the cube 1"] * 5 + ["pick up the cube 2"] * 4
    for number, name in enumerate(CONTRACT.cameras):
        pictures = np.array([to_rgb(s.observation.images[number]) for s in steps])
        error = np.square(np.subtract(pictures, found[f"observation.images.{name}"], dtype=float)).mean(
            (1, 2, 3)
        )
        assert 10 * np.log10(255**2 / max(error.max(), 1e-9)) > (80 if lossless else 35)
    mean = found["stats/observation.images.front/mean"].ravel()
    np.testing.assert_allclose(mean, found["observation.images.front"].mean((0, 1, 2)) / 255, atol=0.01)


def test_lerobots_own_buffer_takes_an_export(tmp_path):
    source = BagSource(bags_of(record(tmp_path / "demos", (6, "terminated"))), CONTRACT, TASK)
    write_lerobot(tmp_path / "set", source.episodes(), CONTRACT, False, nothing, nothing)
    lerobot("buffer", tmp_path / "set", tmp_path / "buffer.npz")
    with np.load(tmp_path / "buffer.npz") as found:
        assert len(found["reward"]) == 6 and found["done"].tolist() == [False] * 5 + [True]


def test_what_lerobot_recorded_is_imported_frame_by_frame(tmp_path):
    lerobot("record", tmp_path / "set")
    theirs = frames_of(tmp_path / "set", tmp_path / "frames.npz")
    cameras = {"front": Camera("front/image_raw", (64, 64))}
    source = LeRobotSource(tmp_path / "set", dataclasses.replace(JOINT_CONTRACT, cameras=cameras), "cube")
    write_episodes(tmp_path / "bags", source.episodes(), nothing, nothing)
    steps = [step for bag in bags_of(tmp_path / "bags") for step in read_steps(bag)]
    assert len(steps) == len(theirs["index"]) == 12
    np.testing.assert_array_equal([s.observation.state[:6] for s in steps], theirs["observation.state"])
    np.testing.assert_array_equal([s.reward.reward for s in steps], theirs["next.reward"])
    pictures = np.array([to_rgb(s.observation.images[0]) for s in steps])
    # the same decoder, and two conversions to RGB that round differently
    assert np.abs(np.subtract(pictures, theirs["observation.images.front"], dtype=int)).max() <= 2
