import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from hilrl_msgs.msg import Action, Observation, Reward
from loop_messages import PERIOD, episode_messages, joint_state
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader

from hilrl_data.bags import (
    BagError,
    EpisodeInfo,
    EpisodeWriter,
    episode_folders,
    read_info,
    read_steps,
    typestore_for,
)
from hilrl_ros.images import from_rgb, to_rgb
from hilrl_ros.messages import nanoseconds

TYPES = {"observation": "Observation", "executed_action": "Action", "reward": "Reward"}
STEPS = 20


def write(folder, topics=tuple(TYPES), steps=STEPS, namespace=""):
    messages = episode_messages(1, steps)
    writer = EpisodeWriter(folder)
    for topic in topics:
        for msg in messages[topic]:
            writer.write(
                f"{namespace}/{topic}",
                f"hilrl_msgs/msg/{TYPES[topic]}",
                nanoseconds(msg.header.stamp),
                serialize_message(msg),
            )
    writer.write(
        "/joint_states", "sensor_msgs/msg/JointState", PERIOD, serialize_message(joint_state(PERIOD))
    )
    return writer.finish(EpisodeInfo(1, 0, "pick_cube", "pick up the cube", "abc", True, steps))


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bags") / "episode_000001")


@pytest.fixture
def copy(bag, tmp_path):
    return Path(shutil.copytree(bag, tmp_path / "episode_000001"))


def test_a_bag_says_of_itself_what_rosbag2_wants_to_know(bag):
    info = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert (info["version"], info["storage_identifier"]) == (9, "mcap")
    counts = {t["topic_metadata"]["name"]: t["message_count"] for t in info["topics_with_message_count"]}
    assert counts == {"/observation": 21, "/executed_action": 20, "/reward": 20, "/joint_states": 1}
    types = {t["topic_metadata"]["type"] for t in info["topics_with_message_count"]}
    assert types == {*(f"hilrl_msgs/msg/{k}" for k in TYPES.values()), "sensor_msgs/msg/JointState"}
    assert [(bag / path).is_file() for path in info["relative_file_paths"]] == [True]
    assert all(t["topic_metadata"]["type_description_hash"] for t in info["topics_with_message_count"])


def test_a_reader_that_never_heard_of_this_suite_reads_every_value(bag):
    expected = episode_messages(1, STEPS)["observation"]
    with AnyReader([bag]) as reader:  # takes the message definitions from the bag
        chosen = [c for c in reader.connections if c.topic == "/observation"]
        found = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages(chosen)]
    assert [(m.episode, m.step, list(m.state)) for m in found] == [
        (m.episode, m.step, list(m.state)) for m in expected
    ]


def test_the_official_mcap_reader_reads_it_too(bag):
    mcap = pytest.importorskip("mcap.reader", reason="the package mcap is not installed")
    with open(next(bag.glob("*.mcap")), "rb") as file:
        messages = [(c.topic, m.data) for _, c, m in mcap.make_reader(file).iter_messages()]
    rewards = [deserialize_message(data, Reward) for topic, data in messages if topic == "/reward"]
    assert rewards == episode_messages(1, STEPS)["reward"]


def test_steps_are_read_back_bit_for_bit(bag):
    sent = episode_messages(1, STEPS)
    read = list(read_steps(bag))
    assert len(read) == STEPS
    # compared as messages: the padding between serialised fields is not defined
    assert [s.observation for s in read] == sent["observation"][:STEPS]
    assert [s.executed for s in read] == sent["executed_action"]
    assert [s.reward for s in read] == sent["reward"]
    assert read[-1].final == sent["observation"][STEPS]


def test_images_come_back_bit_for_bit(tmp_path):
    import numpy as np

    rgb = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    messages = episode_messages(1, 1)
    for msg in messages["observation"]:
        msg.images.append(from_rgb(rgb))
    writer = EpisodeWriter(tmp_path / "e")
    for topic, items in messages.items():
        for msg in items:
            kind = f"hilrl_msgs/msg/{TYPES[topic]}"
            writer.write(f"/{topic}", kind, nanoseconds(msg.header.stamp), serialize_message(msg))
    writer.finish(EpisodeInfo(1, 0, "", "", "", True, 1))
    (step,) = read_steps(tmp_path / "e")
    assert np.array_equal(to_rgb(step.observation.images[0]), rgb)


def test_bags_recorded_under_a_namespace_are_read(tmp_path):
    assert len(list(read_steps(write(tmp_path / "e", steps=2, namespace="/follower")))) == 2


def test_the_type_store_knows_nested_messages():
    store = typestore_for("hilrl_msgs/msg/Transition")
    assert {"hilrl_msgs/msg/Observation", "sensor_msgs/msg/Image"} <= set(store.fielddefs)
    for kind in (Observation, Action, Reward):
        name = f"hilrl_msgs/msg/{kind.__name__}"
        data = serialize_message(kind(episode=7, step=9))
        assert deserialize_message(
            bytes(typestore_for(name).serialize_cdr(typestore_for(name).deserialize_cdr(data, name), name)),
            kind,
        ) == kind(episode=7, step=9)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_cut_off_bag_is_one_sentence_that_names_it(copy, share):
    (file,) = copy.glob("*.mcap")
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(BagError, match="episode_000001: the bag is cut off or damaged") as error:
        list(read_steps(copy))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(30))
def test_a_bag_with_flipped_bytes_is_one_sentence_or_reads_as_before(copy, seed):
    import random

    rng = random.Random(seed)
    (file,) = copy.glob("*.mcap")
    data = bytearray(file.read_bytes())
    for _ in range(8):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    try:
        assert len(list(read_steps(copy))) <= STEPS
    except BagError as e:
        assert "episode_000001" in str(e) and "\n" not in str(e)


@pytest.mark.parametrize("text", [None, "", "- 1\n", "rosbag2_bagfile_information: {version: 9}\n", "a: [\n"])
def test_missing_or_broken_metadata_is_one_sentence_that_names_the_bag(copy, text):
    if text is None:
        (copy / "metadata.yaml").unlink()
    else:
        (copy / "metadata.yaml").write_text(text)
    with pytest.raises(BagError, match="episode_000001: the bag is cut off or damaged") as error:
        list(read_steps(copy))
    assert "\n" not in str(error.value)


def test_a_missing_topic_is_named(tmp_path):
    folder = write(tmp_path / "episode_000009", topics=("observation", "executed_action"))
    with pytest.raises(
        BagError, match="episode_000009: has no topic reward; record with the suite's recorder"
    ):
        list(read_steps(folder))


def test_a_missing_or_broken_episode_file_is_named(copy):
    (copy / "episode.json").write_text(json.dumps({"episode": 1}))
    with pytest.raises(BagError, match=r"episode_000001/episode\.json: cannot be read .*missing"):
        read_info(copy)
    (copy / "episode.json").unlink()
    with pytest.raises(BagError, match=r"episode_000001/episode\.json: cannot be read"):
        read_info(copy)


def test_only_finished_episodes_are_listed_in_order(tmp_path):
    with pytest.raises(BagError, match="nowhere: no such folder; record demonstrations first"):
        episode_folders(tmp_path / "nowhere")
    EpisodeWriter(tmp_path / "episode_000003").writer.close()  # a recorder that was killed
    (tmp_path / "notes").mkdir()
    with pytest.raises(BagError, match="holds no finished episode"):
        episode_folders(tmp_path)
    for number in (10, 2):
        write(tmp_path / f"episode_{number:06d}", steps=1)
    assert [p.name for p in episode_folders(tmp_path)] == ["episode_000002", "episode_000010"]


def test_a_killed_recorders_rest_does_not_disturb_the_next_one(tmp_path):
    EpisodeWriter(tmp_path / "e").writer.close()
    assert (tmp_path / ".partial/e").exists()
    write(tmp_path / "e", steps=1)
    assert [p.name for p in episode_folders(tmp_path)] == ["e"]
    assert list((tmp_path / ".partial").iterdir()) == []
