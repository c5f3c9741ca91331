"""LeRobotDataset v3.0 and v2.1 as a source of episodes: parquet and video are read in order, one episode at a time."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hilrl_msgs.msg import Action, Observation, Reward
from std_msgs.msg import Header

from hilrl_data.episodes import Recorded, new_info, repeated
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
from hilrl_data.mapping import Converter, Mapping
from hilrl_data.video import VideoReader
from hilrl_ros.config import read_yaml
from hilrl_ros.contract import Contract, contract_hash
from hilrl_ros.images import crop_and_resize, from_rgb
from hilrl_ros.messages import Step, floats, to_time

_ROWS = 1024  # rows of a parquet file in memory at once; fewer where they hold images
_FLAGS = (REWARD, DONE, SUCCESS, TERMINATED, TRUNCATED, PERSON, PRIVILEGED)


class DatasetError(ValueError):
    """A dataset that cannot be read; the message names it and says why."""


@dataclass
class Layout:
    """What `meta/` says of a dataset.

    Attributes:
        root: Its folder.
        version: `v3.0` or `v2.1`.
        rate: Frames per second.
        features: By name, `{dtype, shape, names}`.
        tasks: Text of each task index.
        episodes: Rows about the episodes, in order.
        data_path: Template of the parquet files' paths.
        video_path: Template of the videos' paths.
    """

    root: Path
    version: str
    rate: float
    features: dict[str, dict[str, Any]]
    tasks: dict[int, str]
    episodes: list[dict[str, Any]]
    data_path: str
    video_path: str
    chunk: int = 1000

    def data_files(self) -> list[Path]:
        """Return the parquet files in the order of their frames."""
        if self.version == "v3.0":
            places = dict.fromkeys((e["data/chunk_index"], e["data/file_index"]) for e in self.episodes)
            return [self.root / self.data_path.format(chunk_index=c, file_index=f) for c, f in places]
        return [
            self.root / self.data_path.format(episode_chunk=n // self.chunk, episode_index=n)
            for n in (e["episode_index"] for e in self.episodes)
        ]

    def video(self, feature: str, episode: dict[str, Any]) -> tuple[Path, float]:
        """Return the file of an episode's video and the time (s) at which the episode begins in it."""
        if self.version == "v3.0":
            chunk, file = (episode[f"videos/{feature}/{key}_index"] for key in ("chunk", "file"))
            path = self.video_path.format(video_key=feature, chunk_index=chunk, file_index=file)
            return self.root / path, float(episode[f"videos/{feature}/from_timestamp"])
        number = episode["episode_index"]
        path = self.video_path.format(
            video_key=feature, episode_chunk=number // self.chunk, episode_index=number
        )
        return self.root / path, 0.0


def read_layout(root: Path) -> Layout:
    """Read what `meta/` says.

    Raises:
        DatasetError: Files are missing or damaged, or of another version.
    """
    try:
        info = json.loads((root / INFO).read_text())
        version = str(info["codebase_version"])
        if version not in ("v3.0", "v2.1"):
            raise DatasetError(
                f"{root / INFO}: codebase_version {version} is not supported, v3.0 and v2.1 are; LeRobot converts"
            )
        episodes = _episodes(root, version)
        tasks = _tasks(root, version)
        return Layout(
            root, version, float(info["fps"]), info["features"], tasks, episodes, info["data_path"],
            info.get("video_path") or "", int(info.get("chunks_size", 1000)),
        )  # fmt: skip
    except DatasetError:
        raise
    except Exception as e:  # json and pyarrow raise whatever the damaged bytes lead them to
        raise _damaged(root / "meta", e) from None


def _damaged(path: Path, error: Exception) -> DatasetError:
    why = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return DatasetError(f"{path}: cannot be read ({why or type(error).__name__})")


def _episodes(root: Path, version: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet

    if version == "v2.1":
        lines = (root / "meta/episodes.jsonl").read_text().splitlines()
        return sorted((json.loads(line) for line in lines if line), key=lambda row: row["episode_index"])
    rows: list[dict[str, Any]] = []
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        names = [n for n in parquet.read_schema(path).names if not n.startswith("stats/")]
        rows += parquet.read_table(path, columns=names).to_pylist()
    if not rows:
        raise DatasetError(f"{root}/meta/episodes: holds no episode")
    return sorted(rows, key=lambda row: row["episode_index"])


def _tasks(root: Path, version: str) -> dict[int, str]:
    import pyarrow.parquet as parquet

    if version == "v2.1":
        lines = (root / "meta/tasks.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines if line]
        return {row["task_index"]: row["task"] for row in rows}
    table = parquet.read_table(root / "meta/tasks.parquet")
    text = next(name for name in table.column_names if name != "task_index")
    return dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))


def own_contract(root: Path) -> dict[str, Any] | None:
    """Return the robot contract that a dataset of this suite carries (`Contract.to_dict`), else None."""
    return read_yaml(root / CONTRACT) if (root / CONTRACT).is_file() else None


class LeRobotSource:
    """Episodes of a LeRobotDataset, made into the messages that the contract describes.

    A dataset that this suite wrote comes back as it was; of others, see `Converter`. An episode's last frame has no
    frame after it: where the task did not terminate there, its step carries neither `terminated` nor `truncated`, and
    nothing is learnt from it.

    Args:
        root: Its folder.
        contract: What is wanted.
        task: Name of the task that the episodes get.
        mapping: What the names do not tell.
        rewarded: Whether rewards must be there.
        images: Whether to read the cameras too; without, observations lack them.

    Raises:
        DatasetError: It is damaged, or has no rewards.
        MappingError: It does not fit the contract.
    """

    def __init__(
        self,
        root: Path,
        contract: Contract,
        task: str,
        mapping: Mapping | None = None,
        rewarded: bool = True,
        images: bool = True,
    ):
        self.root, self.contract, self.task, self.images = root, contract, task, images
        self.layout = read_layout(root)
        own = own_contract(root)
        self.own = own is not None and mapping is None and contract_hash(own) == contract.hash()
        normalised = own is not None and own["action"] == contract.to_dict()["action"]
        self.converter = Converter(
            str(root), self.layout.features, self.layout.rate, contract, mapping or Mapping(), normalised
        )
        if rewarded and REWARD not in self.layout.features:
            raise DatasetError(
                f"{root}: has no feature {REWARD}; say with --success last that each episode ends with success"
            )
        self.count, self.frames = len(self.layout.episodes), 0
        self.every = self.converter.mapping.every
        self.videos = {name: VideoReader(self.layout.rate) for name in contract.cameras}

    @property
    def notes(self) -> list[str]:
        """What a person should know of what was read."""
        clipped = {name: count for name, count in self.converter.clipped.items() if count}
        return [f"clipped {count} values of action {name} to [-1, 1]" for name, count in clipped.items()]

    def episodes(self) -> Iterator[Recorded]:
        """Yield the episodes in order."""
        kept = self._kept() if self.own else itertools.repeat({})
        rows = self._rows()
        for episode, kept_of_it in zip(self.layout.episodes, kept, strict=False):
            columns = next(rows, None)
            number = episode["episode_index"]
            if columns is None or columns["episode_index"][0, 0] != number:
                raise DatasetError(f"{self.root}/data: episode {number} is missing or not in its place")
            if len(columns["index"]) != episode["length"]:
                raise DatasetError(
                    f"{self.root}/data: episode {number} has {len(columns['index'])} frames, meta/episodes says "
                    f"{episode['length']}"
                )
            text = self.layout.tasks.get(int(columns["task_index"][0, 0]), "")
            info = new_info(
                kept_of_it.get("episode", number), kept_of_it.get("task", self.task), text, self.contract,
                kept_of_it.get("seed", 0),
            )  # fmt: skip
            yield Recorded(info, self._steps(episode, columns, kept_of_it, info.episode))
        for reader in self.videos.values():
            reader.close()

    # -- columns ------------------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the columns of each episode [N, size]; of images, a list of their bytes."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        stored = self._stored_images()
        names = {"episode_index", "index", "timestamp", "task_index", *self.converter.used, *stored}
        names |= {
            name for name in _FLAGS if name in self.layout.features and (name != PRIVILEGED or self.own)
        }
        waiting: list[pa.RecordBatch] = []
        for path in self.layout.data_files():
            try:
                with parquet.ParquetFile(path) as file:
                    missing = sorted(names - set(file.schema_arrow.names))
                    if missing:
                        raise DatasetError(f"{path}: has no column {', '.join(missing)}")
                    for batch in file.iter_batches(16 if stored else _ROWS, columns=sorted(names)):
                        for piece in _pieces(batch):
                            if waiting and waiting[0]["episode_index"][0] != piece["episode_index"][0]:
                                yield self._columns(waiting)
                                waiting = []
                            waiting.append(piece)
            except (pa.ArrowException, OSError) as e:
                raise _damaged(path, e) from None
        if waiting:
            yield self._columns(waiting)

    def _stored_images(self) -> set[str]:
        """Features whose images stand in the parquet files."""
        if not self.images:
            return set()
        chosen = self.converter.cameras.values()
        return {name for name in chosen if self.layout.features[name]["dtype"] == "image"}

    def _columns(self, batches: list[Any]) -> dict[str, Any]:
        import pyarrow as pa

        table = pa.Table.from_batches(batches)
        out: dict[str, Any] = {}
        for name in table.column_names:
            column = table[name].combine_chunks()
            if pa.types.is_struct(column.type):
                out[name] = column.field("bytes").to_pylist()
                continue
            while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
                column = column.flatten()
            numbers = column.to_numpy(zero_copy_only=False)
            if len(numbers) % len(table):
                raise DatasetError(f"{self.root}/data: {name} has rows of different sizes")
            out[name] = numbers.reshape(len(table), -1)
        for name in self.converter.used:
            if not np.isfinite(out[name]).all():
                raise DatasetError(
                    f"{self.root}/data: episode {out['episode_index'][0, 0]} has a {name} that is not finite"
                )
        return out

    def _kept(self) -> Iterator[dict[str, Any]]:
        """Yield what this suite keeps of each episode beside the dataset's own features."""
        import pyarrow.parquet as parquet

        path = self.root / EPISODES
        with parquet.ParquetFile(path) as file:
            if file.num_row_groups != self.count:
                raise DatasetError(
                    f"{path}: is of {file.num_row_groups} episodes, the dataset has {self.count}"
                )
            for group in range(file.num_row_groups):
                yield file.read_row_group(group).to_pylist()[0]

    # -- messages -----------------------------------------------------------------------------------------------

    def _steps(
        self, episode: dict[str, Any], columns: dict[str, Any], kept: dict[str, Any], number: int
    ) -> Iterator[Step]:
        maker = _Maker(self, episode, columns, kept, number)
        observation = maker.observation(0)
        for k in range(len(maker.rows)):
            last = k == len(maker.rows) - 1
            following = maker.final() if last else maker.observation(k + 1)
            reward = maker.reward(k, following)
            step = Step(observation, maker.action(k, observation), reward)
            if reward.terminated or reward.truncated:
                step.final = following or repeated(step)
            yield step
            observation = following


def _pieces(batch: Any) -> Iterator[Any]:
    """Yield the parts of a record batch that belong to one episode each."""
    numbers = batch["episode_index"].to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1), len(numbers)]
    for start, stop in itertools.pairwise(cuts):
        if stop > start:
            yield batch.slice(start, stop - start)


@dataclass
class _Maker:
    """Makes the messages of one episode."""

    source: LeRobotSource
    episode: dict[str, Any]
    columns: dict[str, Any]
    kept: dict[str, Any]
    number: int
    stacks: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def __post_init__(self):
        source = self.source
        self.contract = source.contract
        total = len(self.columns["index"])
        # of the frames that are left out, the action that is held at the end counts, and all rewards
        self.rows = np.arange(0, total, source.every)
        self.ends = np.minimum(self.rows + source.every, total) - 1
        taken = {
            name: self.columns[name][
                self.ends if any(c.feature == name for c in source.converter.action) else self.rows
            ]
            for name in source.converter.used
        }
        self.actions = source.converter.actions(taken)
        taken |= {c.feature: self.columns[c.feature][self.rows] for c in source.converter.state.values()}
        self.states = source.converter.states(taken, self.actions)
        self.steps = self.kept.get("steps") or list(range(len(self.rows)))
        self.period_ns = round(1e9 / self.contract.control_rate)
        # not 0: that is no time in ROS
        self.start_ns = self.kept.get("start_ns", self.period_ns)
        self.frames = {
            name: self._pictures(name, feature) for name, feature in source.converter.cameras.items()
        } if source.images else {}  # fmt: skip

    def header(self, step: int) -> Header:
        """Return the header of a step's observation."""
        stamp = to_time(self.start_ns + step * self.period_ns)
        return Header(stamp=stamp, frame_id=self.contract.model.base_frame)

    def observation(self, k: int) -> Observation:
        """Return the observation of a frame; to be called in order."""
        msg = Observation(
            header=self.header(self.steps[k]), episode=self.number, step=self.steps[k],
            state=floats(self.states[k].tobytes()),
        )  # fmt: skip
        if PRIVILEGED in self.columns:
            msg.privileged = floats(self.columns[PRIVILEGED][self.rows[k]].astype(np.float32).tobytes())
        self._add_images(msg, {name: next(frames) for name, frames in self.frames.items()})
        return msg

    def final(self) -> Observation | None:
        """Return the observation after the last frame: the one that was kept, else None."""
        if not self.kept.get("final_state"):
            return None
        step = self.steps[-1] + 1
        msg = Observation(
            header=self.header(step), episode=self.number, step=step, state=floats(self.kept["final_state"]),
            privileged=floats(self.kept["final_privileged"]),
        )  # fmt: skip
        self._add_images(msg, {i["camera"]: _decoded(i["png"]) for i in self.kept["final_images"]})
        return msg

    def action(self, k: int, observation: Observation) -> Action:
        """Return what was executed."""
        return Action(
            header=observation.header, episode=self.number, step=observation.step,
            controller=self._controller(k), action=floats(self.actions[k].tobytes()),
        )  # fmt: skip

    def reward(self, k: int, following: Observation | None) -> Reward:
        """Return what a frame earned and whether it ended the episode; without a true end, none that needs one."""
        span = slice(self.rows[k], self.ends[k] + 1)
        earned = float(self.columns[REWARD][span].sum(dtype=np.float32)) if REWARD in self.columns else 0.0
        flags = {
            name: bool(self.columns[name][span].any()) if name in self.columns else None
            for name in (DONE, SUCCESS, TERMINATED, TRUNCATED)
        }
        terminated, truncated = flags[TERMINATED], bool(flags[TRUNCATED])
        if terminated is None:  # LeRobot's own `next.done` does not tell an end from a cut
            paid = flags[SUCCESS] if flags[SUCCESS] is not None else earned > 0
            terminated = bool(flags[DONE]) and not truncated and paid
        success = flags[SUCCESS] if flags[SUCCESS] is not None else terminated and earned > 0
        step = self.steps[k]
        return Reward(
            header=self.header(step + 1), episode=self.number, step=step, reward=earned,
            terminated=terminated, truncated=truncated and following is not None, success=success,
            controller=self._controller(k),
        )  # fmt: skip

    def _controller(self, k: int) -> int:
        person = bool(self.columns[PERSON][self.rows[k], 0]) if PERSON in self.columns else True
        return Action.PERSON if person else Action.POLICY

    def _pictures(self, name: str, feature: str) -> Iterator[np.ndarray]:
        """Yield a camera's images at the contract's size, one for each row."""
        camera = self.contract.cameras[name]
        if self.source.layout.features[feature]["dtype"] == "image":
            pictures = (_decoded(self.columns[feature][row]) for row in self.rows)
        else:
            path, start = self.source.layout.video(feature, self.episode)
            times = start + self.columns["timestamp"][self.rows, 0].astype(np.float64)
            pictures = self.source.videos[name].frames(path, times)
        for picture in pictures:
            # what has the contract's size already was cropped before
            crop = None if picture.shape[:2] == tuple(camera.size) else camera.crop
            try:
                yield crop_and_resize(picture, crop, camera.size)
            except ValueError as e:
                raise DatasetError(
                    f"{self.source.root}: {feature}: {e}; change the contract's {name}.crop"
                ) from None

    def _add_images(self, msg: Observation, pictures: dict[str, np.ndarray]) -> None:
        for name, picture in pictures.items():
            newest = self.stacks.get(name) or [picture] * self.contract.cameras[name].stack
            self.stacks[name] = [*newest[1:], picture]
            stacked = np.concatenate(self.stacks[name]) if len(newest) > 1 else picture
            msg.images.append(from_rgb(stacked, msg.header.stamp))


def _decoded(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
