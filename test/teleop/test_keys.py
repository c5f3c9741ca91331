import re

import numpy as np
import pytest
import yaml
from loop_messages import CONFIG

from hilrl_ros.contract import EE_AXES, ContractError
from hilrl_teleop.keys import KeyDecoder, KeyMapping, Keys

FILE = CONFIG / "keyboards/terminal.yaml"
RAW = yaml.safe_load(FILE.read_text())
MAPPING = KeyMapping.load(FILE)
HOLD = 0.1


def moving(keys, now):
    return {axis: round(v, 3) for axis, v in zip(EE_AXES, keys.motion(now), strict=True) if v}


def test_a_terminals_bytes_are_named_keys():
    decoder = KeyDecoder()
    assert decoder.feed(b" \x1b[A\x1bOBwW\n\x7f") == ["space", "up", "down", "w", "w", "enter", "backspace"]
    assert decoder.feed(b"\x1b[1;2C\x1b[3~") == ["right"]  # with shift; an unknown one
    assert decoder.feed("é".encode()) == ["é"]


def test_a_sequence_that_comes_in_two_pieces_is_one_key_and_a_lone_escape_is_escape():
    decoder = KeyDecoder()
    assert decoder.feed(b"w\x1b[") == ["w"]
    assert decoder.feed(b"D") == ["left"]
    assert decoder.feed(b"\x1b") == []
    assert decoder.feed(b"") == ["escape"]


def test_the_take_over_key_takes_control_and_gives_it_back():
    keys = Keys(MAPPING, HOLD)
    assert not keys.held
    keys.press("space", 0.0)
    assert keys.held
    keys.press("up", 1.0)
    keys.press("space", 1.01)
    assert not keys.held and not keys.motion(1.01).any()


@pytest.mark.parametrize(
    ("key", "axis", "sign"),
    [(k[side], axis, s) for axis, k in RAW["motion"].items() for side, s in (("plus", 1), ("minus", -1))],
)
def test_every_motion_key_moves_its_component(key, axis, sign):
    keys = Keys(MAPPING, HOLD)
    keys.press(key, 0.0)
    assert moving(keys, 0.05) == {axis: 0.5 * sign}


def test_a_press_moves_for_the_hold_and_a_repeated_key_fades_out():
    keys = Keys(MAPPING, HOLD)
    keys.press("w", 0.0)
    assert moving(keys, 0.099) and not moving(keys, 0.101)
    for now in np.arange(1.0, 2.0, 0.04):
        keys.press("w", now)
        assert moving(keys, now + 0.039) == {"z": 0.5}
    assert moving(keys, now + 0.15) == {"z": 0.25}
    assert not moving(keys, now + 0.2)


def test_keys_for_opposite_ways_cancel_and_speed_has_ends():
    keys = Keys(MAPPING, HOLD)
    keys.press("up", 0.0)
    keys.press("left", 0.0)
    keys.press("down", 0.0)
    assert moving(keys, 0.0) == {"y": 0.5}
    for _ in range(5):
        keys.press("=", 0.0)
    assert moving(keys, 0.0) == {"y": 1.0}
    for _ in range(9):
        keys.press("-", 0.0)
    assert moving(keys, 0.0) == {"y": 0.125}


def test_event_keys_tell_events_whoever_drives():
    keys = Keys(MAPPING, HOLD)
    assert [keys.press(key, 0.0) for key in RAW["events"].values()] == list(RAW["events"])
    assert keys.press("q", 0.0) is None and not keys.held


def test_the_help_names_every_key():
    text = MAPPING.help()
    named = [RAW["take_over"], RAW["faster"], RAW["slower"], *RAW["events"].values()]
    for key in named + [k for keys in RAW["motion"].values() for k in keys.values()]:
        assert re.search(rf"(^|[\s/:]){re.escape(key)}($|[\s/:,])", text), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"takeover": "space"}, r"keys\.yaml\.takeover: unknown key; did you mean 'take_over'\?"),
        (
            {"take_over": "ctrl"},
            r"keys\.yaml\.take_over: is 'ctrl', expected a small character or one of back",
        ),
        ({"take_over": "W"}, r"keys\.yaml\.take_over: is 'W', expected a small character"),
        ({"faster": "w"}, r"keys\.yaml\.motion\.z\.plus: key 'w' is keys\.yaml\.faster as well"),
        (
            {"motion": {"up": {"plus": "w", "minus": "s"}}},
            r"keys\.yaml\.motion\.up: unknown key; allowed: gr",
        ),
        ({"motion": {"z": {"plus": "w"}}}, r"keys\.yaml\.motion\.z: key 'minus' is missing"),
        ({"events": {"sucess": "y"}}, r"keys\.yaml\.events\.sucess: unknown key; did you mean 'success'\?"),
    ],
    ids=str,
)
def test_each_wrong_key_is_one_sentence(tmp_path, change, message):
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump(RAW | change))
    with pytest.raises(ContractError, match=message):
        KeyMapping.load(tmp_path / "keys.yaml")
