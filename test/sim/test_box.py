"""The tip of the simulated arm, sagging under its own weight as the real one does, against the contract's box."""

import numpy as np
import pytest
from simulated_loop import Loop

OVER = 0.005  # m that the tip may be outside
STARTS, ACTIONS = 20, 50


@pytest.fixture(scope="module")
def loop():
    return Loop("reach")


def outside(loop):
    """Distance of the measured tip from the box, m."""
    tip, _ = loop.arm.kinematics.forward(loop.sim.joint_position)
    low, high = np.array(loop.contract.box_min), np.array(loop.contract.box_max)
    return float(np.linalg.norm(tip - np.clip(tip, low, high)))


def start_at(loop, q):
    """Let the servos bring the arm to joint positions, and begin there."""
    loop.sim.reset(0)
    for _ in range(20):
        loop.sim.step(q)
    loop.arm.reset(loop.sim.joint_position)


def random_pose(loop, rng):
    """Joint positions somewhere over the table, in the box or out of it."""
    while True:
        q = np.array(loop.contract.home) + rng.uniform(-0.6, 0.6, len(loop.contract.joints))
        if loop.arm.kinematics.forward(q)[0][2] > 0.02:
            return q


def test_the_tip_keeps_to_the_box_whatever_the_policy_does_and_wherever_it_starts(loop):
    rng = np.random.default_rng(0)
    names = loop.contract.action.names
    limit = loop.contract.max_joint_speed * loop.contract.period
    began_outside, most = 0, 0.0
    for _ in range(STARTS):
        start_at(loop, random_pose(loop, rng))
        first = furthest = outside(loop)
        began_outside += first > OVER
        target = loop.arm.hold()
        for _ in range(ACTIONS):
            result = loop.arm.step(loop.sim.joint_position, rng.uniform(-1, 1, len(names)))
            assert np.abs(result.target - target).max() <= limit + 1e-6
            target = result.target
            loop.sim.step(target)
            now = outside(loop)
            assert now <= max(furthest, 0.0) + OVER, "led away from the box"
            furthest = min(furthest, now)
            most = max(most, now - first)
        assert outside(loop) <= max(OVER, first / 2)
    assert began_outside >= 3, "too few starts outside: the test proves less than it says"
    assert most <= OVER
