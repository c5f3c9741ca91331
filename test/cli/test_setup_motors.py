"""hilrl setup-motors on emulated servos, as a person uses it."""

import argparse
import os

import pytest
from person import Person

from hilrl_cli.arm import IDS, Hand
from hilrl_cli.commands import setup_motors
from hilrl_cli.errors import UserError
from hilrl_cli.main import main
from so101_driver import registers as reg
from so101_driver.emulator import EmulatedBus


@pytest.fixture
def servos():
    """Six new servos; none is plugged in."""
    with Hand() as hand:
        hand.factory_new()
        hand.plug([])
        yield hand


def options(port):
    return argparse.Namespace(port=port, role="follower")


def test_a_person_without_an_arm_can_try_it(monkeypatch, capsys):
    person = Person(monkeypatch)
    assert main(["setup-motors", "--port", "emulated"]) == 0
    assert [q.split(":")[0] for q in person.asked] == list(reversed(IDS))
    out = capsys.readouterr().out
    assert "gripper: servo 6, fine (was 1 at 1000000 bit/s)" in out and "All servos have their ids" in out


def test_each_servo_gets_its_id_for_good(monkeypatch, servos):
    plugged = []

    def plug(id_):
        plugged.append(id_)
        servos.plug(plugged)

    Person(monkeypatch, *(lambda id_=id_: plug(id_) for id_ in reversed(IDS.values())))
    assert setup_motors.run(options(servos.emulated.port)) == 0
    for id_, servo in servos.emulated.servos.items():
        servo.power_cycle()
        assert (servo.id, servo.get(reg.BAUD), servo.get(reg.LOCK)) == (id_, 0, 1)


def test_a_second_try_goes_on_where_the_first_stopped(monkeypatch, capsys, servos):
    servos.plug([6, 5])
    for id_ in (6, 5):
        servos.emulated.servos[id_].set(reg.ID, id_)
    person = Person(monkeypatch, *(lambda n=n: servos.plug(range(n, 7)) for n in (4, 3, 2, 1)))
    assert setup_motors.run(options(servos.emulated.port)) == 0
    assert len(person.asked) == 4
    assert "wrist_roll: servo 5 is there already, fine" in capsys.readouterr().out


def test_an_arm_that_is_done_asks_for_nothing(monkeypatch, capsys):
    person = Person(monkeypatch)
    with EmulatedBus() as bus:
        assert setup_motors.run(options(bus.port)) == 0
    assert person.asked == [] and capsys.readouterr().out.count("is there already, fine") == 6


def test_an_unlikely_id_is_found_and_given_away_only_after_a_question(monkeypatch, servos):
    servos.plug([6])
    servo = servos.emulated.servos[6]
    servo.set(reg.ID, 77)
    Person(monkeypatch, "", "n")
    with pytest.raises(UserError, match="servo 77 was left as it is"):
        setup_motors.run(options(servos.emulated.port))
    assert servo.id == 77
    Person(monkeypatch, "", "y", "n", "n")
    with pytest.raises(UserError, match="no new servo answers"):  # nobody plugs the next one in
        setup_motors.run(options(servos.emulated.port))
    assert servo.id == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hand: None, "no new servo answers on .*: check its plug and the power supply"),
        (
            lambda hand: (hand.plug([5, 6]), hand.emulated.servos[5].set(reg.ID, 9)),
            "servos 1, 9 answer: leave only",
        ),
        (
            lambda hand: (hand.plug([6]), hand.emulated.servos[6].set(reg.MODEL, 1284)),
            "is model 1284, expected an",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(monkeypatch, capsys, servos, change, message):
    change(servos)
    Person(monkeypatch)
    with pytest.raises(UserError, match=message):
        setup_motors.run(options(servos.emulated.port))


def test_a_missing_port_names_those_that_there_are(monkeypatch, capsys):
    monkeypatch.setattr("hilrl_cli.arm.serial_ports", lambda: ["/dev/ttyACM0"])
    assert main(["setup-motors", "--port", "/dev/nothing"]) == 2
    assert "there is no /dev/nothing; there are /dev/ttyACM0: name one with --port" in capsys.readouterr().err


def test_a_port_without_permission_says_which_group(monkeypatch, capsys, tmp_path):
    (tmp_path / "port").touch()
    monkeypatch.setattr(os, "access", lambda *a: False)
    assert main(["setup-motors", "--port", str(tmp_path / "port")]) == 2
    assert "run `sudo usermod -aG" in capsys.readouterr().err


def test_without_a_terminal_it_says_so(monkeypatch, capsys):
    read, write = os.pipe()
    os.close(write)
    monkeypatch.setattr("hilrl_cli.lines.Lines.__init__.__defaults__", (read,))
    assert main(["setup-motors", "--port", "emulated"]) == 2
    assert "the input has ended: run this in a terminal" in capsys.readouterr().err
    os.close(read)
