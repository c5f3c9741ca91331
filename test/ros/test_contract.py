import copy
import dataclasses
from pathlib import Path

import pytest
import yaml
from loop_messages import CONTRACT, ROBOT, TASK_FILE

from hilrl_ros.contract import ContractError, contract_from_dict, contract_hash
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.settings import WarmStartSettings, load_agent_settings

ROBOT_YAML = yaml.safe_load(ROBOT.read_text())
TASK_YAML = yaml.safe_load(TASK_FILE.read_text())
GONE = "<gone>"


def changed(raw, path, value):
    """A copy of `raw` with one value replaced, added or (GONE) removed."""
    raw = copy.deepcopy(raw)
    at = raw
    for key in path[:-1]:
        at = at[key]
    if value is GONE:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return raw


def load(tmp_path, robot=ROBOT_YAML, task=TASK_YAML):
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(robot, sort_keys=False))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
    return load_contract(tmp_path / "arm.yaml", tmp_path / "job.yaml")


WIDTH = {"name": "w", "topic": "joint_states", "field": "gripper.width", "unit": "m"}
BEFORE = {"name": "b", "topic": "executed_action", "field": "action[up]", "unit": "1"}
CUBE = {"name": "x", "topic": "cube/pose", "field": "pose.position.x", "unit": "m"}
JOINT = {"name": "x", "topic": "joint_states", "field": "position[gripper]", "unit": "rad"}
ROBOT_ERRORS = [
    (
        ("controlrate",),
        10.0,
        r"arm\.yaml\.controlrate: unknown key; did you mean 'control_rate'\?; allowed: ",
    ),
    (("control_rate",), GONE, r"arm\.yaml: key 'control_rate' is missing; required: robot, model"),
    (("control_rate",), "fast", r"arm\.yaml\.control_rate: is 'fast', expected a number from 0\.1 to 1000"),
    (("control_rate",), float("nan"), r"arm\.yaml\.control_rate: is nan, expected a number"),
    (("control_rate",), True, r"arm\.yaml\.control_rate: is True, expected a number"),
    (("max_joint_speed",), 0, r"arm\.yaml\.max_joint_speed: is 0, expected a number from 0\.01 to 100"),
    (("model", "tipframe"), "x", r"arm\.yaml\.model\.tipframe: unknown key; did you mean 'tip_frame'\?"),
    (("max_gripper_speed",), 0, r"arm\.yaml\.max_gripper_speed: is 0, expected a number from 0\.001 to 100"),
    (
        ("model", "mjcf"),
        "x",
        r"arm\.yaml\.model: expected one of urdf and mjcf, the file that describes the arm",
    ),
    (("model", "root"), "x", r"arm\.yaml\.model\.root: goes with mjcf only"),
    (("model", "joints"), {"hip": "x"}, r"arm\.yaml\.model\.joints\.hip: unknown key; .*allowed: elbow_flex"),
    (("joints",), "all", r"arm\.yaml\.joints: is 'all', expected a list of unique joint names"),
    (("joints",), ["a", "a"], r"arm\.yaml\.joints: is \['a', 'a'\], expected a list of unique joint names"),
    (("gripper_joint",), "hand", r"arm\.yaml\.gripper_joint: 'hand' is not one of shoulder_pan, "),
    (("joint_limits",), {"gripper": [0, 1]}, r"arm\.yaml\.joint_limits: key 'shoulder_pan' is missing"),
    (
        ("joint_limits",),
        {joint: [-3, 3] for joint in ROBOT_YAML["joints"]} | {"gripper": [0.7, 1.0]},
        r"arm\.yaml\.joint_limits\.gripper: is \[0\.7, 1\.0\], expected to hold the home pose's 0\.6",
    ),
    (
        ("joint_limits",),
        {joint: [-3, 3] for joint in ROBOT_YAML["joints"]} | {"gripper": 1.0},
        r"arm\.yaml\.joint_limits\.gripper: is 1\.0, expected \[lowest, highest\] in rad",
    ),
    (("home", "gripper"), GONE, r"arm\.yaml\.home: key 'gripper' is missing"),
    (("home", "gripper"), 9, r"arm\.yaml\.home\.gripper: is 9, expected a number from -7 to 7"),
    (("home", "griper"), 0, r"arm\.yaml\.home\.griper: unknown key; did you mean 'gripper'\?"),
    (("box", "min"), [0.3, 0, 0.2], r"arm\.yaml\.box: min .* must be three metres each, min below max"),
    (("box", "max"), [0.3, 0.1], r"arm\.yaml\.box: .* must be three metres each"),
    (("box", "max"), None, r"arm\.yaml\.box: .* max None must be three metres each"),
    (("box", "max"), ["a", "b", "c"], r"arm\.yaml\.box: .* must be three metres each"),
    (("action", "type"), "ee", r"arm\.yaml\.action\.type: is 'ee', expected one of ee_delta, joint_delta,"),
    (("action", "scale"), {}, r"arm\.yaml\.action\.scale: is \{\}, expected names with numbers"),
    (
        ("action", "scale", "w"),
        1,
        r"arm\.yaml\.action\.scale\.w: unknown name for ee_delta; allowed: x, y, z",
    ),
    (("action", "scale", "x"), 0, r"arm\.yaml\.action\.scale\.x: is 0, expected a number from 1e-06 to 10"),
    (("action", "scale", "x"), -1, r"arm\.yaml\.action\.scale\.x: is -1, expected a number from 1e-06 to 10"),
    (("state",), {}, r"arm\.yaml\.state: is \{\}, expected a list of \{name, topic, field, unit\}"),
    (("state", 0, "units"), "m", r"arm\.yaml\.state\[0\]\.units: unknown key; did you mean 'unit'\?"),
    (("state", 0, "field"), "data", r"arm\.yaml\.state\[0\]\.field: 'data' does not tell the message type"),
    (("state", 6, "field"), "tip.w", r"arm\.yaml\.state\[6\]\.field: 'tip\.w' is unknown; allowed: tip\.x"),
    (
        ("cameras",),
        ["front"],
        r"arm\.yaml\.cameras: is \['front'\], expected names with \{topic, size, crop\}",
    ),
    (
        ("cameras", "wrist"),
        {"topic": "t", "sise": [1, 1]},
        r"arm\.yaml\.cameras\.wrist\.sise: unknown key; did you mean 'size'\?; allowed: crop, size, stack, topic",
    ),
    (
        ("cameras", "wrist"),
        {"topic": "t", "size": [0, 8]},
        r"arm\.yaml\.cameras\.wrist\.size: is \[0, 8\], expected \[height, width\] in pixels",
    ),
    (
        ("cameras", "wrist"),
        {"topic": "t", "size": [8, 8], "crop": [0, 0, 0, 8]},
        r"arm\.yaml\.cameras\.wrist\.crop: is \[0, 0, 0, 8\], expected \[x, y, width, height\]",
    ),
    (("sim",), 3, r"arm\.yaml\.sim: is 3, expected a mapping"),
]
TASK_ERRORS = [
    (("rewards",), {}, r"job\.yaml\.rewards: unknown key; did you mean 'reward'\?"),
    (("success",), GONE, r"job\.yaml: key 'success' is missing"),
    (("reward",), ["success"], r"job\.yaml\.reward: is \['success'\], expected a mapping"),
    (("max_episode_steps",), 0, r"job\.yaml\.max_episode_steps: is 0, expected a whole number of at least 1"),
    (("max_episode_steps",), 9.5, r"job\.yaml\.max_episode_steps: is 9\.5, expected a whole number"),
    (("state",), [JOINT, JOINT], r"job\.yaml\.state: 'x' stands twice; names must be unique"),
    (("state",), [JOINT | {"name": "tip_x"}], r"job\.yaml\.state: 'tip_x' stands twice"),
    (
        ("state",),
        [CUBE | {"minus": "later"}, CUBE | {"name": "later"}],
        r"job\.yaml\.state\.x\.minus: 'later' is not an earlier entry",
    ),
    (
        ("state",),
        [CUBE | {"ago": -1}],
        r"job\.yaml\.state\[0\]\.ago: is -1, expected control periods from 0 to 100",
    ),
    (("state",), [CUBE | {"ago": "1"}], r"job\.yaml\.state\[0\]\.ago: is '1', expected control periods"),
]


@pytest.mark.parametrize(("path", "value", "message"), ROBOT_ERRORS, ids=lambda v: str(v)[:30])
def test_each_wrong_key_of_a_robot_is_one_sentence(tmp_path, path, value, message):
    with pytest.raises(ContractError, match=message) as error:
        load(tmp_path, robot=changed(ROBOT_YAML, path, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("path", "value", "message"), TASK_ERRORS, ids=lambda v: str(v)[:30])
def test_each_wrong_key_of_a_task_is_one_sentence(tmp_path, path, value, message):
    with pytest.raises(ContractError, match=message) as error:
        load(tmp_path, task=changed(TASK_YAML, path, value))
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(
        ContractError, match=r"robot 'so100' is unknown; did you mean 'so101'\?; there are: .*so101"
    ):
        load_contract("so100")
    with pytest.raises(ContractError, match=r"task 'fly' is unknown; there are: .*pick_cube.*reach"):
        load_contract("so101", "fly")
    with pytest.raises(ContractError, match=r"nowhere\.yaml: no such file; give a path"):
        load_contract("nowhere.yaml")


def test_broken_yaml_names_file_and_line(tmp_path):
    (tmp_path / "arm.yaml").write_text("robot: a\njoints: [a, b\nhome: {}\n")
    with pytest.raises(ContractError, match=r"arm\.yaml line 3: not valid YAML"):
        load_contract(tmp_path / "arm.yaml")
    (tmp_path / "arm.yaml").write_text("- a\n")
    with pytest.raises(ContractError, match=r"arm\.yaml: holds list, expected a mapping"):
        load_contract(tmp_path / "arm.yaml")


def test_a_checkpoint_gives_the_same_contract_back():
    again = contract_from_dict(yaml.safe_load(yaml.safe_dump(CONTRACT.to_dict())))
    assert again == CONTRACT
    assert again.hash() == CONTRACT.hash() == contract_hash(CONTRACT.to_dict())


def test_the_hash_does_not_depend_on_the_order_of_keys_and_integers(tmp_path):
    robot = dict(reversed(ROBOT_YAML.items())) | {"control_rate": 10}
    assert load(tmp_path, robot)[0].hash() == CONTRACT.hash()


CAMERA = {"front": {"topic": "front/image_raw", "size": [32, 32]}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("control_rate",), 20.0),
        (("state", 0, "unit"), "deg"),
        (("action", "scale", "x"), 0.021),
        (("action", "scale"), {"x": 0.015, "y": 0.015, "z": 0.015, "yaw": 0.1, "gripper": 0.3}),
        (("box", "min"), [0.1, -0.15, 0.0]),
    ],
    ids=str,
)
def test_the_hash_changes_with_all_that_matters_to_a_policy(tmp_path, path, value):
    assert load(tmp_path, changed(ROBOT_YAML, path, value))[0].hash() != CONTRACT.hash()


def test_what_only_a_simulator_needs_is_no_part_of_the_contract(tmp_path):
    assert load(tmp_path, changed(ROBOT_YAML, ("sim", "friction"), 2.0))[0].hash() == CONTRACT.hash()
    assert "sim" not in CONTRACT.to_dict()


def test_joint_actions_need_to_say_what_a_persons_stick_moves(tmp_path):
    without = {k: v for k, v in ROBOT_YAML.items() if k != "motion"}
    assert load(tmp_path, without)[0].motion == CONTRACT.action
    action = {"type": "joint_delta", "scale": {"gripper": 0.1}}
    with pytest.raises(ContractError, match=r"arm\.yaml: key 'motion' is missing; with joint_delta actions"):
        load(tmp_path, without | {"action": action})
    with pytest.raises(ContractError, match=r"arm\.yaml\.motion\.scale\.w: unknown name for ee_delta"):
        load(tmp_path, without | {"action": action, "motion": {"w": 1.0}})


def test_a_task_adds_state_chooses_cameras_and_its_own_action_space(tmp_path):
    task = TASK_YAML | {"cameras": ["front"], "action": {"type": "joint_delta", "scale": {"gripper": 0.1}}}
    motion = {"x": 0.01, "gripper": 0.2}
    contract, loaded = load(tmp_path, ROBOT_YAML | {"motion": motion, "cameras": CAMERA}, task)
    assert (contract.motion.type, contract.motion.names) == ("ee_delta", ("x", "gripper"))
    assert contract.state_names[-6:] == ("cube_x", "cube_y", "cube_z", "cube_dx", "cube_dy", "cube_dz")
    assert contract.cameras["front"].size == (32, 32)
    assert dataclasses.replace(contract, cameras={}).hash() != contract.hash()
    assert (contract.action.type, contract.action.names) == ("joint_delta", ("gripper",))
    assert loaded.max_episode_steps == 80
    cropped = dataclasses.replace(contract.cameras["front"], crop=(1, 2, 3, 4))
    contract = dataclasses.replace(contract, cameras={"front": cropped})
    assert contract_from_dict(contract.to_dict()) == contract


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chunk_size: 2\n", r"key 'algorithm' is missing; it names the algorithm"),
        ("algorithm: sac\nchunk_size: 0\n", r"chunk_size: is 0, expected a whole number from 1 to 1000"),
        (
            "algorithm: sac\nwarm_start: {checkpont: c}\n",
            r"a\.yaml\.warm_start\.checkpont: unknown key; did you mean 'checkpoint'\?; allowed: checkpoint, freeze",
        ),
        (
            "algorithm: sac\nwarm_start: runs/a\n",
            r"a\.yaml\.warm_start: is 'runs/a', expected a mapping with ch",
        ),
        (
            "algorithm: sac\nwarm_start: {policy_type: bc}\n",
            r"warm_start\.checkpoint: is missing; name the policy",
        ),
        (
            "algorithm: sac\nwarm_start: {checkpoint: c, freeze: encoder}\n",
            r"warm_start\.freeze: is 'encoder', expected a list of patterns, as in \['encoder\.\*'\]",
        ),
        ("algorithm: sac\nwarm_start: {checkpoint: 3}\n", r"warm_start\.checkpoint: is 3, expected text"),
        ("algorithm: [sac\n", r"a\.yaml line 2: not valid YAML"),
        ("sac\n", r"a\.yaml: holds str, expected a mapping"),
    ],
)
def test_wrong_agent_settings_are_one_sentence(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ContractError, match=message):
        load_agent_settings(tmp_path / "a.yaml")


def test_the_policy_to_start_from_is_named_in_the_file_or_in_its_place(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "algorithm: sac\nwarm_start: {checkpoint: runs/a, freeze: ['encoder.*']}\n"
    )
    (tmp_path / "b.yaml").write_text("algorithm: sac\nutd_ratio: 2\n")
    settings = load_agent_settings(tmp_path / "a.yaml")
    assert settings.warm_start == WarmStartSettings(Path("runs/a"), "", ("encoder.*",))
    assert (settings.chunk_size, settings.options) == (None, {})
    given = load_agent_settings(tmp_path / "a.yaml", "runs/b").warm_start
    assert given == WarmStartSettings(Path("runs/b"), "", ("encoder.*",))
    assert load_agent_settings(tmp_path / "b.yaml", "c").warm_start == WarmStartSettings(Path("c"))
    assert load_agent_settings(tmp_path / "b.yaml").warm_start is None


def test_a_task_without_cameras_sees_none_and_the_robot_alone_has_all(tmp_path):
    robot = ROBOT_YAML | {"cameras": CAMERA}
    assert load(tmp_path, robot, TASK_YAML)[0].cameras == {}
    assert list(load_contract(tmp_path / "arm.yaml")[0].cameras) == ["front"]
    with pytest.raises(
        ContractError, match=r"job\.yaml\.cameras: 'side' is no camera of the robot; it has front"
    ):
        load(tmp_path, robot, TASK_YAML | {"cameras": ["side"]})
    with pytest.raises(
        ContractError, match=r"job\.yaml\.cameras: is .*, expected a list of the robot's cameras"
    ):
        load(tmp_path, robot, TASK_YAML | {"cameras": CAMERA})


def test_what_is_privileged_is_observed_but_no_part_of_what_a_checkpoint_carries(tmp_path):
    entries = TASK_YAML["state"]
    seen, _ = load(tmp_path, ROBOT_YAML, TASK_YAML | {"state": [], "privileged": entries})
    without, _ = load(tmp_path, ROBOT_YAML, TASK_YAML | {"state": []})
    assert seen.state == without.state and seen.hash() == without.hash()
    assert seen.entry_names == load(tmp_path)[0].state_names
    assert "cube_dx" in {e.name for e in seen.privileged if e.minus == "tip_x"}  # may refer to the state
    twice = TASK_YAML | {"privileged": entries[:1]}
    with pytest.raises(ContractError, match=r"'cube_x' stands twice"):
        load(tmp_path, ROBOT_YAML, twice)


@pytest.mark.parametrize(
    ("robot", "message"),
    [
        (
            {"state": [WIDTH], "gripper_width": None},
            r"key 'gripper_width' is missing, 'w' needs it: pairs of",
        ),
        (
            {"gripper_width": [[0.0, 0.1]]},
            r"arm\.yaml\.gripper_width: is \[\[0.0, 0.1\]\], expected pairs \[rad",
        ),
        ({"gripper_width": [[1.0, 0.1], [0.0, 0.2]]}, r"expected the gripper joint's positions to rise"),
        (
            {"state": [BEFORE]},
            r"state\.b: executed_action action\[up\], expected topic executed_action and action",
        ),
        (
            {"cameras": {"front": CAMERA["front"] | {"stack": 0}}},
            r"front\.stack: is 0, expected 1 to 8 frames",
        ),
    ],
)
def test_options_of_observation_that_do_not_fit_are_one_sentence(tmp_path, robot, message):
    changes = {key: value for key, value in robot.items() if value is not None}
    whole = {key: value for key, value in ROBOT_YAML.items() if robot.get(key, 0) is not None} | changes
    with pytest.raises(ContractError, match=message):
        load(tmp_path, whole, TASK_YAML | {"state": []})


def test_joint_limits_travel_with_the_contract_and_their_absence_changes_no_hash(tmp_path):
    wide = {joint: [-3, 3] for joint in ROBOT_YAML["joints"]}
    limited, _ = load(tmp_path, changed(ROBOT_YAML, ("joint_limits",), wide))
    assert contract_from_dict(limited.to_dict()) == limited and limited.hash() != CONTRACT.hash()
    assert "joint_limits" not in CONTRACT.to_dict()


def test_what_another_arm_names_travels_with_the_contract_and_its_absence_changes_no_hash(tmp_path):
    model = ROBOT_YAML["model"] | {"mjcf": "arm.xml", "root": "base", "joints": {"gripper": "finger"}}
    del model["urdf"]
    robot = changed(ROBOT_YAML, ("action", "scale", "gripper"), -0.2) | {
        "model": model,
        "max_gripper_speed": 0.1,
    }
    contract, _ = load(tmp_path, robot)
    assert contract.action.scale[-1] == -0.2 and contract.joint_speeds[-1] == 0.1
    assert contract_from_dict(contract.to_dict()) == contract
    assert set(CONTRACT.to_dict()["model"]) == {"package", "urdf", "tip_frame", "base_frame"}
    assert "max_gripper_speed" not in CONTRACT.to_dict()


def test_a_task_may_start_elsewhere_than_the_robot(tmp_path):
    contract, _ = load(tmp_path, task=TASK_YAML | {"home": {"gripper": -0.1}})
    assert contract.home == (*CONTRACT.home[:-1], -0.1)
    with pytest.raises(ContractError, match=r"job\.yaml\.home\.grip: unknown key; did you mean 'gripper'"):
        load(tmp_path, task=TASK_YAML | {"home": {"grip": 0.0}})


def test_a_task_that_moves_the_tip_in_steps_of_its_own_wants_them_from_a_person_too(tmp_path):
    finer = {"type": "ee_delta", "scale": {"x": 0.005, "z": 0.005}}
    contract, _ = load(tmp_path, task=TASK_YAML | {"action": finer})
    assert contract.motion == contract.action and contract.action.names == ("x", "z")
