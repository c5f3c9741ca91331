"""What tests share of agents that act over an imitation policy: that policy, observations, and what it does alone."""

import numpy as np
from agent_data import random_batch

from hilrl_agents import PolicySpec, make_agent
from hilrl_agents.chunks import ChunkExecutor, PriorExecutor, with_prior_action

SEEN = PolicySpec(state_dim=5, action_dim=2)  # three numbers of the robot's, and the prior's action
SMALL = {"batch_size": 8, "hidden": [16, 16], "critics": 3, "precision": "float32"}


def flow(horizon=4, steps=2):
    """A chunked policy that has learnt a little."""
    spec = PolicySpec(3, 2, horizon=horizon)
    agent = make_agent("flow", spec, {"hidden": [24], "batch_size": 8, "n_action_steps": steps}, 1)
    rng = np.random.default_rng(1)
    agent.fit_normalizer(rng.normal(2, 3, (40, 3)), rng.uniform(-0.5, 0.5, (40, 2)))
    for step in range(5):
        agent.pretrain(random_batch(spec, 8, seed=step))
    return agent


def seen(state, action):
    """An observation with the prior's action."""
    return {"state": np.array([*state, *action], np.float32), "images": {}}


def assert_acts_as(agent, prior):
    """Step by step the agent does, unexplored, what its prior does alone."""
    alone, beneath, above = ChunkExecutor(prior), PriorExecutor(agent), ChunkExecutor(agent)
    rng = np.random.default_rng(0)
    for step in range(9):
        observation = {"state": rng.normal(2, 3, 3).astype(np.float32), "images": {}}
        expected, _ = alone.act(observation, False, step, 1, step)
        whole = with_prior_action(observation, beneath.act(observation, step, 1, step))
        action, _ = above.act(whole, False, step, 1, step)
        np.testing.assert_array_equal(action, expected)
