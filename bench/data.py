"""Speed and memory of getting a LeRobotDataset into a replay buffer: `python bench/data.py --lerobot PYTHON`.

LeRobot itself records a dataset with two 128×128 cameras (AV1, its defaults); then, each in a process of its own,
`ReplayBuffer.from_lerobot_dataset` of LeRobot reads it, and this suite imports it into episode bags and loads these
into its replay buffer. CPU seconds say more than seconds where others use the machine too. PYTHON is that of an
environment with lerobot 0.4.4 (`make test-lerobot` makes one: .venv-lerobot/bin/python). Imports of Python modules
are not timed; memory is the process's peak, and what of it was added after those imports. With --flat N, this suite
alone imports N frames and reports its peak memory at a tenth of them and at the end. Last line JSON.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE, LENGTH = 128, 100


def picture(k: int, camera: int):
    """A moving picture with edges and texture, uint8 [SIZE, SIZE, 3]."""
    import numpy as np

    rows, columns = np.mgrid[:SIZE, :SIZE]
    checks = ((rows + 2 * k) // 16 + (columns + k * (camera + 1)) // 16) % 2 * 90
    return np.stack([checks + rows, checks + columns, 255 - checks - (rows + columns) // 4], 2).astype(
        np.uint8
    )


def record(root: Path, frames: int) -> None:
    """Let LeRobot record a dataset."""
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
    vector = {"dtype": "float32", "shape": (6,), "names": [f"{n}.pos" for n in names]}
    image = {"dtype": "video", "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.state": vector, "action": vector,
        "observation.images.front": image, "observation.images.wrist": image,
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    }  # fmt: skip
    made = LeRobotDataset.create("bench/data", 10, features, root=root, image_writer_threads=2)
    for k in range(frames):
        last = (k + 1) % LENGTH == 0
        joints = 0.3 * np.sin(0.05 * k + np.arange(6)) + 0.15
        made.add_frame(
            {
                "observation.state": joints.astype(np.float32), "action": (joints + 0.01).astype(np.float32),
                "observation.images.front": picture(k, 0), "observation.images.wrist": picture(k, 1),
                "next.reward": np.array([last], np.float32), "next.done": np.array([last]), "task": "bench",
            }
        )  # fmt: skip
        if last:
            made.save_episode()
    made.finalize()


def lerobot(root: Path, backend: str) -> dict:
    """Load with LeRobot."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.rl.buffer import ReplayBuffer

    keys = ["observation.state", "observation.images.front", "observation.images.wrist"]
    before, start = peak(), now()
    dataset = LeRobotDataset("bench/data", root=root, video_backend=backend)
    buffer = ReplayBuffer.from_lerobot_dataset(
        dataset, device="cpu", state_keys=keys, storage_device="cpu", optimize_memory=True, use_drq=False
    )
    return figures(len(buffer), start, before)


def ours(root: Path, out: Path, load: bool = True) -> dict:
    """Import into episode bags, and load these into the replay buffer."""
    import dataclasses

    from hilrl_agents import PolicySpec, ReplayBuffer
    from hilrl_data.bags import episode_folders, read_episode, read_info
    from hilrl_data.episodes import write_episodes
    from hilrl_data.lerobot_reader import LeRobotSource
    from hilrl_ros.contract import ActionSpace, Camera
    from hilrl_ros.contract_reader import load_contract
    from hilrl_ros.messages import observation_arrays

    contract, _ = load_contract("so101")
    contract = dataclasses.replace(
        contract, state=contract.state[:6], action=ActionSpace("joint_position", contract.joints, (1.0,) * 6),
        cameras={name: Camera(f"{name}/image_raw", (SIZE, SIZE)) for name in ("front", "wrist")},
    )  # fmt: skip
    before, start = peak(), now()
    source, marks = LeRobotSource(root, contract, "bench"), []
    write_episodes(out / "demos", source.episodes(), lambda step: None, lambda info: marks.append(peak()))
    found = {
        "import_s": round(now()[0] - start[0], 2),
        "import_cpu_s": round(now()[1] - start[1], 2),
        "import_peak_mb": peak(),
    }
    count = 0
    if load:
        import numpy as np

        total = LENGTH * len(marks)
        buffer = ReplayBuffer(out / "replay", PolicySpec.from_contract(contract.to_dict(), 1), 2 * total)
        for number, folder in enumerate(episode_folders(out / "demos")):
            for step in read_episode(folder, read_info(folder)):
                buffer.add(
                    count, number, step.observation.step, observation_arrays(step.observation, contract),
                    np.array(step.executed.action, np.float32), step.reward.reward, step.reward.terminated,
                    step.reward.truncated, 1, 0, observation_arrays(step.final, contract) if step.final else None,
                )  # fmt: skip
                count += 1
    else:
        count = LENGTH * len(marks)
        found["peak_mb_at_a_tenth"] = marks[len(marks) // 10]
    return figures(count, start, before) | found


def peak() -> float:
    """Peak memory of this process, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def now() -> tuple[float, float]:
    """Seconds, and CPU seconds of this process with all its threads."""
    return time.perf_counter(), time.process_time()


def figures(frames: int, start: tuple[float, float], before: float) -> dict:
    """What was measured."""
    seconds, cpu = (after - then for after, then in zip(now(), start, strict=True))
    return {
        "frames": frames, "seconds": round(seconds, 2), "cpu_s": round(cpu, 2),
        "frames_per_cpu_s": round(frames / cpu, 1),
        "peak_mb": peak(), "added_mb": round(peak() - before, 1),
    }  # fmt: skip


def part(python: str, *words: object) -> dict:
    """Run a part of this file in a process of its own; return the JSON of its last line."""
    # the workspace's modules are not those of LeRobot's environment
    own = {
        k: v
        for k, v in os.environ.items()
        if python == sys.executable or k not in ("PYTHONPATH", "LD_LIBRARY_PATH")
    }
    command = [python, __file__, *map(str, words)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=own | {"HF_HUB_OFFLINE": "1"}
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--lerobot", metavar="PYTHON", help="Python of an environment with lerobot 0.4.4")
    parser.add_argument("--backend", default="pyav", help="of LeRobot's video reading: pyav or torchcodec")
    parser.add_argument("--frames", type=int, default=1000, help="of the dataset")
    parser.add_argument("--flat", type=int, metavar="N", help="import N frames and compare the memory")
    arguments = parser.parse_args()
    if arguments.part:
        name, root, *rest = arguments.part
        calls = {
            "record": lambda: record(Path(root), int(rest[0])), "lerobot": lambda: lerobot(Path(root), rest[0]),
            "ours": lambda: ours(Path(root), Path(rest[0])),
            "flat": lambda: ours(Path(root), Path(rest[0]), load=False),
        }  # fmt: skip
        print(json.dumps(calls[name]()))
        return
    if not arguments.lerobot:
        parser.error("--lerobot is needed: make test-lerobot makes an environment")
    result = {}
    with tempfile.TemporaryDirectory(prefix="hilrl_bench_") as folder:
        root = Path(folder)
        part(arguments.lerobot, "record", root / "set", arguments.flat or arguments.frames)
        if arguments.flat:
            result = part(sys.executable, "flat", root / "set", root)
        else:
            for name in ("lerobot", "ours"):
                python, last = (
                    (arguments.lerobot, arguments.backend) if name == "lerobot" else (sys.executable, root)
                )
                result[name] = part(python, name, root / "set", last)
                print(name, result[name])
                shutil.rmtree(root / "replay", ignore_errors=True)
            for unit in ("seconds", "cpu_s"):
                result[f"times_faster_{unit}"] = round(result["lerobot"][unit] / result["ours"][unit], 1)
            for share, of in (("memory", "peak_mb"), ("added_memory", "added_mb")):
                result[f"share_of_{share}"] = round(result["ours"][of] / result["lerobot"][of], 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
