"""Writes episodes as a LeRobotDataset v3.0, one at a time."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import yaml
from hilrl_msgs.msg import Action, Observation

from hilrl_data.bags import EpisodeInfo
from hilrl_data.episodes import Recorded, begin_partial, end_partial
from hilrl_data.lerobot_layout import (
    CONTRACT,
    DONE,
    EPISODES,
    INFO,
    PERSON,
    PRIVILEGED,
    REWARD,
    SUCCESS,
    TERMINATED,
    TRUNCATED,
)
from hilrl_data.mapping import ACTION, IMAGES, STATE
from hilrl_data.statistics import PixelStatistics, vector_statistics
from hilrl_data.video import VideoWriter
from hilrl_ros.contract import Contract
from hilrl_ros.images import to_rgb
from hilrl_ros.messages import Step, nanoseconds

_CHUNK = 1000  # files of a folder
_DATA_MB, _VIDEO_MB = 100, 200  # a file that has reached this size is followed by another one
_VIDEO_S = 900.0  # the same for its length: LeRobot's float32 times are exact to 1e-4 s only below 1024 s
_TYPES = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}


@dataclass
class _Video:
    """The open file of one camera."""

    index: int = -1
    writer: VideoWriter | None = None
    start: float = 0.0


@dataclass
class LeRobotWriter:
    """Writes a LeRobotDataset into a folder.

    Args:
        root: The folder; exists and is empty.
        contract: Of the episodes.
        lossless: Whether videos keep every bit (larger files).
    """

    root: Path
    contract: Contract
    lossless: bool = False
    tasks: dict[str, int] = field(default_factory=dict)
    count: int = 0
    frames: int = 0

    def __post_init__(self):
        self.features = _features(self.contract)
        self.columns = {name: f for name, f in self.features.items() if f["dtype"] != "video"}
        self.schema = pa.schema([(name, _arrow_type(f)) for name, f in self.columns.items()])
        self.videos = {name: _Video() for name in self.contract.cameras}
        self.pixels = {name: PixelStatistics() for name in self.contract.cameras}
        self.data: parquet.ParquetWriter | None = None
        self.data_index = -1
        self.about: parquet.ParquetWriter | None = None
        self.kept: parquet.ParquetWriter | None = None

    def add(self, episode: Recorded, seen: Callable[[Step], None]) -> EpisodeInfo:
        """Append an episode; one without steps is left out.

        Returns:
            What is known of it, now that its steps are read.
        """
        pixels = {name: PixelStatistics() for name in self.contract.cameras}
        rows: dict[str, list[Any]] = {name: [] for name in self.columns}
        steps, start_ns, last = [], 0, None
        for step in episode.steps:
            if not steps:
                self._begin_videos()
                start_ns = (
                    nanoseconds(step.observation.header.stamp) - step.observation.step * self._period_ns
                )
            self._add_row(rows, len(steps), episode.info.text, step)
            self._add_images(step.observation, pixels)
            steps.append(step.observation.step)
            seen(step)
            last = step
        info = replace(episode.info, steps=len(steps), success=last is not None and last.reward.success)
        if last is None:
            return info
        self._write_rows(rows, pixels, info)
        self._keep(info, steps, start_ns, last.final)
        for name, counts in pixels.items():
            self.pixels[name].merge(counts)
        self.count, self.frames = self.count + 1, self.frames + len(steps)
        return info

    def finish(self) -> None:
        """Write what is known of all episodes, and close every file."""
        self.close()
        features = self._with_video_info()
        info = {
            "codebase_version": "v3.0", "robot_type": self.contract.robot, "total_episodes": self.count,
            "total_frames": self.frames, "total_tasks": len(self.tasks), "chunks_size": _CHUNK,
            "data_files_size_in_mb": _DATA_MB, "video_files_size_in_mb": _VIDEO_MB,
            "fps": _whole(self.contract.control_rate), "splits": {"train": f"0:{self.count}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
            if self.contract.cameras else None,
            "features": features,
        }  # fmt: skip
        (self.root / INFO).write_text(json.dumps(info, indent=4) + "\n")
        (self.root / "meta/stats.json").write_text(json.dumps(self._statistics(), indent=4) + "\n")
        (self.root / CONTRACT).write_text(yaml.safe_dump(self.contract.to_dict(), sort_keys=False))
        self._write_tasks()

    def close(self) -> None:
        """Close every file."""
        for writer in (self.data, self.about, self.kept, *(v.writer for v in self.videos.values())):
            if writer is not None:
                writer.close()
        self.data = self.about = self.kept = None

    # -- frames -------------------------------------------------------------------------------------------------

    @property
    def _period_ns(self) -> int:
        return round(1e9 / self.contract.control_rate)

    def _add_row(self, rows: dict[str, list[Any]], k: int, text: str, step: Step) -> None:
        reward = step.reward
        row = {
            STATE: step.observation.state, ACTION: step.executed.action, PRIVILEGED: step.observation.privileged,
            REWARD: reward.reward, DONE: reward.terminated or reward.truncated, SUCCESS: reward.success,
            TERMINATED: reward.terminated, TRUNCATED: reward.truncated,
            PERSON: step.executed.controller == Action.PERSON,
            "timestamp": k / self.contract.control_rate, "frame_index": k, "episode_index": self.count,
            "index": self.frames + k, "task_index": self.tasks.setdefault(text, len(self.tasks)),
        }  # fmt: skip
        for name, values in rows.items():
            values.append(row[name])

    def _add_images(self, observation: Observation, pixels: dict[str, PixelStatistics]) -> None:
        for name, picture in zip(self.contract.cameras, observation.images, strict=True):
            rgb = self._newest(name, picture)
            self.videos[name].writer.add(rgb)
            pixels[name].add(rgb)

    def _newest(self, name: str, picture: Any) -> np.ndarray:
        return to_rgb(picture)[-self.contract.cameras[name].size[0] :]

    def _begin_videos(self) -> None:
        """Open the next file of each camera whose last one is full; note where the episode begins."""
        for name, video in self.videos.items():
            writer, rate = video.writer, self.contract.control_rate
            full = writer is None or writer.bytes >= _VIDEO_MB << 20 or writer.frames / rate >= _VIDEO_S
            if full:
                if writer is not None:
                    writer.close()
                video.index += 1
                path = self.root / "videos" / f"{IMAGES}{name}" / f"{_place(video.index)}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                video.writer = VideoWriter(path, rate, "lossless" if self.lossless else "dataset")
            video.start = video.writer.frames / rate

    def _write_rows(
        self, rows: dict[str, list[Any]], pixels: dict[str, PixelStatistics], info: EpisodeInfo
    ) -> None:
        arrays = {
            name: np.array(values, _numpy_type(self.columns[name])).reshape(len(values), -1)
            for name, values in rows.items()
        }
        table = pa.table([_arrow(a, self.columns[n]) for n, a in arrays.items()], schema=self.schema)
        if self.data is None or self.data_path.stat().st_size >= _DATA_MB << 20:
            if self.data is not None:
                self.data.close()
            self.data_index += 1
            self.data_path = self._file("data", self.data_index)
            self.data = parquet.ParquetWriter(self.data_path, self.schema)
        self.data.write_table(table)
        statistics = {name: vector_statistics(a) for name, a in arrays.items()}
        statistics |= {f"{IMAGES}{name}": counts.statistics() for name, counts in pixels.items()}
        about: dict[str, Any] = {
            "episode_index": self.count, "tasks": [info.text], "length": info.steps,
            "data/chunk_index": self.data_index // _CHUNK, "data/file_index": self.data_index % _CHUNK,
            "dataset_from_index": self.frames, "dataset_to_index": self.frames + info.steps,
        }  # fmt: skip
        for name, video in self.videos.items():
            key = f"videos/{IMAGES}{name}"
            about[f"{key}/chunk_index"], about[f"{key}/file_index"] = divmod(video.index, _CHUNK)
            about[f"{key}/from_timestamp"] = video.start
            about[f"{key}/to_timestamp"] = video.writer.frames / self.contract.control_rate
        for feature, numbers in statistics.items():
            about |= {f"stats/{feature}/{name}": number for name, number in numbers.items()}
        about |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row = pa.Table.from_pylist([about])
        if self.about is None:
            self.about = parquet.ParquetWriter(self._file("meta/episodes", 0), row.schema)
        self.about.write_table(row.cast(self.about.schema))

    def _keep(self, info: EpisodeInfo, steps: list[int], start_ns: int, final: Observation | None) -> None:
        """Write what a LeRobotDataset has no place for."""
        images = [] if final is None else [
            {"camera": name, "png": _png(self._newest(name, picture))}
            for name, picture in zip(self.contract.cameras, final.images, strict=True)
        ]  # fmt: skip
        row = {
            "episode_index": self.count, "episode": info.episode, "seed": info.seed, "task": info.task,
            "start_ns": start_ns, "steps": steps,
            "final_state": [] if final is None else list(final.state),
            "final_privileged": [] if final is None else list(final.privileged),
            "final_images": images,
        }  # fmt: skip
        if self.kept is None:
            path = self.root / EPISODES
            path.parent.mkdir(parents=True)
            self.kept = parquet.ParquetWriter(path, _KEPT)
        self.kept.write_table(pa.Table.from_pylist([row], schema=_KEPT))

    def _file(self, folder: str, index: int) -> Path:
        path = self.root / folder / f"{_place(index)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    # -- the whole dataset --------------------------------------------------------------------------------------

    def _statistics(self) -> dict[str, dict[str, list]]:
        """Return the statistics of every feature over all frames; one column is in memory at a time."""
        out = {}
        for name, feature in self.columns.items():
            values = parquet.read_table(self.root / "data", columns=[name])[name].combine_chunks()
            if pa.types.is_fixed_size_list(values.type):
                values = values.flatten()
            numbers = values.to_numpy(zero_copy_only=False).reshape(-1, *feature["shape"])
            out[name] = vector_statistics(numbers)
        return out | {f"{IMAGES}{name}": counts.statistics() for name, counts in self.pixels.items()}

    def _with_video_info(self) -> dict[str, dict[str, Any]]:
        features = {name: dict(feature) for name, feature in self.features.items()}
        for name in self.contract.cameras:
            height, width, channels = features[f"{IMAGES}{name}"]["shape"]
            features[f"{IMAGES}{name}"]["info"] = {
                "video.height": height, "video.width": width, "video.codec": "h264",
                "video.pix_fmt": "gbrp" if self.lossless else "yuv444p", "video.is_depth_map": False,
                "video.fps": _whole(self.contract.control_rate), "video.channels": channels, "has_audio": False,
            }  # fmt: skip
        return features

    def _write_tasks(self) -> None:
        """Write the tasks as pandas does: LeRobot expects their texts in the index of a data frame."""
        name = "__index_level_0__"
        table = pa.table(
            {"task_index": pa.array(self.tasks.values(), pa.int64()), name: pa.array(self.tasks.keys())}
        )
        described = [
            {"name": called, "field_name": field_name, "pandas_type": of, "numpy_type": numpy_type, "metadata": None}
            for called, field_name, of, numpy_type in (
                ("task_index", "task_index", "int64", "int64"), (None, name, "unicode", "object")
            )
        ]  # fmt: skip
        pandas = {"index_columns": [name], "column_indexes": [], "columns": described}
        table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
        parquet.write_table(table, self.root / "meta/tasks.parquet")


_KEPT = pa.schema(
    [
        ("episode_index", pa.int64()), ("episode", pa.int64()), ("seed", pa.int64()), ("task", pa.string()),
        ("start_ns", pa.int64()), ("steps", pa.list_(pa.int64())), ("final_state", pa.list_(pa.float32())),
        ("final_privileged", pa.list_(pa.float32())),
        ("final_images", pa.list_(pa.struct([("camera", pa.string()), ("png", pa.binary())]))),
    ]
)  # fmt: skip


def write_lerobot(
    out: Path,
    episodes: Iterable[Recorded],
    contract: Contract,
    lossless: bool,
    seen: Callable[[Step], None],
    done: Callable[[EpisodeInfo], None],
) -> int:
    """Write episodes as a LeRobotDataset into a new folder, which gets its name when all of it is there.

    Args:
        out: The folder; must not exist.
        episodes: What to write.
        contract: What their messages fit.
        lossless: Whether videos keep every bit.
        seen: Called with each step.
        done: Called with each finished episode.

    Returns:
        Number of episodes.
    """
    writer = LeRobotWriter(begin_partial(out), contract, lossless)
    try:
        for episode in episodes:
            done(writer.add(episode, seen))
        if writer.count:
            writer.finish()
    finally:
        writer.close()
    end_partial(out, writer.count)
    return writer.count


def _features(contract: Contract) -> dict[str, dict[str, Any]]:
    def vector(dtype: str, names: tuple[str, ...]) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [len(names)], "names": list(names)}

    def number(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    out = {STATE: vector("float32", contract.state_names), ACTION: vector("float32", contract.action.names)}
    for name, camera in contract.cameras.items():
        shape = [*camera.size, 3]
        out[f"{IMAGES}{name}"] = {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"]}
    if contract.privileged:
        out[PRIVILEGED] = vector("float32", tuple(e.name for e in contract.privileged))
    out[REWARD] = number("float32")
    out |= {name: number("bool") for name in (DONE, SUCCESS, TERMINATED, TRUNCATED, PERSON)}
    out["timestamp"] = number("float32")
    return out | {name: number("int64") for name in ("frame_index", "episode_index", "index", "task_index")}


def _numpy_type(feature: dict[str, Any]) -> type:
    return {"float32": np.float32, "int64": np.int64, "bool": np.bool_}[feature["dtype"]]


def _is_number(feature: dict[str, Any]) -> bool:
    return feature["shape"] == [1]


def _arrow_type(feature: dict[str, Any]) -> pa.DataType:
    kind = _TYPES[feature["dtype"]]
    return kind if _is_number(feature) else pa.list_(kind, feature["shape"][0])


def _arrow(values: np.ndarray, feature: dict[str, Any]) -> pa.Array:
    flat = pa.array(values.ravel(), _TYPES[feature["dtype"]])
    return flat if _is_number(feature) else pa.FixedSizeListArray.from_arrays(flat, feature["shape"][0])


def _place(index: int) -> str:
    return f"chunk-{index // _CHUNK:03d}/file-{index % _CHUNK:03d}"


def _whole(rate: float) -> int | float:
    return int(rate) if math.isclose(rate, int(rate)) else rate


def _png(rgb: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "PNG")
    return out.getvalue()
