import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hilrl_control.arm import TRACKING, ArmController
from hilrl_ros.contract import EE_AXES, ActionSpace
from hilrl_ros.contract_reader import load_contract

CONFIG = Path(__file__).parents[2] / "config"
CONTRACT, _ = load_contract(CONFIG / "robots/so101.yaml")
HOME = np.array(CONTRACT.home)
SPACES = {
    "ee_delta": CONTRACT.action,
    "ee_delta_yaw": ActionSpace("ee_delta", ("x", "y", "z", "yaw", "gripper"), (0.02, 0.02, 0.02, 0.2, 0.3)),
    "ee_delta_tip": ActionSpace("ee_delta", ("x", "y", "z"), (0.005,) * 3),
    "joint_delta": ActionSpace("joint_delta", CONTRACT.joints, (0.1,) * 6),
    "joint_position": ActionSpace("joint_position", CONTRACT.joints, (1.0,) * 6),
}

SCALE = dict(zip(CONTRACT.action.names, CONTRACT.action.scale, strict=True))
N = len(SCALE)


def stick(**axes):
    return np.array([axes.get(name, 0.0) for name in CONTRACT.action.names])


def controller(space, start=HOME):
    arm = ArmController(dataclasses.replace(CONTRACT, action=SPACES[space]))
    arm.reset(start)
    return arm


def actions(space, n, seed=0):
    """Smooth and rough stretches, so bounds, leash and limits are all met."""
    rng = np.random.default_rng(seed)
    size = len(SPACES[space].names)
    out = np.repeat(rng.uniform(-1.3, 1.3, (n // 8 + 1, size)), 8, axis=0)[:n]
    return np.clip(out + rng.normal(0, 0.3, (n, size)), -1.5, 1.5)


def outside(kinematics, q):
    pos, _ = kinematics.forward(q)
    return max(np.max(np.array(CONTRACT.box_min) - pos), np.max(pos - np.array(CONTRACT.box_max)), 0.0)


@pytest.mark.parametrize("space", SPACES)
def test_box_joint_and_step_limits_hold_whatever_is_asked(space):
    arm = controller(space)
    low, high = arm.kinematics.joint_limits.T
    last = arm.hold()
    for action in actions(space, 400):
        executed = arm.step(last, action)
        assert outside(arm.kinematics, executed.target) <= 0.005
        assert np.all(executed.target >= low - 1e-9) and np.all(executed.target <= high + 1e-9)
        assert np.abs(executed.target - last).max() <= CONTRACT.max_joint_speed * CONTRACT.period + 1e-9
        assert np.all(np.abs(executed.action) <= 1.0)
        last = executed.target


@pytest.mark.parametrize("space", SPACES)
def test_replaying_executed_actions_reproduces_the_motion(space):
    first, second = controller(space), controller(space)
    for action in actions(space, 200, seed=1):
        second.reset(first.hold())  # from the same place: what five joints cannot do would add up
        executed = first.step(first.hold(), action)
        again = second.step(second.hold(), executed.action)
        if space.startswith("joint"):
            assert again.target == pytest.approx(executed.target, abs=1e-6)
        pos, _ = first.kinematics.forward(executed.target)
        assert second.kinematics.forward(again.target)[0] == pytest.approx(
            pos, abs=0.01
        )  # differences add up


def test_inside_the_box_the_executed_action_is_the_action():
    arm = controller("ee_delta")
    rng = np.random.default_rng(2)
    for _ in range(5):
        action = rng.uniform(-0.5, 0.5, N)
        executed = arm.step(arm.hold(), action)
        assert executed.action == pytest.approx(action, abs=1e-9)


def test_ee_delta_moves_the_tip_by_the_scale_along_the_base_axes():
    arm = controller("ee_delta")
    before, R0 = arm.kinematics.forward(HOME)
    executed = arm.step(HOME, stick(x=0.7, y=-0.7, z=0.3))  # all joints keep below their speed
    after, R1 = arm.kinematics.forward(executed.target)
    expected = [0.7 * SCALE["x"], -0.7 * SCALE["y"], 0.3 * SCALE["z"]]
    assert after - before == pytest.approx(expected, abs=5e-4)
    turn = R1 @ R0.T
    heading = np.arctan2(turn[1, 0], turn[0, 0])
    assert abs(heading) < 0.01 < abs(executed.target[0] - HOME[0])  # although the pan joint swings


def test_yaw_turns_about_the_vertical_of_the_base():
    arm = controller("ee_delta_yaw")
    _, R0 = arm.kinematics.forward(HOME)
    for _ in range(3):
        executed = arm.step(arm.hold(), np.array([0.0, 0.0, 0.0, 1.0, 0.0]))
    pos, R1 = arm.kinematics.forward(executed.target)
    turn = R1 @ R0.T
    assert np.arctan2(turn[1, 0], turn[0, 0]) == pytest.approx(0.6, abs=0.02)
    assert pos == pytest.approx(arm.kinematics.forward(HOME)[0], abs=1e-3)


def test_a_blocked_arm_does_not_wind_the_target_up():
    arm = controller("ee_delta")
    start, _ = arm.kinematics.forward(HOME)
    for _ in range(20):
        executed = arm.step(HOME, stick(y=1.0, gripper=-1.0))  # measured never moves
    pos, _ = arm.kinematics.forward(executed.target)
    assert pos[1] - start[1] <= 2 * SCALE["y"] + 1e-3
    assert executed.action == pytest.approx(np.zeros(N), abs=0.01)
    assert HOME[5] - executed.target[5] <= SCALE["gripper"] + 1e-9
    back = arm.step(HOME, stick(y=-1.0, gripper=1.0))
    assert back.action == pytest.approx(stick(y=-1.0, gripper=1.0), abs=0.02)  # answers at once


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("start", [(0.0, -1.2, 0.6, 1.2), (1.3, -0.3, 0.1, 1.5), (0.0, 0.3, -0.6, 1.2)])
def test_a_tip_that_starts_outside_is_led_back_slowly(space, start):
    q = HOME.copy()
    q[:4] = start
    arm = controller(space, q)
    first = distance = outside(arm.kinematics, q)
    assert first > 0.01
    for action in actions(space, 120, seed=3):
        executed = arm.step(q, action)
        assert np.abs(executed.target - q).max() <= CONTRACT.max_joint_speed * CONTRACT.period + 1e-9
        now = outside(arm.kinematics, executed.target)
        assert now <= distance + 2 * TRACKING
        q, distance = executed.target, now
    assert distance < first / 2


def test_led_back_into_the_box_without_any_command():
    q = HOME.copy()
    q[:4] = (0.0, -1.2, 0.6, 1.2)
    arm = controller("ee_delta", q)
    for _ in range(80):
        q = arm.step(q, np.zeros(N)).target
    assert outside(arm.kinematics, q) <= TRACKING


@pytest.mark.parametrize("space", SPACES)
def test_bad_actions_are_refused_and_change_nothing(space):
    arm = controller(space)
    n = len(SPACES[space].names)
    for bad, message in (
        (np.full(n, np.nan), "action: holds NaN or infinity"),
        (np.append(np.zeros(n - 1), np.inf), rf"action: holds NaN or infinity at \[{n - 1}\]"),
        (np.zeros(n + 1), rf"action: shape \({n + 1},\), expected \({n},\)"),
    ):
        with pytest.raises(ValueError, match=message):
            arm.step(HOME, bad)
    with pytest.raises(ValueError, match=r"measured joints: holds NaN"):
        arm.step(np.full(6, np.nan), np.zeros(n))
    assert arm.hold() == pytest.approx(HOME)


def test_hold_before_reset_says_what_to_do():
    with pytest.raises(ValueError, match=r"call reset with the measured joints first"):
        ArmController(CONTRACT).hold()


def test_joint_position_ends_are_the_joint_limits():
    arm = controller("joint_position")
    low, high = arm.kinematics.joint_limits.T
    middle = 2 * (HOME - low) / (high - low) - 1
    assert arm.step(HOME, middle).target == pytest.approx(HOME)
    action = middle.copy()
    action[5] = -1.0
    for _ in range(20):
        executed = arm.step(arm.hold(), action)
    assert executed.target[5] == pytest.approx(low[5])


def test_joint_delta_of_some_joints_holds_the_others():
    arm = ArmController(
        dataclasses.replace(
            CONTRACT, action=ActionSpace("joint_delta", ("wrist_roll", "gripper"), (0.1, 0.2))
        )
    )
    arm.reset(HOME)
    executed = arm.step(HOME, np.array([1.0, -0.5]))
    assert executed.target - HOME == pytest.approx([0, 0, 0, 0, 0.1, -0.1])
    assert executed.action == pytest.approx([1.0, -0.5])


# -- a person moves the tip, whatever the action space is

MOTION = ActionSpace("ee_delta", ("x", "y", "z", "yaw", "gripper"), (0.015, 0.02, 0.01, 0.1, 0.25))
DRIVEN = {
    "joint_delta": SPACES["joint_delta"],
    "joint_position": SPACES["joint_position"],
    "slow_joints": ActionSpace("joint_delta", CONTRACT.joints, (0.03,) * 6),
    "some_joints": ActionSpace("joint_delta", ("shoulder_pan", "gripper"), (0.1, 0.1)),
    "some_positions": ActionSpace("joint_position", ("elbow_flex", "gripper"), (1.0, 1.0)),
    "same": MOTION,
    "other_axes": ActionSpace("ee_delta", ("x", "y", "roll", "gripper"), (0.02, 0.02, 0.2, 0.3)),
    "other_scales": ActionSpace("ee_delta", ("gripper", "yaw", "z", "y", "x"), (0.1, 0.3, 0.02, 0.01, 0.03)),
    "no_gripper": ActionSpace("ee_delta", ("x", "y", "z"), (0.02, 0.02, 0.02)),
}


def driven(space, start=HOME):
    arm = ArmController(dataclasses.replace(CONTRACT, action=DRIVEN[space], motion=MOTION))
    arm.reset(start)
    return arm


def push(**axes):
    return np.array([axes.get(name, 0.0) for name in EE_AXES])


@pytest.mark.parametrize("space", DRIVEN)
def test_a_persons_motion_is_reported_as_an_action_that_leads_there(space):
    arm = driven(space)
    low, high = arm.kinematics.joint_limits.T
    rng = np.random.default_rng(0)
    motions = np.repeat(rng.uniform(-1.3, 1.3, (30, len(EE_AXES))), 6, axis=0)
    for motion in motions:
        before, twin = arm.hold(), copy.copy(arm)
        executed = arm.move(before, motion)
        again = twin.step(before, executed.action)
        assert np.abs(executed.action).max() <= 1.0
        if DRIVEN[space].type == "ee_delta":
            place, _ = arm.kinematics.forward(executed.target)
            assert arm.kinematics.forward(again.target)[0] == pytest.approx(place, abs=0.004)
            assert again.target[5] == pytest.approx(executed.target[5], abs=1e-6)
        else:
            assert again.target == pytest.approx(executed.target, abs=1e-6)
        assert np.all(executed.target >= low - 1e-9) and np.all(executed.target <= high + 1e-9)
        assert outside(arm.kinematics, executed.target) <= 0.005
        assert np.abs(executed.target - before).max() <= CONTRACT.max_joint_speed * CONTRACT.period + 1e-9


@pytest.mark.parametrize("space", ["joint_delta", "joint_position", "same", "other_scales"])
def test_a_full_stick_moves_the_tip_by_the_contracts_motion(space):
    arm = driven(space)
    before, _ = arm.kinematics.forward(HOME)
    executed = arm.move(HOME, push(y=0.4, gripper=-0.2))
    after, _ = arm.kinematics.forward(executed.target)
    assert after - before == pytest.approx([0.0, 0.4 * 0.02, 0.0], abs=1e-3)
    assert executed.target[5] - HOME[5] == pytest.approx(-0.2 * 0.25, abs=1e-6)


@pytest.mark.parametrize("space", ["slow_joints", "other_scales"])
def test_a_motion_too_fast_for_the_action_keeps_its_direction(space):
    arm = driven(space)
    before, _ = arm.kinematics.forward(HOME)
    executed = arm.move(HOME, push(x=1.0, y=1.0))
    moved = arm.kinematics.forward(executed.target)[0] - before
    assert np.abs(executed.action).max() == pytest.approx(1.0, abs=1e-3)
    assert 0.003 < moved[0] < 0.014
    assert moved == pytest.approx(moved[0] * np.array([1.0, 0.02 / 0.015, 0.0]), abs=1e-3)


def test_what_the_action_cannot_do_does_not_happen():
    arm = driven("other_axes")
    _, R0 = arm.kinematics.forward(HOME)
    for _ in range(3):
        executed = arm.move(arm.hold(), push(z=-1.0, yaw=1.0))
    place, R1 = arm.kinematics.forward(executed.target)
    assert place == pytest.approx(arm.kinematics.forward(HOME)[0], abs=1e-3)
    assert pytest.approx(R0, abs=0.01) == R1
    arm = driven("some_joints")
    executed = arm.move(HOME, push(x=1.0, y=1.0, z=-1.0))
    assert executed.target[1:5] == pytest.approx(HOME[1:5])


@pytest.mark.parametrize("space", DRIVEN)
def test_bad_motions_are_refused_and_change_nothing(space):
    arm = driven(space)
    with pytest.raises(ValueError, match=r"motion: shape \(4,\), expected \(7,\)"):
        arm.move(HOME, np.zeros(4))
    with pytest.raises(ValueError, match="motion: holds NaN or infinity"):
        arm.move(HOME, push(y=np.nan))
    with pytest.raises(ValueError, match="measured joints: holds NaN"):
        arm.move(np.full(6, np.nan), push(y=1.0))
    assert np.array_equal(arm.hold(), HOME)


# -- a person gives joint positions (a leader arm), whatever the action space is


def shares(arm, q):
    """Joint positions as a leader arm sends them: -1 and 1 are a joint's limits."""
    low, high = arm.kinematics.joint_limits.T
    return 2 * (q - low) / (high - low) - 1


NEAR_HOME = HOME + np.array([0.06, 0.04, -0.05, 0.02, 0.0, 0.1])


@pytest.mark.parametrize("space", ["joint_delta", "joint_position", "slow_joints"])
def test_the_arm_goes_to_the_leaders_joints(space):
    arm = driven(space)
    for _ in range(10):
        executed = arm.follow(arm.hold(), shares(arm, NEAR_HOME))
    assert executed.target == pytest.approx(NEAR_HOME, abs=1e-6)


def test_with_tip_actions_the_tip_goes_where_the_leaders_joints_would_bring_it():
    arm = driven("other_axes")  # x and y, no z
    wanted = arm.kinematics.forward(NEAR_HOME)[0]
    start = arm.kinematics.forward(HOME)[0]
    before = arm.hold()
    executed = arm.follow(before, shares(arm, NEAR_HOME))
    moved = arm.kinematics.forward(executed.target)[0] - start
    scale = np.array(DRIVEN["other_axes"].scale[:2])
    assert executed.action[:2] * scale == pytest.approx(
        moved[:2], abs=1e-3
    )  # what is reported is what it caused
    for _ in range(10):
        executed = arm.follow(arm.hold(), shares(arm, NEAR_HOME))
    there = arm.kinematics.forward(executed.target)[0]
    assert there == pytest.approx([wanted[0], wanted[1], start[2]], abs=2e-3)
    assert executed.target[5] == pytest.approx(NEAR_HOME[5])


@pytest.mark.parametrize("space", DRIVEN)
def test_wherever_the_leader_leaps_all_limits_hold(space):
    arm = driven(space)
    low, high = arm.kinematics.joint_limits.T
    rng = np.random.default_rng(1)
    for joints in np.repeat(rng.uniform(-1.3, 1.3, (25, 6)), 5, axis=0):
        before = arm.hold()
        executed = arm.follow(before, joints)
        assert np.all(executed.target >= low - 1e-9) and np.all(executed.target <= high + 1e-9)
        assert outside(arm.kinematics, executed.target) <= 0.005
        assert np.abs(executed.target - before).max() <= CONTRACT.max_joint_speed * CONTRACT.period + 1e-9


@pytest.mark.parametrize("space", DRIVEN)
def test_a_leaders_motion_is_reported_as_an_action_that_leads_there(space):
    arm = driven(space)
    rng = np.random.default_rng(2)
    walk = np.cumsum(rng.normal(0, 0.08, (150, 6)), axis=0)
    for joints in shares(arm, HOME + 0.5 * np.sin(walk)):
        before, twin = arm.hold(), copy.copy(arm)
        executed = arm.follow(before, joints)
        again = twin.step(before, executed.action)
        assert np.abs(executed.action).max() <= 1.0
        if DRIVEN[space].type == "ee_delta":
            place, _ = arm.kinematics.forward(executed.target)
            assert arm.kinematics.forward(again.target)[0] == pytest.approx(place, abs=0.004)
        else:
            assert again.target == pytest.approx(executed.target, abs=1e-6)


def test_bad_joint_positions_are_refused_and_change_nothing():
    arm = driven("joint_position")
    with pytest.raises(ValueError, match=r"joint positions: shape \(7,\), expected \(6,\)"):
        arm.follow(HOME, np.zeros(7))
    with pytest.raises(ValueError, match="joint positions: holds NaN or infinity"):
        arm.follow(HOME, np.full(6, np.nan))
    assert np.array_equal(arm.hold(), HOME)


def test_a_gripper_that_the_action_does_not_name_closes_as_at_home_and_squeezes():
    closed = (*CONTRACT.home[:-1], -0.17)
    arm = ArmController(dataclasses.replace(CONTRACT, action=SPACES["ee_delta_tip"], home=closed))
    measured = np.array([*CONTRACT.home[:-1], 0.5])
    arm.reset(measured)
    for _ in range(5):
        before, target = arm.hold()[-1], arm.step(measured, np.zeros(3)).target[-1]
        assert abs(target - before) <= CONTRACT.max_joint_speed * CONTRACT.period + 1e-9
    assert target == pytest.approx(-0.17), "the jaws that something holds open go on to press"
