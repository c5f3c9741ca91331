"""Any policy of LeRobot (SmolVLA, π0, VQ-BeT, …) as a policy of the suite, run by lerobot in a process of its own.

lerobot's Python packages are not those of the suite, so a Python that has them runs `lerobot_child.py`, which is asked
for chunks. Nothing is learnt here: it acts, and other agents start from it.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor, nn

from hilrl_agents.agent import Agent
from hilrl_agents.batch import Batch
from hilrl_agents.chunks import ChunkOptions
from hilrl_agents.config import ConfigError, option
from hilrl_agents.imitation import ActionNormalizer
from hilrl_agents.networks import StateNormalizer
from hilrl_agents.spec import PolicySpec

PYTHON = "HILRL_LEROBOT_PYTHON"  # variable of the environment
_CHILD = Path(__file__).with_name("lerobot_child.py")
_STATE, _IMAGES = "observation.state", "observation.images."
_LOADING = 10  # times as long as a plan
_ENDING = 5.0  # s from the end of what it says to its own
_SPREAD = 0.2  # of actions in [-1, 1], where a policy does not say how much those vary that it was taught
_LEAST_SPREAD = 0.01  # smallest spread of actions, as where imitation policies are trained here


class LeRobotProcessError(RuntimeError):
    """LeRobot's policy cannot be asked; the message is one sentence for the user."""


@dataclass(frozen=True)
class LeRobotOptions(ChunkOptions):
    """Options of `lerobot`; `hilrl bc --lerobot` fills them in."""

    folder: str = option("", "LeRobot's pretrained_model, which stays where it is")
    digest: str = option("", "sha256 of its files: a policy that has changed is another one")
    task: str = option("", "What the policy is told to do, in words")
    frames: int = option(1, "Newest observations that it sees at once (LeRobot's n_obs_steps)", low=1)
    patience: float = option(
        60.0, "How long a plan may take before it is given up; ten times as long to load", "s", low=0.01
    )


class Process:
    """A process that holds a policy and plans; it ends with this one, however that ends.

    Args:
        config: which policy, and who runs it.

    Raises:
        LeRobotProcessError: it does not start, or cannot load the policy.
    """

    def __init__(self, config: LeRobotOptions) -> None:
        self._config, self._failure = config, ""
        self._python = find_python()
        other = () if self._python == sys.executable else ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
        environment = {key: value for key, value in os.environ.items() if key not in other}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  it goes on
        self._socket, theirs = socket.socketpair()
        self._stream = self._socket.makefile("rwb")
        command = [self._python, str(_CHILD), config.folder, config.task]
        with theirs:  # ctrl-C is for this process
            try:
                self._child = subprocess.Popen(
                    command, stdin=theirs, stdout=self._log, stderr=self._log, env=environment, start_new_session=True
                )  # fmt: skip
            except OSError as error:
                raise LeRobotProcessError(
                    f"{self._python} cannot be started ({error.strerror}), expected a Python that has lerobot"
                ) from None
        self._answer(_LOADING * config.patience)

    def plan(self, observation: Mapping[str, np.ndarray], seed: int) -> np.ndarray:
        """The policy's chunk.

        Args:
            observation: by LeRobot's names and in its units: state float32 [frames, S], images uint8
                [frames, height, width, 3], the oldest first.
            seed: of what it draws.

        Returns:
            float32 [H, A] in LeRobot's units.

        Raises:
            LeRobotProcessError: it ended, failed, or says nothing; for good.
        """
        if self._failure:
            raise LeRobotProcessError(self._failure)
        data = save({**observation, "seed": np.array([seed], np.int64)})
        self._socket.settimeout(self._config.patience)
        try:
            self._stream.write(len(data).to_bytes(8, "little") + data)
            self._stream.flush()
        except OSError:
            pass  # what there is to be said is said where the answer is missing
        return self._answer(self._config.patience)["chunk"]

    def close(self) -> None:
        """Ends the process."""
        self._child.kill()
        self._child.wait()
        with contextlib.suppress(OSError):
            self._stream.close()
        self._socket.close()

    def _answer(self, patience: float) -> dict[str, np.ndarray]:
        """What it says within a time, s."""
        self._socket.settimeout(patience)
        try:
            size = self._stream.read(8)
            data = self._stream.read(int.from_bytes(size, "little"))
        except TimeoutError:
            self._fail(f"has said nothing for {patience:g} s (option patience: {self._config.patience:g})")
        except OSError:
            size = data = b""
        if len(size) < 8 or len(data) < int.from_bytes(size, "little"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_ENDING)
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").split("\n")
            last = next(filter(str.strip, reversed(lines)), "it said nothing")
            self._fail(f"has ended with status {self._child.returncode}: {last}")
        answer = load(data)
        if "error" in answer:
            self._fail(f"gives up: {' '.join(answer['error'].tobytes().decode(errors='replace').split())}")
        return answer

    def _fail(self, what: str) -> NoReturn:
        self.close()
        self._failure = f"{self._config.folder}: its process ({self._python}) {what}"
        raise LeRobotProcessError(self._failure)


class LeRobot(Agent):
    """A policy that LeRobot trained, as it is."""

    name = "lerobot"
    Config = LeRobotOptions
    policy_networks = ("encoder", "actions", "units")
    shows_images = False

    def __init__(self, spec: PolicySpec, config: LeRobotOptions, seed: int = 0) -> None:
        super().__init__(spec, config, seed)
        if not config.folder:
            raise ConfigError(
                "'lerobot' is what LeRobot trained; make a policy of it: hilrl bc --lerobot FOLDER"
            )
        # what the policy was taught, in the suite's units: measure for agents that act over it
        self.encoder = nn.Module()
        self.encoder.normalizer = StateNormalizer(spec.state_dim)
        self.actions = ActionNormalizer(spec.action_dim)
        self.actions.std.fill_(_SPREAD)
        self.units = nn.Module()
        for name, size in (("state", spec.state_dim // config.frames), ("action", spec.action_dim)):
            self.units.register_buffer(f"{name}_scale", torch.ones(size, dtype=torch.float64))
            self.units.register_buffer(f"{name}_offset", torch.zeros(size, dtype=torch.float64))
        # tells policies apart that were taught the same
        self.units.register_buffer("digest", torch.tensor(list(config.digest.encode()), dtype=torch.uint8))
        self.networks = {"encoder": self.encoder, "actions": self.actions, "units": self.units}
        self.process: Process | None = None

    @classmethod
    def starts_from(cls, prior: str) -> bool:
        """From nothing: it learns nothing."""
        return False

    @property
    def batch_size(self) -> int:
        """It takes no rows."""
        return 1

    @property
    def spread(self) -> Tensor:
        """How much the actions vary that it was taught [A]."""
        return self.actions.std.clamp_min(_LEAST_SPREAD)

    def get_ready(self) -> None:
        """Starts the process, unless it runs.

        Raises:
            LeRobotProcessError: it does not start, or its folder is not what it was.
        """
        if self.process is None:
            c = self.config
            if digest(Path(c.folder)) != c.digest:
                raise LeRobotProcessError(
                    f"{c.folder} is gone, or has changed since this policy was made of it: make it again, hilrl bc "
                    f"--lerobot {c.folder}"
                )
            self.process = Process(c)

    def let_go(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.close()
            self.process = None

    def act(self, observation: Mapping[str, Any], explore: bool, seed: int | None = None) -> np.ndarray:
        """The policy's chunk → [H, A]; exploring adds nothing."""
        self.spec.check(observation)
        if seed is None:
            seed = int(torch.randint(2**62, (), generator=self.generator))
        scale, offset = self.units.action_scale.numpy(), self.units.action_offset.numpy()
        chunk = self.plan(observation, seed) * scale + offset
        if chunk.shape != (self.spec.horizon, self.spec.action_dim):
            raise LeRobotProcessError(
                f"{self.config.folder}: its chunk is {chunk.shape}, expected "
                f"{(self.spec.horizon, self.spec.action_dim)} as before"
            )
        return chunk.clip(-1, 1).astype(np.float32)

    def plan(self, observation: Mapping[str, Any], seed: int) -> np.ndarray:
        """The policy's chunk in LeRobot's units, as long as it makes them → [H, A]."""
        self.get_ready()
        frames = self.config.frames
        state = observation["state"].reshape(frames, -1)[::-1]  # the newest came first
        theirs = (state - self.units.state_offset.numpy()) / self.units.state_scale.numpy()
        images = {
            _IMAGES + name: np.stack(np.split(image, frames, axis=2))
            for name, image in observation["images"].items()
        }
        return self.process.plan({_STATE: theirs.astype(np.float32), **images}, seed)

    def update(self, batch: Batch) -> dict[str, float]:
        """Refused."""
        raise LeRobotProcessError("a policy of LeRobot's learns nothing here; start from it: hilrl improve")

    pretrain = update


def find_python() -> str:
    """Path of the Python that runs lerobot: that of `HILRL_LEROBOT_PYTHON`, else this one if it has lerobot.

    The user says it, never a checkpoint: who made that may be a stranger.

    Raises:
        LeRobotProcessError: there is none.
    """
    named = os.environ.get(PYTHON)
    if not named and importlib.util.find_spec("lerobot"):
        named = sys.executable
    path = shutil.which(named or "")
    if path is None:
        raise LeRobotProcessError(
            f"{f'{named}: no such program' if named else 'this policy needs lerobot, which this Python lacks'}; name a "
            f"Python that has it: export {PYTHON}=~/lerobot/bin/python; this makes one: python3 -m venv ~/lerobot && "
            "~/lerobot/bin/pip install lerobot"
        )
    return os.path.abspath(path)  # not where links lead: an environment's Python is a link


def digest(folder: Path) -> str:
    """Sha256 over the names and contents of a policy's files, as hex digits; empty if there are none."""
    files = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".safetensors"))
    whole = hashlib.sha256()
    for path in files:
        whole.update(path.name.encode())
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                whole.update(part)
    return whole.hexdigest() if files else ""
