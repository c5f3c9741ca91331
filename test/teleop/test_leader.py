"""The leader's arithmetic: what it asks for, and when it counts as moved."""

import dataclasses

import numpy as np
import pytest
from hilrl_msgs.msg import Action
from loop_messages import CONTRACT, HOME, SCALE

from hilrl_control.arm import ArmController
from hilrl_ros.contract import EE_AXES, ActionSpace
from hilrl_teleop.leader import LEASH_PERIODS, Leader, Stirring

STEP = CONTRACT.max_joint_speed * CONTRACT.period
AWAY = HOME + np.array([0.5, -0.3, 0.4, -0.6, 1.0, 0.5])  # where the leader stands when it takes over
PAN, GRIPPER = np.eye(6)[0], np.eye(6)[5]
JOINTS = dataclasses.replace(CONTRACT, action=ActionSpace("joint_position", CONTRACT.joints, (1.0,) * 6))


def joints(leader, action):
    low, high = leader._kinematics.joint_limits.T
    return low + (action + 1) / 2 * (high - low)


def test_taking_over_leaves_the_follower_where_it_stands():
    leader = Leader(CONTRACT, "joint", fade=False)
    assert joints(leader, leader.hold(AWAY, HOME)) == pytest.approx(HOME)
    assert joints(leader, leader.follow(AWAY, HOME, 0.02)) == pytest.approx(HOME)
    assert leader.space == Action.JOINT_POSITION
    tip = Leader(CONTRACT, "tip", fade=False)
    assert not tip.hold(AWAY, HOME).any() and tip.follow(AWAY, HOME, 0.02) == pytest.approx(np.zeros(7))
    assert tip.space == Action.EE_DELTA


def test_joints_follow_the_leaders_joints_by_the_way_it_was_moved():
    leader = Leader(CONTRACT, "joint", fade=False)
    leader.hold(AWAY, HOME)
    way = np.array([0.1, 0.05, -0.1, 0.05, -0.3, 0.2])
    assert joints(leader, leader.follow(AWAY + way, HOME, 0.02)) == pytest.approx(HOME + way)


def test_a_target_never_leaves_the_leash_and_the_way_back_begins_at_once():
    leader = Leader(CONTRACT, "joint", fade=False)
    leader.hold(AWAY, HOME)
    for lead in np.linspace(0, 1.5, 40):  # a follower that cannot move
        asked = joints(leader, leader.follow(AWAY + lead * PAN, HOME, 0.02))
    assert asked[0] - HOME[0] == pytest.approx(LEASH_PERIODS * STEP)
    back = joints(leader, leader.follow(AWAY + 1.4 * PAN, HOME, 0.02))
    assert back[0] == pytest.approx(asked[0] - 0.1)


def test_past_a_joint_limit_the_offset_gives_way_and_the_way_back_begins_at_once():
    leader = Leader(CONTRACT, "joint", fade=False)
    shut = HOME.copy()
    shut[5] = -0.1
    leader.hold(AWAY, shut)
    assert joints(leader, leader.follow(AWAY - 0.5 * GRIPPER, shut, 0.02))[5] == pytest.approx(-0.174533)
    opened = joints(leader, leader.follow(AWAY - 0.4 * GRIPPER, shut, 0.02))
    assert opened[5] == pytest.approx(-0.074533)


def test_an_aligned_leader_brings_the_follower_slowly_to_its_own_pose():
    leader = Leader(CONTRACT, "joint", fade=True)
    q, near = HOME.copy(), HOME - 0.15
    leader.hold(near, q)
    asked = [q]
    for _ in range(60):
        asked.append(joints(leader, leader.follow(near, asked[-1], 0.02)))
    assert np.abs(np.diff(asked, axis=0)).max() <= 0.0101
    assert asked[-1] == pytest.approx(near)


@pytest.mark.parametrize("start", [AWAY, HOME])
def test_the_tip_follows_the_leaders_tip_in_steps_and_settles(start):
    """A follower that answers one step later, as the arm and its loop do."""
    leader, arm = Leader(JOINTS, "tip", fade=False), ArmController(JOINTS)
    arm.reset(HOME)
    tip = arm.kinematics.forward
    lead = start.copy()
    leader.hold(lead, HOME)
    measured, target, tips = HOME, HOME, []
    way = np.array([0.2, 0.1, -0.1, 0.0, 0.0, -0.3])
    for k in range(40):
        lead = start + way * min(k / 15, 1.0)
        action = leader.follow(lead, measured, 0.1)
        measured = target
        target = arm.move(measured, action).target
        tips.append(tip(target)[0])
    wanted = tip(HOME)[0] + tip(lead)[0] - tip(start)[0]
    assert tips[-1] == pytest.approx(np.clip(wanted, CONTRACT.box_min, CONTRACT.box_max), abs=2e-3)
    assert np.abs(np.diff(tips, axis=0)).max() <= 0.0225  # the contract's motion, and the IK's tolerance
    assert np.ptp(tips[-5:], axis=0) == pytest.approx(np.zeros(3), abs=1e-3)  # it does not swing
    assert target[5] - HOME[5] == pytest.approx(-0.3, abs=0.01)


def test_tip_actions_name_the_axes_in_order_and_stay_in_range():
    leader = Leader(CONTRACT, "tip", fade=False)
    leader.hold(HOME, HOME)
    action = dict(zip(EE_AXES, leader.follow(HOME + 0.6 * PAN + 0.1 * GRIPPER, HOME, 0.02), strict=True))
    assert action["y"] == -1.0 and action["gripper"] == pytest.approx(0.5 * 0.1 / SCALE["gripper"])
    assert action["yaw"] == 0.0  # the contract's motion has none


def test_a_leader_counts_as_moved_from_its_first_way_until_it_rests():
    stirring = Stirring(threshold=0.05, rest=1.0)
    assert not stirring.moved(HOME, 0.0)
    assert not stirring.moved(HOME + 0.04, 1.0)  # a table that was bumped
    assert stirring.moved(HOME + 0.06, 2.0)
    assert stirring.moved(HOME + 0.06, 3.0) and not stirring.moved(HOME + 0.06, 3.1)
    for k in range(100):  # slow, and on its way all the time
        assert stirring.moved(HOME + 0.12 + 0.0012 * k, 4.0 + 0.02 * k)
    stirring.forget()
    assert not stirring.moved(HOME, 6.0)
