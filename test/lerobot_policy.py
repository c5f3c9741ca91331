"""Writes checkpoints as LeRobot does, made by hand, small, and without images."""

import json

from safetensors.torch import save_file

from hilrl_agents import PolicySpec, make_agent

SIZES = {"dim_model": 16, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "n_decoder_layers": 1}
MODES = {"STATE": "MEAN_STD", "ENV": "MIN_MAX", "ACTION": "MEAN_STD"}
FILES = {"policy_preprocessor": "normalizer_processor", "policy_postprocessor": "unnormalizer_processor"}


def act_config(state, action, environment=0, **changes):
    """`config.json` of an ACT policy."""
    inputs = {"observation.state": {"type": "STATE", "shape": [state]}}
    if environment:
        inputs["observation.environment_state"] = {"type": "ENV", "shape": [environment]}
    return {
        "type": "act", "n_obs_steps": 1, "chunk_size": 5, "n_action_steps": 3, **SIZES, "n_vae_encoder_layers": 1,
        "use_vae": True, "latent_dim": 4, "dropout": 0.1, "kl_weight": 10.0, "pre_norm": False,
        "temporal_ensemble_coeff": None, "optimizer_lr": 1e-5, "input_features": inputs,
        "output_features": {"action": {"type": "ACTION", "shape": [action]}},
    } | changes  # fmt: skip


def write_config(folder, config):
    """Write `config.json` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def write_act(folder, state, action, environment, numbers):
    """Write a whole folder; `numbers` are the statistics."""
    write_config(folder, act_config(state, action, environment))
    options = SIZES | {"n_vae_encoder_layers": 1, "latent_dim": 4, "environment_state": environment}
    weights = make_agent(
        "act", PolicySpec(state + environment, action, horizon=5), options
    ).policy.state_dict()
    save_file({f"model.{k}": v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    for file, name in FILES.items():
        step = {"registry_name": name, "config": {"norm_map": MODES}, "state_file": f"{file}.safetensors"}
        (folder / f"{file}.json").write_text(
            json.dumps({"steps": [{"registry_name": "to_batch_processor"}, step]})
        )
        save_file(numbers, folder / f"{file}.safetensors")
    return folder
