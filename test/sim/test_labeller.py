import numpy as np
import pytest
from simulated_loop import Loop

from hilrl_sim.labeller import Labeller
from hilrl_sim.skills import make_expert


@pytest.fixture(scope="module")
def shown():
    """Heights of cube and tip (m) and opening of the gripper (rad) over some label episodes [E, T]."""
    loop, episodes = Loop("pick_cube"), []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        person = Labeller(make_expert(loop.contract, loop.task, rng), rng)
        state, solved, rows = loop.reset(seed), False, []
        for _ in range(loop.task.max_episode_steps):
            state, solved = loop.step(person.act(state, solved))
            rows.append([state["cube_z"], state["tip_z"], state["gripper"]])
        episodes.append(rows)
    return np.moveaxis(np.array(episodes), 2, 0)


def test_success_is_shown_for_some_frames_of_each_episode_and_more_than_once(shown):
    success = shown[0] > 0.06
    assert np.median(success.sum(1)) >= 5
    assert success.mean() < 0.4
    begins = (success[:, 1:] & ~success[:, :-1]).sum(1)
    assert (begins >= 2).sum() >= 2


def test_near_misses_are_shown_too(shown):
    cube, tip, gripper = shown
    nothing_held = (cube < 0.02) & (tip > 0.05) & (gripper < 0.2)  # closed and lifted, without the cube
    assert (nothing_held.sum(1) > 0).sum() >= 4
