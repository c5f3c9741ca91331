"""Runs in lerobot's environment: writes small checkpoints of its policies, and their chunks for given observations."""

import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.factory import make_policy, make_pre_post_processors  # noqa: F401  registers the policies
from lerobot.policies.vqbet.configuration_vqbet import VQBeTConfig
from lerobot.policies.vqbet.modeling_vqbet import VQBeTPolicy

STATE, ENVIRONMENT, ACTION, FRONT, WRIST, CAMERA1 = (
    "observation.state",
    "observation.environment_state",
    "action",
    "observation.images.front",
    "observation.images.wrist",
    "observation.images.camera1",
)
RENAMED = {FRONT: CAMERA1}  # the recorded name, and the policy's (rename_map of lerobot-train)
SEED = 5
ACT = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 64, "n_encoder_layers": 2, "n_vae_encoder_layers": 1,
       "chunk_size": 6, "n_action_steps": 4, "latent_dim": 8, "pretrained_backbone_weights": None}  # fmt: skip
DIFFUSION = {"down_dims": (16, 32), "horizon": 8, "n_action_steps": 4, "diffusion_step_embed_dim": 16,
             "num_train_timesteps": 20}  # fmt: skip
VQBET = {"n_obs_steps": 3, "action_chunk_size": 3, "n_action_pred_token": 2, "crop_shape": (40, 48),
         "gpt_input_dim": 32, "gpt_output_dim": 32, "gpt_hidden_dim": 32, "gpt_n_layer": 1, "gpt_n_head": 2,
         "vqvae_n_embed": 8, "vqvae_embedding_dim": 16, "vqvae_enc_hidden_dim": 16}  # fmt: skip
TWO = (FRONT, WRIST)
KINDS = {
    "act": (ACTConfig, ACTPolicy, ACT, TWO),
    "act_no_vae": (ACTConfig, ACTPolicy, ACT | {"use_vae": False, "n_decoder_layers": 2}, TWO),
    "act_environment": (ACTConfig, ACTPolicy, ACT, ()),
    "vqbet": (VQBeTConfig, VQBeTPolicy, VQBET, (CAMERA1,)),
    "diffusion": (DiffusionConfig, DiffusionPolicy, DIFFUSION, TWO),
    "diffusion_ddim": (
        DiffusionConfig, DiffusionPolicy,
        DIFFUSION | {"noise_scheduler_type": "DDIM", "num_inference_steps": 5, "prediction_type": "sample",
                     "n_obs_steps": 1, "crop_shape": (40, 48), "use_film_scale_modulation": False,
                     "clip_sample_range": 2.0},
        TWO,
    ),
}  # fmt: skip


def features(cameras):
    """Six joints, and cameras or an environment state of three entries."""
    inputs = {STATE: PolicyFeature(FeatureType.STATE, (6,))}
    inputs |= {name: PolicyFeature(FeatureType.VISUAL, (3, 48, 64)) for name in cameras}
    if not cameras:
        inputs[ENVIRONMENT] = PolicyFeature(FeatureType.ENV, (3,))
    return inputs, {ACTION: PolicyFeature(FeatureType.ACTION, (6,))}


def statistics(shapes):
    """Made-up statistics of every kind."""
    made = {}
    for number, (name, feature) in enumerate(shapes.items()):
        size = (3, 1, 1) if feature.type == FeatureType.VISUAL else feature.shape
        base = torch.linspace(0.1, 0.4, size[0]).reshape(size) + 0.01 * number
        made[name] = {"mean": base, "std": 0.1 + base / 5, "min": base - 0.5, "max": base + 0.3}
    return made


def write(root):
    """One folder per kind: pretrained_model, and example.npz with observations and chunk."""
    for kind, (config_class, policy_class, settings, cameras) in KINDS.items():
        torch.manual_seed(len(kind))
        inputs, outputs = features(cameras)
        extra = {}
        if not cameras:
            extra["normalization_mapping"] = {
                "STATE": NormalizationMode.MIN_MAX, "ENV": NormalizationMode.MEAN_STD,
                "ACTION": NormalizationMode.MEAN_STD,
            }  # fmt: skip
        config = config_class(
            input_features=inputs,
            output_features=outputs,
            device="cpu",
            push_to_hub=False,
            **settings,
            **extra,
        )
        policy = policy_class(config)
        for name, value in policy.state_dict().items():  # an untrained normalisation would prove little
            if "running_" in name:
                value.copy_(torch.rand_like(value) + 0.5)
            elif "bn" in name or "norm" in name:
                value.add_(0.1 * torch.randn_like(value))
        policy.eval()
        folder = Path(root) / kind / "pretrained_model"
        policy.save_pretrained(folder)
        numbers = statistics({**inputs, **outputs})
        before, after = make_pre_post_processors(config, dataset_stats=numbers)
        if CAMERA1 in cameras:
            before.steps[0].rename_map = RENAMED
        before.save_pretrained(folder)
        after.save_pretrained(folder)
        example(policy, config, before, after, folder.parent / "example.npz")


def example(policy, config, before, after, path):
    """As many observations as the policy sees, and what it does there."""
    rng = np.random.default_rng(0)
    frames, kept = config.n_obs_steps, {}
    given = {to: name for name, to in RENAMED.items()}
    for name, feature in config.input_features.items():
        name = given.get(name, name)
        if feature.type == FeatureType.VISUAL:
            kept[name] = rng.integers(0, 256, (frames, 48, 64, 3), np.uint8)
        else:
            kept[name] = rng.uniform(-0.3, 0.6, (frames, *feature.shape)).astype(np.float32)
    steps = []
    for k in range(frames):
        images = {
            n: torch.from_numpy(v[k]).permute(2, 0, 1) / 255 for n, v in kept.items() if v.dtype == np.uint8
        }
        vectors = {n: torch.from_numpy(v[k]) for n, v in kept.items() if v.dtype != np.uint8}
        steps.append(before({**vectors, **images}))
    torch.manual_seed(SEED)
    with torch.no_grad():
        if config.type == "vqbet":
            chunk = rolled_out(policy, steps)
        elif config.type == "act":
            chunk = policy.predict_action_chunk(steps[-1])
        else:
            batch = {STATE: torch.stack([s[STATE] for s in steps], 1)}
            cameras = [torch.stack([s[name] for name in config.image_features], 1) for s in steps]
            batch["observation.images"] = torch.stack(cameras, 1)
            chunk = policy.diffusion.generate_actions(batch)
    np.savez(path, chunk=np.concatenate([after(action[None]).numpy() for action in chunk[0]]), **kept)


def rolled_out(policy, steps):
    """The chunk that VQ-BeT, acting as in an episode, plans when the last steps are the ones given."""
    length = policy.config.action_chunk_size
    assert len(steps) <= length
    policy.reset()
    for step in [*steps[-1:] * (length - len(steps) + 1), *steps[:-1]]:
        policy.select_action(step)
    torch.manual_seed(SEED)
    return torch.stack([policy.select_action(steps[-1]) for _ in range(length)], 1)


if __name__ == "__main__":
    write(sys.argv[1])
