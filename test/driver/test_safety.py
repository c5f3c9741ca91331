import re

import numpy as np
import pytest

from so101_driver.bus import ServoState
from so101_driver.safety import CONFIRM, OFF, SLOW, ArmState, Guard, Refused, Thresholds

NAMES = ("pan", "lift", "gripper")
LIMITS = np.array([[-2.0, 2.0], [-1.5, 1.5], [-0.17, 1.74]])
START = np.array([0.1, -0.2, 0.5])
PERIOD = 0.01
QUIET = {"temperature": 30, "voltage": 7.4, "current": 0.1, "faults": ()}


class Rig:
    """A guard, its clock, and an arm that is wherever its goal is."""

    def __init__(self, **thresholds):
        self.now = 100.0
        self.guard = Guard(NAMES, LIMITS, Thresholds(**thresholds), lambda: self.now)
        self.servos = {name: dict(QUIET) for name in NAMES}
        self.position = START.copy()
        self.guard.torque(True)
        self.cycle()
        self.guard.engage(self.position)
        self.goals = [START]

    def cycle(self, count=1, period=PERIOD, follow=True):
        for _ in range(count):
            self.now += period
            servos = {
                name: ServoState(position=0, velocity=0, load=0.0, moving=False, stamp=self.now, **values)
                for name, values in self.servos.items()
                if values is not None
            }
            errors = {
                name: f"no contact with {name}: it did not answer" for name in NAMES if name not in servos
            }
            position = np.where([n in servos for n in NAMES], self.position, np.nan)
            self.guard.observe(ArmState(self.now, position, position * 0, position * 0, servos, errors))
            if self.guard.wants_torque and hasattr(self, "goals"):
                self.goals.append(self.guard.step())
                if follow:
                    self.position = self.goals[-1].copy()

    def refused(self, target, times=(0.0,)):
        with pytest.raises(Refused, match="command refused") as error:
            self.guard.command(target, times)
        return str(error.value)

    @property
    def goal(self):
        return self.goals[-1]

    def reactions(self):
        return [(p.joint, p.reaction) for p in self.guard.problems]


def test_the_first_goal_is_the_present_position_and_stays_until_a_command_comes():
    rig = Rig()
    rig.position = START + 0.02  # it sags; the goal does not follow
    rig.cycle(50, follow=False)
    assert np.ptp(rig.goals, axis=0).max() == 0


def test_a_trajectory_of_one_point_is_a_straight_way_that_ends_in_time():
    rig = Rig()
    target = np.add(START, [0.2, -0.1, 0.3])
    rig.guard.command(target, [0.1])
    rig.cycle(10)
    shares = (np.array(rig.goals) - START) / (target - START)
    assert shares == pytest.approx(np.linspace(0, 1, 11)[:, None].repeat(3, axis=1), abs=1e-6)


def test_commands_at_10_hz_make_one_steady_motion():
    rig = Rig()
    for k in range(1, 6):
        rig.guard.command(np.add(START, [0.1 * k, 0, 0]), [0.1])
        rig.cycle(10)
    assert np.diff(np.array(rig.goals)[:, 0]) == pytest.approx(0.01, abs=1e-6)


def test_a_trajectory_of_many_points_is_followed_along_its_times():
    rig = Rig()
    points = START + np.array([[0.2, 0, 0], [0.2, 0.4, 0], [0.0, 0.4, 0.1]])
    rig.guard.command(points, [0.5, 1.0, 2.0])
    for due, point in zip((0.5, 1.0, 2.0), points, strict=True):
        while rig.now < 100.01 + due - 1e-6:
            rig.cycle()
        assert rig.goal == pytest.approx(point, abs=1e-6)


def test_no_goal_is_further_from_the_last_than_the_arm_may_go():
    rig, pick = Rig(), np.random.default_rng(0)
    last, refused = rig.now, 0
    for _ in range(2000):
        if pick.random() < 0.3:
            try:
                rig.guard.command(pick.normal(rig.goal, 0.3), [pick.choice([0, 0.1])])
            except Refused:
                refused += 1
        before = rig.goal
        rig.cycle(period=pick.choice([0.002, 0.01, 0.04, 0.5]))
        assert np.abs(rig.goal - before).max() <= 3.0 * min(rig.now - last, 0.05) + 1e-9
        assert (rig.goal >= LIMITS[:, 0]).all() and (rig.goal <= LIMITS[:, 1]).all()
        last = rig.now
    assert refused > 50


@pytest.mark.parametrize(
    "target, message",
    [
        ([np.nan, 0, 0], "must be finite"),
        ([0, np.inf, 0], "must be finite"),
        ([0, 0], r"expected 3 joints"),
        ([0, 0, 0, 0], r"expected 3 joints"),
        ([], r"expected 3 joints"),
        ([2.1, 0, 0.5], r"pan at 2\.100 rad is out of its range -2\.000 to 2\.000"),
        ([0.1, -0.2, 1.4], r"gripper shall move 0\.870 rad by 0\.00 s, too far at 3 rad/s"),
    ],
)
def test_a_bad_command_is_refused_and_the_arm_holds(target, message):
    rig = Rig()
    rig.guard.command(START + 0.3, [1.0])
    rig.cycle(10)
    assert re.search(message, rig.refused(target))
    held = rig.goal
    rig.cycle(30)
    assert (rig.goal == held).all()
    rig.guard.command(held + 0.01)
    rig.cycle(5)
    assert rig.goal == pytest.approx(held + 0.01)


def test_bad_times_are_refused():
    rig = Rig()
    for times in ([-1.0, 1.0], [1.0, 0.5], [np.nan, 1.0], [1.0]):
        rig.refused([START, START], times)
    rig.refused(np.zeros((0, 3)), [])
    # each step could be made in time, but not both
    rig.refused(START + np.array([[0.6, 0, 0], [0, 0, 0]]), [0.0, 0.0])


def test_a_target_a_rounding_outside_its_limit_is_clipped():
    rig = Rig()
    rig.guard.command([0.1, -0.2, -0.175], [0.5])
    rig.cycle(60)
    assert rig.goal[2] == -0.17


def test_when_commands_stop_the_arm_holds_within_the_watchdog():
    rig = Rig(slow=0.1)
    rig.servos["lift"]["temperature"] = 60  # so slow that the target is out of reach
    rig.cycle(CONFIRM)
    rig.guard.command(np.add(START, [0.7, 0, 0]))
    rig.cycle(25)
    assert rig.goal[0] > START[0]
    held = rig.goal
    rig.cycle(50)
    assert np.abs(rig.goal - held).max() < 0.02 and rig.goal[0] < START[0] + 0.1


def test_torque_that_is_off_takes_no_commands():
    rig = Rig()
    rig.guard.torque(False)
    assert "torque is off" in rig.refused(START)
    assert not rig.guard.wants_torque


def test_an_emergency_stop_holds_where_the_arm_is_until_it_is_released():
    rig = Rig()
    rig.guard.command(START + 0.5, [1.0])
    rig.cycle(20, follow=False)  # it is blocked: goal and arm differ
    rig.guard.emergency_stop(True)
    rig.cycle(5, follow=False)
    assert (rig.goal == rig.position).all() and rig.guard.wants_torque
    assert "emergency stop" in rig.refused(rig.position)
    rig.cycle(100)
    assert (rig.goal == rig.position).all()
    rig.guard.emergency_stop(False)
    rig.guard.command(rig.position + 0.01)
    assert rig.guard.status == "follows commands"


def test_an_emergency_stop_may_switch_torque_off():
    rig = Rig(emergency_torque_off=True)
    rig.guard.emergency_stop(True)
    assert not rig.guard.wants_torque
    rig.guard.torque(True)  # no way around the release
    assert not rig.guard.wants_torque
    rig.guard.emergency_stop(False)
    assert rig.guard.wants_torque


def test_a_warm_servo_slows_the_arm_and_a_hot_one_switches_torque_off():
    rig = Rig()
    rig.servos["lift"]["temperature"] = 56
    rig.cycle(CONFIRM)
    assert rig.reactions() == [("lift", SLOW)]
    rig.guard.command(np.add(START, [0.3, 0, 0]), [0.1])
    rig.cycle(10)
    assert rig.goal[0] == pytest.approx(START[0] + 0.09, abs=0.01)
    rig.cycle(30)
    assert rig.goal[0] == pytest.approx(START[0] + 0.3)  # later, but it gets there
    rig.servos["lift"]["temperature"] = 65
    rig.cycle(CONFIRM)
    assert rig.reactions() == [("lift", OFF)] and not rig.guard.wants_torque
    assert "lift is too hot (65 °C); let it cool down" in rig.refused(rig.goal)
    rig.guard.torque(True)
    rig.cycle()
    assert not rig.guard.wants_torque  # it is still hot
    rig.servos["lift"]["temperature"] = 40
    rig.cycle()
    assert not rig.guard.wants_torque  # stays off until somebody asks
    rig.guard.torque(True)
    assert rig.guard.wants_torque and not rig.guard.fault


@pytest.mark.parametrize(
    "values, message",
    [({"faults": ("overload",)}, "is overloaded"), ({"current": 2.5}, "draws 2.5 A"),
     ({"faults": ("over-current",)}, "draws 0.1 A")],
)  # fmt: skip
def test_a_joint_that_pushes_too_hard_stops_pushing_and_goes_limp_if_that_lasts(values, message):
    rig = Rig()
    rig.guard.command(np.add(START, [0, 0.5, 0]), [1.0])
    rig.cycle(30, follow=False)
    rig.servos["lift"].update(values)
    rig.cycle(CONFIRM, follow=False)
    assert (rig.goal == rig.position).all() and rig.guard.wants_torque
    assert message in rig.refused(rig.goal) and "lift" in rig.guard.status
    rig.servos["lift"] = dict(QUIET)
    rig.cycle()
    rig.guard.command(rig.position)  # it goes on by itself
    rig.servos["lift"].update(values)
    rig.cycle(210)
    assert not rig.guard.wants_torque and message in rig.guard.fault


def test_a_gripper_that_holds_something_is_no_reason_to_stop():
    rig = Rig()
    rig.servos["gripper"]["faults"] = ("overload",)
    rig.cycle(300)
    rig.guard.command(START + 0.01)
    assert rig.guard.wants_torque and "lowers the torque" in rig.guard.problems[0].text
    rig.servos["gripper"]["current"] = 2.5
    rig.cycle(250)
    assert not rig.guard.wants_torque


@pytest.mark.parametrize(
    "values, message",
    [({"voltage": 4.2}, r"pan has 4.2 V; check the power supply"), ({"faults": ("voltage",)}, "check the power"),
     ({"faults": ("angle",)}, "fault of its angle sensor")],
)  # fmt: skip
def test_bad_voltage_or_a_bad_sensor_makes_the_arm_hold_while_it_lasts(values, message):
    rig = Rig()
    rig.guard.command(START + 0.5, [1.0])
    rig.cycle(10)
    rig.servos["pan"].update(values)
    rig.cycle(CONFIRM)
    held = rig.goal
    rig.cycle(300)
    assert (rig.goal == held).all() and message in rig.refused(held) and rig.guard.wants_torque
    rig.servos["pan"] = dict(QUIET)
    rig.cycle()
    rig.guard.command(held)


def test_one_reading_alone_is_not_believed():
    rig = Rig()
    for values in ({"temperature": 255}, {"current": 60.0}, {"voltage": 0.0}, {"faults": ("overheat",)}):
        rig.servos["pan"].update(values)
        rig.cycle(CONFIRM - 1)
        rig.servos["pan"] = dict(QUIET)
        rig.cycle()
        assert not rig.guard.problems and rig.guard.wants_torque


def test_a_servo_that_is_silent_for_long_stops_the_arm():
    rig = Rig()
    rig.guard.command(START + 0.5, [1.0])
    rig.servos["lift"] = None
    rig.cycle(20)
    assert not rig.guard.lost  # a few lost replies are nothing
    rig.cycle(10)
    assert rig.guard.lost
    assert "no contact with lift: it did not answer" in rig.refused(START)
    held = rig.goal
    rig.servos["lift"] = dict(QUIET)
    rig.cycle(10)
    assert not rig.guard.lost and (rig.goal == held).all()
