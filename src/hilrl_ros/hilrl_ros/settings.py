"""Settings of an algorithm: a YAML file that overrides the defaults in the algorithm's own file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilrl_ros.config import check_keys, find_config, read_yaml
from hilrl_ros.contract import ContractError

_KEYS = ("algorithm", "chunk_size", "warm_start")


@dataclass(frozen=True)
class WarmStartSettings:
    """Which policy an agent starts from.

    Attributes:
        checkpoint: Checkpoint folder of that policy, or the folder of its run.
        policy_type: Algorithm that it must be of; empty: any that the agent can start from.
        freeze: Glob patterns of the agent's parameters that never move.
    """

    checkpoint: Path
    policy_type: str = ""
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True)
class AgentSettings:
    """What a file in `config/agents` says.

    Attributes:
        algorithm: Name in the registry of `hilrl_agents`.
        chunk_size: Actions in one chunk, 1 is the classic case; None: as many as the policy that it starts from has,
            1 without one.
        options: Options that differ from the algorithm's defaults.
        warm_start: Which policy it starts from; None: fresh weights.
    """

    algorithm: str
    chunk_size: int | None
    options: dict[str, Any]
    warm_start: WarmStartSettings | None = None


def load_agent_settings(name: str, warm_start: str = "") -> AgentSettings:
    """Read the settings of an algorithm.

    Args:
        name: Name of a file in `config/agents` or a path.
        warm_start: Checkpoint that counts instead of the file's; empty: the file's.

    Raises:
        ContractError: No such file, or it does not fit.
    """
    path = find_config("agents", name)
    raw = read_yaml(path)
    if not isinstance(raw.get("algorithm"), str):
        raise ContractError(
            f"{path.name}: key 'algorithm' is missing; it names the algorithm, as in 'algorithm: sac'"
        )
    chunk = raw.get("chunk_size")
    if chunk is not None and (
        isinstance(chunk, bool) or not isinstance(chunk, int) or not 1 <= chunk <= 1000
    ):
        raise ContractError(f"{path.name}.chunk_size: is {chunk!r}, expected a whole number from 1 to 1000")
    warm = _warm_start(raw.get("warm_start"), warm_start, f"{path.name}.warm_start")
    return AgentSettings(raw["algorithm"], chunk, {k: v for k, v in raw.items() if k not in _KEYS}, warm)


def _warm_start(raw: Any, checkpoint: str, where: str) -> WarmStartSettings | None:
    if raw is None:
        return WarmStartSettings(Path(checkpoint)) if checkpoint else None
    check_keys(where, raw, (), ("checkpoint", "policy_type", "freeze"))
    for key, value in raw.items():
        if key == "freeze" and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise ContractError(
                f"{where}.freeze: is {value!r}, expected a list of patterns, as in ['encoder.*']"
            )
        if key != "freeze" and not isinstance(value, str):
            raise ContractError(f"{where}.{key}: is {value!r}, expected text")
    found = checkpoint or raw.get("checkpoint", "")
    if not found:
        raise ContractError(
            f"{where}.checkpoint: is missing; name the policy's folder here or with the argument warm_start"
        )
    return WarmStartSettings(Path(found), raw.get("policy_type", ""), tuple(raw.get("freeze", ())))
