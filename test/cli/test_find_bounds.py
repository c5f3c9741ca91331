"""hilrl find-bounds on an emulated arm, as a person uses it."""

import numpy as np
import pytest
from loop_messages import ROBOT
from person import Person

from hilrl_cli.arm import Hand
from hilrl_cli.commands import find_bounds
from hilrl_cli.main import main
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import Kinematics
from so101_driver import registers as reg
from so101_driver.calibration import Calibration, JointCalibration

CONTRACT, _ = load_contract(ROBOT)


@pytest.fixture
def enter(press, monkeypatch, tmp_path):
    """See `press`; files that are written go to a temporary folder."""
    monkeypatch.chdir(tmp_path)
    return press


@pytest.fixture
def hands(monkeypatch):
    made = []
    monkeypatch.setattr("hilrl_cli.arm.Hand", lambda: made.append(Hand()) or made[-1])
    return made


def test_the_box_that_was_shown_is_in_a_copy_of_the_contract(monkeypatch, enter, hands, tmp_path, capsys):
    Person(monkeypatch)
    enter.append(lambda: not hands[0]._way)
    assert main(["find-bounds", "--port", "emulated", "--robot", str(ROBOT)]) == 0
    found, _ = load_contract(tmp_path / "so101_bounds.yaml")
    # the hand shows the contract's own box, less 2 cm on each side, in arcs
    assert np.array(found.box_max) == pytest.approx(np.array(CONTRACT.box_max) - 0.02, abs=0.04)
    assert np.array(found.box_min) == pytest.approx(np.array(CONTRACT.box_min) + 0.02, abs=0.04)
    assert found.joint_limits is not None and found.home == CONTRACT.home and found.action == CONTRACT.action
    kept = [line for line in ROBOT.read_text().splitlines() if line.startswith("#")]
    assert all(line in (tmp_path / "so101_bounds.yaml").read_text() for line in kept)
    assert (tmp_path / "so101_bounds.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "Use it with robot:=so101_bounds.yaml" in out and "shoulder_pan" in out


def test_a_box_that_is_too_small_is_refused_and_it_goes_on(monkeypatch, enter, hands, capsys):
    Person(monkeypatch)
    monkeypatch.setattr(find_bounds, "SMALLEST", 0.5)

    def content_with_less():
        if not hands[0]._way:
            monkeypatch.setattr(find_bounds, "SMALLEST", 0.03)
            return True
        return False

    enter += [lambda: True, content_with_less]
    assert main(["find-bounds", "--port", "emulated", "--robot", str(ROBOT), "--out", "mine.yaml"]) == 0
    assert "The box is smaller than 0.5 m along x: go on, then press enter." in capsys.readouterr().out


def test_another_arm_than_the_calibrations_is_refused(monkeypatch, hands, tmp_path, capsys):
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))
    joints = {name: JointCalibration(i, 0, 0, 700, 3300) for i, name in enumerate(CONTRACT.joints, 1)}
    Calibration(joints).save(Calibration.places("mine")[0])
    with Hand() as hand:
        hand.emulated.servos[2].set(reg.HOMING_OFFSET, 50)
        assert main(["find-bounds", "--port", hand.emulated.port, "--name", "mine"]) == 2
    assert "the servos of shoulder_lift hold other homing offsets" in capsys.readouterr().err


def test_bounds_that_are_found_again_replace_the_old_ones():
    box = np.array([[0.1, -0.1, 0.01], [0.3, 0.1, 0.1]])
    limits = {
        name: np.array([h - 0.2, h + 0.05]) for name, h in zip(CONTRACT.joints, CONTRACT.home, strict=True)
    }
    once = find_bounds.with_bounds(ROBOT.read_text(), box, limits)
    twice = find_bounds.with_bounds(once, box, limits)
    assert once == twice and once.count("\njoint_limits:") == 1


def test_joint_limits_of_the_contract_narrow_the_models(tmp_path):
    box = np.array([[0.1, -0.1, 0.01], [0.3, 0.1, 0.1]])
    limits = {
        name: np.array([h - 0.2, h + 0.2]) for name, h in zip(CONTRACT.joints, CONTRACT.home, strict=True)
    }
    (tmp_path / "mine.yaml").write_text(find_bounds.with_bounds(ROBOT.read_text(), box, limits))
    narrow, _ = load_contract(tmp_path / "mine.yaml")
    low, high = Kinematics(narrow).joint_limits.T
    model_low, model_high = Kinematics(CONTRACT).joint_limits.T
    home = np.array(CONTRACT.home)
    assert low == pytest.approx(np.maximum(home - 0.2, model_low), abs=1e-3)
    assert high == pytest.approx(np.minimum(home + 0.2, model_high), abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "/dev/ttyX"], "--name is missing: the name under which the arm was calibrated"),
        (["--port", "emulated", "--joint-margin", "-1"], "--joint-margin is -1, expected 0 or more"),
        (["--name", "nobody"], "no calibration of the follower 'nobody'; looked for"),
        (["--port", "emulated", "--out", "my_arm"], "--out is my_arm, expected a name that ends in .yaml"),
        (
            ["--port", "emulated", "--out", "/nowhere/a.yaml"],
            "expected a file in a folder that can be written to",
        ),
        (["--port", "emulated", "--robot", "so102"], "robot 'so102' is unknown; did you mean 'so101'?"),
    ],
)
def test_what_is_missing_is_one_sentence(capsys, arguments, message):
    assert main(["find-bounds", *arguments]) == 2
    assert message in capsys.readouterr().err
