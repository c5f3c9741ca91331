"""Agents by name. A new algorithm adds one import and one entry here."""

from collections.abc import Mapping
from typing import Any

from hilrl_agents.act import ACT
from hilrl_agents.agent import Agent
from hilrl_agents.bc import BC
from hilrl_agents.config import ConfigError, build_config, nearest
from hilrl_agents.diffusion import Diffusion
from hilrl_agents.flow import Flow
from hilrl_agents.qc import QC
from hilrl_agents.qc_fql import QCFQL
from hilrl_agents.recap import Recap
from hilrl_agents.sac import SAC
from hilrl_agents.spec import PolicySpec
from hilrl_agents.tdmpc2 import TDMPC2

AGENTS: dict[str, type[Agent]] = {
    agent.name: agent for agent in (SAC, QC, QCFQL, TDMPC2, Recap, BC, ACT, Diffusion, Flow)
}


def agent_config(name: str, overrides: Mapping[str, Any]) -> Any:
    """The agent's config: its defaults with the overrides.

    Raises:
        ConfigError: unknown agent or option, wrong type or value out of range.
    """
    if name not in AGENTS:
        raise ConfigError(f"unknown agent '{name}'; {nearest(name, list(AGENTS))}")
    return build_config(AGENTS[name].Config, overrides, name)


def make_agent(name: str, spec: PolicySpec, config: Mapping[str, Any] | None = None, seed: int = 0) -> Agent:
    """A new agent with fresh weights.

    Args:
        name: one of `AGENTS`.
        spec: shapes of observations and actions.
        config: overrides of the agent's options, by name.
        seed: of weights and learning; the same seed and data give the same agent.

    Raises:
        ConfigError: unknown agent or option, wrong type or value out of range.
    """
    options = agent_config(name, config or {})
    return AGENTS[name](spec, options, seed)
