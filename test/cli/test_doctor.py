"""hilrl doctor: what it says of an arm and a machine, and how it ends."""

import json

import pytest

from hilrl_cli.arm import IDS
from hilrl_cli.commands import doctor
from hilrl_cli.main import main
from so101_driver import registers as reg
from so101_driver.calibration import Calibration, JointCalibration
from so101_driver.emulator import EmulatedBus


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine without cameras and serial ports, with an empty folder of calibrations."""
    monkeypatch.setattr(doctor, "serial_ports", lambda: [])
    monkeypatch.setattr(doctor.glob, "glob", lambda pattern: [])
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path / "calibration"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: _Disk(100e9))


class _Disk:
    def __init__(self, free):
        self.free = free


@pytest.fixture
def bus():
    with EmulatedBus() as emulated:
        yield emulated


@pytest.fixture
def findings(capsys):
    """Run the command; return its exit code and {what: (state, text)}."""

    def examine(*arguments):
        code = main(["doctor", "--json", *arguments])
        return code, {f["what"]: (f["state"], f["text"]) for f in json.loads(capsys.readouterr().out)}

    return examine


def calibrate(name, offset=0):
    joints = {n: JointCalibration(i, 0, offset, 700, 3300) for n, i in IDS.items()}
    Calibration(joints).save(Calibration.places(name)[0])


def test_without_an_arm_the_machine_is_fine_for_simulation(findings):
    code, found = findings()
    assert code == 0
    assert found["port"] == ("missing", "no arm is plugged in: simulation needs none")
    assert found["ROS 2"][0] == found["robot model"][0] == found["PyTorch"][0] == "fine"
    assert found["cameras"][0] == "missing"


def test_an_arm_that_is_ready_is_fine_throughout(findings, bus):
    calibrate("mine")
    code, found = findings("--port", bus.port, "--name", "mine")
    assert code == 0
    assert found["servo 6 gripper"] == ("fine", "firmware 0.0, 7.4 V, 30 °C")
    assert found["calibration"] == ("fine", "'mine' is this arm's") and found["port"][0] == "fine"


def test_each_line_is_read_by_a_person(capsys):
    assert main(["doctor", "--port", "emulated"]) == 0
    out = capsys.readouterr().out
    assert "✓" in out and "servo 1 shoulder_pan" in out and "firmware" in out and "–" in out


@pytest.mark.parametrize(
    ("change", "what", "text"),
    [
        (lambda b: b.silent.add(3), "servo 3 elbow_flex", "does not answer: check its cable"),
        (lambda b: b.silent.update(range(1, 7)), "servos", "none answers: switch the arm's power on"),
        (
            lambda b: b.servos[2].set(reg.PRESENT_VOLTAGE, 31),
            "servo 2 shoulder_lift",
            "3.1 V, 30 °C: check the power",
        ),
        (
            lambda b: b.servos[2].set(reg.MODEL, 1284),
            "servo 2 shoulder_lift",
            "is model 1284, expected an STS3215",
        ),
        (
            lambda b: setattr(b.servos[6], "faults", 32),
            "servo 6 gripper",
            "reports overload: switch the power off",
        ),
    ],
)
def test_a_servo_with_trouble_is_named_with_what_to_do(findings, bus, change, what, text):
    change(bus)
    if what.endswith("gripper"):
        bus.servos[6].update()
    code, found = findings("--port", bus.port)
    assert code == 1
    assert found[what][0] == "wrong" and text in found[what][1]


def test_calibrations_that_are_missing_unnamed_or_anothers(findings, bus):
    code, found = findings("--port", bus.port)
    assert code == 1 and found["calibration"][1].endswith("run `hilrl calibrate --name NAME`")
    calibrate("other", offset=100)
    code, found = findings("--port", bus.port)
    assert code == 0 and found["calibration"] == ("missing", "there are other: name this arm's with --name")
    code, found = findings("--port", bus.port, "--name", "other")
    assert code == 1 and "'other' is another arm's: shoulder_pan, " in found["calibration"][1]


def test_ports_that_are_missing_forbidden_or_busy(findings, bus, monkeypatch):
    code, found = findings("--port", "/dev/nothing")
    assert code == 1 and found["port"][1].startswith("there is no /dev/nothing, nor any other: plug")
    monkeypatch.setattr(doctor, "serial_ports", lambda: ["/dev/ttyACM0"])
    code, found = findings()
    assert code == 1 and "but /dev/ttyACM0: name the arm's with --port" in found["port"][1]
    monkeypatch.setattr(doctor, "permission_advice", lambda path: "no permission for it: run `sudo usermod`")
    code, found = findings("--port", bus.port)
    assert code == 1 and "sudo usermod" in found["port"][1]


def test_a_full_disk_is_told(findings, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: _Disk(0.5e9))
    code, found = findings()
    assert code == 1 and found["disk"][0] == "wrong"
