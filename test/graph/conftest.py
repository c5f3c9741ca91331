import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HILRL = Path(sys.executable).with_name("hilrl")


# a whole run on a small scale
SMALL = {
    "task": "reach",
    "demos": 3,
    "pretrain_updates": 200,
    "learning_starts": 20,
    "baseline_episodes": 2,
    "target_success": 1.0,
    "max_steps": 250,
    "evaluate_episodes": 2,
    "showcase_episodes": 1,
}


class Launched:
    """A graph that `hilrl` brought up, in a process group of its own; `host`: words that run it elsewhere."""

    def __init__(self, folder: Path, words: list[str], host: tuple[str, ...] = ()):
        self.folder = folder
        self.output = folder.with_suffix(".txt")
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [*host, HILRL, *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.output.read_text()

    def status(self) -> dict:
        try:
            return json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {}

    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())

    def wait_for(self, condition, seconds: float = 60.0):
        """Poll until the condition holds; the graph must still run."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            assert self.process.poll() is None, f"the graph has ended:\n{self.text()}"
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s; status {self.status()}\n{self.text()}")

    def wait(self, seconds: float = 180.0) -> int:
        """Wait for the end; return the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {seconds} s:\n{self.text()[-5000:]}") from None

    def node(self, name: str) -> psutil.Process | None:
        """Return the process of a node."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it may be ending
                if f"__node:={name}" in child.cmdline():
                    return child
        return None

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """Start a graph: `launch("sim", "run", {"task": "reach"})`; all are stopped at the end."""
    started = []

    def start(file: str, run: str, arguments: dict, runs_dir: Path | None = None) -> Launched:
        runs_dir = runs_dir or tmp_path_factory.mktemp("runs")
        words = ["launch", file, f"runs_dir:={runs_dir}", f"run:={run}"]
        words += [f"{name}:={value}" for name, value in arguments.items()]
        started.append(Launched(runs_dir / run, words))
        return started[-1]

    yield start
    for graph in started:
        graph.stop()


@pytest.fixture(scope="session")
def own_domain():
    """Tests of the graph see no other graph of this machine."""
    assert os.environ.get("ROS_DOMAIN_ID"), "run the tests with `make test`: it sets ROS_DOMAIN_ID"


@pytest.fixture(scope="session")
def run(tmp_path_factory, own_domain):
    """A finished run of `hilrl train` in whose middle learner and actor were killed with SIGKILL."""
    folder = tmp_path_factory.mktemp("runs") / "killed"
    rest = [f"{name}:={value}" for name, value in SMALL.items() if name != "task"]
    words = ["train", "--task", SMALL["task"], "--run", folder.name, f"runs_dir:={folder.parent}", *rest]
    graph = Launched(folder, words)
    graph.counts = {}
    try:
        for name, steps in (("learner", 60), ("actor", 140)):
            graph.wait_for(lambda least=steps: graph.status().get("robot_steps", 0) >= least, 120)
            victim = graph.node(name)
            graph.counts[name] = graph.status()
            os.kill(victim.pid, signal.SIGKILL)
            graph.wait_for(lambda dead=victim.pid, n=name: (new := graph.node(n)) and new.pid != dead, 30)
        graph.code = graph.wait(180)
        yield graph
    finally:
        graph.stop()
