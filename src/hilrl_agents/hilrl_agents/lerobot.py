"""Checkpoints of LeRobot, as 0.4 writes them, as agents of the suite.

A folder holds `config.json`, `model.safetensors`, and `policy_preprocessor.json` and `policy_postprocessor.json` with
the files of their steps, where the normalisation statistics are.

For ACT and diffusion lerobot is not needed. The networks are the suite's own, their modules have LeRobot's names: what
is left to do is to read sizes, to turn statistics into the suite's units, and to refuse what would not act the same.
Any other policy is run by lerobot (`lerobot_process.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from hilrl_agents.agent import Agent
from hilrl_agents.config import ConfigError
from hilrl_agents.imitation import Imitation
from hilrl_agents.lerobot_process import LeRobot, digest
from hilrl_agents.registry import make_agent
from hilrl_agents.spec import PolicySpec

STATE, ENVIRONMENT, IMAGES, ACTION = (
    "observation.state", "observation.environment_state", "observation.images.", "action",
)  # fmt: skip
# what each normalisation mode is made of: a middle and a width, or two ends that become ±1
_ENDS = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
# options that the suite's policies have under the same name
_SAME = {
    "act": (
        "dim_model", "n_heads", "dim_feedforward", "n_encoder_layers", "n_decoder_layers", "latent_dim", "kl_weight",
        "dropout",
    ),
    "diffusion": (
        "down_dims", "kernel_size", "n_groups", "diffusion_step_embed_dim", "use_film_scale_modulation",
        "num_train_timesteps", "noise_scheduler_type", "prediction_type", "clip_sample_range",
    ),
}  # fmt: skip
# settings whose other values the suite does not act on
_ONLY: dict[str, dict[str, Any]] = {
    "act": {
        "n_obs_steps": 1, "pre_norm": False, "feedforward_activation": "relu",
        "replace_final_stride_with_dilation": False,
    },
    "diffusion": {
        "use_separate_rgb_encoder_per_camera": False, "resize_shape": None, "spatial_softmax_num_keypoints": 32,
        "beta_schedule": "squaredcos_cap_v2", "clip_sample": True,
    },
}  # fmt: skip
_EMPTY = "observation.images.empty_camera_"  # stands for a camera that is not there; lerobot fills it in
_BACKBONES = ("model.backbone.", "diffusion.rgb_encoder.backbone.")
_EPSILON = 1e-8  # on LeRobot's widths
_ALIKE = 1e-9  # a temporal_ensemble_coeff that is as good as 0
_STILL = 1e-6  # width of an action that never changed, of [-1, 1]: learning divides by it


class LeRobotError(ValueError):
    """A checkpoint that cannot become an agent; the message is one sentence for the user."""


@dataclass(frozen=True)
class LeRobotPolicy:
    """What a checkpoint says about itself.

    Attributes:
        folder: where it lies.
        kind: `act` or `diffusion`; `lerobot` where lerobot runs it, whatever it is.
        config: its `config.json`.
        state: entries of `observation.state`.
        environment: entries of `observation.environment_state`, 0 if there is none.
        action: entries of an action.
        cameras: (height, width) that the policy was trained with, by the camera's name.
        crops: x, y, width, height of what it sees of them, where it crops.
        frames: newest observations that it sees at once.
        chunk_size: actions of a chunk, from the current step on; 1 where lerobot runs it, which then is asked.
        statistics: mean or middle, and width, of its features, in LeRobot's units; where lerobot runs it, of state and
            action, as far as they are known.
    """

    folder: Path
    kind: str
    config: dict[str, Any]
    state: int
    environment: int
    action: int
    cameras: dict[str, tuple[int, int]]
    crops: dict[str, tuple[int, int, int, int]]
    frames: int
    chunk_size: int
    statistics: dict[str, tuple[Tensor, Tensor]]

    def spec(self) -> PolicySpec:
        """Shapes of its observations, as many newest ones as it sees, and of its actions."""
        sizes = self.cameras | {name: (height, width) for name, (_, _, width, height) in self.crops.items()}
        cameras = {name: (*size, 3 * self.frames) for name, size in sizes.items()}
        return PolicySpec(self.frames * self.state + self.environment, self.action, cameras, self.chunk_size)


@dataclass(frozen=True)
class Units:
    """The suite's numbers from LeRobot's: value · scale + offset, per entry; nothing changes by default.

    Attributes:
        scale: [N] or a number.
        offset: [N] or a number.
    """

    scale: Any = 1.0
    offset: Any = 0.0

    def __call__(self, mean: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and width of a normalisation in the suite's units."""
        scale, offset = (torch.from_numpy(np.asarray(v, np.float64)) for v in (self.scale, self.offset))
        return mean.double() * scale + offset, width.double() * scale


def read_lerobot_policy(folder: str | Path, native: bool = True) -> LeRobotPolicy:
    """Reads what a checkpoint of LeRobot says about itself, without its weights.

    Args:
        folder: `checkpoints/<step>/pretrained_model`.
        native: read what the suite has networks for into these; False: lerobot runs every policy.

    Raises:
        LeRobotError: no such checkpoint, damaged, or a setting that the suite does not act on.
    """
    folder = Path(folder)
    config = _json(folder / "config.json")
    kind = config.get("type")
    where = f"{folder}/config.json"
    if not isinstance(kind, str):
        raise LeRobotError(f"{where}: its type is {kind!r}, expected the name of a policy")
    if not native or kind not in _SAME:
        kind = LeRobot.name
    for key, expected in _ONLY.get(kind, {}).items():
        if config.get(key, expected) != expected:
            raise LeRobotError(
                f"{where}: {key} is {config[key]!r}, expected {expected!r}; with --by-lerobot lerobot itself runs it"
            )
    try:
        policy = _policy(folder, kind, config, where)
        if kind != LeRobot.name:
            _options(policy)  # nothing is missing there either
        return policy
    except KeyError as error:
        raise LeRobotError(f"{where}: lacks {error}, which LeRobot 0.4 writes") from None


def _policy(folder: Path, kind: str, config: dict[str, Any], where: str) -> LeRobotPolicy:
    native = kind != LeRobot.name
    inputs, outputs = config["input_features"], config["output_features"]
    known = {name: of["shape"] for name, of in inputs.items()}
    if not native:
        given = _given_names(folder)
        known = {given.get(n, n): shape for n, shape in known.items() if not n.startswith(_EMPTY)}
    cameras = {n.removeprefix(IMAGES): s for n, s in known.items() if n.startswith(IMAGES)}
    vectors = (STATE, ENVIRONMENT) if native else (STATE,)
    unknown = [n for n in known if n not in vectors and not n.startswith(IMAGES)]
    wrong = [n for n, shape in cameras.items() if len(shape) != 3 or shape[0] != 3]
    if STATE not in known or unknown or wrong:
        raise LeRobotError(
            f"{where}: its inputs are {', '.join(f'{n} {s}' for n, s in known.items())}; expected {STATE}, "
            f"{IMAGES}<name> of shape [3, height, width]{f', {ENVIRONMENT}' if kind == 'act' else ''}"
        )
    if kind == "diffusion" and (ENVIRONMENT in known or not cameras):
        raise LeRobotError(
            f"{where}: expected cameras and no {ENVIRONMENT}, a diffusion policy has them here"
        )
    if list(outputs) != [ACTION]:
        raise LeRobotError(f"{where}: its outputs are {', '.join(outputs)}; expected {ACTION}")
    frames = config["n_obs_steps"]
    features = {**inputs, **outputs}
    if native:
        chunk_size = config["chunk_size"] if kind == "act" else config["horizon"] - frames + 1
    else:
        chunk_size, features = 1, {name: features[name] for name in (STATE, ACTION)}
    crop = config.get("crop_shape") if kind == "diffusion" else None
    return LeRobotPolicy(
        folder=folder,
        kind=kind,
        config=config,
        state=known[STATE][0],
        environment=known.get(ENVIRONMENT, [0])[0],
        action=outputs[ACTION]["shape"][0],
        cameras={name: (shape[1], shape[2]) for name, shape in cameras.items()},
        crops={name: _middle(shape[1:], crop) for name, shape in cameras.items()} if crop else {},
        frames=frames,
        chunk_size=chunk_size,
        statistics=_statistics(folder, features, native),
    )


def lerobot_agent(
    policy: LeRobotPolicy,
    state: Units | None = None,
    action: Units | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Agent:
    """Makes the agent that a checkpoint of LeRobot holds: the same chunk for the same observation.

    What a policy draws from a seed is what LeRobot draws after `torch.manual_seed`.

    Args:
        policy: what `read_lerobot_policy` returned.
        state: of one observation's state, environment state included: LeRobot's units to the suite's.
        action: LeRobot's units to [-1, 1]; beyond it chunks are clipped.
        overrides: options that shall differ from the checkpoint's; where lerobot runs it, `task` too.

    Raises:
        LeRobotError: the weights do not fit the config, or an override does not fit.
        LeRobotProcessError: lerobot does not run it.
    """
    if policy.kind == LeRobot.name:
        return _asked(policy, state or Units(), action or Units(), dict(overrides or {}))
    path = policy.folder / "model.safetensors"
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise LeRobotError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]})") from None
    try:
        agent = make_agent(policy.kind, policy.spec(), _options(policy) | dict(overrides or {}))
    except ConfigError as error:
        raise LeRobotError(f"{policy.folder}: {error}") from None
    with torch.no_grad():
        _load(agent, policy, tensors, path)
        _normalise(agent, policy, state or Units(), action or Units())
    return agent


def _average(config: Mapping[str, Any]) -> float:
    """The suite's temporal_ensemble_coeff: null is no average in LeRobot, 0 weighs all plans alike."""
    coefficient = config.get("temporal_ensemble_coeff")
    return 0.0 if coefficient is None else coefficient or _ALIKE


def _asked(policy: LeRobotPolicy, state: Units, action: Units, overrides: dict[str, Any]) -> LeRobot:
    """The agent of a policy that lerobot runs, after a look at whether it does and at how long its chunks are."""
    folder, spec = policy.folder.resolve(), policy.spec()
    options = {"folder": str(folder), "digest": digest(folder), "frames": policy.frames} | overrides
    average = _average(policy.config)
    images = {name: np.zeros(shape, np.uint8) for name, shape in spec.cameras.items()}
    try:
        trial = make_agent(policy.kind, spec, options | {"n_action_steps": 1})
        length = len(trial.plan({"state": np.zeros(spec.state_dim, np.float32), "images": images}, 0))
        trial.let_go()
        steps = min(policy.config.get("n_action_steps") or length, length)
        execution = {"n_action_steps": steps, "temporal_ensemble_coeff": average}
        agent = make_agent(policy.kind, replace(spec, horizon=length), execution | options)
    except ConfigError as error:
        raise LeRobotError(f"{policy.folder}: {error}") from None
    for name, units in (("state", state), ("action", action)):
        for part, value in (("scale", units.scale), ("offset", units.offset)):
            getattr(agent.units, f"{name}_{part}").copy_(torch.as_tensor(value))
    _normalise(agent, policy, state, action)
    return agent


def _options(policy: LeRobotPolicy) -> dict[str, Any]:
    """The agent's options."""
    config, kind = policy.config, policy.kind
    options = {key: config[key] for key in _SAME[kind] if key in config}
    options |= {"n_action_steps": config["n_action_steps"], "learning_rate": config.get("optimizer_lr", 1e-4)}
    if policy.cameras:
        options["image_encoder"] = str(policy.folder / "model.safetensors")
    if kind == "act":
        options["temporal_ensemble_coeff"] = _average(config)
        options["n_vae_encoder_layers"] = config["n_vae_encoder_layers"] if config["use_vae"] else 0
        options["environment_state"] = policy.environment
    else:
        options["num_inference_steps"] = config.get("num_inference_steps") or config["num_train_timesteps"]
        options["past_actions"] = policy.frames - 1
    return options


def _load(agent: Imitation, policy: LeRobotPolicy, tensors: dict[str, Tensor], path: Path) -> None:
    """Copies the weights into the agent's modules of the same names."""
    prefixes: dict[str, nn.Module] = {"model.": agent.policy}
    if policy.kind == "diffusion":
        prefixes = {"diffusion.unet.": agent.policy, "diffusion.rgb_encoder.": agent.encoder.images}
    own = {
        prefix + name: tensor
        for prefix, module in prefixes.items()
        for name, tensor in module.state_dict().items()
        if name not in ("mean", "std", "fingerprint")
    }
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(_BACKBONES)}
    for name in sorted({*own, *given}):
        shapes = [tuple(t[name].shape) if name in t else "absent" for t in (given, own)]
        if shapes[0] != shapes[1]:
            raise LeRobotError(f"{path}: {name} is {shapes[0]}, expected {shapes[1]} by its config.json")
        own[name].copy_(given[name])


def _normalise(agent: Imitation | LeRobot, policy: LeRobotPolicy, state: Units, action: Units) -> None:
    """Sets the agent's normalisation to the checkpoint's statistics, in the suite's units, as far as they are known."""
    parts = [policy.statistics[name] for name in (STATE, ENVIRONMENT) if name in policy.statistics]
    if parts:
        mean, width = state(*(torch.cat(values) for values in zip(*parts, strict=True)))
        agent.encoder.normalizer.mean.copy_(mean.repeat(policy.frames))
        agent.encoder.normalizer.std.copy_(width.repeat(policy.frames) + _EPSILON)
    if ACTION in policy.statistics:
        mean, width = action(*policy.statistics[ACTION])
        agent.actions.mean.copy_(mean)
        agent.actions.std.copy_(torch.where(width == 0, _STILL, width))
    for index, name in enumerate(policy.cameras):
        if IMAGES + name in policy.statistics:
            mean, width = policy.statistics[IMAGES + name]
            agent.encoder.images.mean[index].copy_(mean.flatten())
            agent.encoder.images.std[index].copy_(width.flatten())


def _statistics(
    folder: Path, features: dict[str, dict[str, Any]], whole: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    """Middle and width of each feature's normalisation; not `whole`: of those that are known."""
    inputs, modes = _step(folder, "policy_preprocessor.json", "normalizer_processor", whole)
    outputs, output_modes = _step(folder, "policy_postprocessor.json", "unnormalizer_processor", whole)
    found = {}
    for name, of in features.items():
        numbers, mode = (
            (outputs, output_modes.get(of["type"], "IDENTITY"))
            if name == ACTION
            else (inputs, modes.get(of["type"], "IDENTITY"))
        )
        size = of["shape"][0]
        if mode == "IDENTITY" or not any(key.startswith(f"{name}.") for key in numbers):
            if whole:
                found[name] = torch.zeros(size), torch.ones(size)
            continue
        if mode not in ("MEAN_STD", *_ENDS):
            raise LeRobotError(
                f"{folder}: {name} is normalised by {mode}, expected MEAN_STD, {', '.join(_ENDS)}"
            )
        first, second = (
            _number(folder, numbers, f"{name}.{key}", size) for key in _ENDS.get(mode, ("mean", "std"))
        )
        if mode in _ENDS:
            first, second = (first + second) / 2, (second - first) / 2
            if name != ACTION:  # what never moved is -1 for LeRobot, and stays near it here
                still = second == 0
                first, second = torch.where(still, first + 1, first), torch.where(still, 1.0, second)
        found[name] = first, second
    return found


def _number(folder: Path, numbers: dict[str, Tensor], key: str, size: int) -> Tensor:
    if key not in numbers or numbers[key].numel() != size:
        shape = tuple(numbers[key].shape) if key in numbers else "absent"
        raise LeRobotError(f"{folder}: statistics {key} are {shape}, expected {size} numbers")
    return numbers[key].float().flatten()


def _steps(folder: Path, file: str, name: str) -> list[dict[str, Any]]:
    """Processor steps of a name."""
    if not (folder / file).is_file():
        raise LeRobotError(
            f"{folder}: has no {file}, where the normalisation statistics are since LeRobot 0.4; convert an older "
            "checkpoint with its lerobot/processor/migrate_policy_normalization.py"
        )
    return [step for step in _json(folder / file).get("steps", []) if step.get("registry_name") == name]


def _given_names(folder: Path) -> dict[str, str]:
    """What the policy is given its inputs as, by the names that it knows them by (lerobot-train's rename_map)."""
    steps = _steps(folder, "policy_preprocessor.json", "rename_observations_processor")
    return {to: name for step in steps for name, to in step["config"].get("rename_map", {}).items()}


def _step(folder: Path, file: str, name: str, needed: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Statistics and normalisation modes of one processor step."""
    steps = _steps(folder, file, name)
    if not needed and not any("state_file" in step for step in steps):
        return {}, {}
    if len(steps) != 1:
        raise LeRobotError(f"{folder}/{file}: has {len(steps)} steps {name}, expected one")
    path = folder / steps[0].get("state_file", "")
    try:
        numbers = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise LeRobotError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]})") from None
    return numbers, steps[0]["config"]["norm_map"]


def _middle(size: list[int], crop: list[int]) -> tuple[int, int, int, int]:
    """x, y, width, height of the middle of an image, as torchvision's CenterCrop takes it."""
    top, left = (round((whole - part) / 2) for whole, part in zip(size, crop, strict=True))
    return left, top, crop[1], crop[0]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LeRobotError(
            f"{path}: {error.strerror}; expected a pretrained_model folder of LeRobot"
        ) from None
    except ValueError as error:
        raise LeRobotError(f"{path}: is damaged: {error}") from None
    if not isinstance(found, dict):
        raise LeRobotError(f"{path}: holds no mapping of settings")
    return found
