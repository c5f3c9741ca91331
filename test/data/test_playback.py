"""An episode's bag, played to a running observer, gives the observations that are in it, bit for bit."""

import re

import pytest
import yaml
from hilrl_msgs.msg import Action, Episode, Observation, Reward
from hilrl_msgs.srv import Reset
from loop_messages import PERIOD, ROBOT, TASK_FILE
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader

from hilrl_actor.observer_node import ObserverNode
from hilrl_cli import launch_file
from hilrl_control.arm_controller_node import ArmControllerNode
from hilrl_data import topics
from hilrl_data.bags import episode_folders, read_steps
from hilrl_data.recorder import recorded_types
from hilrl_data.recorder_node import RecorderNode
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import message_class, nanoseconds
from hilrl_sim.simulator_node import SimulatorNode

STEPS = 4


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A task that observes all there is: poses, a camera, the action before, and what is privileged."""
    raw = yaml.safe_load(TASK_FILE.read_text())
    raw["state"].append({"name": "before", "topic": "executed_action", "field": "action[y]", "unit": "1"})
    raw["privileged"] = [{"name": "turn", "topic": "cube/pose", "field": "pose.orientation.z", "unit": "1"}]
    raw["cameras"] = ["wrist"]
    raw["scene"]["image_size"] = [48, 64]
    file = tmp_path_factory.mktemp("task") / "all.yaml"
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    return file


def recorded(graph):
    """Record an episode of simulator, observer and arm controller in lockstep; the test acts and rewards."""
    for node in (SimulatorNode, ObserverNode, ArmControllerNode, RecorderNode):
        graph.add(node())
    recorder = graph.nodes[-1]
    seen = graph.listen(Observation, "observation", qos.STEP)
    commands = graph.publisher(Action, "command", qos.STEP)
    episodes = graph.publisher(Episode, "episode", qos.LATCHED)
    rewards = graph.publisher(Reward, "reward", qos.STEP)
    reset = graph.probe.create_client(Reset, "reset_episode")
    graph.connect()
    graph.until(reset.service_is_ready)
    answer = reset.call_async(Reset.Request(episode=1, seed=5))
    graph.until(answer.done)
    episode = Episode(run="shown", phase=Episode.DEMONSTRATE, status=Episode.RUNNING, episode=1, seed=5)
    episode.header.stamp = answer.result().stamp
    episodes.publish(episode)
    for step in range(STEPS):
        graph.until(lambda now=step: seen and seen[-1].step == now)
        header = seen[-1].header
        commands.publish(Action(header=header, episode=1, step=step, action=[0.2, -0.7, 0.1, 0.5]))
        graph.until(lambda now=step + 1: seen[-1].step == now)
        end = step == STEPS - 1
        rewards.publish(Reward(header=seen[-1].header, episode=1, step=step, success=end, terminated=end))
    graph.until(lambda: recorder.recorder.writer is None)


def played(graph, folder):
    """Play what an observer reads, as fast as it makes observations; return these."""
    graph.add(ObserverNode())
    seen = graph.listen(Observation, "observation", qos.STEP)
    with Reader(folder) as reader:
        publishers = {
            c.id: graph.publisher(
                message_class(c.msgtype), c.topic, qos.LATCHED if c.ext.offered_qos_profiles else qos.STEP
            )
            for c in reader.connections
            if c.topic not in ("/observation", "/reward")
        }
        graph.until(lambda: all(p.get_subscription_count() for p in publishers.values()))
        graph.until(lambda: graph.probe.count_publishers("observation"))
        before = None
        for connection, stamp, data in reader.messages():
            if before is not None and stamp >= before + PERIOD:
                graph.until(lambda at=before: seen and nanoseconds(seen[-1].header.stamp) == at)
            before = stamp
            if connection.id in publishers:
                publishers[connection.id].publish(data)
        graph.until(lambda at=before: nanoseconds(seen[-1].header.stamp) == at)
    return seen


def once(observations):
    """Every bit of each observation that is not there twice; serialised, a message has bytes that mean nothing."""
    return list(
        dict.fromkeys(
            (
                *(msg.episode, msg.step, nanoseconds(msg.header.stamp), msg.header.frame_id),
                *(msg.state.tobytes(), msg.privileged.tobytes()),
                *((str(i.header), i.height, i.width, i.encoding, i.step, bytes(i.data)) for i in msg.images),
            )
            for msg in observations
        )
    )


def test_a_bag_that_is_played_gives_the_recorded_observations(make_graph, task, tmp_path):
    live = make_graph(robot=ROBOT, task=task, max_age=0.01, runs_dir=tmp_path)
    recorded(live)
    live.close()
    (folder,) = episode_folders(tmp_path / "shown" / "demos")
    with Reader(folder) as reader:
        found = {c.topic.lstrip("/"): c.msgtype for c in reader.connections}
        (announced,) = [c for c in reader.connections if c.topic == "/episode"]
        original = [
            deserialize_message(data, Observation)
            for c, _, data in reader.messages()
            if c.topic == "/observation"
        ]
    contract, _ = load_contract(ROBOT, task)
    assert found == recorded_types(contract) | {"episode": "hilrl_msgs/msg/Episode"}
    assert {"joint_states", "cube/pose", "wrist/image_raw", "executed_action"} <= found.keys()
    (profile,) = announced.ext.offered_qos_profiles
    assert profile.durability.name == "TRANSIENT_LOCAL"  # otherwise no observer would hear the player
    # a simulator that waits long for an action offers the same state again: its observation is there twice
    assert len(list(read_steps(folder))) == STEPS and len(once(original)) == STEPS + 1
    first, last = original[0], original[-1]
    assert first.images[0].data != last.images[0].data and last.state[-1] != 0 and last.privileged

    again = played(make_graph(robot=ROBOT, task=task, max_age=0.01), folder)
    assert once(again) == once(original)


@pytest.mark.parametrize("namespace", ["", "follower", "/lab/left/"])
def test_what_ros2_bag_record_is_told_to_record(task, capsys, namespace):
    assert topics.main(["--robot", str(ROBOT), "--task", str(task), "--namespace", namespace]) == 0
    pattern = re.compile(capsys.readouterr().out)
    prefix = f"/{namespace.strip('/')}".rstrip("/")
    contract, _ = load_contract(ROBOT, task)
    for topic in ("episode", *recorded_types(contract)):
        assert pattern.fullmatch(f"{prefix}/{topic}")
    for other in ("/rosout", f"{prefix}/front/image_raw", f"{prefix}/command", "/elsewhere/joint_states"):
        assert not pattern.fullmatch(other)


def test_a_task_that_is_not_there_is_one_sentence(capsys):
    assert topics.main(["--task", "pick_cubes"]) == 1
    assert "task 'pick_cubes' is unknown; did you mean 'pick_cube'?" in capsys.readouterr().err


def bag_process(folder, **arguments):
    """What the launch file starts as `bag`, and the pattern of its topics."""
    started = launch_file.load(launch_file.find("record_demos"), arguments, folder / "parameters")
    return next((p.argv for p in started if p.name == "bag"), None)


def test_one_more_bag_is_recorded_where_it_is_asked_for(tmp_path, task):
    assert bag_process(tmp_path) is None
    command = bag_process(tmp_path, bag="/tmp/whole", task=str(task), namespace="follower")
    assert command[:7] == ("ros2", "bag", "record", "--storage", "mcap", "--output", "/tmp/whole")
    assert command[7] == "--regex" and len(command) == 9  # one word, whatever the shell
    assert re.fullmatch(command[8], "/follower/wrist/image_raw")
