"""Writes checkpoints as LeRobot does, made by hand, small, and without images."""

import json
import sys

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


def write_python(path):
    """Write what stands in for a Python that has lerobot: it is started as one, and plans as `task` says.

    A chunk is five times half of the newest state's first entries, as many as an action's, and thousandths of the
    seed's last three digits.
    """
    path.write_text(f"#!{sys.executable}\n{FAKE}")
    path.chmod(0o755)
    return path


def write_other(folder, state, action, numbers, **changes):
    """Write the folder of a policy that the suite has no network for."""
    write_act(folder, state, action, 0, numbers)
    config = act_config(state, action, type="smolvla", n_action_steps=3, **changes)
    (folder / "model.safetensors").write_bytes(b"whatever it is")
    write_config(folder, config)
    return folder


FAKE = """
import json, socket, sys, time
from pathlib import Path
import numpy as np
from safetensors.numpy import load, save

_, child, folder, task = sys.argv
size = json.loads(Path(folder, "config.json").read_text())["output_features"]["action"]["shape"][0]
stream = socket.socket(fileno=0).makefile("rwb")

def answer(arrays):
    data = save(arrays)
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()

if task == "lacks lerobot":
    sys.exit("Traceback …\\nModuleNotFoundError: No module named 'lerobot'\\n")
answer({})
while head := stream.read(8):
    asked = load(stream.read(int.from_bytes(head, "little")))
    np.savez(Path(folder, "asked.npz"), **asked)
    if task == "dies" and asked["seed"][0]:
        sys.exit("Out of memory")
    if task == "is silent" and asked["seed"][0]:
        time.sleep(600)
    if task == "fails":
        answer({"error": np.frombuffer(b"KeyError: 'observation.language\\n tokens'", np.uint8)})
    chunk = np.tile(asked["observation.state"][-1, :size] / 2, (5, 1)) + asked["seed"][0] % 1000 / 1000
    answer({"chunk": chunk.astype(np.float32)})
Path(folder, "ended").touch()
"""
