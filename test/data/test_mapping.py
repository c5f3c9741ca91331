"""Which column is which entry: what fits by itself, what a mapping says, and what is refused with which words."""

import dataclasses
import math

import numpy as np
import pytest
from dataset_files import CONTRACT, JOINT_CONTRACT, JOINTS

from hilrl_data.mapping import Converter, Mapping, MappingError, load_mapping
from hilrl_ros.contract import ActionSpace, StateEntry
from hilrl_ros.kinematics import Kinematics

JOINTS_ALONE = dataclasses.replace(JOINT_CONTRACT, state=JOINT_CONTRACT.state[:6], cameras={})
NAMES = [f"{joint}.pos" for joint in JOINTS]


def features(state=6, names=NAMES, action=6, action_names=NAMES, **others):
    of = {
        "observation.state": {"dtype": "float32", "shape": [state], "names": names},
        "action": {"dtype": "float32", "shape": [action], "names": action_names},
    }
    return of | others


def converter(of=None, contract=JOINTS_ALONE, rate=10.0, mapping=None):
    return Converter("set", of or features(), rate, contract, mapping or Mapping())


def columns(rows=4, **others):
    values = np.linspace(-0.1, 0.5, rows * 6).astype(np.float32).reshape(rows, 6)
    return {"observation.state": values, "action": values} | others


@pytest.mark.parametrize(
    "names", [NAMES, list(JOINTS), {"motors": NAMES}, {n: i for i, n in enumerate(NAMES)}, None]
)
def test_names_and_without_any_the_order_find_the_columns(names):
    made = converter(features(names=names, action_names=names))
    data = columns()
    actions = made.actions(data)
    np.testing.assert_array_equal(made.states(data, actions), data["observation.state"])
    low, high = Kinematics(JOINTS_ALONE).joint_limits.T
    np.testing.assert_allclose((actions + 1) / 2 * (high - low) + low, data["action"], atol=1e-6)


def test_names_in_another_order_are_sorted():
    data = columns()
    made = converter(features(names=NAMES[::-1]))
    np.testing.assert_array_equal(made.states(data, made.actions(data)), data["observation.state"][:, ::-1])


def test_what_follows_from_the_joints_is_worked_out():
    more = (
        *JOINT_CONTRACT.state,
        StateEntry("width", "joint_states", "gripper.width", "m"),
        StateEntry("before", "executed_action", "action[elbow_flex]", "1"),
        StateEntry("rise", "joint_states", "tip.z", "m", minus="tip_x"),
    )
    contract = dataclasses.replace(
        JOINTS_ALONE, state=more, gripper_width=((-0.2, 0.0), (1.8, 0.1)),
    )  # fmt: skip
    made, data = converter(contract=contract), columns()
    actions = made.actions(data)
    states = dict(zip(contract.state_names, made.states(data, actions).T, strict=True))
    joints = data["observation.state"]
    tips = np.array([Kinematics(contract).forward(q)[0] for q in joints])
    np.testing.assert_allclose(states["tip_z"], tips[:, 2], atol=1e-6)
    np.testing.assert_allclose(states["gripper_speed"], [0, *np.diff(joints[:, 5]) * 10], atol=1e-5)
    np.testing.assert_allclose(states["width"], (joints[:, 5] + 0.2) / 2 * 0.1, atol=1e-6)
    np.testing.assert_array_equal(states["before"], [0, *actions[:-1, 2]])
    np.testing.assert_allclose(states["rise"], tips[:, 2] - tips[:, 0], atol=1e-6)


def test_what_was_before_is_taken_from_the_frames_before():
    joints = tuple(dataclasses.replace(e, name=f"{e.name}_2_ago", ago=2) for e in JOINTS_ALONE.state)
    made = converter(contract=dataclasses.replace(JOINTS_ALONE, state=JOINTS_ALONE.state + joints))
    data = columns()
    states = made.states(data, made.actions(data))
    np.testing.assert_array_equal(states[:, :6], data["observation.state"])
    np.testing.assert_array_equal(states[:, 6:], data["observation.state"][[0, 0, 0, 1]])


def test_degrees_are_converted_where_the_mapping_says_so():
    data = columns()
    degrees = {name: np.degrees(values).astype(np.float32) for name, values in data.items()}
    made, plain = converter(mapping=Mapping(angles="deg")), converter()
    actions = made.actions(degrees)
    np.testing.assert_allclose(actions, plain.actions(data), atol=1e-6)
    np.testing.assert_allclose(made.states(degrees, actions), data["observation.state"], atol=1e-6)


def test_a_mapping_file_renames_scales_and_converts(tmp_path):
    file = tmp_path / "map.yaml"
    file.write_text(
        "state:\n"
        "  gripper: {from: 'observation.state[gripper.pos]', scale: 0.01, offset: 0.1}\n"
        "  shoulder_pan: {from: 'observation.state[0]', unit: deg}\n"
        "  elbow_flex: observation.elbow\n"
        "action:\n"
        "  gripper: {from: 'action[5]', scale: 0.01, unit: normalised}\n"
        "every: 2\n"
    )
    of = features(**{"observation.elbow": {"dtype": "float32", "shape": [1], "names": None}})
    made = converter(of, rate=20.0, mapping=load_mapping(file, JOINTS_ALONE))
    data = columns(**{"observation.elbow": np.full((4, 1), 0.25, np.float32)})
    actions = made.actions(data)
    states = made.states(data, actions)
    np.testing.assert_allclose(states[:, 5], data["observation.state"][:, 5] * 0.01 + 0.1, atol=1e-7)
    np.testing.assert_allclose(states[:, 0], np.radians(data["observation.state"][:, 0]), atol=1e-7)
    np.testing.assert_array_equal(states[:, 2], 0.25)
    np.testing.assert_allclose(actions[:, 5], data["action"][:, 5] * 0.01, atol=1e-8)


def test_deltas_are_divided_by_the_contracts_scale():
    contract = dataclasses.replace(
        JOINTS_ALONE, action=ActionSpace("ee_delta", ("x", "gripper"), (0.02, 0.2))
    )
    of = features(action=2, action_names=["dx", "x"])
    mapping = Mapping(action={"x": {"from": "action[dx]", "unit": "m"}, "gripper": {"from": "action[1]"}})
    data = columns(action=np.array([[0.01, 1.0]], np.float32))
    np.testing.assert_allclose(converter(of, contract, mapping=mapping).actions(data), [[0.5, 1.0]])


def test_a_little_too_far_is_clipped_and_counted():
    made = converter(features(), JOINTS_ALONE)
    data = columns()
    data["action"] = data["action"].copy()
    data["action"][0, 5] = -0.3  # below the gripper's limit
    assert made.actions(data)[0, 5] == -1 and made.clipped["gripper"] == 1


def refused(message, **options):
    with pytest.raises(MappingError, match=message) as error:
        made = converter(**options)
        data = columns(3)
        data["action"] = data["observation.state"] = data["action"] * 100
        made.states(data, made.actions(columns(3)))
        made.actions(data)
    assert "\n" not in str(error.value)


EE = dataclasses.replace(JOINTS_ALONE, action=CONTRACT.action)
WITH_CUBE = dataclasses.replace(CONTRACT, action=JOINTS_ALONE.action, cameras={})
WITH_CAMERA = dataclasses.replace(JOINTS_ALONE, cameras={"front": CONTRACT.cameras["front"]})
TOP = {"observation.images.top": {"dtype": "video", "shape": [4, 4, 3]}}
IN_DEGREES = Mapping(state={n: {"from": f"observation.state[{n}.pos]", "unit": "deg"} for n in JOINTS})


def test_what_does_not_fit_says_which_key_and_how_to_map_it():
    refused(
        r"^set: has nothing for cube_x of the contract's state \(observation\.state: shoulder_pan\.pos, .*"
        r'name it in a mapping \(--map\): state: \{cube_x: "feature\[index\]"\}',
        contract=WITH_CUBE,
    )
    refused(
        r"has nothing for shoulder_pan of the contract's state \(observation\.state: 8 without names\)",
        of=features(state=8, names=None),
    )
    refused(
        r"its action is joints \(shoulder_pan\.pos, .*\), the contract's is ee_delta of x, y, z, gripper: one "
        r"cannot be made from the other; use a task or contract with action: \{type: joint_position, scale: "
        r"\{shoulder_pan: 1\.0",
        contract=EE,
    )
    refused(
        r"has nothing for x of the contract's action \(action: 7 without names\); name it in a mapping",
        of=features(action=7, action_names=None),
        contract=EE,
    )
    refused(
        r"no images 'observation\.images\.front' for the contract's camera front; it has observation\.images\.top; "
        r"name one in a mapping \(--map\): cameras: \{front: observation\.images\.top\}",
        of=features(**TOP),
        contract=WITH_CAMERA,
    )
    refused(
        r"has 30 frames per second, the contract's control_rate is 10 Hz; take one frame of 3 .* every: 3, or use a "
        r"contract with control_rate: 30",
        rate=30.0,
    )
    refused(r"has 15 frames per second, the contract's control_rate is 10 Hz; use a contract with", rate=15.0)
    refused(
        r"mapping\.every is 3, but actions of type ee_delta cannot be left out",
        rate=30.0,
        mapping=Mapping(every=3),
        contract=EE,
    )
    refused(
        r"observation\.state\[shoulder_pan\.pos\] as shoulder_pan reaches .*, too much for rad; if it is in degrees, "
        r"say so in a mapping \(--map\): angles: deg, or for it alone: state: \{shoulder_pan: "
        r'\{from: "observation\.state\[shoulder_pan\.pos\]", unit: deg\}\}'
    )
    refused(
        r"action\[shoulder_pan\.pos\] as action shoulder_pan reaches .*, expected at most 1 .*: angles: deg",
        mapping=IN_DEGREES,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stat: {}", r"map\.yaml\.stat: unknown key; did you mean 'state'\?"),
        ("state: {elbow: 'a[0]'}", r"map\.yaml\.state\.elbow: unknown key; did you mean 'elbow_flex'\?"),
        ("state: {gripper: {from: 'a[0]', unit: grad}}", r"gripper\.unit: is 'grad', expected one of deg, rad, m"),
        ("state: {gripper: {from: 'a[0]', scale: big}}", r"gripper\.scale: is 'big', expected a number"),
        ("every: 0", r"map\.yaml\.every: is 0, expected a whole number"),
        ("cameras: {top: x}", r"map\.yaml\.cameras\.top: unknown key"),
    ],
)  # fmt: skip
def test_a_mapping_that_is_wrong_names_the_key(tmp_path, text, message):
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(MappingError, match=message):
        load_mapping(tmp_path / "map.yaml", JOINT_CONTRACT)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing[0]", r"gripper: from 'nothing\[0\]', expected feature\[index\] with one of observation\.state"),
        ("observation.state[9]", r"observation\.state has no '9'; it has shoulder_pan\.pos"),
        ("observation.state[", "expected feature"),
    ],
)  # fmt: skip
def test_a_column_that_is_not_there_is_named(source, message):
    with pytest.raises(MappingError, match=message):
        converter(mapping=Mapping(state={"gripper": {"from": source}}))


def test_radians_are_not_taken_for_degrees():
    data = columns()
    data["observation.state"] = np.full((4, 6), math.pi, np.float32)
    made = converter()
    assert made.states(data, made.actions(columns()))[0, 0] == np.float32(math.pi)
