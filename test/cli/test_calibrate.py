"""hilrl calibrate on an emulated arm, as a person uses it."""

import json
import time

import numpy as np
import pytest
from person import Person

from hilrl_cli.arm import IDS, STOPS, Hand
from hilrl_cli.commands import calibrate
from hilrl_cli.main import main
from so101_driver import registers as reg
from so101_driver.calibration import Calibration

MIDDLES = {id_: (low + high) // 2 for id_, (low, high) in STOPS.items()}


@pytest.fixture
def calibrations(tmp_path, monkeypatch):
    """LeRobot's folder of calibrations."""
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hand():
    with Hand() as hand:
        yield hand


def moved(hand, joints=tuple(STOPS)):
    """A function that moves joints from stop to stop and says when that is done."""
    ends = ({id_: STOPS[id_][end] for id_ in joints} for end in (0, 1))
    way = [*(MIDDLES | end for end in ends), MIDDLES]
    begun = []

    def done():
        if not begun:
            begun.append(time.monotonic())
            hand.move(way)
        return not hand._way and time.monotonic() - begun[0] > 0.2

    return done


def test_a_person_without_an_arm_can_try_it(calibrations, monkeypatch, press, capsys):
    person = Person(monkeypatch)
    start = time.monotonic()
    press.append(lambda: time.monotonic() - start > 8.0)
    assert main(["calibrate", "--name", "mine", "--port", "emulated"]) == 0
    assert len(person.asked) == 1 and "middle of its range" in person.asked[0]
    assert "Calibrated. Written to the servos and to" in capsys.readouterr().out
    assert not list(calibrations.glob("robots/*/*"))  # no real arm's calibration was made
    assert Calibration.load(calibrations / "mine.emulated.json").names == tuple(IDS)


def test_the_calibration_is_in_the_servos_and_where_lerobot_looks(calibrations, monkeypatch, hand, press):
    Person(monkeypatch, hand.to_middle)
    press.append(moved(hand))
    assert main(["calibrate", "--name", "mine", "--port", hand.emulated.port]) == 0
    calibration = Calibration.find("mine")
    raw = json.loads((calibrations / "robots/so_follower/mine.json").read_text())
    assert raw["wrist_roll"]["range_min"] == 0 and raw["wrist_roll"]["range_max"] == 4095
    for name, id_ in IDS.items():
        servo, joint = hand.emulated.servos[id_], calibration.joints[name]
        servo.power_cycle()
        assert joint.homing_offset == pytest.approx(MIDDLES[id_] - reg.MIDDLE, abs=2)
        assert servo.get(reg.HOMING_OFFSET) == joint.homing_offset
        assert (servo.get(reg.MIN_POSITION), servo.get(reg.MAX_POSITION)) == (
            joint.range_min,
            joint.range_max,
        )
        if name != "wrist_roll":
            width = STOPS[id_][1] - STOPS[id_][0]
            assert joint.range_max - joint.range_min == pytest.approx(width, abs=40)
    hand.to_middle()
    ticks = [hand.emulated.servos[id_].position for id_ in calibration.ids]
    assert np.abs(calibration.to_radians(ticks)[:5]).max() < 0.05
    assert not list(calibrations.rglob("*.partial"))


def test_a_range_that_is_too_small_is_refused_and_recording_goes_on(
    calibrations, monkeypatch, hand, press, capsys
):
    Person(monkeypatch, hand.to_middle)
    press += [moved(hand, [1, 2, 4, 5, 6]), moved(hand, [3])]
    assert main(["calibrate", "--name", "mine", "--port", hand.emulated.port, "--role", "leader"]) == 0
    assert (
        "elbow_flex was moved by 0° only, expected at least 150°: move it from stop"
        in capsys.readouterr().out
    )
    assert (calibrations / "teleoperators/so_leader/mine.json").is_file()


@pytest.mark.parametrize("end", ["unplugged", "ctrl-C"])
def test_an_interrupted_calibration_keeps_its_ranges_and_goes_on(
    calibrations, monkeypatch, hand, press, capsys, end
):
    Person(monkeypatch, hand.to_middle)
    half = moved(hand, [1, 2, 3])

    def interrupt():
        if half():
            if end == "ctrl-C":
                raise KeyboardInterrupt
            hand.emulated.unplug()

    press.append(interrupt)
    assert main(["calibrate", "--name", "mine", "--port", hand.emulated.port]) == 2
    error = capsys.readouterr().err
    assert "the middle pose and the ranges of shoulder_pan, shoulder_lift, elbow_flex are kept" in error
    assert ("stopped" if end == "ctrl-C" else "lost the servo bus") in error
    hand.emulated.replug()
    again = Person(monkeypatch)
    press[:] = [moved(hand, [4, 6])]
    assert main(["calibrate", "--name", "mine", "--port", hand.emulated.port]) == 0
    assert again.asked == []  # the middle pose was kept too
    assert "Going on with an earlier calibration" in capsys.readouterr().out
    pan = Calibration.find("mine").joints["shoulder_pan"]
    assert pan.range_max - pan.range_min == pytest.approx(STOPS[1][1] - STOPS[1][0], abs=40)


def test_another_arm_does_not_go_on_with_the_first_ones_ranges(calibrations, monkeypatch, hand, press):
    progress = calibrate.Progress(calibrations / "robots/so_follower/mine.partial")
    progress.homing, progress.ranges = dict.fromkeys(IDS, 12), {"gripper": [0, 4000]}
    progress.save()
    person = Person(monkeypatch, hand.to_middle)
    press.append(moved(hand))
    assert main(["calibrate", "--name", "mine", "--port", hand.emulated.port]) == 0
    assert len(person.asked) == 1 and Calibration.find("mine").joints["gripper"].range_max < 3000


def test_an_arm_that_is_calibrated_is_left_alone_unless_asked(calibrations, hand, capsys):
    place = calibrations / "robots/so_follower/mine.json"
    place.parent.mkdir(parents=True)
    place.write_text("{}")
    assert main(["calibrate", "--name", "mine", "--port", hand.emulated.port]) == 2
    assert "'mine' is calibrated already (" in capsys.readouterr().err


def test_a_servo_that_is_silent_is_named(calibrations, hand, capsys):
    hand.emulated.silent.add(4)
    assert main(["calibrate", "--name", "mine", "--port", hand.emulated.port]) == 2
    assert "servo 4 (wrist_flex) does not answer on" in capsys.readouterr().err
