"""Learning code of hilrl: agents, replay and checkpoints. No ROS import, usable alone.

The whole public surface:

    spec = PolicySpec(state_dim=20, action_dim=4)
    agent = make_agent("sac", spec, {"utd_ratio": 2})
    chunk = agent.act({"state": state, "images": {}}, explore=True, seed=step)   # [H, A] in [-1, 1]
    batch = sample_mixed(online, offline, agent.batch_size, rng, horizon=spec.horizon, n_step=agent.n_step)
    metrics = agent.update(batch)
    save_checkpoint(folder, agent, contract)
"""

from hilrl_agents.agent import Agent
from hilrl_agents.batch import Batch
from hilrl_agents.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_prior,
    pack_policy,
    read_checkpoint,
    save_checkpoint,
    start_agent,
    unpack_policy,
)
from hilrl_agents.config import ConfigError
from hilrl_agents.registry import AGENTS, agent_config, make_agent
from hilrl_agents.replay import ReplayBuffer, ReplayError, sample_mixed
from hilrl_agents.spec import PolicySpec
from hilrl_agents.warm_start import WarmStart, WarmStartError

__all__ = [
    "AGENTS",
    "Agent",
    "Batch",
    "CheckpointError",
    "ConfigError",
    "PolicySpec",
    "ReplayBuffer",
    "ReplayError",
    "WarmStart",
    "WarmStartError",
    "agent_config",
    "load_checkpoint",
    "load_prior",
    "make_agent",
    "pack_policy",
    "read_checkpoint",
    "sample_mixed",
    "save_checkpoint",
    "start_agent",
    "unpack_policy",
]
