"""LeRobotDatasets out and in: what comes back, what is refused, what a kill leaves."""

import json

import numpy as np
import pytest
from dataset_files import CONTRACT, JOINT_CONTRACT, JOINTS, foreign, picture, record, write_table
from hilrl_msgs.msg import Action
from pyarrow import parquet

from hilrl_data.bags import BagError, read_info, read_steps
from hilrl_data.episodes import BagSource, bags_of, only, succeeding, write_episodes
from hilrl_data.lerobot_reader import DatasetError, LeRobotSource
from hilrl_data.lerobot_writer import write_lerobot
from hilrl_data.video import VideoError
from hilrl_ros.images import to_rgb
from hilrl_ros.kinematics import Kinematics
from hilrl_ros.messages import nanoseconds

TASK = ("cube", "pick up the cube")


def nothing(_):
    pass


def export(bags, out, contract=CONTRACT, lossless=False, change=lambda episodes: episodes):
    source = BagSource(bags_of(bags), contract, TASK)
    write_lerobot(out, change(source.episodes()), contract, lossless, nothing, nothing)
    return out


def restore(root, out, contract=CONTRACT, **options):
    write_episodes(out, LeRobotSource(root, contract, "cube", **options).episodes(), nothing, nothing)
    return out


def read(folder):
    """All episodes of a folder of bags: (info, steps)."""
    return [(read_info(bag), list(read_steps(bag))) for bag in bags_of(folder)]


def psnr(a, b):
    error = np.square(np.subtract(a, b, dtype=float)).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """One success, one cut by time with a take-over and a lost step, one that nobody rewarded with a success."""
    folder = tmp_path_factory.mktemp("demos")
    return record(
        folder,
        (6, "terminated"),
        (7, "truncated"),
        (4, "terminated"),
        person=lambda k: k not in (2, 3),
        lost=(4,),
    )


@pytest.mark.parametrize("lossless", [False, True])
def test_a_round_trip_loses_nothing(demos, tmp_path, lossless):
    back = restore(export(demos, tmp_path / "lerobot", lossless=lossless), tmp_path / "back")
    before, after = read(demos), read(back)
    assert [info for info, _ in after] == [info for info, _ in before]
    for (_, old), (_, new) in zip(before, after, strict=True):
        assert len(old) == len(new) and (old[-1].final is None) == (new[-1].final is None)
        for x, y in zip(old, new, strict=True):
            for field in ("reward", "terminated", "truncated", "success", "controller", "step", "episode"):
                assert getattr(x.reward, field) == getattr(y.reward, field)
            assert (x.executed.action, x.executed.controller) == (y.executed.action, y.executed.controller)
            for a, b in [(x.observation, y.observation)] + ([(x.final, y.final)] if x.final else []):
                assert (a.state, a.privileged, a.step) == (b.state, b.privileged, b.step)
                assert nanoseconds(a.header.stamp) == nanoseconds(b.header.stamp)
                for image, other in zip(a.images, b.images, strict=True):
                    assert psnr(to_rgb(image), to_rgb(other)) > (80 if lossless else 35)


def test_stacked_frames_come_back_from_single_ones(tmp_path):
    import dataclasses

    camera = dataclasses.replace(CONTRACT.cameras["front"], stack=3)
    contract = dataclasses.replace(CONTRACT, cameras={"front": camera})
    demos = record(tmp_path / "demos", (5, "terminated"), contract=contract)
    back = restore(export(demos, tmp_path / "lerobot", contract, lossless=True), tmp_path / "back", contract)
    ((_, old),), ((_, new),) = read(demos), read(back)
    assert [s.observation.images[0].data for s in old] == [s.observation.images[0].data for s in new]
    assert old[-1].final.images[0].data == new[-1].final.images[0].data


def test_the_files_say_what_lerobot_wants_to_know(demos, tmp_path):
    root = export(demos, tmp_path / "lerobot")
    info = json.loads((root / "meta/info.json").read_text())
    expected = {
        "codebase_version": "v3.0",
        "robot_type": "so101",
        "fps": 10,
        "total_episodes": 3,
        "total_tasks": 3,
    }
    assert expected.items() <= info.items() and info["total_frames"] == 15
    features = info["features"]
    assert features["observation.images.wrist"]["shape"] == [15, 17, 3]
    assert features["action"]["names"] == list(CONTRACT.action.names)
    table = parquet.read_table(root / "data").to_pydict()
    assert table["index"] == list(range(15)) and table["frame_index"][5:12] == [0, 1, 2, 3, 4, 5, 0]
    flags = [table[f"next.{name}"] for name in ("terminated", "truncated", "done")]
    assert [sum(flag) for flag in flags] == [2, 1, 3]
    assert table["complementary_info.is_intervention"][:5] == [True, True, False, False, True]
    episodes = parquet.read_table(root / "meta/episodes").to_pylist()
    assert [e["videos/observation.images.front/from_timestamp"] for e in episodes] == pytest.approx(
        [0, 0.5, 1.1]
    )
    assert [e["tasks"] for e in episodes] == [[f"pick up the cube {n}"] for n in (1, 2, 3)]


def test_statistics_are_those_of_the_values(demos, tmp_path):
    root = export(demos, tmp_path / "lerobot", lossless=True)
    statistics = json.loads((root / "meta/stats.json").read_text())
    steps = [step for _, of_episode in read(demos) for step in of_episode]
    states = np.array([s.observation.state for s in steps])
    pixels = np.array([to_rgb(s.observation.images[0]) for s in steps]) / 255
    for values, of in ((states, "observation.state"), (pixels.reshape(-1, 3), "observation.images.front")):
        found = {name: np.array(number).ravel() for name, number in statistics[of].items()}
        np.testing.assert_allclose(found["mean"], values.mean(0), atol=1e-5)
        np.testing.assert_allclose(found["std"], values.std(0), atol=1e-5)
        np.testing.assert_allclose(found["min"], values.min(0), atol=1e-6)
        np.testing.assert_allclose(found["max"], values.max(0), atol=1e-6)
        np.testing.assert_allclose(found["q90"], np.quantile(values, 0.9, 0), atol=0.02)
    assert statistics["observation.images.front"]["count"] == [15]


def test_corrections_are_episodes_of_their_own(demos, tmp_path):
    root = export(demos, tmp_path / "lerobot", change=lambda episodes: only("person", episodes))
    pieces = read(restore(root, tmp_path / "back"))
    assert [[s.observation.step for s in steps] for _, steps in pieces] == [
        [0, 1],
        [5],
        [0, 1],
        [5, 6],
        [0, 1],
    ]
    cut = pieces[0][1][-1]
    whole = read(demos)[0][1]
    assert cut.reward.truncated and not cut.reward.terminated
    assert cut.final.state == whole[2].observation.state  # what the policy saw next
    assert pieces[1][1][-1].reward.terminated


def test_only_successes(demos, tmp_path):
    root = export(demos, tmp_path / "lerobot", change=lambda episodes: only("success", episodes))
    assert [info.steps for info, _ in read(restore(root, tmp_path / "back"))] == [5, 4]


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_datasets_of_others_are_read_frame_by_frame(tmp_path, version):
    columns = foreign(tmp_path / "set", version=version)
    source = LeRobotSource(tmp_path / "set", JOINT_CONTRACT, "cube", rewarded=False)
    write_episodes(tmp_path / "bags", succeeding(source.episodes(), 1.0), nothing, nothing)
    episodes = read(tmp_path / "bags")
    assert [info.text for info, _ in episodes] == ["pick it", "put it"]
    steps = [step for _, of_episode in episodes for step in of_episode]
    assert [len(of_episode) for _, of_episode in episodes] == [4, 3]
    np.testing.assert_array_equal([s.observation.state[:6] for s in steps], columns["observation.state"])
    model = Kinematics(JOINT_CONTRACT)
    low, high = model.joint_limits.T
    actions = np.array([s.executed.action for s in steps])
    np.testing.assert_allclose((actions + 1) / 2 * (high - low) + low, columns["action"], atol=1e-6)
    tip_x = JOINT_CONTRACT.state_names.index("tip_x")
    assert steps[2].observation.state[tip_x] == pytest.approx(
        model.forward(columns["observation.state"][2])[0][0], abs=1e-6
    )
    for k, step in enumerate(steps):
        assert np.array_equal(to_rgb(step.observation.images[0]), picture("front", k, (16, 16)))
        assert step.executed.controller == Action.PERSON
    assert [s.reward.reward for s in steps] == [0, 0, 0, 1, 0, 0, 1]
    assert [s.reward.terminated for s in steps] == [False] * 3 + [True] + [False] * 2 + [True]


def test_an_end_that_is_not_known_is_not_learnt_from(tmp_path):
    total = 7
    joints = np.zeros((total, 6), np.float32)
    done = np.array([0, 0, 0, 1, 0, 0, 1], bool)
    reward = np.array([0, 0, 0, 1, 0, 0, 0], np.float32)
    columns = {"observation.state": joints, "action": joints, "next.done": done, "next.reward": reward}
    foreign(tmp_path / "set", columns=columns)
    first, second = read(restore(tmp_path / "set", tmp_path / "bags", JOINT_CONTRACT))
    assert first[1][-1].reward.terminated and first[0].success
    last = second[1][-1]
    assert len(second[1]) == 3 and last.final is None
    assert not last.reward.terminated and not last.reward.truncated


def test_images_in_parquet_are_read(tmp_path):
    import io

    from PIL import Image

    def png(k):
        out = io.BytesIO()
        Image.fromarray(picture("front", k, (16, 16))).save(out, "PNG")
        return {"bytes": out.getvalue(), "path": ""}

    foreign(tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    info["features"]["observation.images.front"]["dtype"] = "image"
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    file = tmp_path / "set/data/chunk-000/file-000.parquet"
    import pyarrow as pa

    table = parquet.read_table(file)
    write_table(table.append_column("observation.images.front", pa.array([png(k) for k in range(7)])), file)
    source = LeRobotSource(tmp_path / "set", JOINT_CONTRACT, "cube", rewarded=False)
    seen = [to_rgb(s.observation.images[0]) for e in source.episodes() for s in e.steps]
    assert all(np.array_equal(image, picture("front", k, (16, 16))) for k, image in enumerate(seen))


def test_episodes_may_be_skipped(tmp_path):
    foreign(tmp_path / "set", lengths=(3, 80, 3))
    source = LeRobotSource(tmp_path / "set", JOINT_CONTRACT, "cube", rewarded=False)
    last = [episode for number, episode in enumerate(source.episodes()) if number != 1]
    (images,) = [[to_rgb(s.observation.images[0]) for s in last[1].steps]]
    assert np.array_equal(images[0], picture("front", 83, (16, 16)))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("write", ["lerobot", "bags"])
def test_what_was_killed_does_not_look_whole_and_is_done_again(demos, tmp_path, write):
    source = BagSource(bags_of(demos), CONTRACT, TASK)

    def interrupted(_):
        raise Killed

    def go(done):
        if write == "lerobot":
            write_lerobot(tmp_path / "out", source.episodes(), CONTRACT, False, nothing, done)
        else:
            write_episodes(tmp_path / "out", source.episodes(), nothing, done)

    with pytest.raises(Killed):
        go(interrupted)
    assert not (tmp_path / "out").exists()
    go(nothing)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(BagError, match="out: exists already; name another folder"):
        go(nothing)


def test_damaged_datasets_are_one_sentence_that_names_the_file(demos, tmp_path):
    import shutil

    root = export(demos, tmp_path / "good")

    def broken(name, damage, error, match):
        copy = shutil.copytree(root, tmp_path / name)
        damage(copy)
        with pytest.raises(error, match=match) as raised:
            restore(copy, tmp_path / f"{name}_bags")
        assert "\n" not in str(raised.value) and not (tmp_path / f"{name}_bags").exists()

    data, video = "data/chunk-000/file-000.parquet", "videos/observation.images.front/chunk-000/file-000.mp4"
    broken(
        "a",
        lambda r: (r / "meta/info.json").write_text("{}"),
        DatasetError,
        "meta: cannot be read .*codebase_ve",
    )
    broken(
        "b", lambda r: (r / data).write_bytes(b"PAR1xxxx"), DatasetError, r"file-000\.parquet: cannot be read"
    )
    broken("c", lambda r: (r / data).unlink(), DatasetError, r"file-000\.parquet: cannot be read")
    broken("d", lambda r: (r / video).unlink(), VideoError, r"front/chunk-000/file-000\.mp4: cannot be read")
    broken(
        "e",
        lambda r: (r / video).write_bytes((r / video).read_bytes()[:600]),
        VideoError,
        "front/chunk-000/file",
    )
    short = parquet.read_table(root / data).slice(0, 7)
    broken(
        "f",
        lambda r: write_table(short, r / data),
        DatasetError,
        "data: episode 1 has 2 frames, meta/episodes says 6",
    )
    old = json.dumps(json.loads((root / "meta/info.json").read_text()) | {"codebase_version": "v1.6"})
    broken(
        "g",
        lambda r: (r / "meta/info.json").write_text(old),
        DatasetError,
        "codebase_version v1.6 is not supported",
    )


def test_values_that_are_not_finite_are_named(tmp_path):
    joints = np.zeros((7, 6), np.float32)
    joints[5, 2] = np.nan
    foreign(tmp_path / "set", columns={"observation.state": joints, "action": joints})
    with pytest.raises(
        DatasetError, match=r"set/data: episode 1 has a (action|observation\.state) that is not finite"
    ):
        restore(tmp_path / "set", tmp_path / "bags", JOINT_CONTRACT, rewarded=False)


def test_without_rewards_it_is_asked_for_success(tmp_path):
    foreign(tmp_path / "set")
    with pytest.raises(DatasetError, match=r"set: has no feature next\.reward; say with --success last"):
        LeRobotSource(tmp_path / "set", JOINT_CONTRACT, "cube")


def test_joints_have_the_order_of_the_contract():
    assert JOINT_CONTRACT.joints == JOINTS
