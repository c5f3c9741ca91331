import dataclasses

import numpy as np
import pytest
from simulated_loop import Loop

from hilrl_ros.contract import ActionSpace, ContractError
from hilrl_sim.expert import Operator
from hilrl_sim.skills import make_expert


@pytest.fixture(scope="module")
def pick():
    return Loop("pick_cube")


@pytest.fixture(scope="module")
def reach():
    return Loop("reach")


@pytest.fixture(scope="module")
def drawer():
    return Loop("open_drawer")


@pytest.fixture(scope="module")
def peg():
    return Loop("insert_peg")


def demonstrations(loop, seeds, variation):
    expert = make_expert(loop.contract, loop.task, np.random.default_rng(0), variation)
    return loop.demonstrations(expert, seeds)


@pytest.mark.parametrize("variation", [0.0, 1.0])
def test_the_pick_expert_succeeds_from_50_starts(pick, variation):
    results = demonstrations(pick, range(50), variation)
    assert sum(success for success, _ in results) >= 49
    assert 10 <= np.median([length for _, length in results]) <= 40


def test_the_reach_expert_succeeds_from_50_starts(reach):
    results = demonstrations(reach, range(50), 1.0)
    assert all(success for success, _ in results)


@pytest.mark.parametrize("variation", [0.0, 1.0])
def test_the_drawer_expert_succeeds_from_30_starts(drawer, variation):
    results = demonstrations(drawer, range(30), variation)
    assert sum(success for success, _ in results) >= 29
    assert 10 <= np.median([length for _, length in results]) <= 30


@pytest.mark.parametrize("variation", [0.0, 1.0])
def test_the_peg_expert_succeeds_from_30_starts(peg, variation):
    results = demonstrations(peg, range(30), variation)
    assert sum(success for success, _ in results) >= 29
    assert 6 <= np.median([length for _, length in results]) <= 30


@pytest.mark.parametrize("task", ["drawer", "peg"])
def test_who_solves_a_task_soon_earns_nearly_all_and_who_does_nothing_nothing(task, request):
    loop = request.getfixturevalue(task)
    assert demonstrations(loop, [1], 0.0)[0][0]
    assert 0.8 < loop.earned <= 1.0
    success, _ = loop.episode(1, lambda step, state: loop.still)
    assert not success and loop.earned < 0.1


def test_a_closed_drawer_is_not_opened_by_pulling_beside_its_handle(drawer):
    state = drawer.reset(0)
    pull = drawer.still.copy()
    pull[drawer.contract.action.names.index("y")] = 1.0
    for _ in range(10):
        state, _ = drawer.step(pull)
    assert abs(state["opening"]) < 1e-3


def test_a_peg_beside_the_hole_does_not_go_in(peg):
    """2 mm of clearance are 1 mm to each side: 4 mm beside, the peg stands on the rim."""
    expert = make_expert(peg.contract, peg.task, np.random.default_rng(0), 0.0)
    state = peg.reset(1)
    for _ in range(40):
        beside = state | {"peg_x": state["peg_x"] + 0.004}
        state, success = peg.step(expert.act(beside))
        assert not success
    assert state["peg_z"] > 0.04


@pytest.mark.parametrize("seed", [1, 2])
def test_the_peg_expert_frees_a_peg_that_jammed_on_the_rim(peg, seed):
    """Pressed down and sideways there, it turns between the jaws, and its middle comes as low as if it were in."""
    expert = make_expert(peg.contract, peg.task, np.random.default_rng(0), 0.0)
    state = peg.reset(seed)
    for _ in range(40):
        state, _ = peg.step(expert.act(state | {"peg_y": state["peg_y"] + 0.003}))
        if state["peg_z"] < 0.0455:
            break
    press = peg.still.copy()
    for axis, speed in (("y", 0.2), ("z", -1.0)):
        press[peg.contract.action.names.index(axis)] = speed
    for _ in range(10):
        state, success = peg.step(press)
        assert not success
    assert state["peg_z"] < 0.0435 and state["peg_roll"] < -0.1
    assert expert.progress(state) < -Operator.setback  # who watches takes over at once
    for _ in range(20):
        state, success = peg.step(expert.act(state))
        if success:
            break
    assert success


def test_a_grasp_lifts_the_cube_between_the_jaws(pick):
    [(success, _)] = demonstrations(pick, [3], 0.0)
    assert success
    for _ in range(10):  # it does not slip while held
        pick.step(pick.still)
    cube, _ = pick.sim.object_poses()["cube"]
    tip, _ = pick.sim.kinematics.forward(pick.sim.joint_position)
    assert cube[2] > pick.task.success["threshold"] - 0.005
    assert np.linalg.norm(cube - tip) < 0.025


def test_the_expert_recovers_from_what_a_random_policy_left(pick):
    expert = make_expert(pick.contract, pick.task, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    successes = 0
    for seed in range(15):
        state, action = pick.reset(seed), pick.still
        expert.reset()
        for _ in range(25):
            action = 0.8 * action + 0.6 * rng.normal(size=len(pick.still))
            state, _ = pick.step(action)
        for _ in range(pick.task.max_episode_steps):
            state, done = pick.step(expert.act(state))
            if done:
                successes += 1
                break
    assert successes >= 14


def test_progress_rises_along_a_demonstration(pick):
    expert = make_expert(pick.contract, pick.task, np.random.default_rng(0), 0.0)
    progress = []

    def act(step, state):
        progress.append(expert.progress(state))
        return expert.act(state)

    assert pick.episode(5, act)[0]
    assert np.diff(progress).min() > -0.5
    assert progress[-1] - progress[0] > 8


def test_the_operator_leaves_a_good_policy_alone(pick):
    operator = Operator(pick.contract, pick.task, 0, "watch")
    policy = make_expert(pick.contract, pick.task, np.random.default_rng(1), variation=0.0)
    taken = 0

    def act(step, state):
        nonlocal taken
        if step == 0:
            policy.reset()
        taken += operator.decide(step, state)[0]
        return policy.act(state)

    assert sum(pick.episode(seed, act)[0] for seed in range(15)) == 15
    assert taken == 0


def test_the_operator_takes_over_from_an_idle_policy_and_lets_go_again(pick):
    operator = Operator(pick.contract, pick.task, 0, "watch")
    control = []

    def act(step, state):
        in_control, action = operator.decide(step, state)
        control.append(in_control)
        return action

    assert pick.episode(0, act)[0]
    first = control.index(True)
    assert first == operator.patience
    assert control[first : first + operator.turn] == [True] * min(operator.turn, len(control) - first)
    if len(control) > first + operator.turn:
        assert not control[first + operator.turn]


def test_the_operator_stops_a_policy_that_moves_away(pick):
    operator = Operator(pick.contract, pick.task, 0, "watch")
    operator.setback = 3.0  # steps; much less than from the middle of the box to its edge
    state = pick.reset(0)
    progress = []
    away = pick.still.copy()
    for axis in "xy":
        away[pick.contract.action.names.index(axis)] = -np.sign(state[f"cube_d{axis}"])
    for step in range(operator.patience):
        progress.append(operator.expert.progress(state))
        in_control, _ = operator.decide(step, state)
        if in_control:
            break
        state, _ = pick.step(away)
    lost = max(progress) - np.array(progress)
    assert in_control and lost[-1] > operator.setback >= max(lost[:-1])


def test_operator_modes(pick):
    state = pick.reset(0)
    in_control, action = Operator(pick.contract, pick.task, 0, "demonstrate").decide(0, state)
    assert in_control and np.abs(action).max() > 0.1
    off = Operator(pick.contract, pick.task, 0, "off")
    assert all(not off.decide(step, state)[0] for step in range(3 * off.patience))
    with pytest.raises(
        ContractError, match=r"operator mode: is 'nap', expected one of demonstrate, watch, off"
    ):
        Operator(pick.contract, pick.task, 0, "nap")


def test_the_same_seed_gives_the_same_person(pick):
    state = pick.reset(0)
    first, second = (Operator(pick.contract, pick.task, 5, "demonstrate") for _ in range(2))
    for step in range(5):
        assert np.array_equal(first.decide(step, state)[1], second.decide(step, state)[1])


def test_what_an_expert_cannot_do_or_see_is_one_clear_sentence(pick):
    rng = np.random.default_rng(0)
    joints = dataclasses.replace(pick.contract, action=ActionSpace("joint_delta", ("elbow_flex",), (0.1,)))
    with pytest.raises(
        ContractError, match=r"expert pick moves the tip by ee_delta with x, y and z, not by joint_delta"
    ):
        make_expert(joints, pick.task, rng)
    seen = tuple(entry for entry in pick.contract.state if entry.topic != "cube/pose")
    blind = dataclasses.replace(pick.contract, state=seen)
    with pytest.raises(ContractError, match=r"needs an entry with topic cube/pose, field pose.position.x"):
        make_expert(blind, pick.task, rng)
    with pytest.raises(
        ContractError,
        match=r"pick_cube.expert: is 'juggle', expected one of pick, reach, open_drawer, insert_peg",
    ):
        make_expert(pick.contract, dataclasses.replace(pick.task, expert="juggle"), rng)


def test_relative_entries_are_enough(pick):
    names = ("cube_x", "cube_y", "cube_z")
    state = tuple(entry for entry in pick.contract.state if entry.name not in names)
    relative = dataclasses.replace(pick.contract, state=state)
    full = make_expert(pick.contract, pick.task, np.random.default_rng(0), 0.0)
    less = make_expert(relative, pick.task, np.random.default_rng(0), 0.0)
    seen = pick.reset(0)
    assert less.act(seen) == pytest.approx(full.act(seen), abs=1e-5)
