"""Speed of the simulation alone: control periods per second, and milliseconds per picture.

    python bench/sim.py [--robot so101] [--task pick_cube] [--periods 300]

The arm wanders around its home pose with its jaws opening and closing. Last line JSON.
"""

import argparse
import json
import time

import numpy as np

from hilrl_control.arm import ArmController
from hilrl_ros.contract_reader import load_contract
from hilrl_sim.rendering import RenderingError
from hilrl_sim.simulation import Simulation


def timed(function, repeats: int) -> float:
    """Return the median seconds of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robot", default="so101", help="name from config/robots or path")
    parser.add_argument("--task", default="pick_cube", help="name from config/tasks or path")
    parser.add_argument("--periods", type=int, default=300, help="control periods to run")
    args = parser.parse_args()

    contract, task = load_contract(args.robot, args.task)
    start = time.perf_counter()
    simulation = Simulation(contract, task)
    result = {"build_s": round(time.perf_counter() - start, 2)}
    controller = ArmController(contract)
    controller.reset(simulation.joint_position)
    rng = np.random.default_rng(0)

    result["reset_us"] = round(1e6 * timed(lambda: simulation.reset(int(rng.integers(1000))), 20))
    actions = rng.uniform(-1, 1, (args.periods, len(contract.action.names)))
    control, physics = [], []
    for action in actions:
        times = [time.perf_counter()]
        target = controller.step(simulation.joint_position, action).target
        times.append(time.perf_counter())
        simulation.step(target)
        times.append(time.perf_counter())
        control.append(times[1] - times[0])
        physics.append(times[2] - times[1])
    result["controller_us"] = round(1e6 * float(np.median(control)))
    result["step_us"] = round(1e6 * float(np.median(physics)))
    result["periods_per_s"] = round(1.0 / float(np.mean(physics)))
    result["realtime_factor"] = round(result["periods_per_s"] / contract.control_rate, 1)

    try:
        for camera in simulation.cameras:
            for height, width in ((128, 128), (480, 640)):
                simulation.render(camera, height, width)
                seconds = timed(lambda c=camera, h=height, w=width: simulation.render(c, h, w), 20)
                result[f"{camera}_{height}x{width}_ms"] = round(1e3 * seconds, 1)
    except RenderingError as e:
        print(e)
    for name, figure in result.items():
        print(f"{name:24} {figure}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
