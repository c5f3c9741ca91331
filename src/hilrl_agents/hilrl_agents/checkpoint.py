"""Checkpoints (a folder of YAML and safetensors) and policy weights as bytes. Nothing is ever unpickled."""

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hilrl_agents.agent import Agent, AgentStateError
from hilrl_agents.config import ConfigError
from hilrl_agents.registry import make_agent, observed_spec, own_settings
from hilrl_agents.spec import PolicySpec

FORMAT = 1
ENCODER = "encoder.safetensors"  # a ResNet's weights, as they were in the file that was asked for
PRIOR = "prior"  # folder of the policy that the agent was warm-started from: what acting needs of it


class CheckpointError(RuntimeError):
    """A checkpoint or weights that cannot be used; the message is one sentence for the user."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says about itself.

    Attributes:
        folder: where it lies.
        algorithm: name of the agent.
        spec: shapes of observations and actions.
        config: all options of the agent.
        contract: the robot contract that it was trained under.
        counters: whatever the learner counts (robot steps, policy version, …).
        freeze: patterns of the parameters that rest, of an agent that was warm-started.
    """

    folder: Path
    algorithm: str
    spec: PolicySpec
    config: dict[str, Any]
    contract: dict[str, Any]
    counters: dict[str, Any]
    freeze: tuple[str, ...] = ()

    @property
    def policy_bytes(self) -> int:
        """Size of what acting needs, what never changes (a ResNet, a prior) apart.

        Raises:
            CheckpointError: the checkpoint is incomplete.
        """
        path = self.folder / "policy.safetensors"
        try:
            return path.stat().st_size
        except FileNotFoundError:
            raise _incomplete(path) from None


def contract_hash(contract: Mapping[str, Any]) -> str:
    """sha256 over the contract's canonical JSON, as hex digits; order of keys does not matter."""
    return hashlib.sha256(json.dumps(contract, sort_keys=True).encode()).hexdigest()


def save_checkpoint(
    folder: str | Path,
    agent: Agent,
    contract: Mapping[str, Any] | None = None,
    counters: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a checkpoint; a kill at any moment leaves the former one or the new one, whole.

    The new folder is written and synchronised beside the old one, which then gives way by two renames;
    between them the checkpoint is found under `<folder>.old` (`read_checkpoint` looks there).

    Args:
        folder: the checkpoint's place; one that is there is replaced.
        agent: whose tensors and options are kept.
        contract: robot contract, plain YAML types.
        counters: what the learner wants back on resume, plain YAML types.
    """
    folder, contract = Path(folder), dict(contract or {})
    draft = folder.with_name(f"{folder.name}.new-{uuid.uuid4().hex[:8]}")
    draft.mkdir(parents=True)
    _write(draft / "config.yaml", _description(agent, contract, counters or {}))
    _write(draft / "policy.safetensors", save(agent.policy_state()))
    _write(draft / "agent.safetensors", save(agent.state()))
    old = _old(folder)
    _keep_resting(folder, draft, agent, contract)
    _sync_folder(draft)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(draft, folder)
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    for left in folder.parent.glob(f"{folder.name}.new-*"):  # of a process killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    return folder


def _description(agent: Agent, contract: dict[str, Any], counters: Mapping[str, Any]) -> bytes:
    """What config.yaml says."""
    description = {
        "format": FORMAT,
        "algorithm": agent.name,
        "spec": agent.spec.to_dict(),
        "agent": {key: _plain(value) for key, value in dataclasses.asdict(agent.config).items()},
        "counters": dict(counters),
        "versions": {"hilrl_agents": _version(), "torch": str(torch.__version__)},
        "contract_hash": contract_hash(contract),
        "contract": contract,
    }
    if agent.warm is not None:
        description["freeze"] = list(agent.warm.frozen)
    return yaml.safe_dump(description, sort_keys=False).encode()


def _keep_resting(former: Path, new: Path, agent: Agent, contract: dict[str, Any]) -> None:
    """Writes what never changes: weights from a file, and the policy that the agent was warm-started from."""
    if agent.resting:
        _keep(former / ENCODER, new / ENCODER, lambda: save(dict(agent.resting)))
    prior = agent.prior
    if prior is not None:
        before, after = former / PRIOR, new / PRIOR
        after.mkdir()
        _keep(before / "config.yaml", after / "config.yaml", lambda: _description(prior, contract, {}))
        _keep(before / "policy.safetensors", after / "policy.safetensors", lambda: save(prior.policy_state()))
        _keep_resting(before, after, prior, contract)
        _sync_folder(after)


def _keep(former: Path, new: Path, data: Callable[[], bytes]) -> None:
    """Links a file of the former checkpoint, or writes it."""
    try:
        os.link(former, new)
    except OSError:  # there is none yet, or this file system has no links
        _write(new, data())


def has_checkpoint(folder: str | Path) -> bool:
    """Whether there is something that `read_checkpoint` would read, also after a kill between two renames."""
    return Path(folder).exists() or _old(Path(folder)).exists()


def read_checkpoint(folder: str | Path, contract: Mapping[str, Any] | None = None) -> Checkpoint:
    """Reads what a checkpoint says about itself, without its tensors.

    Args:
        folder: as given to `save_checkpoint`.
        contract: if given, the checkpoint must have been trained under the same one.

    Raises:
        CheckpointError: no checkpoint there, damaged, or another contract (names the first differing key).
    """
    folder = Path(folder)
    if not folder.exists() and _old(folder).exists():
        folder = _old(folder)
    path = folder / "config.yaml"
    if not path.is_file():
        raise CheckpointError(f"{folder} is no checkpoint: there is no config.yaml in it")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {found['format']}, but this version reads {FORMAT}")
        checkpoint = Checkpoint(
            folder=folder,
            algorithm=found["algorithm"],
            spec=PolicySpec.from_dict(found["spec"]),
            config=found["agent"],
            contract=found["contract"],
            counters=found["counters"],
            freeze=tuple(found.get("freeze", ())),
        )
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {' '.join(str(error).split())[:120]}") from None
    if contract is not None:
        check_contract(checkpoint.contract, contract, str(folder))
    return checkpoint


def load_checkpoint(
    folder: str | Path,
    contract: Mapping[str, Any] | None = None,
    policy_only: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Agent, Checkpoint]:
    """Makes the agent that a checkpoint holds.

    Args:
        folder: as given to `save_checkpoint`.
        contract: if given, the checkpoint must have been trained under the same one.
        policy_only: load what acting needs and leave critics and optimizers fresh.
        overrides: options that shall differ from the checkpoint's.

    Raises:
        CheckpointError: no checkpoint there, damaged, another contract, or tensors that do not fit.
    """
    checkpoint = read_checkpoint(folder, contract)
    try:
        config = checkpoint.config | dict(overrides or {})
        if (checkpoint.folder / ENCODER).exists():
            config["image_encoder"] = str(checkpoint.folder / ENCODER)
        prior = None
        if (checkpoint.folder / PRIOR).exists():
            prior = _only_acting(checkpoint.folder / PRIOR)
        agent = make_agent(checkpoint.algorithm, checkpoint.spec, config, 0, prior, checkpoint.freeze)
        path = checkpoint.folder / ("policy.safetensors" if policy_only else "agent.safetensors")
        (agent.load_policy if policy_only else agent.load_state)(_read_tensors(path))
    except (ConfigError, AgentStateError) as error:
        raise CheckpointError(f"{checkpoint.folder}: {error}") from None
    return agent, checkpoint


def load_prior(folder: str | Path, contract: Mapping[str, Any], policy_type: str = "") -> Agent:
    """Loads the policy that an agent shall be warm-started from; it only acts.

    Args:
        folder: a checkpoint, or a run's folder that has one.
        contract: it must have been trained under the same one.
        policy_type: algorithm that it must be of; empty: any.

    Raises:
        CheckpointError: no checkpoint there, damaged, under another contract, or of another algorithm.
    """
    folder = Path(folder)
    if has_checkpoint(folder / "checkpoint"):
        folder = folder / "checkpoint"
    if (folder / "config.json").is_file() and not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"{folder} is a LeRobot policy; make a checkpoint of it: hilrl bc --lerobot {folder}"
        )
    agent = _only_acting(folder, contract)
    if policy_type not in ("", agent.name):
        raise CheckpointError(f"{folder} holds a policy of '{agent.name}', expected '{policy_type}'")
    return agent


def _only_acting(folder: Path, contract: Mapping[str, Any] | None = None) -> Agent:
    agent, _ = load_checkpoint(folder, contract, policy_only=True)
    agent.optimizers.clear()  # as large as the weights, twice
    return agent


def start_agent(settings: Any, contract: Mapping[str, Any], seed: int = 0) -> Agent:
    """Makes the agent of a new run: with fresh weights, or warm-started.

    Args:
        settings: `algorithm`, `chunk_size` (None: the prior's, or 1), `options` and `warm_start` (None, or with
            `checkpoint`, `policy_type` and `freeze`), as `hilrl_ros.settings` reads them from config/agents. Sizes of
            networks that are taken over from a prior are the prior's, whatever the file says.
        contract: robot contract, plain YAML types.
        seed: of weights and learning.

    Raises:
        ConfigError: an option or the prior does not fit.
        CheckpointError: the prior cannot be used.
        ValueError: shapes of the contract do not fit.
    """
    prior, warm = None, settings.warm_start
    if warm is not None:
        prior = load_prior(warm.checkpoint, contract, warm.policy_type)
    chunk_size, options = own_settings(settings)
    horizon = chunk_size or (prior.spec.horizon if prior else 1)
    spec = observed_spec(settings.algorithm, PolicySpec.from_contract(contract, horizon))
    return make_agent(settings.algorithm, spec, options, seed, prior, warm.freeze if warm else ())


def check_contract(stored: Mapping[str, Any], current: Mapping[str, Any], where: str) -> None:
    """Compares two robot contracts.

    Raises:
        CheckpointError: they differ; names the first differing key and both values.
    """
    difference = _difference(stored, current)
    if difference:
        key, was, now = difference
        raise CheckpointError(
            f"{where} was trained under another contract: {key} was {was}, but here it is {now}"
        )


def pack_policy(state: Mapping[str, Tensor]) -> bytes:
    """Policy tensors as safetensors bytes; sha256 over them is the checksum that travels along."""
    return save({name: tensor.contiguous() for name, tensor in state.items()})


def unpack_policy(data: bytes, checksum_sha256: str) -> dict[str, Tensor]:
    """Inverse of `pack_policy`.

    Args:
        data: what `pack_policy` returned.
        checksum_sha256: hex digits of sha256 over `data`.

    Raises:
        CheckpointError: the checksum is wrong, or the bytes are no safetensors.
    """
    actual = hashlib.sha256(data).hexdigest()
    if actual != checksum_sha256:
        raise CheckpointError(
            f"policy weights are damaged: sha256 {actual[:12]}…, but {checksum_sha256[:12]}… was announced"
        )
    try:
        return load(bytes(data))
    except SafetensorError as error:
        raise CheckpointError(f"policy weights are no safetensors: {error}") from None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise _incomplete(path) from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def _incomplete(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is missing; the checkpoint is incomplete")


def _difference(stored: Any, current: Any, key: str = "") -> tuple[str, str, str] | None:
    """First differing key with both values as text, in a stable order; None if equal."""
    if isinstance(stored, Mapping) and isinstance(current, Mapping):
        for name in sorted({*stored, *current}, key=str):
            pair = (stored.get(name, "absent"), current.get(name, "absent"))
            found = _difference(*pair, f"{key}.{name}" if key else str(name))
            if found:
                return found
        return None
    if isinstance(stored, (list, tuple)) and isinstance(current, (list, tuple)):
        if len(stored) != len(current):
            return f"the length of {key}", str(len(stored)), str(len(current))
        found = (
            _difference(*pair, f"{key}[{index}]")
            for index, pair in enumerate(zip(stored, current, strict=True))
        )
        return next((difference for difference in found if difference), None)
    return None if stored == current else (key, repr(stored), repr(current))


def _old(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _version() -> str:
    try:
        return version("hilrl_agents")
    except PackageNotFoundError:
        return "not installed"


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
