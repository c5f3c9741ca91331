import json
import math
import threading

import numpy as np
import pytest

from so101_driver.calibration import GRIPPER_RANGE, Calibration, CalibrationError, JointCalibration

# A file as LeRobot writes it: 4 spaces, no newline at the end.
LEROBOT = """{
    "shoulder_pan": {
        "id": 1,
        "drive_mode": 0,
        "homing_offset": -1470,
        "range_min": 758,
        "range_max": 3292
    },
    "wrist_roll": {
        "id": 5,
        "drive_mode": 0,
        "homing_offset": 129,
        "range_min": 0,
        "range_max": 4095
    },
    "gripper": {
        "id": 6,
        "drive_mode": 0,
        "homing_offset": 1014,
        "range_min": 2030,
        "range_max": 3500
    }
}"""
GOOD = {"id": 1, "drive_mode": 0, "homing_offset": 0, "range_min": 1000, "range_max": 3000}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "arm.json"
    path.write_text(LEROBOT)
    return path


def test_a_lerobot_file_comes_back_byte_for_byte(path, tmp_path):
    calibration = Calibration.load(path)
    assert calibration.names == ("shoulder_pan", "wrist_roll", "gripper") and calibration.ids == (1, 5, 6)
    calibration.save(tmp_path / "new" / "copy.json")
    assert (tmp_path / "new" / "copy.json").read_text() == LEROBOT
    assert Calibration.load(tmp_path / "new" / "copy.json") == calibration


def test_who_reads_while_a_file_is_saved_gets_a_whole_one(path):
    calibration = Calibration.load(path)
    thread = threading.Thread(target=lambda: [calibration.save(path) for _ in range(50)])
    thread.start()
    while thread.is_alive():
        assert Calibration.load(path) == calibration
    thread.join()
    assert [p.name for p in path.parent.iterdir()] == ["arm.json"]


def lerobot_degrees(ticks, low, high):
    """How LeRobot normalises an arm joint."""
    return (ticks - (low + high) / 2) * 360 / 4095


def lerobot_percent(ticks, low, high, drive_mode):
    """How LeRobot normalises the gripper."""
    percent = (min(high, max(low, ticks)) - low) / (high - low) * 100
    return 100 - percent if drive_mode else percent


@pytest.mark.parametrize("drive_mode", [0, 1])
def test_degrees_and_percent_are_those_of_lerobot(drive_mode):
    joints = {
        "elbow_flex": JointCalibration(3, drive_mode, 0, 861, 3076),
        "gripper": JointCalibration(6, drive_mode, 0, 2030, 3500),
    }
    calibration = Calibration(joints)
    for ticks in ([861, 2030], [1968, 2765], [3076, 3500], [2500, 2200], [700, 2000], [3200, 3600]):
        values = calibration.to_lerobot(calibration.to_radians(ticks))
        expected = [lerobot_degrees(ticks[0], 861, 3076), lerobot_percent(ticks[1], 2030, 3500, drive_mode)]
        assert values == pytest.approx(expected, abs=1e-9)
        inside = np.clip(ticks, [0, 2030], [4095, 3500])
        assert (calibration.to_ticks(calibration.from_lerobot(values)) == inside).all()
    # numbers worked out by hand: (2500 - 1968.5) * 360 / 4095, and (2200 - 2030) / 1470
    values = calibration.to_lerobot(calibration.to_radians([2500, 2200]))
    assert values == pytest.approx([46.725275, 88.435374 if drive_mode else 11.564626], abs=1e-6)


def test_radians_are_zero_in_the_middle_and_the_gripper_spans_its_joint(path):
    calibration = Calibration.load(path)
    assert calibration.to_radians([2025, 2047.5, 2030]) == pytest.approx([0, 0, GRIPPER_RANGE[0]])
    assert calibration.to_radians([2025, 4095, 3500]) == pytest.approx([0, math.pi, GRIPPER_RANGE[1]])
    assert calibration.limits[0] == pytest.approx([-1267 * 2 * math.pi / 4095, 1267 * 2 * math.pi / 4095])
    assert calibration.limits[2] == pytest.approx(GRIPPER_RANGE)
    for ticks in np.random.default_rng(0).integers(0, 4096, (200, 3)):
        assert (calibration.to_ticks(calibration.to_radians(ticks)) == ticks).all()
    with pytest.raises(ValueError, match="finite"):
        calibration.to_ticks([0.0, math.nan, 0.0])


def test_a_joint_whose_servo_turns_the_other_way():
    joints = {
        "wrist_flex": JointCalibration(4, 1, 0, 1000, 3000),
        "gripper": JointCalibration(6, 1, 0, 1000, 2000),
    }
    calibration = Calibration(joints)
    assert calibration.to_radians([2100, 2000])[0] == pytest.approx(-100 * 2 * math.pi / 4095)
    assert calibration.to_radians([2100, 2000])[1] == pytest.approx(GRIPPER_RANGE[0])
    assert (calibration.limits[:, 0] < calibration.limits[:, 1]).all()
    assert (calibration.to_ticks(calibration.to_radians([1234, 1777])) == [1234, 1777]).all()


def test_files_are_found_where_lerobot_keeps_them(monkeypatch, tmp_path):
    for name in ("HF_LEROBOT_CALIBRATION", "HF_LEROBOT_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    roots = {
        "HOME": tmp_path / "home/.cache/huggingface/lerobot/calibration",
        "HF_HOME": tmp_path / "hf/lerobot/calibration",
        "HF_LEROBOT_HOME": tmp_path / "lerobot/calibration",
        "HF_LEROBOT_CALIBRATION": tmp_path / "calibration",
    }
    values = {"HF_HOME": "hf", "HF_LEROBOT_HOME": "lerobot", "HF_LEROBOT_CALIBRATION": "calibration"}
    for offset, (variable, root) in enumerate(roots.items()):
        if variable in values:
            monkeypatch.setenv(variable, str(tmp_path / values[variable]))
        for folder, role in (
            ("robots/so101_follower", "follower"),
            ("robots/so_follower", "follower"),
            ("teleoperators/so101_leader", "leader"),
            ("teleoperators/so_leader", "leader"),
        ):
            with pytest.raises(CalibrationError) as missing:
                Calibration.find("stranger", role)
            assert str(root / folder) in str(missing.value)
            made = Calibration({"gripper": JointCalibration(6, 0, offset, 1000, 2000)})
            (root / folder).mkdir(parents=True)
            made.save(root / folder / "lab.json")
            assert Calibration.find("lab", role) == made
        assert Calibration.places("lab")[0] == root / "robots/so_follower/lab.json"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id": 300}, r"shoulder_pan\.id is 300, expected a whole number from 0 to 252"),
        ({"id": "1"}, r"id is '1', expected a whole number"),
        ({"id": True}, r"id is True, expected a whole number"),
        ({"drive_mode": 2}, r"drive_mode is 2, expected a whole number from 0 to 1"),
        ({"homing_offset": 2048}, r"homing_offset is 2048, expected a whole number from -2047 to 2047"),
        ({"range_min": -1}, r"range_min is -1"),
        ({"range_max": 1e9}, r"range_max is 1000000000\.0"),
        ({"range_max": 1000}, r"range_min is 1000, expected less than range_max \(1000\)"),
        ({"extra": 1}, r"shoulder_pan has id, .*extra, expected id, drive_mode, homing_offset"),
    ],
)
def test_a_field_that_does_not_fit_is_one_sentence(tmp_path, change, message):
    path = tmp_path / "arm.json"
    path.write_text(json.dumps({"shoulder_pan": GOOD | change}))
    with pytest.raises(CalibrationError, match=message) as error:
        Calibration.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not valid JSON"),
        ("[]", "holds list, expected joint names"),
        ("{}", "names no joint"),
        ('{"gripper": 3}', "gripper has 3, expected id"),
        (json.dumps({"a": GOOD, "b": GOOD}), r"a\.id is 1 as another joint's"),
    ],
)
def test_a_file_that_is_no_calibration_is_one_sentence(tmp_path, text, message):
    (tmp_path / "arm.json").write_text(text)
    with pytest.raises(CalibrationError, match=message):
        Calibration.load(tmp_path / "arm.json")


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(CalibrationError, match=r"cannot read the calibration .*none\.json: No such file"):
        Calibration.load(tmp_path / "none.json")
    with pytest.raises(CalibrationError, match="role is 'slave', expected one of follower, leader"):
        Calibration.places("x", "slave")
