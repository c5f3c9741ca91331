import math

import numpy as np
import pytest

from hilrl_agents import ConfigError, PolicySpec, make_agent
from hilrl_agents.chunks import ChunkExecutor, ChunkOptions

H = 4


class Planner:
    """Plans chunks whose entries tell the step they were planned at and their own number: 10 · step + i."""

    def __init__(self, **options):
        self.execution = ChunkOptions(**options)
        self.asked = []

    def act(self, observation, explore, seed):
        self.asked.append(observation)
        return np.array([[10 * observation + i] for i in range(H)], np.float32)


def actions(executor, *steps, episode=1):
    return [float(executor.act(step, False, 0, episode, step)[0][0]) for step in steps]


def test_by_default_every_step_is_planned_anew():
    assert actions(ChunkExecutor(Planner()), 0, 1, 2) == [0, 10, 20]


def test_so_many_actions_of_a_chunk_are_executed_open_loop():
    planner = Planner(n_action_steps=3)
    assert actions(ChunkExecutor(planner), *range(8)) == [0, 1, 2, 30, 31, 32, 60, 61]
    assert planner.asked == [0, 3, 6]


@pytest.mark.parametrize("options", [{"n_action_steps": 4}, {"temporal_ensemble_coeff": 0.1}])
def test_no_plan_outlives_its_episode_or_an_interruption(options):
    executor = ChunkExecutor(Planner(**options))
    actions(executor, 0, 1)
    assert actions(executor, 2, episode=2) == [20]
    executor.interrupt()
    assert actions(executor, 3, episode=2) == [30]


def test_an_episode_that_begins_again_at_its_first_step_is_planned_anew():
    executor = ChunkExecutor(Planner(n_action_steps=4))
    assert actions(executor, 0, 1, 0) == [0, 1, 0]


def test_a_lost_step_costs_its_action_and_delays_nothing():
    assert actions(ChunkExecutor(Planner(n_action_steps=4)), 0, 2, 3, 6) == [0, 2, 3, 60]


@pytest.mark.parametrize("coefficient", [0.01, 0.5, -0.4])
def test_temporal_ensembling_is_the_weighted_average_of_all_plans_for_a_step(coefficient):
    steps = [0, 1, 2, 3, 4, 5, 8, 9]
    found = actions(ChunkExecutor(Planner(temporal_ensemble_coeff=coefficient)), *steps)
    for index, step in enumerate(steps):
        planned = [10 * s + step - s for s in steps[: index + 1] if step - s < H]  # oldest first
        weights = [math.exp(-coefficient * i) for i in range(len(planned))]
        expected = sum(w * a for w, a in zip(weights, planned, strict=True)) / sum(weights)
        assert found[index] == pytest.approx(expected, rel=1e-5)


def test_the_version_is_that_of_the_weights_that_planned():
    executor = ChunkExecutor(Planner(n_action_steps=2))
    assert [executor.act(k, False, 0, 1, k, version=k)[1] for k in range(4)] == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"n_action_steps": 5}, r"bc\.n_action_steps: is 5, expected at most chunk_size \(4\)"),
        (
            {"n_action_steps": 2, "temporal_ensemble_coeff": 0.01},
            r"bc\.n_action_steps: is 2, expected 1 with a temporal_ensemble_coeff",
        ),
    ],
)
def test_what_cannot_be_executed_is_one_clear_sentence(options, error):
    with pytest.raises(ConfigError, match=error):
        make_agent("bc", PolicySpec(2, 1, horizon=H), options)
