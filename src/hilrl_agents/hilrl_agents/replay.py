"""Replay in memory-mapped files: every observation once, the next one by index, safe against `kill -9`.

Layout of a buffer's folder: `layout.json` (shapes, capacity), `header.bin` (one 8-byte counter) and one flat
file per field. A slot of the ring is one robot step: its observation and the transition that starts there.
The true final observation of an episode takes a slot of its own, without a transition. The observation after
slot k is that of slot k + 1 if both belong to the same episode and their step numbers are neighbours;
otherwise there is none, and the transition in slot k is kept but never sampled.

A write fills its slots first and then raises the counter in the header, which is what commits it: a process
killed in between leaves the former state. Two spare slots keep the write away from everything that is
readable.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from hilrl_agents.batch import Batch
from hilrl_agents.spec import PolicySpec

TRANSITION, OBSERVATION_ONLY = 0, 1
ENCODE_ROWS = 64  # frames that are encoded at once
SPARE_SLOTS = 2  # one add() writes at most a transition and a final observation
FORMAT = 1


class ReplayError(RuntimeError):
    """Storage that cannot be used, or a transition that does not fit; one sentence for the user."""


class Features(Protocol):
    """A frozen image encoder: same version, same features."""

    version: int

    def __call__(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """{name: uint8 [N, height, width, channels]} → [N, …]."""


class ReplayBuffer:
    """Ring of robot steps in a folder; reopening the folder continues where the last process stopped.

    Args:
        folder: where the files are; made if missing.
        spec: shapes of the observation and the action.
        capacity: slots of the ring, in robot steps; the oldest are overwritten.
        takeovers_end: samples that begin before a person's take-over end there, as with a termination that earned
            nothing.

    Raises:
        ReplayError: the folder holds another layout, is damaged, is in use, or the disk is too small.
    """

    def __init__(
        self, folder: str | Path, spec: PolicySpec, capacity: int, takeovers_end: bool = False
    ) -> None:
        if capacity < 2:
            raise ReplayError(f"replay capacity of {capacity} steps: at least 2 are needed")
        self.folder, self.spec, self.capacity = Path(folder), spec, capacity
        self._takeovers_end = takeovers_end
        self._slots = capacity + SPARE_SLOTS
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        try:
            self._open_files()
        except BaseException:
            self._lock.close()
            raise
        self._linked = np.zeros(self._slots, bool)  # the next slot holds the next observation
        self._left = np.zeros(self._slots, np.int64)  # steps to the episode's end; 0: none is stored
        self._solved = np.zeros(self._slots, bool)  # it was rewarded, and no take-over cuts it off
        self._features: np.ndarray | None = None  # of the frames, in memory; made when first asked for
        self._encoded = np.zeros(self._slots, np.int64)  # version that made a slot's features; 0: none
        self._rebuild()

    # -- writing ---------------------------------------------------------------------------------------------

    def add(
        self,
        seq: int,
        episode: int,
        step: int,
        observation: Mapping[str, Any],
        action: np.ndarray,
        reward: float,
        terminated: bool,
        truncated: bool,
        controller: int,
        policy_version: int,
        final_observation: Mapping[str, Any] | None = None,
    ) -> bool:
        """Appends one transition in O(1).

        Args:
            seq: number of the transition in its stream, rising; a gap is a lost one. Demonstrations that are
                loaded before a stream that starts at 0 take negative numbers, also for their episodes.
            episode: number of its episode.
            step: index in the episode, from 0.
            observation: state float [S], images {name: uint8 [height, width, channels]}.
            action: executed action [A] in [-1, 1].
            reward: reward of the step.
            terminated: the task ended here (no value follows).
            truncated: the episode was cut here (value goes on from `final_observation`).
            controller: who acted; 0 policy, 1 person.
            policy_version: version of the policy that acted.
            final_observation: observation after an episode's last step.

        Returns:
            False if a transition with this or a higher `seq` is already stored (then nothing is written).

        Raises:
            ReplayError: wrong shape or a value that is not finite; nothing is written.
        """
        if seq <= self.last_seq:
            return False
        where = f"transition {seq} (episode {episode}, step {step})"
        self._check(where, observation, action, reward)
        if final_observation is not None:
            self._check(f"{where}, final observation", final_observation, action, reward)
        slot = self._written % self._slots
        self._put(slot, TRANSITION, seq, episode, step, observation)
        self._action[slot] = action
        self._reward[slot] = reward
        self._terminated[slot] = terminated
        self._truncated[slot] = truncated
        self._controller[slot] = controller
        self._policy_version[slot] = policy_version
        self._stored[slot] = self.stored + 1
        count = 1
        if final_observation is not None:
            after = (slot + 1) % self._slots
            self._put(after, OBSERVATION_ONLY, seq, episode, step + 1, final_observation)
            self._stored[after] = self._stored[slot]
            count = 2
        self._commit(count)
        return True

    def add_observation(self, observation: Mapping[str, Any]) -> None:
        """Appends the observation that followed the newest transition, without a transition of its own.

        For a buffer that stores only parts of an episode (interventions): when a part ends, this makes its
        last transition usable, with the observation that really came after it.

        Raises:
            ReplayError: the buffer is empty, or its newest slot is already such an observation.
        """
        newest = (self._written - 1) % self._slots
        if self._written == 0 or self._kind[newest] == OBSERVATION_ONLY:
            raise ReplayError("add_observation: there is no newest transition that this could follow")
        self._check("observation", observation, self._action[newest], 0.0)
        slot = self._written % self._slots
        seq, episode, step = int(self._seq[newest]), int(self._episode[newest]), int(self._step[newest])
        self._put(slot, OBSERVATION_ONLY, seq, episode, step + 1, observation)
        self._stored[slot] = self._stored[newest]
        self._commit(1)

    def flush(self) -> None:
        """Writes everything to disk, against a power cut. A killed process needs no flush."""
        for array in (*self._maps, self._header):
            array.flush()

    def close(self) -> None:
        """Flushes and lets another process open the folder. The buffer cannot be used afterwards."""
        self.flush()
        self._lock.close()

    # -- what is stored --------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Transitions that are held now."""
        return self._length

    @property
    def stored(self) -> int:
        """Transitions ever stored, overwritten ones included."""
        return int(self._stored[(self._written - 1) % self._slots]) if self._written else 0

    @property
    def last_seq(self) -> int:
        """`seq` of the newest transition; a very small number if there is none."""
        if not self._written:
            return int(np.iinfo(np.int64).min)
        return int(self._seq[(self._written - 1) % self._slots])

    @property
    def samplable(self) -> int:
        """Transitions whose next observation is known or not needed (horizon 1)."""
        return int(np.count_nonzero(self._usable(self._live_slots(), 1, 1)[0]))

    @property
    def open_end(self) -> tuple[int, int, int] | None:
        """(seq, episode, step) of the newest transition while its next observation is missing, else None."""
        newest = (self._written - 1) % self._slots
        if not self._written or self._kind[newest] != TRANSITION:
            return None
        return int(self._seq[newest]), int(self._episode[newest]), int(self._step[newest])

    def states(self) -> np.ndarray:
        """State vectors of all held steps, oldest first, float32 [N, S] (to fit a normalisation)."""
        return self._state[self._live_slots()]

    def actions(self) -> np.ndarray:
        """Actions of all held transitions, oldest first, float32 [N, A] (to fit a normalisation)."""
        slots = self._live_slots()
        return self._action[slots[self._kind[slots] == TRANSITION]]

    # -- sampling --------------------------------------------------------------------------------------------

    def sample(
        self,
        batch_size: int,
        rng: np.random.Generator,
        horizon: int = 1,
        n_step: int = 1,
        features: Features | None = None,
        path: bool = False,
    ) -> Batch:
        """Starts drawn uniformly from all that can be used, as `Batch` describes.

        A start can be used if its H actions were all executed, or the task terminated among them. A chunk
        that was cut by a truncation, by a gap or by the end of what is stored is not a sample of its value.
        Behind the H actions, n-step returns simply end early there.

        Args:
            batch_size: B.
            rng: source of the draw; the same state gives the same batch.
            horizon: H, actions of a chunk.
            n_step: robot steps whose rewards are summed, if more than H.
            features: gives the observations "features" in place of "images"; each frame is encoded once.
            path: also the observations after each step.

        Raises:
            ReplayError: nothing can be sampled.
        """
        parts = [(self, self._draw(batch_size, rng, horizon, n_step), False)]
        return _assemble(parts, horizon, n_step, features, path)

    def can_sample(self, horizon: int, n_step: int = 1) -> bool:
        """Whether there is a start that `sample` can draw."""
        return bool(self._usable(self._live_slots(), horizon, n_step)[0].any())

    def _draw(self, count: int, rng: np.random.Generator, horizon: int, n_step: int) -> np.ndarray | None:
        """`count` usable slots with replacement; None if there is no usable one."""
        first, held = self._written - self._held, self._held
        if held == 0:
            return None
        chosen: list[np.ndarray] = []
        missing = count
        for _ in range(8):  # rejection is cheaper than a list of usable starts while most starts are usable
            slots = (first + rng.integers(0, held, size=missing + missing // 4 + 4)) % self._slots
            slots = slots[self._usable(slots, horizon, n_step)[0]][:missing]
            chosen.append(slots)
            missing -= len(slots)
            if missing == 0:
                return np.concatenate(chosen) if len(chosen) > 1 else slots
        slots = self._live_slots()
        slots = slots[self._usable(slots, horizon, n_step)[0]]
        return rng.choice(slots, size=count) if len(slots) else None

    def _usable(
        self, slots: np.ndarray, horizon: int, n_step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whether a start can be used [B], its real steps [B], and whether it terminated within them [B]."""
        steps = np.zeros(len(slots), np.int64)
        going = self._kind[slots] == TRANSITION  # every step so far is real and the episode goes on
        ended = np.zeros(len(slots), bool)
        for offset in range(max(horizon, n_step)):
            at = (slots + offset) % self._slots if offset else slots
            if offset:
                going = going & (self._kind[at] == TRANSITION)
            terminal = going & (self._terminated[at] | self._taken(at))
            ended |= terminal
            going = going & (self._linked[at] | terminal)
            steps += going
            going = going & ~terminal & ~self._truncated[at]
        return (steps >= horizon) | ended, steps, ended

    def _taken(self, slots: np.ndarray | int) -> np.ndarray | bool:
        """Whether a person took over right after these slots' steps, where that ends a sample."""
        if not self._takeovers_end:
            return False
        after = (slots + 1) % self._slots
        person = self._linked[slots] & (self._kind[after] == TRANSITION) & (self._controller[after] == 1)
        return person & (self._controller[slots] != 1)

    def _fill(
        self,
        out: dict[str, Any],
        rows: slice,
        slots: np.ndarray,
        horizon: int,
        n_step: int,
        features: Features | None,
    ) -> None:
        """Writes the samples that start at `slots` into rows of the batch arrays."""
        _, steps, ended = self._usable(slots, horizon, n_step)
        last = (slots + steps - 1) % self._slots
        after = np.where(ended & ~self._linked[last], last, (last + 1) % self._slots)
        out["steps"][rows] = steps
        out["bootstrap"][rows] = ~ended
        out["left"][rows], out["solved"][rows] = self._left[slots], self._solved[slots]
        seen = {"observation": slots, "next_observation": after}
        if "path" in out:
            behind = np.arange(1, max(horizon, n_step) + 1)
            inside = (slots[:, None] + behind) % self._slots
            seen["path"] = np.where(behind < steps[:, None], inside, after[:, None])
        for name, at in seen.items():
            np.take(self._state, at, axis=0, out=out[name]["state"][rows], mode="clip")
            for camera, pictures in out[name].get("images", {}).items():
                np.take(self._images[camera], at, axis=0, out=pictures[rows], mode="clip")
            if features is not None:
                self._encode(at.ravel(), features)
                out[name]["features"].append(self._features[at])
        for offset in range(max(horizon, n_step)):
            at = (slots + offset) % self._slots
            real = offset < steps
            out["reward"][rows, offset] = np.where(real, self._reward[at], 0.0)
            if offset < horizon:
                out["action"][rows, offset] = np.where(real[:, None], self._action[at], 0.0)
                out["person"][rows, offset] = real & (self._controller[at] == 1)

    def _encode(self, slots: np.ndarray, features: Features) -> None:
        """Brings the features of these slots up to date."""
        stale = np.unique(slots[self._encoded[slots] != features.version])
        if not len(stale):
            return
        for part in np.split(stale, range(ENCODE_ROWS, len(stale), ENCODE_ROWS)):
            found = features({name: frames[part] for name, frames in self._images.items()})
            if self._features is None or self._features.shape[1:] != found.shape[1:]:
                self._features = np.empty((self._slots, *found.shape[1:]), found.dtype)
            self._features[part] = found
        self._encoded[stale] = features.version

    # -- storage ---------------------------------------------------------------------------------------------

    def _fields(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        scalars = {
            "kind": np.uint8,
            "seq": np.int64,
            "episode": np.int64,
            "step": np.int64,
            "stored": np.int64,
            "reward": np.float32,
            "terminated": np.bool_,
            "truncated": np.bool_,
            "controller": np.uint8,
            "policy_version": np.int64,
        }
        vectors = {"state": self.spec.state_dim, "action": self.spec.action_dim}
        return {name: (kind, ()) for name, kind in scalars.items()} | {
            name: (np.float32, (size,)) for name, size in vectors.items()
        }

    def _open_files(self) -> None:
        files = self._fields() | {f"image_{name}": (np.uint8, s) for name, s in self.spec.cameras.items()}
        size = {
            n: self._slots * int(np.prod(s, dtype=np.int64)) * np.dtype(k).itemsize
            for n, (k, s) in files.items()
        }
        layout = {
            "format": FORMAT,
            "capacity": self.capacity,
            "state_dim": self.spec.state_dim,
            "action_dim": self.spec.action_dim,
            "cameras": {name: list(shape) for name, shape in self.spec.cameras.items()},
        }
        if (self.folder / "layout.json").exists():
            self._check_layout(layout, size)
        else:
            self._create(layout, size)
        self._maps = []
        for name, (kind, shape) in files.items():
            array = np.memmap(self.folder / f"{name}.bin", dtype=kind, mode="r+", shape=(self._slots, *shape))
            self._maps.append(array)
            if not name.startswith("image_"):
                setattr(self, f"_{name}", np.asarray(array))  # a plain view: memmap's indexing is slow
        cameras = self._maps[len(self._fields()) :]
        self._images = dict(zip(self.spec.cameras, map(np.asarray, cameras), strict=True))
        self._header = np.memmap(self.folder / "header.bin", dtype=np.int64, mode="r+", shape=(1,))

    def _check_layout(self, layout: dict[str, Any], size: dict[str, int]) -> None:
        try:
            found = json.loads((self.folder / "layout.json").read_text(encoding="utf-8"))
        except ValueError:
            raise ReplayError(
                f"{self.folder}/layout.json is damaged; remove the folder to start anew"
            ) from None
        for key, value in layout.items():
            if found.get(key) != value:
                raise ReplayError(
                    f"{self.folder}: stored with {key} {found.get(key)}, but {value} is asked for"
                )
        for name, expected in (size | {"header": 8}).items():
            path = self.folder / f"{name}.bin"
            actual = path.stat().st_size if path.exists() else 0
            if actual != expected:
                raise ReplayError(f"{path}: {actual} bytes, but {expected} are expected; the file is damaged")

    def _create(self, layout: dict[str, Any], size: dict[str, int]) -> None:
        # The files are sparse; a full disk later would kill the process in the middle of a write (SIGBUS).
        free = shutil.disk_usage(self.folder).free
        if sum(size.values()) > free:
            raise ReplayError(
                f"{self.folder}: {self.capacity} steps need {sum(size.values()) / 1e9:.1f} GB, "
                f"but the disk has {free / 1e9:.1f} GB left"
            )
        for name, length in (size | {"header": 8}).items():
            with open(self.folder / f"{name}.bin", "wb") as file:
                file.truncate(length)
        draft = self.folder / "layout.json.new"
        draft.write_text(json.dumps(layout, indent=1), encoding="utf-8")
        os.replace(draft, self.folder / "layout.json")  # last: its presence says that all files are there

    def _take_lock(self):
        lock = open(self.folder / "lock", "w")  # noqa: SIM115  held open for as long as the buffer is
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ReplayError(f"{self.folder} is in use by another buffer; close that one first") from None
        return lock

    def _rebuild(self) -> None:
        """Derives in memory what add() keeps up to date: the counter, links between slots and the length."""
        self._written = int(self._header[0])
        slots = self._live_slots()
        self._length = int(np.count_nonzero(self._kind[slots] == TRANSITION))
        if len(slots) > 1:
            self._linked[slots[:-1]] = self._follows(slots[:-1], slots[1:])
        for slot in slots[
            (self._kind[slots] == TRANSITION) & (self._terminated[slots] | self._truncated[slots])
        ]:
            self._end_episode(int(slot))

    def _end_episode(self, slot: int) -> None:
        """Tells the steps that led to the end in this slot how far it was and whether they solved the task."""
        solved = bool(self._terminated[slot] and self._reward[slot] > 0)
        for left in range(1, self._held + 1):
            self._left[slot], self._solved[slot] = left, solved
            slot = (slot - 1) % self._slots
            if not self._linked[slot]:
                return
            solved = solved and not self._taken(slot)

    def _follows(self, slot: Any, after: Any) -> Any:
        """Whether the observation in `after` is the one that came next after `slot`."""
        return (
            (self._kind[slot] == TRANSITION)
            & (self._episode[after] == self._episode[slot])
            & (self._step[after] == self._step[slot] + 1)
            & ~(self._truncated[slot] & (self._kind[after] == TRANSITION))
            & ~(self._terminated[slot] & (self._kind[after] == TRANSITION))
        )

    @property
    def _held(self) -> int:
        return min(self._written, self.capacity)

    def _live_slots(self) -> np.ndarray:
        return np.arange(self._written - self._held, self._written) % self._slots

    def _check(self, where: str, observation: Mapping[str, Any], action: np.ndarray, reward: float) -> None:
        try:
            self.spec.check(observation)
        except ValueError as error:
            raise ReplayError(f"{where}: {error}") from None
        if np.shape(action) != (self.spec.action_dim,):
            raise ReplayError(f"{where}: action has shape {np.shape(action)}, not ({self.spec.action_dim},)")
        for name, value in (("state", observation["state"]), ("action", action), ("reward", reward)):
            if not np.isfinite(value).all():
                raise ReplayError(f"{where}: {name} holds a value that is not finite")

    def _put(
        self, slot: int, kind: int, seq: int, episode: int, step: int, observation: Mapping[str, Any]
    ) -> None:
        self._kind[slot] = kind
        self._seq[slot] = seq
        self._episode[slot] = episode
        self._step[slot] = step
        self._state[slot] = observation["state"]
        self._encoded[slot] = self._left[slot] = 0
        self._solved[slot] = False
        for name, frames in self._images.items():
            frames[slot] = observation["images"][name]
        if kind == OBSERVATION_ONLY:  # the slot may hold an overwritten transition's flags
            self._terminated[slot] = self._truncated[slot] = False

    def _commit(self, count: int) -> None:
        before = self._written
        leaving = range(max(before - self.capacity, 0), max(before + count - self.capacity, 0))
        gone = sum(self._kind[index % self._slots] == TRANSITION for index in leaving)
        self._header[0] = before + count  # the commit: one aligned store
        self._written = before + count
        added = [index % self._slots for index in range(before, before + count)]
        self._length += sum(int(self._kind[slot] == TRANSITION) for slot in added) - int(gone)
        for slot in added:
            previous = (slot - 1) % self._slots
            self._linked[previous] = before > 0 and bool(self._follows(previous, slot))
            self._linked[slot] = False
            before += 1
        newest = added[0]
        if self._kind[newest] == TRANSITION and (self._terminated[newest] or self._truncated[newest]):
            self._end_episode(newest)


def sample_mixed(
    online: ReplayBuffer,
    offline: ReplayBuffer,
    batch_size: int,
    rng: np.random.Generator,
    horizon: int = 1,
    n_step: int = 1,
    features: Features | None = None,
    path: bool = False,
) -> Batch:
    """RLPD's symmetric sampling (arXiv 2302.02948, sec. 4.1): half of the rows from each buffer.

    If one buffer has nothing to sample, the other one gives all rows. `Batch.offline` says which row is
    which. See `ReplayBuffer.sample` for the rest.

    Raises:
        ReplayError: neither buffer has anything to sample.
    """
    half = batch_size // 2
    fresh = online._draw(half, rng, horizon, n_step)
    prior = offline._draw(batch_size - half, rng, horizon, n_step)
    if fresh is None:
        prior = offline._draw(batch_size, rng, horizon, n_step)
    elif prior is None:
        fresh = online._draw(batch_size, rng, horizon, n_step)
    return _assemble([(online, fresh, False), (offline, prior, True)], horizon, n_step, features, path)


def _assemble(
    parts: list[tuple[ReplayBuffer, np.ndarray | None, bool]],
    horizon: int,
    n_step: int,
    features: Features | None,
    path: bool,
) -> Batch:
    """One batch from slots of several buffers: (buffer, slots, is it offline)."""
    parts = [part for part in parts if part[1] is not None and len(part[1])]
    if not parts:
        raise ReplayError(f"no chunk of {horizon} steps can be sampled yet")
    spec, total = parts[0][0].spec, sum(len(slots) for _, slots, _ in parts)
    span = max(horizon, n_step)

    def observations(*times: int) -> dict[str, Any]:
        state = np.empty((total, *times, spec.state_dim), np.float32)
        if features is not None:
            return {"state": state, "features": []}  # of each part; joined below
        images = {name: np.empty((total, *times, *shape), np.uint8) for name, shape in spec.cameras.items()}
        return {"state": state, "images": images}

    out = {
        "observation": observations(),
        "action": np.empty((total, horizon, spec.action_dim), np.float32),
        "reward": np.empty((total, span), np.float32),
        "steps": np.empty(total, np.int64),
        "bootstrap": np.empty(total, np.float32),
        "next_observation": observations(),
        "offline": np.empty(total, bool),
        "person": np.empty((total, horizon), bool),
        "left": np.empty(total, np.int64),
        "solved": np.empty(total, bool),
    }
    if path:
        out["path"] = observations(span)
    row = 0
    for buffer, slots, offline in parts:
        rows = slice(row, row + len(slots))
        buffer._fill(out, rows, slots, horizon, n_step, features)
        out["offline"][rows] = offline
        row += len(slots)
    return Batch(**{name: _tensors(value) for name, value in out.items()})


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(inner) for key, inner in value.items()}
    return torch.from_numpy(np.concatenate(value) if isinstance(value, list) else value)
