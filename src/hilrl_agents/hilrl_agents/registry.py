"""Agents by name. A new algorithm adds one import and one entry here."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hilrl_agents.act import ACT
from hilrl_agents.agent import Agent
from hilrl_agents.bc import BC
from hilrl_agents.chunks import ChunkOptions
from hilrl_agents.config import ConfigError, build_config, nearest
from hilrl_agents.diffusion import Diffusion
from hilrl_agents.flow import Flow
from hilrl_agents.ibrl import IBRL
from hilrl_agents.lerobot_process import LeRobot
from hilrl_agents.qc import QC
from hilrl_agents.qc_fql import QCFQL
from hilrl_agents.recap import Recap
from hilrl_agents.residual import Residual
from hilrl_agents.sac import SAC
from hilrl_agents.spec import PolicySpec
from hilrl_agents.tdmpc2 import TDMPC2
from hilrl_agents.warm_start import WarmStartError

AGENTS: dict[str, type[Agent]] = {
    agent.name: agent
    for agent in (SAC, Residual, IBRL, QC, QCFQL, TDMPC2, Recap, BC, ACT, Diffusion, Flow, LeRobot)
}


def agent_config(name: str, overrides: Mapping[str, Any]) -> Any:
    """The agent's config: its defaults with the overrides.

    Raises:
        ConfigError: unknown agent or option, wrong type or value out of range.
    """
    return build_config(AGENTS[_known(name)].Config, overrides, name)


def make_agent(
    name: str,
    spec: PolicySpec,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    prior: Agent | None = None,
    freeze: Sequence[str] = (),
) -> Agent:
    """A new agent: with fresh weights, or one that begins as an imitation policy.

    Args:
        name: one of `AGENTS`.
        spec: shapes of observations and actions.
        config: overrides of the agent's options, by name.
        seed: of weights and learning; the same seed and data give the same agent.
        prior: whose policy it starts from. What `config` does not say of how chunks are executed, and of the options
            that the two share by name and meaning (for an agent of the same algorithm, of any), is as in the prior.
        freeze: glob patterns of parameters that shall never move, with a prior.

    Raises:
        ConfigError: unknown agent or option, wrong type or value out of range, or a prior that it cannot start from.
    """
    overrides = dict(config or {})
    if prior is None and AGENTS[_known(name)].observes_prior:
        raise WarmStartError(
            f"'{name}' acts over an imitation policy: name its checkpoint in warm_start, or use `hilrl improve`"
        )
    if prior is None:
        return AGENTS[_known(name)](spec, agent_config(name, overrides), seed)
    check_start(name, prior.name)
    options = agent_config(name, _options_of(prior, name, spec) | overrides)
    agent = AGENTS[name](spec, options, seed)
    with prior.averaged():
        agent.warm_start(prior, freeze)
    return agent


def observed_spec(name: str, spec: PolicySpec) -> PolicySpec:
    """Shapes of what an agent observes and does, from those of the robot: some observe their prior's action too."""
    if not AGENTS[_known(name)].observes_prior:
        return spec
    return dataclasses.replace(spec, state_dim=spec.state_dim + spec.action_dim)


def own_settings(settings: Any) -> tuple[int | None, dict[str, Any]]:
    """What an agent's file decides: chunk_size (None: nothing) and options.

    Files are written for fresh weights. Where an agent takes over a prior's networks, their sizes, and so the chunk's,
    are the prior's.

    Args:
        settings: as `start_agent` takes them.
    """
    decided = AGENTS[_known(settings.algorithm)].prior_options if settings.warm_start else ()
    options = {key: value for key, value in settings.options.items() if key not in decided}
    return (None if decided else settings.chunk_size), options


def check_start(name: str, prior: str) -> None:
    """Refuses an agent that does not start from a policy of an algorithm.

    Raises:
        ConfigError: names those that do.
    """
    if not AGENTS[_known(name)].starts_from(prior):
        able = ", ".join(sorted(other for other, agent in AGENTS.items() if agent.starts_from(prior)))
        raise WarmStartError(f"'{name}' cannot start from a policy of '{prior}'; these can: {able}")


def _options_of(prior: Agent, name: str, spec: PolicySpec) -> dict[str, Any]:
    """Options of a prior that an agent goes on with."""
    if prior.name == name:
        return dataclasses.asdict(prior.config)
    defaults = AGENTS[name].Config()
    blind = not prior.shows_images and getattr(defaults, "image_encoder", "") == "prior"
    options = {"image_encoder": "trained"} if blind else {}
    if prior.spec.horizon != spec.horizon:
        return options
    shared = [item.name for item in dataclasses.fields(ChunkOptions)]
    return options | {key: getattr(prior.config, key) for key in (*shared, *AGENTS[name].prior_options)}


def _known(name: str) -> str:
    if name not in AGENTS:
        raise ConfigError(f"unknown agent '{name}'; {nearest(name, list(AGENTS))}")
    return name
