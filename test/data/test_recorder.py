import json
import random

import pytest
from hilrl_msgs.msg import Action, Episode, Observation, OperatorEvent, Recording, Reward
from loop_messages import CONTRACT, PERIOD, ROBOT, TASK, TASK_FILE, episode_messages, joint_state
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from hilrl_data.bags import episode_folders, read_info, read_steps
from hilrl_data.recorder import EpisodeRecorder, Message
from hilrl_data.recorder_node import RecorderNode
from hilrl_ros import qos
from hilrl_ros.messages import nanoseconds, to_time

START = 1_000 * PERIOD


@pytest.fixture
def recorder():
    return EpisodeRecorder(CONTRACT, TASK, (Episode.DEMONSTRATE, Episode.TRAIN))


def announcement(episode, phase=Episode.DEMONSTRATE, status=Episode.RUNNING):
    msg = Episode(episode=episode, phase=phase, status=status, seed=100 + episode)
    msg.header.stamp = to_time(START)
    return msg


def give(recorder, topic, msg):
    """What the node does with a message of a topic."""
    kind = type(msg)
    package = kind.__module__.partition(".")[0]
    part = msg if isinstance(msg, Observation | Action | Reward) else None
    stamp, name = nanoseconds(msg.header.stamp), f"{package}/msg/{kind.__name__}"
    return recorder.add(Message(f"/{topic}", name, stamp, serialize_message(msg), part))


def left(folder):
    """What lies in a folder of bags, finished or not."""
    return sorted(
        str(p.relative_to(folder)) for p in folder.glob("**/*e*") if p.is_dir() and p.name != ".partial"
    )


def interleaved(messages, rng):
    """(topic, message): each topic in its own order, topics overtake each other."""
    queues = {topic: list(items) for topic, items in messages.items()}
    while any(queues.values()):
        topic = rng.choice([t for t, q in queues.items() if q])
        yield topic, queues[topic].pop(0)


def record(
    recorder,
    folder,
    episode=1,
    steps=5,
    seed=0,
    lost=None,
    early=0,
    phase=Episode.DEMONSTRATE,
    end="terminated",
):
    """Play an episode; the announcement comes after the `early` first messages. Return what became of the bag."""
    messages = episode_messages(episode, steps, end, START)
    if lost:
        del messages[lost[0]][lost[1]]
    results = []
    for i, (topic, msg) in enumerate(interleaved(messages, random.Random(seed))):
        if i == early:
            results.append(recorder.begin(announcement(episode, phase), folder))
        results.append(give(recorder, topic, msg))
    if early > i:
        results.append(recorder.begin(announcement(episode, phase), folder))
    return [r for r in results if r]


@pytest.mark.parametrize("seed", range(10))
def test_an_episode_is_whole_in_whatever_order_its_messages_come(recorder, tmp_path, seed):
    (result,) = record(recorder, tmp_path / "e", seed=seed, early=seed % 4)
    assert result == Recording(episode=1, complete=True, folder="e")
    steps = list(read_steps(tmp_path / "e"))
    sent = episode_messages(1, 5, start_ns=START)
    for k, step in enumerate(steps):
        assert step.observation == sent["observation"][k]
        assert step.executed == sent["executed_action"][k]
        assert step.reward == sent["reward"][k]
    assert len(steps) == 5
    assert [s.final is not None for s in steps] == [False] * 4 + [True]
    assert steps[-1].final == sent["observation"][5]
    info = read_info(tmp_path / "e")
    assert (info.episode, info.seed, info.steps, info.success) == (1, 101, 5, True)
    assert (info.contract, info.task, info.text) == (CONTRACT.hash(), "cube", TASK.text)


@pytest.mark.parametrize(
    "lost", [("observation", 0), ("observation", 3), ("executed_action", 2), ("reward", 1)]
)
def test_a_lost_message_means_no_bag(recorder, tmp_path, lost):
    (result,) = record(recorder, tmp_path / "e", lost=lost)
    assert not result.complete
    assert left(tmp_path) == []


def test_the_next_episode_is_recorded_after_one_that_was_given_up(recorder, tmp_path):
    record(recorder, tmp_path / "e1", episode=1, lost=("reward", 1))
    assert record(recorder, tmp_path / "e2", episode=2)[0].complete
    assert [s.observation.episode for s in read_steps(tmp_path / "e2")] == [2] * 5


def test_failed_demonstrations_are_not_kept_but_other_failed_episodes_are(recorder, tmp_path):
    (result,) = record(recorder, tmp_path / "demo", end="truncated")
    assert result.complete and left(tmp_path) == []
    record(recorder, tmp_path / "train", episode=2, end="truncated", phase=Episode.TRAIN)
    assert read_info(tmp_path / "train").success is False
    assert list(read_steps(tmp_path / "train"))[-1].reward.truncated


def test_labelled_episodes_are_kept_however_they_end(tmp_path):
    recorder = EpisodeRecorder(CONTRACT, TASK, (Episode.LABEL,))
    (result,) = record(recorder, tmp_path / "e", end="truncated", phase=Episode.LABEL)
    assert result.complete and len(list(read_steps(tmp_path / "e"))) == 5


def test_phases_that_nobody_asked_for_are_not_recorded(recorder, tmp_path):
    assert record(recorder, tmp_path / "e", phase=Episode.EVALUATE) == []
    assert left(tmp_path) == []


def test_an_episode_that_was_over_before_its_announcement_is_recorded(recorder, tmp_path):
    (result,) = record(recorder, tmp_path / "e", early=100)
    assert result == Recording(episode=1, complete=True, folder="e")
    assert len(list(read_steps(tmp_path / "e"))) == 5


def test_what_was_observed_before_an_episode_is_no_step_of_it(recorder, tmp_path):
    messages = episode_messages(1, 3, start_ns=START)
    messages["observation"][0].header.stamp = to_time(START - 1)
    recorder.begin(announcement(1), tmp_path / "e")
    results = [give(recorder, topic, msg) for topic, msg in interleaved(messages, random.Random(0))]
    (result,) = [r for r in results if r]
    assert not result.complete and left(tmp_path) == []


def test_until_it_is_whole_a_bag_does_not_count(recorder, tmp_path):
    recorder.begin(announcement(1), tmp_path / "e")
    for topic, messages in episode_messages(1, 3, start_ns=START).items():
        give(recorder, topic, messages[0])
    assert left(tmp_path) == [".partial/e"]
    recorder.discard()
    assert left(tmp_path) == []
    recorder.discard()  # twice does no harm


def test_a_pause_does_not_begin_the_bag_anew(recorder, tmp_path):
    messages = episode_messages(1, 3, start_ns=START)
    recorder.begin(announcement(1), tmp_path / "e")
    give(recorder, "observation", messages["observation"].pop(0))
    recorder.begin(announcement(1, status=Episode.PAUSED), tmp_path / "e")
    recorder.begin(announcement(1), tmp_path / "e")
    results = [give(recorder, topic, msg) for topic, items in messages.items() for msg in items]
    assert [r.complete for r in results if r] == [True]


def test_messages_of_the_scene_before_the_episode_are_not_in_its_bag(recorder, tmp_path):
    from rosbags.rosbag2 import Reader

    give(recorder, "joint_states", joint_state(START - PERIOD))
    give(recorder, "joint_states", joint_state(START))
    recorder.begin(announcement(1), tmp_path / "e")
    give(recorder, "joint_states", joint_state(START - 1))
    give(recorder, "joint_states", joint_state(START + 1))
    for topic, items in episode_messages(1, 1, start_ns=START).items():
        for msg in items:
            give(recorder, topic, msg)
    with Reader(tmp_path / "e") as reader:
        stamps = [t for c, t, _ in reader.messages() if c.topic == "/joint_states"]
    assert stamps == [START, START + 1]


def test_the_node_records_a_demonstration_and_deletes_a_discarded_one(make_graph, tmp_path):
    graph = make_graph(robot=ROBOT, task=TASK_FILE, runs_dir=tmp_path, camera="''")
    node = graph.add(RecorderNode())
    recordings = graph.listen(Recording, "recording", qos.STEP)
    episode = graph.publisher(Episode, "episode", qos.LATCHED)
    events = graph.publisher(OperatorEvent, "operator_event", qos.STEP)
    graph.connect()
    publishers = {
        "observation": graph.publisher(Observation, "observation", qos.STEP),
        "executed_action": graph.publisher(Action, "executed_action", qos.STEP),
        "reward": graph.publisher(Reward, "reward", qos.STEP),
        "joint_states": graph.publisher(JointState, "joint_states", qos.STEP),
    }
    demos = tmp_path / "run" / "demos"
    labelled = announcement(7, phase=Episode.LABEL)
    labelled.run = "run"
    episode.publish(labelled)
    graph.until((tmp_path / "run" / "labels" / ".partial" / "episode_000007").exists)
    for number in (1, 2):
        msg = announcement(number)
        msg.run = "run"
        episode.publish(msg)
        graph.until(lambda number=number: (demos / ".partial" / f"episode_{number:06d}").exists())
        graph.connect()
        if number == 1:
            events.publish(OperatorEvent(event=OperatorEvent.DISCARD))
            graph.until(lambda: node.recorder.writer is None)
            assert left(demos) == []
    publishers["joint_states"].publish(joint_state(START))
    graph.until(lambda: "/joint_states" in node.recorder.writer.connections)
    for topic, items in episode_messages(2, 3, start_ns=START).items():
        for msg in items:
            publishers[topic].publish(msg)
    graph.until(lambda: recordings)
    assert (recordings[0].episode, recordings[0].complete) == (2, True)
    (folder,) = episode_folders(demos)
    assert folder.name == recordings[0].folder == "episode_000002"
    assert len(list(read_steps(folder))) == 3
    assert json.loads((folder / "episode.json").read_text())["success"] is True


def test_the_node_keeps_an_episode_that_went_by_while_it_was_busy(make_graph, tmp_path):
    graph = make_graph(robot=ROBOT, task=TASK_FILE, runs_dir=tmp_path, camera="''")
    graph.add(RecorderNode())
    recordings = graph.listen(Recording, "recording", qos.STEP)
    episode = graph.publisher(Episode, "episode", qos.LATCHED)
    kinds = {"observation": Observation, "executed_action": Action, "reward": Reward}
    publishers = {topic: graph.publisher(kind, topic, qos.STEP) for topic, kind in kinds.items()}
    graph.connect()
    msg = announcement(1)
    msg.run = "run"
    episode.publish(msg)
    for topic, items in episode_messages(1, 200, start_ns=START).items():
        for part in items:
            publishers[topic].publish(part)  # nobody spins meanwhile
    graph.until(lambda: recordings)
    assert (recordings[0].episode, recordings[0].complete) == (1, True)


def test_the_node_does_not_listen_to_what_it_does_not_record(make_graph, tmp_path):
    graph = make_graph(robot=ROBOT, task=TASK_FILE, runs_dir=tmp_path, camera="''")
    graph.add(RecorderNode())
    episode = graph.publisher(Episode, "episode", qos.LATCHED)
    joints = graph.publisher(JointState, "joint_states", qos.STEP)
    graph.connect()
    for number, phase in enumerate((Episode.DEMONSTRATE, Episode.TRAIN, Episode.DEMONSTRATE), 1):
        episode.publish(announcement(number, phase))
        wanted = int(phase == Episode.DEMONSTRATE)
        graph.until(lambda wanted=wanted: joints.get_subscription_count() == wanted)
