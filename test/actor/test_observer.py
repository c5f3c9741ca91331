import dataclasses

import numpy as np
import pytest
import yaml
from hilrl_msgs.msg import Episode
from loop_messages import CONTRACT, HOME, MS, PERIOD, ROBOT, TASK_FILE, action, joint_state, pose, stick
from sensor_msgs.msg import JointState

from hilrl_actor.observer import Observer, roll_pitch_yaw
from hilrl_actor.observer_node import ObserverNode
from hilrl_agents.spec import PolicySpec
from hilrl_ros import qos
from hilrl_ros.contract import Camera, StateEntry
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.images import from_rgb, to_rgb
from hilrl_ros.kinematics import Kinematics
from hilrl_ros.messages import named_entries, nanoseconds, observation_arrays, to_time

START = 5_000 * MS
CAMERA = Camera("front/image_raw", (4, 6), (2, 0, 6, 4))
WITH_CAMERA = dataclasses.replace(CONTRACT, cameras={"front": CAMERA})


def observer(contract=CONTRACT, max_age=0.2, cube_at=START):
    made = Observer(contract, max_age)
    made.begin(1, START)
    if cube_at is not None:
        made.add("cube/pose", pose(cube_at, 0.2, 0.0, 0.0125))
    return made


def steps(made, stamps, **kwargs):
    """Feed joint states (and a fresh cube before each); the step numbers that come out, None where none does."""
    out = []
    for stamp in stamps:
        made.add("cube/pose", pose(stamp, 0.2, 0.0, 0.0125))
        result = made.add("joint_states", joint_state(stamp, **kwargs))
        out.append(result.step if result else None)
    return out


def test_an_episode_begins_with_what_was_measured_after_its_start():
    assert steps(observer(), [START - 1, START + 9 * MS]) == [None, 0]


def frame(stamp_ns, value):
    return from_rgb(np.full((8, 8, 3), value, np.uint8), to_time(stamp_ns))


def test_privileged_entries_stand_beside_the_state_where_they_can_be_observed():
    own = [e for e in CONTRACT.state if e.topic == "joint_states"]
    cube = [e for e in CONTRACT.state if e.topic == "cube/pose"]
    contract = dataclasses.replace(CONTRACT, state=tuple(own), privileged=tuple(cube))
    whole = observer().add("joint_states", joint_state(START))
    split = observer(contract).add("joint_states", joint_state(START))
    assert [*split.state, *split.privileged] == list(whole.state) and len(split.privileged) == len(cube)
    assert named_entries(split, contract) == named_entries(whole, CONTRACT)
    assert observer(contract, cube_at=None).add("joint_states", joint_state(START)) is None  # waits for it
    real = Observer(contract, 0.2, privileged=False)
    real.begin(1, START)
    alone = real.add("joint_states", joint_state(START))
    assert (alone.state, len(alone.privileged)) == (split.state, 0)


def test_values_and_differences_are_those_of_the_messages():
    made = observer(cube_at=None)
    q = np.add(HOME, [0.1, 0.2, -0.1, 0.05, 0.3, -0.2])
    names = CONTRACT.joints[::-1]
    made.add("cube/pose", pose(START, 0.21, -0.03, 0.0125))
    msg = made.add("joint_states", joint_state(START, q[::-1], names))
    tip, _ = Kinematics(CONTRACT).forward(q)
    cube = np.array([0.21, -0.03, 0.0125])
    axes = "xyz"
    expected = dict(zip(CONTRACT.joints, q, strict=True))
    expected |= {f"tip_{a}": v for a, v in zip(axes, tip, strict=True)}
    expected |= {f"cube_{a}": v for a, v in zip(axes, cube, strict=True)}
    expected |= {f"cube_d{a}": v for a, v in zip(axes, cube - tip, strict=True)}
    values = dict(zip(CONTRACT.state_names, msg.state, strict=True))
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert (msg.episode, msg.step, nanoseconds(msg.header.stamp)) == (1, 0, START)
    assert msg.header.frame_id == "base_link"


def test_the_tips_orientation_is_roll_pitch_yaw_of_fixed_axes():
    entries = tuple(
        StateEntry(f, "joint_states", f"tip.{f}", "rad", type="x") for f in ("roll", "pitch", "yaw")
    )
    contract = dataclasses.replace(CONTRACT, state=entries)
    made = Observer(contract, 0.2)
    made.begin(1, 0)
    first = made.add("joint_states", joint_state(0))
    turned = np.add(HOME, [0.3, 0, 0, 0, 0, 0])
    second = made.add("joint_states", joint_state(PERIOD, turned))
    _, rotation = Kinematics(CONTRACT).forward(turned)
    assert list(second.state) == pytest.approx(roll_pitch_yaw(rotation), abs=1e-6)
    assert list(second.state) != pytest.approx(list(first.state), abs=0.05)
    c, s = np.cos(0.4), np.sin(0.4)
    assert roll_pitch_yaw(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])) == pytest.approx((0, 0, 0.4))
    assert roll_pitch_yaw(np.array([[1, 0, 0], [0, c, -s], [0, s, c]])) == pytest.approx((0.4, 0, 0))


def test_in_lockstep_every_joint_state_is_a_step():
    assert steps(observer(), [START + k * PERIOD for k in range(4)]) == [0, 1, 2, 3]


def test_a_stream_at_100_hz_gives_one_step_a_period_however_the_driver_jitters():
    rng = np.random.default_rng(0)
    stamps = [START + k * 10 * MS + int(rng.uniform(-0.9, 0.9) * MS) for k in range(101)]
    out = steps(observer(), stamps)
    assert [s for s in out if s is not None] == list(range(11))
    assert [k for k, s in enumerate(out) if s is not None] == list(range(0, 101, 10))


def test_what_comes_before_the_episode_is_no_observation():
    made = observer()
    assert steps(made, [START - PERIOD, START - 10 * MS]) == [None, None]
    assert steps(Observer(CONTRACT, 0.2), [START]) == [None]  # no episode at all
    assert steps(made, [START]) == [0]


def test_an_observation_waits_for_a_pose_that_is_too_old():
    made = observer(cube_at=START - 201 * MS)
    assert made.add("joint_states", joint_state(START)) is None
    msg = made.add("cube/pose", pose(START - 199 * MS, 0.25, 0.0, 0.0125))
    assert msg.step == 0
    assert msg.state[CONTRACT.state_names.index("cube_x")] == pytest.approx(0.25)


def test_an_observation_waits_for_its_picture():
    made = observer(WITH_CAMERA, max_age=0.01)
    assert made.add("joint_states", joint_state(START)) is None
    assert made.add("front/image_raw", frame(START - PERIOD, 1)) is None
    msg = made.add("front/image_raw", frame(START, 9))
    assert msg.step == 0
    assert to_rgb(msg.images[0]).shape == (4, 6, 3) and to_rgb(msg.images[0]).max() == 9
    assert made.add("front/image_raw", frame(START + MS, 10)) is None  # the step is done


def test_the_same_joint_state_again_gives_the_same_observation_again():
    made = observer()
    first = made.add("joint_states", joint_state(START))
    assert made.add("cube/pose", pose(START, 0.2, 0.0, 0.0125)) is None
    assert made.add("joint_states", joint_state(START)) is first


def test_a_lost_tick_is_a_jump_of_the_step():
    assert steps(observer(), [START, START + PERIOD, START + 4 * PERIOD]) == [0, 1, 4]


def test_a_pause_costs_one_tick_and_no_time():
    made = observer()
    assert steps(made, [START, START + PERIOD]) == [0, 1]
    made.pause()
    assert steps(made, [START + k * PERIOD for k in range(2, 50)]) == [None] * 48
    resumed = made.begin(1, START)
    assert resumed.step == 3  # 2 is missing: what lies around a pause is not learnt as neighbours
    assert steps(made, [START + 50 * PERIOD, START + 51 * PERIOD]) == [4, 5]


def test_a_pause_in_which_nothing_moved_offers_the_same_observation_again():
    made = observer()
    first = made.add("joint_states", joint_state(START))
    made.pause()
    assert made.add("joint_states", joint_state(START)) is None
    assert made.begin(1, START) is first
    assert steps(made, [START + PERIOD]) == [1]


def test_a_new_episode_counts_from_0_and_ends_a_pause():
    made = observer()
    steps(made, [START, START + PERIOD])
    made.pause()
    assert made.begin(2, START + 10 * PERIOD) is None
    made.add("cube/pose", pose(START + 10 * PERIOD, 0.2, 0.0, 0.0125))
    msg = made.add("joint_states", joint_state(START + 10 * PERIOD))
    assert (msg.episode, msg.step) == (2, 0)


def test_an_announcement_that_is_repeated_changes_nothing():
    made = observer()
    assert steps(made, [START]) == [0]
    assert made.begin(1, START) is None
    assert steps(made, [START + PERIOD]) == [1]


def test_the_same_messages_give_the_same_observations_bit_for_bit():
    def observations():
        rng = np.random.default_rng(3)
        made, out = observer(WITH_CAMERA), []
        for k in range(200):
            stamp = START + k * 10 * MS
            kind = rng.integers(3)
            if kind == 0:
                result = made.add("cube/pose", pose(stamp, *rng.uniform(-1, 1, 3)))
            elif kind == 1:
                result = made.add("front/image_raw", frame(stamp, int(rng.integers(256))))
            else:
                result = made.add("joint_states", joint_state(stamp, HOME + rng.normal(0, 0.1, 6)))
            out += [result] if result else []
        return out

    first = observations()
    assert len(first) > 10
    assert first == observations()


def test_the_node_survives_a_joint_state_of_another_arm(make_graph, logged):
    from hilrl_msgs.msg import Observation

    graph = make_graph(robot=ROBOT, task=TASK_FILE)
    node = graph.add(ObserverNode())
    heard = graph.listen(Observation, "observation", qos.STEP)
    joints = graph.publisher(JointState, "joint_states", qos.STEP)
    episode = graph.publisher(Episode, "episode", qos.LATCHED)
    graph.connect()
    announcement = Episode(status=Episode.RUNNING, episode=3)
    announcement.header.stamp = to_time(START)
    episode.publish(announcement)
    graph.until(lambda: node.observer.episode == 3)
    node.observer.newest["cube/pose"] = pose(START, 0.2, 0.0, 0.0125)
    joints.publish(joint_state(START, names=["1", "2", "3", "4", "5", "6"]))
    graph.until(lambda: any("joint_states lacks shoulder_pan" in text for _, text in logged))
    assert heard == []
    joints.publish(joint_state(START))
    graph.until(lambda: heard)
    assert (heard[0].episode, heard[0].step) == (3, 0)
    episode.publish(Episode(status=Episode.PAUSED, episode=3))
    graph.until(lambda: node.observer.paused)


OPTIONS = {
    "speed": ("joint_states", "velocity[elbow_flex]", "rad/s"),
    "load": ("joint_states", "effort[elbow_flex]", "N m"),
    "pitch": ("joint_states", "tip.pitch", "rad"),
    "width": ("joint_states", "gripper.width", "m"),
    "before": ("executed_action", "action[y]", "1"),
    "pan": ("joint_states", "position[shoulder_pan]", "rad"),
}
AGO = {
    "name": "pan_2_ago",
    "topic": "joint_states",
    "field": "position[shoulder_pan]",
    "unit": "rad",
    "ago": 2,
}


@pytest.fixture
def options(tmp_path):
    """Contract of a robot with all options of observation, as its file is read."""
    robot = yaml.safe_load(ROBOT.read_text())
    robot["state"] = [
        {"name": name, "topic": topic, "field": field, "unit": unit}
        for name, (topic, field, unit) in OPTIONS.items()
    ] + [AGO]
    robot["cameras"] = {"front": {"topic": "front/image_raw", "size": [8, 8], "stack": 2}}
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(robot, sort_keys=False))
    return load_contract(tmp_path / "arm.yaml")[0]


def test_every_option_of_observation_reaches_the_policy(options):
    made = Observer(options, 0.2)
    made.begin(1, START)
    q = dict(zip(CONTRACT.joints, HOME, strict=True)) | {"gripper": 0.165}
    seen = []
    for step in range(4):
        if step:
            made.add("executed_action", action(1, step - 1, stick(x=1.0, y=step / 10), start_ns=START))
        made.add("front/image_raw", frame(START + step * PERIOD, 10 * (step + 1)))
        joints = joint_state(START + step * PERIOD, (q | {"shoulder_pan": step / 10}).values())
        joints.effort = [0.1 * k for k in range(6)]
        seen.append(observation_arrays(made.add("joint_states", joints), options))
    names = [*OPTIONS, AGO["name"]]
    states = [dict(zip(names, observation["state"].tolist(), strict=True)) for observation in seen]
    _, rotation = Kinematics(CONTRACT).forward(np.array(list(q.values())))
    expected = {
        "speed": q["elbow_flex"] / 10,
        "load": 0.2,
        "pitch": roll_pitch_yaw(rotation)[1],
        "width": 0.029,
    }
    assert [s["before"] for s in states] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert [s["pan_2_ago"] for s in states] == pytest.approx([0.0, 0.0, 0.0, 0.1])
    assert all({k: s[k] for k in expected} == pytest.approx(expected, abs=1e-5) for s in states)
    stacks = [observation["images"]["front"][0, 0].tolist() for observation in seen]
    assert stacks == [[10] * 6, [10] * 3 + [20] * 3, [20] * 3 + [30] * 3, [30] * 3 + [40] * 3]
    spec = PolicySpec.from_contract(options.to_dict())
    for observation in seen:
        spec.check(observation)


def test_the_action_before_is_waited_for_but_not_where_nobody_acts(options):
    made = Observer(options, 10.0)
    made.begin(1, START)
    made.add("front/image_raw", frame(START, 1))

    def joints(stamp):
        msg = joint_state(stamp)
        msg.effort = [0.0] * 6
        return made.add("joint_states", msg)

    assert joints(START).step == 0
    assert joints(START + PERIOD) is None  # it may still come
    assert made.add("executed_action", action(1, 0, stick(y=0.5))).state[4] == 0.5
    assert joints(START + 2 * PERIOD) is None
    assert joints(START + 2 * PERIOD + PERIOD * 6 // 10).state[4] == 0.0
