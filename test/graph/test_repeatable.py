"""The same checkpoint and seed give the same episode twice, bit for bit, through the whole graph."""

import numpy as np
import pytest

from hilrl_data.bags import episode_folders, read_steps

from .conftest import SMALL

pytestmark = pytest.mark.graph


@pytest.fixture(scope="module")
def evaluations(launch, run):
    graphs = []
    for name in ("first", "second"):
        arguments = {
            "task": SMALL["task"],
            "policy": run.folder / "checkpoint",
            "episodes": 3,
            "explore": "true",
            "seed": 7,
        }
        graph = launch("eval", name, arguments, run.folder)
        assert graph.wait(90) == 0, graph.text()
        graphs.append(graph)
    return graphs


def test_observations_and_actions_are_bitwise_equal(evaluations):
    first, second = (episode_folders(graph.folder / "episodes") for graph in evaluations)
    assert len(first) == len(second) == 3
    for one, other in zip(first, second, strict=True):
        steps, again = list(read_steps(one)), list(read_steps(other))
        assert len(steps) == len(again) > 0
        for a, b in zip(steps, again, strict=True):
            assert np.array(a.observation.state).tobytes() == np.array(b.observation.state).tobytes()
            assert np.array(a.executed.action).tobytes() == np.array(b.executed.action).tobytes()
            assert a.reward.reward == b.reward.reward


def test_exploration_differs_between_steps_and_episodes(evaluations):
    actions = [
        np.array(step.executed.action)
        for folder in episode_folders(evaluations[0].folder / "episodes")
        for step in read_steps(folder)
    ]
    assert len({a.tobytes() for a in actions}) > len(actions) // 2
