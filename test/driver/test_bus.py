import random
import subprocess
import sys
import threading
import time
import types

import pytest

from so101_driver import registers as reg
from so101_driver.bus import (
    FASTEST,
    JITTER,
    MEMORY,
    TAGS,
    Bus,
    NoReply,
    PortError,
    _Replies,
    check_sdk,
    packet,
    scservo_sdk,
)
from so101_driver.emulator import FAULTS, EmulatedBus

IDS = range(1, 7)


@pytest.fixture
def emulated():
    with EmulatedBus(IDS, speed=None) as bus:
        for id_, servo in bus.servos.items():
            servo.set(reg.RETURN_DELAY, 0)
            servo.actual = 1000 + 100 * id_
        yield bus


@pytest.fixture
def bus(emulated):
    with Bus(emulated.port, IDS) as opened:
        assert positions(opened) == truth(emulated)
        yield opened


def truth(emulated):
    return {i: s.position for i, s in emulated.servos.items()}


def positions(bus):
    reading = bus.sync_read_state()
    assert set(reading.states) | set(reading.errors) == set(IDS)
    assert not set(reading.states) & set(reading.errors)
    return {i: s.position for i, s in reading.states.items()}


def test_the_whole_state_comes_in_one_transaction(emulated, bus):
    servo = emulated.servos[2]
    servo.set(reg.HOMING_OFFSET, -300)
    servo.set(reg.PRESENT_LOAD, -250)
    servo.set(reg.PRESENT_VOLTAGE, 121)
    servo.set(reg.PRESENT_TEMPERATURE, 41)
    servo.set(reg.PRESENT_CURRENT, 100)
    state = bus.sync_read_state().states[2]
    assert (state.position, state.velocity, state.load) == (1500, 0, -0.25)
    assert (state.voltage, state.temperature, state.moving, state.faults) == (12.1, 41, False, ())
    assert state.current == pytest.approx(0.65)
    servo.actual = -800
    assert positions(bus)[2] == -500


def test_registers_encode_what_they_can_hold():
    assert reg.HOMING_OFFSET.encode(-2047) == (2047 | 1 << 11).to_bytes(2, "little")
    for register, value in ((reg.ID, 256), (reg.ID, -1), (reg.HOMING_OFFSET, 2048), (reg.ID, float("nan"))):
        with pytest.raises(ValueError, match="register"):
            register.encode(value)


def test_registers_are_read_written_and_kept(emulated, bus):
    bus.write_register(3, reg.HOMING_OFFSET, -120)
    assert bus.read_register(3, reg.HOMING_OFFSET) == -120
    assert bus.read_register(3, reg.MODEL) == reg.MODEL_STS3215
    bus.write_register(4, reg.LOCK, 0)
    bus.write_register(4, reg.P_GAIN, 16)
    emulated.servos[3].power_cycle()
    emulated.servos[4].power_cycle()
    assert bus.read_register(3, reg.HOMING_OFFSET) == 0  # was locked
    assert bus.read_register(4, reg.P_GAIN) == 16
    bus.write_register(4, reg.ID, 9)
    assert bus.ping(9) and not bus.ping(4)


def test_goals_reach_the_servos_or_none_does(emulated, bus):
    for bad in (-1, 4096, float("nan"), 100.5):
        with pytest.raises(ValueError):
            bus.sync_write_positions({1: 2000, 2: bad})
    with pytest.raises(ValueError, match="no servo"):
        bus.sync_write_positions({1: 2000, 7: 2000})
    assert bus.ping(1)
    assert emulated.servos[1].get(reg.GOAL_POSITION) == 0
    emulated.servos[1].speed = 20000.0
    bus.write_register(1, reg.TORQUE_ENABLE, 1)
    bus.sync_write_positions({1: 3000, 2: 2500})
    time.sleep(0.15)
    assert positions(bus)[1] == 3000
    assert emulated.servos[2].get(reg.GOAL_POSITION) == 2500
    assert emulated.servos[2].position == 1200  # torque is off


def test_the_sdk_itself_talks_to_the_emulator(emulated):
    port = scservo_sdk.PortHandler(emulated.port)
    assert port.openPort()
    handler = scservo_sdk.PacketHandler(0)
    assert handler.ping(port, 5) == (reg.MODEL_STS3215, scservo_sdk.COMM_SUCCESS, 0)
    assert handler.read2ByteTxRx(port, 5, 56)[:2] == (1500, scservo_sdk.COMM_SUCCESS)
    assert handler.regWriteTxRx(port, 5, 42, 2, [0xE8, 0x03])[0] == scservo_sdk.COMM_SUCCESS
    assert emulated.servos[5].get(reg.GOAL_POSITION) == 0
    handler.action(port, scservo_sdk.BROADCAST_ID)
    group = scservo_sdk.GroupSyncRead(port, handler, 56, 2)
    assert all(group.addParam(i) for i in IDS)
    assert group.txRxPacket() == scservo_sdk.COMM_SUCCESS
    assert {i: group.getData(i, 56, 2) for i in IDS} == truth(emulated)
    assert emulated.servos[5].get(reg.GOAL_POSITION) == 1000
    port.closePort()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_reply_is_an_error_of_its_servo_and_a_retry_heals_it(emulated, bus, fault):
    emulated.delays = (0.03, 0.05)
    for _ in range(3):  # one for each time it is asked
        emulated.inject(fault, 3)
    got = positions(bus)
    assert got.items() <= truth(emulated).items()
    assert set(got) >= set(IDS) - {3}
    assert (3 in got) == (fault == "noise") or fault == "garbled"
    emulated.clear()
    emulated.servos[3].actual += 7
    for _ in range(3):  # late replies of the past come now
        time.sleep(0.01)
        assert positions(bus).items() <= truth(emulated).items()
    emulated.inject(fault, 3)
    assert positions(bus) == truth(emulated)


def test_no_single_damage_passes_for_another_reply():
    data = bytes((0x10, 0x02, 0, 0, 0xFF, 0xFF, 74, 30, 0, 0, 1, 0, 0, 3, 0))
    frame = packet(1, 0, data)
    damaged = [frame[:i] + bytes([b]) + frame[i + 1 :] for i in range(len(frame)) for b in range(256)]
    damaged += [frame[:i] for i in range(len(frame))]
    for bytes_ in damaged:
        replies = _Replies([1, 2], len(data))
        replies.feed(bytes_)
        replies.feed(packet(2, 0, data), last=True)
        assert all(reply == (0, data) for reply in replies.good.values()), bytes_.hex()


def test_servos_that_answer_for_one_another_are_asked_again_alone(emulated, bus):
    """Servo 1 is silent, 2 answers as 1 and 3 as 2: only 3 seems to be missing."""
    others = iter((1, 2))
    emulated._random.choice = lambda _: next(others)
    for kind, id_ in (("silent", 1), ("wrong_id", 2), ("wrong_id", 3)):
        emulated.inject(kind, id_)
    time.sleep(MEMORY)  # since the last reading a servo could have come to where its neighbour is
    assert positions(bus) == truth(emulated)


def test_a_late_reply_does_not_answer_the_next_question(emulated):
    with Bus(emulated.port, IDS, timeout=0.05, retries=0) as bus:
        emulated.delays = (0.075, 0.075)
        emulated.inject("late", 1)
        with pytest.raises(NoReply, match="servo 1: it did not answer"):
            bus.read_register(1, reg.PRESENT_POSITION)
        emulated.inject("silent", 1)
        with pytest.raises(NoReply, match="servo 1: a reply came late"):
            bus.read_register(1, reg.GOAL_POSITION)
        assert bus.read_register(1, reg.GOAL_POSITION) == 0


def test_a_late_reply_does_not_answer_a_question_after_many_faults(emulated):
    with Bus(emulated.port, IDS, timeout=0.05, retries=0) as bus:
        emulated.delays = ((TAGS + 0.5) * 0.05,) * 2
        emulated.inject("late", 1)
        with pytest.raises(NoReply):
            bus.read_register(1, reg.PRESENT_POSITION)
        for _ in range(TAGS):  # the last of these questions bears the tag of the first
            emulated.inject("silent", 1)
            with pytest.raises(NoReply):
                bus.read_register(1, reg.GOAL_POSITION)
        bus.retries = 1
        assert bus.read_register(1, reg.GOAL_POSITION) == 0


def test_a_missing_servo_costs_no_other(emulated, bus):
    emulated.silent.add(2)
    reading = bus.sync_read_state()
    assert reading.errors == {2: "it did not answer"} and set(reading.states) == set(IDS) - {2}
    assert not bus.ping(2)
    with pytest.raises(NoReply, match="cannot write register 40 of servo 2: it did not answer"):
        bus.write_register(2, reg.TORQUE_ENABLE, 0)
    emulated.silent.clear()
    assert positions(bus) == truth(emulated) and bus.ping(2)


def test_faults_that_a_servo_reports_come_with_its_state(emulated, bus):
    emulated.servos[4].faults = reg.OVERHEAT | reg.OVERLOAD
    states = bus.sync_read_state().states
    assert states[4].faults == ("overheat", "overload") and states[4].position == 1400
    assert states[5].faults == ()
    bus.write_register(4, reg.TORQUE_ENABLE, 0)  # a faulty servo is switched off all the same
    emulated.servos[4].faults = 0
    assert bus.sync_read_state().states[4].faults == ()


def test_unplugged_and_plugged_in_again(emulated, bus):
    for _ in range(3):
        emulated.unplug()
        with pytest.raises(PortError, match="lost the servo bus"):
            bus.sync_read_state()
        assert not bus.connected
        with pytest.raises(PortError, match="cannot open the servo bus"):
            bus.sync_write_positions({1: 2000})
        emulated.replug()
        assert positions(bus) == truth(emulated)
    threading.Timer(0.005, emulated.unplug).start()  # while it waits for a reply
    emulated.silent.add(1)
    with pytest.raises(PortError):
        bus.read_register(1, reg.ID)


def test_a_port_has_one_user(emulated, bus):
    with pytest.raises(PortError, match="cannot open the servo bus"):
        Bus(emulated.port, IDS)
    assert positions(bus) == truth(emulated)
    assert emulated.in_use
    bus.close()
    assert not emulated.in_use
    assert positions(bus) == truth(emulated)


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match="different numbers"):
        Bus("/dev/null", [1, 1])
    with pytest.raises(PortError, match="/dev/nothing"):
        Bus("/dev/nothing", [1])


def test_threads_share_a_bus(emulated, bus):
    wrong = []

    def work(id_):
        for _ in range(20):
            if bus.read_register(id_, reg.ID) != id_ or positions(bus) != truth(emulated):
                wrong.append(id_)

    threads = [threading.Thread(target=work, args=(i,)) for i in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_another_scservo_sdk_is_told(tmp_path):
    other = types.ModuleType("scservo_sdk")
    with pytest.raises(ImportError, match=r"pip install feetech-servo-sdk==1\.0\.0"):
        check_sdk(other)
    (tmp_path / "scservo_sdk.py").write_text(
        "INST_SYNC_READ, INST_SYNC_WRITE = 0x82, 0x83\n"
        "class PortHandler:\n    openPort = closePort = setBaudRate = print\n"
        "class GroupSyncRead:\n    def __init__(self, ph, start_address, data_length): pass\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import so101_driver.bus"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stderr.splitlines()[-1].startswith("ImportError: the installed scservo_sdk")


def test_random_faults_never_give_a_wrong_position(emulated):
    """Positions differ in each round, so a reply of an earlier one is a wrong position too.

    Several garbled bytes can pass an 8-bit checksum; they must not move a servo further than it can go.
    """
    reach = JITTER + FASTEST * MEMORY
    pick, faults, read, reconnected = random.Random(7), 0, 0, 0
    emulated.delays = (0.001, 0.02)
    with Bus(emulated.port, IDS, timeout=0.003, retries=2) as bus:
        while faults < 2000:
            with emulated.lock:
                for servo in emulated.servos.values():
                    far = pick.random() < 0.02
                    step = pick.choice((-2000, 2000)) if far else pick.randint(-8, 8)
                    servo.actual = min(max(servo.actual + step, 0), 4095)
                    servo.faults = pick.choice((0, 0, 0, reg.OVERHEAT, reg.OVERLOAD))
            emulated.clear()
            kinds = [pick.choice(FAULTS) for _ in range(pick.choice((0, 1, 1, 2, 4)))]
            for kind in kinds:
                emulated.inject(kind, pick.choice((None, *IDS)))
            unplugged = pick.random() < 0.02
            if unplugged:
                emulated.unplug()
            faults += len(kinds) + unplugged
            try:
                got = positions(bus)
                off = max((abs(p - emulated.servos[i].position) for i, p in got.items()), default=0)
                assert off <= (reach if "garbled" in kinds else 0), (kinds, got, truth(emulated))
                read += len(got)
                if "garbled" in kinds:
                    continue
                id_ = pick.choice(IDS)
                value = bus.read_register(id_, pick.choice((reg.ID, reg.PRESENT_POSITION)))
                assert value in (id_, emulated.servos[id_].position)
            except NoReply:
                pass
            except PortError:
                assert unplugged
                reconnected += 1
                emulated.replug()
        emulated.clear()
        time.sleep(emulated.delays[1])
        assert positions(bus) == truth(emulated)
    assert read > 5000 and reconnected > 10
