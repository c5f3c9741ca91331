"""How fast the whole graph runs in lockstep while the learner trains, and where the time goes.

    python bench/loop.py [--steps 1500] [--task pick_cube]

Starts `hilrl launch sim` in a folder of its own, listens to the loop's topics while it trains, and prints steps/s,
the real-time factor, latency per hop (arrival to arrival in this process), CPU and memory per process. The last
line is JSON. With `--no-listener` no messages are listened to: the figures are free of the listener's own load.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# a graph of its own, whatever else runs on this machine
os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

from hilrl_cli import environment

environment.enter()

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import rclpy  # noqa: E402
from hilrl_msgs.msg import Action, Observation, Reward  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from hilrl_ros import qos  # noqa: E402

HOPS = (
    ("joint_states", "observation"),
    ("observation", "reward"),
    ("observation", "policy/action"),
    ("policy/action", "command"),
    ("command", "executed_action"),
    ("executed_action", "joint_states"),
)


class Listener:
    """Notes when each message of the loop arrives here."""

    def __init__(self):
        self.node = rclpy.create_node("bench_loop")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.arrivals: dict[str, list[float]] = {}
        kinds = {
            "joint_states": JointState,
            "observation": Observation,
            "reward": Reward,
            "policy/action": Action,
            "command": Action,
            "executed_action": Action,
        }
        for topic, kind in kinds.items():
            self.arrivals[topic] = []
            # serialised: taking messages apart would cost more than the loop itself
            self.node.create_subscription(kind, topic, self.note(topic), qos.STEP, raw=True)

    def note(self, topic: str):
        """Return the callback of a topic."""
        times = self.arrivals[topic]
        return lambda _: times.append(time.monotonic())

    def latencies(self) -> dict[str, tuple[float, float, int]]:
        """Return median and 99th percentile (ms) and count of each hop: to the next message of the later topic."""
        result = {}
        for first, second in HOPS:
            a, b = np.array(self.arrivals[first]), np.array(self.arrivals[second])
            index = np.searchsorted(b, a)
            known = index < len(b)
            delays = (b[index[known]] - a[known]) * 1e3
            if len(delays):
                result[f"{first} → {second}"] = (
                    float(np.median(delays)),
                    float(np.percentile(delays, 99)),
                    len(delays),
                )
        return result


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1500, help="robot steps of training")
    parser.add_argument("--task", default="pick_cube")
    parser.add_argument("--no-listener", action="store_true", help="measure without listening: no latencies")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hilrl_bench_"))
    words = [
        f"task:={arguments.task}", f"runs_dir:={folder}", "run:=bench", "demos:=5", "baseline_episodes:=0",
        "evaluate_episodes:=0", "showcase_episodes:=0", f"max_steps:={arguments.steps}", "target_success:=1.0",
    ]  # fmt: skip
    hilrl = Path(sys.executable).with_name("hilrl")
    began = time.monotonic()
    graph = subprocess.Popen([hilrl, "launch", "sim", *words], stdout=subprocess.DEVNULL)
    listener = None
    if not arguments.no_listener:
        rclpy.init()
        listener = Listener()
    first_episode = measured = None
    try:
        while graph.poll() is None:
            if listener:
                listener.executor.spin_once(timeout_sec=0.2)
            else:
                time.sleep(0.2)
            status = read_status(folder / "bench")
            if first_episode is None and status.get("episode", 0) >= 1:
                first_episode = time.monotonic() - began
            if status.get("phase") == "train" and status["robot_steps"] > 150:
                measured = measured or Measurement(graph.pid, status)
                measured.update(status)
    finally:
        if graph.poll() is None:
            graph.terminate()
            graph.wait()
    if measured is None:
        print("the run never trained; see", folder, file=sys.stderr)
        return 1
    report(measured, listener, first_episode, folder)
    return 0


def read_status(folder: Path) -> dict:
    """Return the run's newest status, empty before there is one."""
    try:
        return json.loads((folder / "status.json").read_text())
    except (OSError, ValueError):
        return {}


class Measurement:
    """Steps, CPU time and memory of every process of the graph from one moment on."""

    def __init__(self, pid: int, status: dict):
        self.first = self.last = status
        self.processes = {name(p): p for p in psutil.Process(pid).children(recursive=True) if name(p)}
        self.processes["supervisor"] = psutil.Process(pid)
        self.before = {n: cpu(p) for n, p in self.processes.items()}
        self.after, self.memory, self.resident = dict(self.before), {}, {}

    def update(self, status: dict) -> None:
        """Take the newest status."""
        if status["stamp"] == self.last["stamp"]:
            return
        self.last = status
        for n, p in self.processes.items():
            try:
                self.after[n] = cpu(p)
                memory = p.memory_full_info()
                self.memory[n], self.resident[n] = memory.pss / 1e6, memory.rss / 1e6
            except psutil.NoSuchProcess:
                continue

    @property
    def seconds(self) -> float:
        """Wall time between the first and the last status."""
        return self.last["stamp"] - self.first["stamp"]


def name(process: psutil.Process) -> str:
    """Return the node's name of a process, "" if it is none."""
    try:
        names = [w.removeprefix("__node:=") for w in process.cmdline() if w.startswith("__node:=")]
    except psutil.NoSuchProcess:
        return ""
    return names[0] if names else ""


def cpu(process: psutil.Process) -> float:
    """Return the CPU seconds that a process used."""
    times = process.cpu_times()
    return times.user + times.system


def report(m: Measurement, listener: Listener | None, first_episode: float, folder: Path) -> None:
    """Print the figures, the last line as JSON."""
    steps = m.last["robot_steps"] - m.first["robot_steps"]
    updates = m.last["updates"] - m.first["updates"]
    rate = steps / m.seconds
    summary = json.loads((folder / "bench" / "summary.json").read_text())
    period = 0.1
    print(
        f"{steps} robot steps and {updates} updates in {m.seconds:.1f} s: {rate:.1f} steps/s, {rate * period:.1f}x"
    )
    print(f"first episode {first_episode:.1f} s after the command")
    print(f"\n{'process':16}{'CPU %':>8}{'ms/step':>9}{'MB (PSS)':>10}")
    shares = {n: (m.after[n] - m.before[n]) for n in m.processes}
    for n, seconds in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"{n:16}{seconds / m.seconds:8.0%}{seconds / steps * 1e3:9.2f}{m.memory.get(n, 0):10.0f}")
    total = sum(m.memory.values())
    print(
        f"{'all':16}{sum(shares.values()) / m.seconds:8.0%}{sum(shares.values()) / steps * 1e3:9.2f}{total:10.0f}"
    )
    hops = listener.latencies() if listener else {}
    if hops:
        print(f"\n{'hop':36}{'median ms':>10}{'p99 ms':>9}")
        for hop, (median, p99, _) in hops.items():
            print(f"{hop:36}{median:10.2f}{p99:9.2f}")
    result = {
        "steps_per_s": round(rate, 1),
        "realtime_factor": round(rate * period, 2),
        "updates_per_step": round(updates / steps, 4),
        "first_episode_s": round(first_episode, 1),
        "memory_mb": round(total),  # proportional set size: shared pages counted once
        "resident_mb": round(sum(m.resident.values())),  # shared pages counted in every process
        "transitions_sent": summary["transitions_sent"],
        "transitions_stored": summary["transitions_stored"],
        "hops_ms": {hop: {"median": round(a, 2), "p99": round(b, 2)} for hop, (a, b, _) in hops.items()},
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
