"""Runs in lerobot's environment: records a dataset, or writes what lerobot reads of one into an .npz file."""

import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def read(root, out):
    """All frames and the statistics."""
    dataset = LeRobotDataset("test/set", root=root, video_backend="pyav")
    frames = [dataset[k] for k in range(len(dataset))]
    found = {
        key: np.array([f[key] if key == "task" else f[key].numpy() for f in frames]) for key in frames[0]
    }
    for key in dataset.meta.camera_keys:
        found[key] = np.rint(found[key].transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    for key, numbers in dataset.meta.stats.items():
        found |= {f"stats/{key}/{name}": value for name, value in numbers.items()}
    np.savez(out, **found)


def buffer(root, out):
    """What lerobot's replay buffer makes of it."""
    from lerobot.rl.buffer import ReplayBuffer

    dataset = LeRobotDataset("test/set", root=root, video_backend="pyav")
    keys = ["observation.state", *dataset.meta.camera_keys]
    made = ReplayBuffer.from_lerobot_dataset(
        dataset, device="cpu", state_keys=keys, storage_device="cpu", use_drq=False
    )
    np.savez(out, reward=made.rewards.numpy(), done=made.dones.numpy())


def record(root):
    """Two episodes of six joints and one camera."""
    names = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
    joints = {"dtype": "float32", "shape": (6,), "names": [f"{name}.pos" for name in names]}
    features = {
        "observation.state": joints, "action": joints,
        "observation.images.front": {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    }  # fmt: skip
    made = LeRobotDataset.create("test/set", 10, features, root=root)
    rng, rows = np.random.default_rng(0), np.arange(64)
    for k in range(12):
        last = k % 6 == 5
        picture = np.stack(np.broadcast_arrays(3 * rows[:, None] + 4 * k, 3 * rows[None], 128), 2) % 256
        vector = rng.uniform(-0.1, 0.5, 6).astype(np.float32)
        made.add_frame(
            {
                "observation.state": vector, "action": vector, "observation.images.front": picture.astype(np.uint8),
                "next.reward": np.array([last], np.float32), "next.done": np.array([last]), "task": "test",
            }
        )  # fmt: skip
        if last:
            made.save_episode()
    made.finalize()


if __name__ == "__main__":
    {"read": read, "buffer": buffer, "record": record}[sys.argv[1]](*map(Path, sys.argv[2:]))
