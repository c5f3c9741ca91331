import random
import threading
import time

import numpy as np
import pytest
from emulated_arm import CALIBRATION, IDS, NAMES, registers, truth

from so101_driver import registers as reg
from so101_driver.arm import Arm, ArmError
from so101_driver.bus import FASTEST, JITTER, MEMORY, Bus, BusError, NoReply
from so101_driver.calibration import Calibration, JointCalibration
from so101_driver.emulator import FAULTS
from so101_driver.safety import Refused, Thresholds

REACH = JITTER + FASTEST * MEMORY  # ticks that a damaged reply can move a servo at most; see test_bus


@pytest.fixture
def arm(emulated):
    with Arm(Bus(emulated.port, IDS), CALIBRATION) as made:
        made.connect()
        yield made


def run(arm, seconds, period=0.01):
    """Cycle for a while; return the readings."""
    end, states = time.monotonic() + seconds, []
    while time.monotonic() < end:
        states.append(arm.cycle())
        time.sleep(period)
    return states


def start(arm):
    arm.guard.torque(True)
    run(arm, 0.15)
    assert arm.torque_on, (arm.trouble, arm.guard.status)


def test_the_state_is_in_radians(emulated, arm):
    emulated.servos[2].set(reg.PRESENT_LOAD, -250)
    state = arm.read()
    assert state.complete and state.position == pytest.approx(truth(emulated))
    assert state.position[0] == pytest.approx((2050 - 2000) * 2 * np.pi / 4095)
    assert state.load[1] == -0.25 and state.servos["gripper"].temperature == 30


def test_a_servo_that_turns_the_other_way_reads_and_goes_the_other_way(emulated):
    joints = dict(CALIBRATION.joints)
    joints["elbow_flex"] = JointCalibration(3, 1, *[getattr(joints["elbow_flex"], f) for f in (
        "homing_offset", "range_min", "range_max")])  # fmt: skip
    with Arm(Bus(emulated.port, IDS), Calibration(joints)) as arm:
        arm.connect()
        start(arm)
        before, ticks = arm.read().position, emulated.servos[3].position
        arm.guard.command(before + np.eye(6)[2] * 0.3, [0.1])
        run(arm, 0.3)
        assert arm.read().position[2] == pytest.approx(before[2] + 0.3, abs=0.01)
        assert emulated.servos[3].position == pytest.approx(ticks - 0.3 * 4095 / 2 / np.pi, abs=3)


def test_servos_are_configured_once(emulated, arm):
    for register, value in (
        (reg.RETURN_DELAY, 0), (reg.P_GAIN, 16), (reg.I_GAIN, 0), (reg.D_GAIN, 32), (reg.ACCELERATION, 254),
        (reg.LOCK, 1), (reg.TORQUE_ENABLE, 0),
    ):  # fmt: skip
        assert registers(emulated, register) == [value] * 6
    gripper = emulated.servos[6]
    limits = [gripper.get(r) for r in (reg.MAX_TORQUE, reg.PROTECTION_CURRENT, reg.OVERLOAD_TORQUE)]
    assert limits == [500, 250, 25]
    gripper.power_cycle()
    assert gripper.get(reg.P_GAIN) == 16  # kept


def test_torque_goes_on_with_the_present_position_as_goal(emulated, arm):
    for servo in emulated.servos.values():
        servo.set(reg.GOAL_POSITION, 1000)  # left by somebody; a jump if torque went on now
    before = truth(emulated)
    start(arm)
    assert truth(emulated) == pytest.approx(before, abs=1e-9)
    assert registers(emulated, reg.TORQUE_ENABLE) == [1] * 6
    assert emulated.servos[6].get(reg.TORQUE_LIMIT) == 500


def test_commands_move_the_arm(emulated, arm):
    start(arm)
    target = np.add(truth(emulated), [0.2, -0.1, 0.1, 0.0, -0.3, 0.4])
    arm.guard.command(target, [0.2])
    run(arm, 0.5)
    assert truth(emulated) == pytest.approx(target, abs=0.002)


def test_a_driver_that_starts_again_finds_the_arm_as_it_held(emulated, arm):
    start(arm)
    arm.close()  # as if it had been killed
    assert registers(emulated, reg.TORQUE_ENABLE) == [1] * 6
    with Arm(Bus(emulated.port, IDS), CALIBRATION) as again:
        again.connect()
        assert registers(emulated, reg.TORQUE_ENABLE) == [1] * 6  # it did not fall meanwhile


def test_torque_fades_before_it_goes_off(emulated, arm):
    start(arm)
    arm.release(0.2)
    assert registers(emulated, reg.TORQUE_ENABLE) == [0] * 6
    assert registers(emulated, reg.TORQUE_LIMIT) == [1000] * 5 + [500]  # the next program finds its torque


def test_torque_goes_off_though_a_servo_is_late_with_its_answers(emulated, arm):
    start(arm)
    emulated.silent.add(1)
    answers_again = threading.Timer(0.4, emulated.silent.clear)
    answers_again.start()
    arm.release(0.2)
    answers_again.join()
    assert registers(emulated, reg.TORQUE_ENABLE) == [0] * 6
    assert registers(emulated, reg.TORQUE_LIMIT) == [1000] * 5 + [500]


def test_a_servo_that_never_says_that_its_torque_is_off_is_told_of(emulated, arm):
    start(arm)
    emulated.silent.add(3)
    with pytest.raises(BusError, match=r"torque may still be on: elbow_flex: .* did not answer"):
        arm.release()
    assert arm.torque_on is None


def test_another_arm_is_not_started(emulated, arm):
    emulated.servos[3].set(reg.HOMING_OFFSET, 99)
    with pytest.raises(
        ArmError, match=r"servo 3 \(elbow_flex\) holds homing offset 99, its calibration says 11: another"
    ):
        arm.connect()


def test_a_missing_servo_and_a_wrong_id_are_told(emulated, arm):
    emulated.servos[2].set(reg.ID, 9)
    with pytest.raises(
        ArmError, match=r"servo 2 \(shoulder_lift\) does not answer on .*; servo \[9\] does, is its id"
    ):
        arm.connect()
    emulated.silent.add(2)
    with pytest.raises(
        ArmError, match=r"servo 2 \(shoulder_lift\) does not answer on .*; check cable and power"
    ):
        arm.connect()


def test_another_model_is_told(emulated, arm):
    emulated.servos[5].set(reg.MODEL, 1029)
    with pytest.raises(ArmError, match=r"servo 5 \(wrist_roll\) is model 1029, expected an STS3215 \(777\)"):
        arm.connect()


def test_a_calibration_is_written_to_the_servos(emulated, arm):
    other = Calibration({n: JointCalibration(i, 0, -5 * i, 800, 3000) for i, n in enumerate(NAMES, 1)})
    start(arm)
    arm.close()
    with Arm(Bus(emulated.port, IDS), other) as again:
        with pytest.raises(ArmError, match="another arm"):
            again.connect()
        again.write_calibration()
        again.connect()
    for servo in emulated.servos.values():
        servo.power_cycle()
    assert registers(emulated, reg.HOMING_OFFSET) == [-5 * i for i in IDS]
    assert registers(emulated, reg.MAX_POSITION) == [3000] * 6


def test_limits_narrow_the_calibrated_range(emulated):
    limits = np.array([[-0.5, 0.5]] * 6)
    with Arm(Bus(emulated.port, IDS), CALIBRATION, limits) as arm:
        arm.connect()
        start(arm)
        with pytest.raises(Refused, match=r"out of its range -0\.500 to 0\.500"):
            arm.guard.command([0.6, 0, 0, 0, 0, 0], [1.0])
    with pytest.raises(
        ValueError, match="shoulder_pan: its limits and its calibrated range have nothing in common"
    ):
        Arm(Bus(emulated.port, IDS), CALIBRATION, limits + 3.0)


def test_an_arm_far_outside_its_range_stays_limp_until_it_is_moved(emulated, arm):
    emulated.servos[1].actual -= 1600
    arm.guard.torque(True)
    run(arm, 0.1)
    assert not arm.torque_on and registers(emulated, reg.TORQUE_ENABLE) == [0] * 6
    assert "shoulder_pan stands 23° outside its calibrated range: move it inside by hand" in arm.guard.status
    emulated.servos[1].actual += 1600
    start(arm)


def test_unplugged_and_plugged_in_again_it_goes_on_where_it_is(emulated, arm):
    start(arm)
    arm.guard.command(truth(emulated) + 0.5, [1.0])
    run(arm, 0.1)
    emulated.unplug()
    states = run(arm, 0.4)
    assert not any(s.complete for s in states[1:])
    with pytest.raises(Refused, match="command refused: cannot open the servo bus"):
        arm.guard.command(truth(emulated))
    emulated.servos[2].power_cycle()  # the cable carried its power too
    emulated.servos[2].actual += 200
    before = truth(emulated)
    emulated.replug()
    run(arm, 0.8)
    assert arm.torque_on and registers(emulated, reg.TORQUE_ENABLE) == [1] * 6
    assert truth(emulated) == pytest.approx(before, abs=0.02)
    assert emulated.servos[2].get(reg.ACCELERATION) == 254
    arm.guard.command(before + 0.05, [0.1])
    run(arm, 0.3)
    assert truth(emulated) == pytest.approx(before + 0.05, abs=0.002)


def test_another_arm_plugged_in_meanwhile_is_neither_read_nor_moved(emulated, arm):
    start(arm)
    emulated.unplug()
    run(arm, 0.05)
    mine = registers(emulated, reg.HOMING_OFFSET)
    for servo in emulated.servos.values():
        servo.power_cycle()
        servo.set(reg.HOMING_OFFSET, 500)
    emulated.replug()
    states = run(arm, 0.5)
    assert not any(s.servos for s in states[1:])
    assert "another arm? Plug in the right one" in arm.guard.status
    assert registers(emulated, reg.TORQUE_ENABLE) == [0] * 6
    assert registers(emulated, reg.GOAL_POSITION) == [0] * 6
    emulated.unplug()
    run(arm, 0.05)
    for servo, offset in zip(emulated.servos.values(), mine, strict=True):
        servo.set(reg.HOMING_OFFSET, offset)
    emulated.replug()
    run(arm, 0.6)
    assert arm.torque_on and arm.read().complete


def test_a_servo_that_lost_its_power_for_a_moment_gets_torque_again_where_it_is(emulated, arm):
    start(arm)
    servo = emulated.servos[4]
    servo.power_cycle()
    servo.actual += 150
    before = servo.position
    run(arm, 2.0)
    assert (
        arm.torque_on and servo.get(reg.TORQUE_ENABLE) == 1 and servo.position == pytest.approx(before, abs=2)
    )
    assert servo.get(reg.ACCELERATION) == 254


def test_an_arm_that_misses_a_servo_holds_and_lets_go_when_it_is_told(emulated, arm):
    start(arm)
    arm.guard.command(truth(emulated) + 0.5, [1.0])
    emulated.silent.add(3)
    run(arm, 0.6)
    held = registers(emulated, reg.GOAL_POSITION)
    run(arm, 0.3)
    assert registers(emulated, reg.GOAL_POSITION) == held and arm.guard.lost
    assert "no contact with elbow_flex: it did not answer" in arm.guard.status
    arm.guard.torque(False)
    run(arm, 0.2)
    assert registers(emulated, reg.TORQUE_ENABLE) == [0] * 6  # it hears, though it does not answer
    assert "torque may still be on: elbow_flex" in arm.trouble


def test_hot_servos_go_limp(emulated, arm):
    start(arm)
    emulated.servos[5].set(reg.PRESENT_TEMPERATURE, 70)
    run(arm, 0.2)
    assert registers(emulated, reg.TORQUE_ENABLE) == [0] * 6
    assert arm.guard.status == "torque is off: wrist_roll is too hot (70 °C); let it cool down"


class Witness:
    """Every goal that reaches a servo, and where the servos were in a cycle."""

    def __init__(self, emulated):
        self.emulated, self.outside, self.jumps, self.goals = emulated, [], [], 0
        self.last, self.seen = {}, {id_: set() for id_ in emulated.servos}
        for id_, servo in emulated.servos.items():
            servo.write = self.watch(id_, servo, servo.write)
            servo.update = self.note(id_, servo, servo.update)

    def note(self, id_, servo, update):
        def noted():
            update()
            self.seen[id_].add(servo.position)

        return noted

    def cycle(self, arm):
        """A cycle's reading, and where each servo was meanwhile, ticks."""
        with self.emulated.lock:
            self.seen.update({id_: {s.position} for id_, s in self.emulated.servos.items()})
        state = arm.cycle()
        with self.emulated.lock:
            return state, {id_: set(positions) for id_, positions in self.seen.items()}

    def watch(self, id_, servo, write):
        joint = CALIBRATION.joints[NAMES[id_ - 1]]

        def watched(address, data):
            if address == reg.GOAL_POSITION.address:
                goal, now = reg.GOAL_POSITION.decode(bytes(data[:2])), time.monotonic()
                self.goals += 1
                if not joint.range_min <= goal <= joint.range_max:
                    self.outside.append((id_, goal))
                before, at = self.last.get(id_, (servo.position, now - 1))
                # what it may go since the last goal that arrived, or a fresh start where the servo is
                allowed = 3.0 / CALIBRATION.scale[id_ - 1] * (now - at) + 30
                if abs(goal - before) > allowed and abs(goal - servo.position) > REACH:
                    self.jumps.append((id_, before, goal, servo.position))
                self.last[id_] = goal, now
            return write(address, data)

        return watched


def test_random_faults_never_give_a_wrong_position_nor_a_goal_outside_the_limits(emulated):
    """10 000 faults while random targets, good and bad, come in: nothing wrong is read, nothing unsafe written."""
    pick, rng = random.Random(11), np.random.default_rng(11)
    witness = Witness(emulated)
    emulated.delays = (0.001, 0.008)
    faults = read = refused = moved = stopped = recovered = 0
    thresholds = Thresholds(lost_after=0.05)
    with Arm(Bus(emulated.port, IDS), CALIBRATION, thresholds=thresholds) as arm:
        arm.connect()
        arm.bus.timeout = 0.003
        arm.guard.torque(True)
        lost = False
        while faults < 10_000:
            kinds = [pick.choice(FAULTS) for _ in range(pick.choice((2, 4, 8, 16)))]
            for kind in kinds:
                emulated.inject(kind, pick.choice((None, *IDS)))
            chance = pick.random()
            if chance < 0.01:
                emulated.unplug()
                kinds.append("unplugged")
            elif chance < 0.02:
                emulated.silent.add(pick.choice(IDS))
            elif chance < 0.03:
                servo = pick.choice(list(emulated.servos.values()))
                servo.faults = pick.choice((reg.OVERLOAD, reg.OVERHEAT, reg.VOLTAGE))
            elif chance < 0.08:
                emulated.replug()
                emulated.silent.clear()
                for servo in emulated.servos.values():
                    servo.faults = 0
                arm.guard.torque(True)
            target = rng.normal(truth(emulated), pick.choice((0.05, 0.5, 3.0)))
            if pick.random() < 0.02:
                target[pick.randrange(6)] = np.nan
            try:
                arm.guard.command(target, [pick.choice((0.0, 0.1))])
                moved += 1
            except Refused as refusal:
                assert str(refusal).startswith("command refused: ")
                refused += 1
            state, seen = witness.cycle(arm)
            faults += len(kinds) - emulated.clear()
            known = ~np.isnan(state.position)
            read += known.sum()
            ticks = CALIBRATION.to_ticks(np.nan_to_num(state.position))
            for i in np.flatnonzero(known):
                off = min(abs(ticks[i] - there) for there in seen[i + 1])
                assert off <= (REACH if "garbled" in kinds else 0), (kinds, NAMES[i], ticks[i], seen[i + 1])
            assert set(state.errors) == {n for n, k in zip(NAMES, known, strict=True) if not k}
            assert not witness.outside and not witness.jumps
            if arm.guard.lost:
                stopped += not lost
                assert arm.guard.status
            recovered += bool(lost and arm.torque_on)
            lost = (lost or arm.guard.lost) and not arm.torque_on
        emulated.clear()
        emulated.silent.clear()
        emulated.replug()
        for servo in emulated.servos.values():
            servo.faults = 0
        arm.guard.torque(True)
        run(arm, 2.0)
        assert arm.torque_on and arm.read().position == pytest.approx(truth(emulated), abs=0.002)
        arm.guard.command(truth(emulated), [0.1])
    print(f"{faults} faults, {read} positions, {moved} commands, {refused} refused, {witness.goals} goals, "
          f"lost {stopped}, recovered {recovered}")  # fmt: skip
    assert read > 1000 and moved > 100 and refused > 100 and witness.goals > 500 and recovered > 5


def test_a_bus_that_fails_half_way_leaves_no_half_arm(emulated, arm):
    """Torque goes on for all servos or for none."""
    tries = 0
    for count in range(1, 13):
        emulated.clear()
        for _ in range(9):
            emulated.inject("silent", 1 + count % 6)
        arm.guard.torque(True)
        for _ in range(3):
            try:
                arm.cycle()
            except (BusError, NoReply):
                pytest.fail("a fault of the bus left the cycle")
        on = set(registers(emulated, reg.TORQUE_ENABLE))
        tries += on == {0}
        assert len(on) == 1, on
        arm.guard.torque(False)
        emulated.clear()
        run(arm, 0.03)
    assert tries
