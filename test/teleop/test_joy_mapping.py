import numpy as np
import pytest
import yaml
from loop_messages import CONFIG

from hilrl_ros.contract import EE_AXES, ContractError
from hilrl_teleop.joy_mapping import JoyMapping
from hilrl_teleop.readings import EVENTS

FILE = CONFIG / "gamepads/game_controller.yaml"
RAW = yaml.safe_load(FILE.read_text())
MAPPING = JoyMapping.load(FILE)
DRIVEN = [i for i, name in enumerate(EE_AXES) if name in MAPPING.axes or name == "gripper"]


def pad(axes=(), buttons=()):
    """A reading of a pad at rest, but for these."""
    a, b = np.zeros(6), np.zeros(15, int)
    for i, value in dict(axes).items():
        a[i] = value
    b[list(buttons)] = 1
    return a, b


def test_the_scripted_person_presses_what_a_reading_gives_back():
    rng = np.random.default_rng(0)
    for _ in range(200):
        motion = np.zeros(len(EE_AXES))
        motion[DRIVEN] = rng.uniform(-1, 1, len(DRIVEN)) * rng.integers(0, 2, len(DRIVEN))
        held = bool(rng.integers(2))
        again, read = MAPPING.read(*MAPPING.write(held, motion))
        assert again is held
        assert read == pytest.approx(motion, abs=1e-9)


@pytest.mark.parametrize("event", EVENTS)
def test_the_scripted_persons_buttons_are_the_events(event):
    _, buttons = MAPPING.write(True, np.zeros(7), event)
    assert MAPPING.pressed([0] * len(buttons), buttons) == [event]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({1: 1.0}, {"x": 1.0}),  # left stick up: away from the base
        ({0: 1.0}, {"y": 1.0}),  # left stick left
        ({3: -1.0}, {"z": -1.0}),  # right stick down
        ({2: 1.0}, {"yaw": 1.0}),
        ({4: -1.0}, {"gripper": 1.0}),  # left trigger, as game_controller_node reports it
        ({5: -1.0}, {"gripper": -1.0}),
        ({4: 1.0}, {"gripper": 1.0}),  # the same trigger of a driver that counts the other way
        ({4: -1.0, 5: -1.0}, {}),
        ({0: 0.08, 1: -0.08, 2: 0.079, 4: -0.08}, {}),
        ({1: 0.54}, {"x": 0.5}),
    ],
    ids=str,
)
def test_sticks_and_triggers_move_what_the_file_says(axes, expected):
    held, motion = MAPPING.read(*pad(axes))
    assert not held
    assert dict(zip(EE_AXES, motion, strict=True)) == pytest.approx(dict.fromkeys(EE_AXES, 0.0) | expected)


def test_the_dead_man_is_its_button():
    assert MAPPING.read(*pad(buttons=[10]))[0] is True
    assert MAPPING.read(*pad(buttons=[9]))[0] is False


def test_a_reading_with_too_few_axes_or_buttons_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"/joy has 4 axes and 15 buttons, the mapping needs 6 and 11: choose the map"
    ):
        MAPPING.read([0.0] * 4, [0] * 15)
    with pytest.raises(ValueError, match=r"/joy has 6 axes and 10 buttons"):
        MAPPING.read([0.0] * 6, [0] * 10)


def test_an_event_is_a_press_not_a_held_button():
    up, down = [0] * 15, [0] * 15
    down[RAW["events"]["success"]] = 1
    assert MAPPING.pressed(up, down) == ["success"]
    assert MAPPING.pressed(down, down) == []
    assert MAPPING.pressed(down, up) == ["success_released"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dedman": 1}, r"pad\.yaml\.dedman: unknown key; did you mean 'deadman'\?"),
        ({"deadman": None}, r"pad\.yaml\.deadman: is None, expected a number counted from 0"),
        ({"deadman": "RB"}, r"pad\.yaml\.deadman: is 'RB', expected a number counted from 0"),
        ({"deadman": 3}, r"pad\.yaml\.deadman: button 3 is an event's as well"),
        ({"deadzone": 1.0}, r"pad\.yaml\.deadzone: is 1\.0, expected a number from 0 to below 1"),
        ({"deadzone": "small"}, r"pad\.yaml\.deadzone: is 'small'"),
        ({"gripper_open": -1}, r"pad\.yaml\.gripper_open: is -1, expected a number counted from 0"),
        ({"axes": [0, 1]}, r"pad\.yaml\.axes: is \[0, 1\], expected a mapping with x, y, z"),
        (
            {"axes": {"up": {"axis": 1, "sign": 1}}},
            r"pad\.yaml\.axes\.up: unknown key; allowed: pitch, roll, x",
        ),
        ({"axes": {"x": 1}}, r"pad\.yaml\.axes\.x: is 1, expected a mapping with axis, sign"),
        ({"axes": {"x": {"axis": 1}}}, r"pad\.yaml\.axes\.x: key 'sign' is missing"),
        ({"axes": {"x": {"axis": 1, "sign": 2}}}, r"pad\.yaml\.axes\.x\.sign: is 2, expected 1 or -1"),
        ({"axes": {"x": {"axis": "LX", "sign": 1}}}, r"pad\.yaml\.axes\.x\.axis: is 'LX', expected a number"),
        ({"events": {"sucess": 1}}, r"pad\.yaml\.events\.sucess: unknown key; did you mean 'success'\?"),
        (
            {"events": {"success": [1]}},
            r"pad\.yaml\.events\.success: is \[1\], expected a number counted from 0",
        ),
    ],
    ids=str,
)
def test_each_wrong_key_is_one_sentence(tmp_path, change, message):
    (tmp_path / "pad.yaml").write_text(yaml.safe_dump(RAW | change))
    with pytest.raises(ContractError, match=message):
        JoyMapping.load(tmp_path / "pad.yaml")


def test_missing_keys_and_broken_yaml_are_one_sentence(tmp_path):
    for key in RAW:
        (tmp_path / "pad.yaml").write_text(yaml.safe_dump({k: v for k, v in RAW.items() if k != key}))
        with pytest.raises(ContractError, match=rf"pad\.yaml: key '{key}' is missing"):
            JoyMapping.load(tmp_path / "pad.yaml")
    (tmp_path / "pad.yaml").write_text("axes: {x: [}\n")
    with pytest.raises(ContractError, match=r"pad\.yaml line 1: not valid YAML"):
        JoyMapping.load(tmp_path / "pad.yaml")
