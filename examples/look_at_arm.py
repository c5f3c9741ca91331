"""Looks at a robot contract in simulation: its tip at home, how far it sags, a pose's joints, and pictures.

    .venv/bin/python examples/look_at_arm.py config/robots/viperx.yaml --tip 0.22 0 0.08 --rpy 0 1.5708 0

Without ROS running. Writes `look_<robot>.png`, the simulated cameras side by side.
"""

import argparse
import sys

import cv2
import numpy as np

from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import Kinematics, matrix_rpy, rpy_matrix
from hilrl_sim.rendering import RenderingError
from hilrl_sim.simulation import Simulation

STEPS = 300  # of at most 1 cm on the way to a pose


def pose(kinematics: Kinematics, tip: list[float], rpy: list[float] | None) -> np.ndarray:
    """Return the joints [n] that bring the tip to a place (m) and a turn (rad; None: as at home), or near them."""
    q = np.array(kinematics.contract.home)
    R = kinematics.forward(q)[1] if rpy is None else rpy_matrix(np.array(rpy))
    for _ in range(STEPS):
        way = np.array(tip) - kinematics.forward(q)[0]
        step = way * min(1.0, 0.01 / max(np.linalg.norm(way), 1e-9))
        q = kinematics.step_ik(q, kinematics.forward(q)[0] + step, R)
    return q


def tell(what: str, kinematics: Kinematics, q: np.ndarray) -> None:
    """Print where the tip is for joints q [n]."""
    tip, R = kinematics.forward(q)
    print(f"{what}: tip {tip.round(4).tolist()} m, roll pitch yaw {matrix_rpy(R).round(3).tolist()} rad")


def main() -> int:
    """Print and draw; return 1 after one sentence if the contract does not fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("robot", help="robot contract: a name from config/robots or a path")
    parser.add_argument("--task", default="pick_cube", help="what lies on the table")
    parser.add_argument(
        "--tip", type=float, nargs=3, help="x y z: print the joints for this place of the tip, m"
    )
    parser.add_argument("--rpy", type=float, nargs=3, help="its roll, pitch, yaw, rad; none: as at home")
    options = parser.parse_args()
    try:
        contract, task = load_contract(options.robot, options.task)
        simulation = Simulation(contract, task)
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    kinematics = simulation.kinematics
    tell("home", kinematics, np.array(contract.home))
    if options.tip:
        q = pose(kinematics, options.tip, options.rpy)
        tell("asked", kinematics, q)
        print("home: {" + ", ".join(f"{n}: {v:.4f}" for n, v in zip(contract.joints, q, strict=True)) + "}")
    for _ in range(20):
        simulation.step(simulation.target)
    wanted, is_at = (kinematics.forward(q)[0] for q in (simulation.target, simulation.joint_position))
    print(f"sags {1000 * np.linalg.norm(wanted - is_at):.1f} mm at home")
    try:
        pictures = [simulation.render(camera, 480, 640) for camera in simulation.cameras]
    except RenderingError as error:
        print(error, file=sys.stderr)
        return 1
    cv2.imwrite(f"look_{contract.robot}.png", np.hstack(pictures)[:, :, ::-1])
    print(f"look_{contract.robot}.png: {', '.join(simulation.cameras)}")
    simulation.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
