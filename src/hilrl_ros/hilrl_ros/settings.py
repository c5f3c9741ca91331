"""Settings of an algorithm: a YAML file that overrides the defaults in the algorithm's own file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hilrl_ros.contract import ContractError, find_config, read_yaml


@dataclass(frozen=True)
class AgentSettings:
    """What a file in `config/agents` says.

    Attributes:
        algorithm: Name in the registry of `hilrl_agents`.
        chunk_size: Actions in one chunk; 1 is the classic case.
        options: Options that differ from the algorithm's defaults.
    """

    algorithm: str
    chunk_size: int
    options: dict[str, Any]


def load_agent_settings(name: str) -> AgentSettings:
    """Read the settings of an algorithm.

    Args:
        name: Name of a file in `config/agents` or a path.

    Raises:
        ContractError: No such file, or it does not fit.
    """
    path = find_config("agents", name)
    raw = read_yaml(path)
    if not isinstance(raw.get("algorithm"), str):
        raise ContractError(
            f"{path.name}: key 'algorithm' is missing; it names the algorithm, as in 'algorithm: sac'"
        )
    chunk = raw.get("chunk_size", 1)
    if isinstance(chunk, bool) or not isinstance(chunk, int) or not 1 <= chunk <= 1000:
        raise ContractError(f"{path.name}.chunk_size: is {chunk!r}, expected a whole number from 1 to 1000")
    return AgentSettings(
        raw["algorithm"], chunk, {k: v for k, v in raw.items() if k not in ("algorithm", "chunk_size")}
    )
