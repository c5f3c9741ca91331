"""Loop rate and CPU share of the servo bus: ours against the SDK's own group read and write.

    python bench/bus.py [--seconds 10] [--latency 0.0015]

One loop reads the whole state (15 bytes) of six servos in one packet and writes six goals in another, on emulated
servos behind a pseudo-terminal whose adapter takes `latency` for a reply. The servos are a process of their own, so
is each loop; the two take turns, so that neither gains from a quiet moment. Measured three times:

- calm: nothing else runs. The latency alone allows 667 loops/s, and what pseudo-terminal and emulator need on top
  leaves no loop, however thin, much faster than the SDK, which has a core to itself and waits busily.
- training: beside a computing process for each core that steps back (nice 10), as a learner is meant to.
- busy: beside a computing process for each core with an equal share, as other nodes have. Waiting busily then uses up
  the SDK's share of a core, and it has lost its turn when the reply comes; whoever sleeps is woken at once.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import scservo_sdk as sdk

from so101_driver import registers as reg
from so101_driver.bus import Bus
from so101_driver.emulator import EmulatedBus

IDS = range(1, 7)
ROUNDS = 5
FIELDS = (
    reg.PRESENT_POSITION, reg.PRESENT_VELOCITY, reg.PRESENT_LOAD, reg.PRESENT_VOLTAGE, reg.PRESENT_TEMPERATURE,
    reg.STATUS, reg.MOVING, reg.PRESENT_CURRENT,
)  # fmt: skip


def ours(port: str) -> Callable[[], bool]:
    """Return one loop of our bus; it says whether all servos answered."""
    bus = Bus(port, IDS)

    def loop() -> bool:
        states = bus.sync_read_state().states
        bus.sync_write_positions({id_: 2000 for id_ in IDS})
        return len(states) == len(IDS)

    return loop


def theirs(port: str) -> Callable[[], bool]:
    """Return one loop of the SDK's GroupSyncRead and GroupSyncWrite."""
    handler, packets = sdk.PortHandler(port), sdk.PacketHandler(0)
    handler.openPort()
    handler.setBaudRate(1_000_000)
    reader = sdk.GroupSyncRead(handler, packets, reg.STATE_ADDRESS, reg.STATE_SIZE)
    writer = sdk.GroupSyncWrite(handler, packets, reg.GOAL_POSITION.address, reg.GOAL_POSITION.size)
    for id_ in IDS:
        reader.addParam(id_)

    def loop() -> bool:
        good = reader.txRxPacket() == sdk.COMM_SUCCESS
        for id_ in IDS:
            for register in FIELDS:
                reader.getData(id_, register.address, register.size)
            writer.addParam(id_, list(reg.GOAL_POSITION.encode(2000)))
        writer.txPacket()
        writer.clearParam()
        return good

    return loop


def measure(port: str, kind: str, seconds: float) -> dict[str, float]:
    """Run loops for some seconds; return their number, the failed ones, wall and CPU seconds."""
    loop = {"ours": ours, "sdk": theirs}[kind](port)
    for _ in range(20):
        loop()
    loops = failed = 0
    start, cpu = time.monotonic(), time.process_time()
    while time.monotonic() < start + seconds:
        failed += not loop()
        loops += 1
    return {
        "loops": loops, "failed": failed, "wall": time.monotonic() - start, "cpu": time.process_time() - cpu,
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each loop")
    parser.add_argument("--latency", type=float, default=0.0015, help="of the adapter, s")
    parser.add_argument("--measure", nargs=2, metavar=("PORT", "KIND"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.seconds)))
        return

    context = multiprocessing.get_context("spawn")
    ours_end, their_end = context.Pipe()
    process = context.Process(target=serve, args=(args.latency, their_end), daemon=True)
    process.start()
    command = [
        sys.executable,
        __file__,
        "--seconds",
        str(args.seconds / ROUNDS),
        "--measure",
        ours_end.recv(),
    ]
    result = {"latency_ms": args.latency * 1e3, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    result["calm"] = compare("calm", command)
    for name, niceness in (("training", 10), ("busy", 0)):
        others = [
            context.Process(target=compute, args=(niceness,), daemon=True) for _ in range(os.cpu_count())
        ]
        for other in others:
            other.start()
        result[name] = compare(name, command)
        for other in others:
            other.terminate()
            other.join()
    ours_end.send("enough")
    process.join()
    for name in ("calm", "training", "busy"):
        ratios = result[name]["rate_ratio"], result[name]["cpu_ratio"]
        print(f"{name}: ours runs {ratios[0]:.2f} times as fast with {ratios[1]:.2f} of the CPU")
    print(json.dumps(result))


def compute(niceness: int) -> None:
    """Want a core without end."""
    os.nice(niceness)
    while True:
        sum(range(10_000))


def serve(latency: float, end: Connection) -> None:
    """Emulate the servos and tell their port, until told that it is enough."""
    with EmulatedBus(IDS, latency) as emulated:
        for servo in emulated.servos.values():
            servo.set(reg.RETURN_DELAY, 0)
        end.send(emulated.port)
        end.recv()


def compare(name: str, command: list[str]) -> dict[str, float]:
    """Let the two loops take turns; print and return the figures."""
    totals = {kind: dict.fromkeys(("loops", "failed", "wall", "cpu"), 0.0) for kind in ("ours", "sdk")}
    for _ in range(ROUNDS):
        for kind, total in totals.items():
            run = subprocess.run([*command, kind], check=True, capture_output=True, text=True)
            for key, value in json.loads(run.stdout).items():
                total[key] += value
    print(f"{name:10}{'loops/s':>9}{'CPU':>8}{'CPU ms/loop':>13}{'failed':>8}")
    result = {}
    for kind, total in totals.items():
        rate, cpu = total["loops"] / total["wall"], total["cpu"] / total["wall"]
        print(f"{kind:10}{rate:9.1f}{cpu:8.1%}{cpu / rate * 1e3:13.3f}{total['failed']:8.0f}")
        result |= {f"{kind}_loops_per_s": round(rate, 1), f"{kind}_cpu": round(cpu, 4)}
        result[f"{kind}_failed"] = int(total["failed"])
    result["rate_ratio"] = round(result["ours_loops_per_s"] / result["sdk_loops_per_s"], 3)
    result["cpu_ratio"] = round(result["ours_cpu"] / result["sdk_cpu"], 3)
    return result


if __name__ == "__main__":
    main()
