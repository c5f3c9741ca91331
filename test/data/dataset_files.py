"""What the tests of datasets share: a small contract with cameras, and episodes made by hand."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
from hilrl_msgs.msg import Action
from loop_messages import CONTRACT as STATE_ONLY
from loop_messages import TASK, episode_messages
from pyarrow import parquet

from hilrl_data.bags import EpisodeInfo, write_steps
from hilrl_data.video import VideoWriter
from hilrl_ros.contract import ActionSpace, Camera, StateEntry
from hilrl_ros.images import from_rgb
from hilrl_ros.messages import Joiner, floats

TRUTH = StateEntry("truth_z", "cube/pose", "pose.position.z", "m", type="geometry_msgs/msg/PoseStamped")
CONTRACT = dataclasses.replace(
    STATE_ONLY,
    cameras={
        "front": Camera("front/image_raw", (16, 16)),
        "wrist": Camera("wrist/image_raw", (15, 17), crop=(0, 0, 400, 300)),  # odd sizes too
    },
    privileged=(TRUTH,),
)
# what fits a dataset of joints
JOINT_CONTRACT = dataclasses.replace(
    CONTRACT,
    state=tuple(e for e in CONTRACT.state if not e.topic.startswith("cube")),
    privileged=(),
    cameras={"front": Camera("front/image_raw", (16, 16))},
    action=ActionSpace("joint_position", CONTRACT.joints, (1.0,) * 6),
)
NS = 1_700_000_000_123_456_789  # a clock's time, as on a real arm


def picture(camera, k, size):
    """A smooth picture, as of a camera: gradients that move with the step."""
    rows, columns = np.mgrid[: size[0], : size[1]] / max(size)
    channels = [rows, columns, (rows + columns) / 2]
    return np.stack([(60 + 120 * c + 3 * k + 5 * len(camera)) % 256 for c in channels], 2).astype(np.uint8)


def steps(episode, count, end="terminated", contract=CONTRACT, person=lambda k: True, lost=()):
    """The steps of one episode with random numbers; those in `lost` are missing."""
    rng = np.random.default_rng(episode)
    messages = episode_messages(episode, count, end, NS + episode * 60 * 10**9)  # a minute each
    for k, observation in enumerate(messages["observation"]):
        observation.state = floats(rng.normal(0, 1, len(contract.state)).astype(np.float32).tobytes())
        observation.privileged = floats(
            rng.normal(0, 1, len(contract.privileged)).astype(np.float32).tobytes()
        )
        for name, camera in contract.cameras.items():
            frames = [picture(name, max(k - back, 0), camera.size) for back in reversed(range(camera.stack))]
            observation.images.append(from_rgb(np.concatenate(frames)))
    for k, (action, reward) in enumerate(zip(messages["executed_action"], messages["reward"], strict=True)):
        action.action = floats(rng.uniform(-1, 1, len(contract.action.names)).astype(np.float32).tobytes())
        action.controller = reward.controller = Action.PERSON if person(k) else Action.POLICY
        reward.reward = float(np.float32(rng.normal()))
    joiner = Joiner()
    for k, observation in enumerate(messages["observation"]):
        yield from joiner.add(observation)
        if k < count and k not in lost:
            yield from joiner.add(messages["executed_action"][k])
            yield from joiner.add(messages["reward"][k])
    yield from joiner.add(messages["observation"][-1])


def record(folder, *episodes, contract=CONTRACT, **options):
    """Episode bags in a folder; each episode is (steps, end)."""
    for number, (count, end) in enumerate(episodes, 1):
        info = EpisodeInfo(number, 7 * number, TASK.name, f"{TASK.text} {number}", contract.hash(), False, 0)
        of_episode = steps(number, count, end, contract, **options)
        write_steps(folder / f"episode_{number:06d}", info, of_episode)
    return folder


JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


def foreign(
    root, lengths=(4, 3), version="v3.0", fps=10, cameras=("front", "wrist"), size=(16, 16), columns=None
):
    """A LeRobotDataset as somebody else's arm records it: joints with `.pos`, no rewards; returns its columns.

    Videos of version v3.0 are joined, those of v2.1 are one file an episode.
    """
    total = sum(lengths)
    rng = np.random.default_rng(0)
    if columns is None:
        joints = rng.uniform(-0.15, 0.5, (total, 6)).astype(np.float32)
        columns = {"observation.state": joints, "action": joints + np.float32(0.01)}
    names = [f"{joint}.pos" for joint in JOINTS]
    episodes = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(n) for n in lengths])
    index = {"timestamp": (frame / fps).astype(np.float32), "frame_index": frame, "episode_index": episodes}
    index |= {"index": np.arange(total), "task_index": episodes % 2}
    features = {}
    for name, values in columns.items():
        named = names if values.ndim == 2 and values.shape[1] == 6 else None
        shape = [1] if values.ndim == 1 else [values.shape[1]]
        features[name] = {"dtype": str(values.dtype), "shape": shape, "names": named}
    for name, values in index.items():
        features[name] = {"dtype": str(values.dtype), "shape": [1], "names": None}
    for name in cameras:
        features[f"observation.images.{name}"] = {"dtype": "video", "shape": [*size, 3], "names": None}
    table = pa.table({n: list(v) if v.ndim == 2 else v for n, v in (columns | index).items()})
    v3 = version == "v3.0"
    data = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    video = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    if not v3:
        data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    info = {
        "codebase_version": version,
        "fps": fps,
        "features": features,
        "data_path": data,
        "video_path": video,
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    starts = np.cumsum([0, *lengths])
    tasks = ["pick it", "put it"]
    about = [{"episode_index": e, "tasks": [tasks[e % 2]], "length": n} for e, n in enumerate(lengths)]
    for name in cameras:
        writer = None
        for episode, start in enumerate(starts[:-1]):
            numbers = {"video_key": f"observation.images.{name}", "chunk_index": 0, "file_index": 0}
            path = root / video.format(**numbers, episode_chunk=0, episode_index=episode)
            if writer is None or not v3:
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = VideoWriter(path, fps, "lossless")
            for k in range(start, starts[episode + 1]):
                writer.add(picture(name, k, size))
            key = f"videos/observation.images.{name}"
            about[episode] |= {
                f"{key}/chunk_index": 0,
                f"{key}/file_index": 0,
                f"{key}/from_timestamp": start / fps,
            }
            if not v3 or episode == len(lengths) - 1:
                writer.close()
    if v3:
        for episode in about:
            episode |= {"data/chunk_index": 0, "data/file_index": 0}
        write_table(pa.Table.from_pylist(about), root / "meta/episodes/chunk-000/file-000.parquet")
        write_table(pa.table({"task_index": [0, 1], "task": tasks}), root / "meta/tasks.parquet")
        write_table(table, root / "data/chunk-000/file-000.parquet")
    else:
        (root / "meta/episodes.jsonl").write_text("".join(json.dumps(e) + "\n" for e in about))
        rows = [{"task_index": i, "task": text} for i, text in enumerate(tasks)]
        (root / "meta/tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for episode, start in enumerate(starts[:-1]):
            path = root / data.format(episode_chunk=0, episode_index=episode)
            write_table(table.slice(start, lengths[episode]), path)
    return columns


def write_table(table, path):
    """A parquet file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
