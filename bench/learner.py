"""Speed of one learner update on this machine: `python bench/learner.py [--quick]`, last line JSON.

State: 20 numbers, 4 actions, batch 256, two critics and an actor of 256×256, UTD 1. Cameras: two of 128×128,
batch 64 and 256, with an encoder that the critic trains and with a frozen one whose features are cached;
`sample_shifted_ms` is a batch of images with DrQ's shift of all of them. Memory: what a replay buffer of 10 000
two-camera steps adds to the resident set. CPU milliseconds by process time; the best of several rounds, so that
other work on the machine counts little. If lerobot is importable, its SAC is measured in the same run, in turns
with ours.
"""

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

from hilrl_agents import Batch, PolicySpec, ReplayBuffer, make_agent, sample_mixed
from hilrl_agents.augmentation import augmented
from hilrl_agents.networks import fast_bf16
from hilrl_agents.tuning import tune_process

STATE = PolicySpec(state_dim=20, action_dim=4)
CAMERAS = PolicySpec(state_dim=20, action_dim=4, cameras={"front": (128, 128, 3), "wrist": (128, 128, 3)})
# One update from state: 16 products of 256³ (forward and backward of actor, critics and target), and 16 of
# 256 × 24 × 256 around them.
STATE_FLOP = 2 * (16 * 256**3 + 16 * 256 * 24 * 256)


def cpu_ms(work: dict[str, Callable[[], object]], seconds: float, rounds: int = 5) -> dict[str, float]:
    """CPU milliseconds per call of each piece of work, taken in turns; the best round of each."""
    best = dict.fromkeys(work, float("inf"))
    for call in work.values():
        for _ in range(3):
            call()
    for _ in range(rounds):
        for name, call in work.items():
            start, calls = time.process_time(), 0
            while (spent := time.process_time() - start) < seconds / rounds:
                call()
                calls += 1
            best[name] = min(best[name], spent / max(calls, 1) * 1e3)
    return best


def matmul_peak(dtype: torch.dtype, seconds: float) -> float:
    """GFLOP/s of a 1024³ matrix product."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    return 2 * 1024**3 / cpu_ms({"product": lambda: a @ b}, seconds)["product"] / 1e6


def filled(spec: PolicySpec, folder: str, episodes: int, length: int = 80) -> ReplayBuffer:
    """A buffer of random episodes."""
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(folder, spec, episodes * (length + 1))

    def observation() -> dict:
        images = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in spec.cameras.items()}
        return {"state": rng.normal(size=spec.state_dim).astype(np.float32), "images": images}

    for index in range(episodes * length):
        episode, step = divmod(index, length)
        end = step == length - 1
        action = rng.uniform(-1, 1, spec.action_dim)
        buffer.add(
            index, episode, step, observation(), action, 0.0, False, end, 0, 0, observation() if end else None
        )
    return buffer


def lerobot_update(spec: PolicySpec, batch_size: int) -> Callable[[], object]:
    """One optimisation step of lerobot's SAC, as its `rl/learner.py` does it at utd_ratio 1."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.sac.configuration_sac import SACConfig
    from lerobot.policies.sac.modeling_sac import SACPolicy

    features = {"observation.state": PolicyFeature(FeatureType.STATE, (spec.state_dim,))}
    for name, (height, width, channels) in spec.cameras.items():
        features[f"observation.images.{name}"] = PolicyFeature(FeatureType.VISUAL, (channels, height, width))
    config = SACConfig(
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (spec.action_dim,))},
        freeze_vision_encoder=False,  # ours trains its encoder too
        use_torch_compile=False,
        device="cpu",
    )
    policy = SACPolicy(config)
    policy.train()
    actor = [p for n, p in policy.actor.named_parameters() if not n.startswith("encoder")]
    parameters = {
        "critic": list(policy.critic_ensemble.parameters()),
        "actor": actor,
        "temperature": [policy.log_alpha],
    }
    optimizers = {name: torch.optim.Adam(values, lr=3e-4) for name, values in parameters.items()}

    def observation() -> dict[str, torch.Tensor]:
        return {name: torch.rand(batch_size, *feature.shape) for name, feature in features.items()}

    batch = {
        "action": torch.rand(batch_size, spec.action_dim),
        "reward": torch.zeros(batch_size),
        "state": observation(),
        "next_state": observation(),
        "done": torch.zeros(batch_size),
        "observation_feature": None,
        "next_observation_feature": None,
    }

    def update() -> None:
        for name, values in parameters.items():
            loss = policy.forward(batch, model=name)[f"loss_{name}"]
            optimizers[name].zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(values, 40.0)
            optimizers[name].step()
        policy.update_target_networks()

    return update


def shifted(batch: Batch, generator: torch.Generator) -> None:
    """DrQ's shift of all images of a batch, now and next."""
    for observation in (batch.observation, batch.next_observation):
        augmented(observation, 4, 0.0, generator)


def resident_mb() -> float:
    """Resident set of this process, MB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def replay_memory_mb(transitions: int = 10_000) -> float:
    """What a buffer with that many two-camera transitions adds to the resident set once all were sampled."""
    with tempfile.TemporaryDirectory() as folder:
        before = resident_mb()
        buffer = filled(CAMERAS, folder, transitions // 80)
        rng = np.random.default_rng(0)
        for _ in range(transitions // 50):
            buffer.sample(256, rng)
        after = resident_mb()
        buffer.close()
    return round(after - before, 1)


def measure(spec: PolicySpec, batch_size: int, seconds: float, with_lerobot: bool) -> dict[str, float]:
    """CPU ms of update and sampling, ours and (if asked) lerobot's update."""
    work: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        episodes = 5 if spec.cameras else 100
        online, offline = (filled(spec, f"{folder}/{name}", episodes) for name in ("online", "offline"))
        rng = np.random.default_rng(0)
        options = {"batch_size": batch_size, "image_colors": 0.0}
        for precision in ("float32", "bfloat16") if fast_bf16() else ("float32",):
            agent = make_agent("sac", spec, options | {"precision": precision})
            batch = sample_mixed(online, offline, agent.batch_size, rng)
            work[f"update_{precision}_ms"] = lambda agent=agent, batch=batch: agent.update(batch)
        work["sample_ms"] = lambda: sample_mixed(online, offline, batch_size, rng)
        if spec.cameras:
            frozen = make_agent("sac", spec, options | {"image_encoder": "imitation"})
            cached = sample_mixed(online, offline, batch_size, rng, features=frozen.features)
            work["cached_update_ms"] = lambda: frozen.update(cached)
            work["cached_sample_ms"] = lambda: sample_mixed(
                online, offline, batch_size, rng, features=frozen.features
            )
            work["sample_shifted_ms"] = lambda: shifted(
                sample_mixed(online, offline, batch_size, rng), agent.generator
            )
        if with_lerobot:
            work["lerobot_update_ms"] = lerobot_update(spec, batch_size)
        found = cpu_ms(work, seconds)
        online.close()
        offline.close()
    best = min(value for name, value in found.items() if name.startswith("update"))
    found["updates_per_s"] = 1e3 / (best + found["sample_ms"])
    if with_lerobot:
        found["times_lerobot"] = found["lerobot_update_ms"] / best
        if spec.cameras:
            found["cached_times_lerobot"] = found["lerobot_update_ms"] / found["cached_update_ms"]
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a second per figure instead of several")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--no-cameras", action="store_true", help="state only")
    arguments = parser.parse_args()
    seconds = 1.0 if arguments.quick else 6.0
    with_lerobot = importlib.util.find_spec("lerobot") is not None
    result: dict = {"threads": arguments.threads, "torch": torch.__version__}
    torch.set_num_threads(arguments.threads)
    as_it_is = cpu_ms({"lerobot": lerobot_update(STATE, 256)}, seconds)["lerobot"] if with_lerobot else None
    result["malloc_tuned"] = tune_process(arguments.threads)
    result["interop"] = torch.get_num_interop_threads()
    result["peak_gflops_float32"] = round(matmul_peak(torch.float32, seconds))
    result["peak_gflops_bfloat16"] = round(matmul_peak(torch.bfloat16, seconds))
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), malloc tuned: {result['malloc_tuned']}")
    print(f"matrix product peak: {result['peak_gflops_float32']} GFLOP/s float32, ", end="")
    print(f"{result['peak_gflops_bfloat16']} bfloat16")
    result["state"] = measure(STATE, 256, seconds, with_lerobot)
    for precision in ("float32", "bfloat16"):
        if f"update_{precision}_ms" in result["state"]:
            rate = STATE_FLOP / result["state"][f"update_{precision}_ms"] / 1e6
            share = rate / result[f"peak_gflops_{precision}"]
            result["state"][f"share_of_peak_{precision}"] = round(share, 3)
    if as_it_is:  # with malloc as lerobot leaves it; the other figure is under our settings
        best = min(value for name, value in result["state"].items() if name.startswith("update_"))
        result["state"]["lerobot_untuned_ms"] = round(as_it_is, 3)
        result["state"]["times_lerobot_untuned"] = round(as_it_is / best, 3)
    print("state, batch 256:", result["state"])
    if not arguments.no_cameras:
        for batch_size in (64, 256):
            found = result[f"cameras_{batch_size}"] = measure(CAMERAS, batch_size, seconds, with_lerobot)
            print(f"two cameras 128×128, batch {batch_size}:", found)
        result["replay_memory_mb"] = replay_memory_mb()
        print("replay of 10 000 steps of two cameras 128×128:", result["replay_memory_mb"], "MB resident")
    if not with_lerobot:
        print("lerobot is not installed: no comparison")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
