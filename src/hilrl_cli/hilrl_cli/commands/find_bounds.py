"""hilrl find-bounds: the box that the tip shall stay in, and the joints' ranges, by moving the arm by hand.

With --save, the box that holds in a running graph, as it was dragged in rviz2.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from hilrl_cli import environment
from hilrl_cli.arm import EMULATED, PATIENCE, STOPS, Hand, add_port, open_port
from hilrl_cli.contract_file import check_out, edited, in_line, write
from hilrl_cli.errors import UserError
from hilrl_cli.lines import Lines

SMALLEST = 0.03  # m that the box must measure along each axis
PAUSE = 0.02  # s between two readings
_HEARD = 5.0  # s within which a running arm controller is heard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("--name", help="name of the arm's calibration (not needed with --port emulated)")
    add_port(parser)
    parser.add_argument(
        "--robot", default="so101", help="robot contract: a name from config/robots or a path"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="contract to write (default: <robot>_bounds.yaml in this folder), and a .png of it",
    )
    parser.add_argument(
        "--joint-margin",
        type=float,
        default=0.1,
        help="rad that each joint may go past what was shown (default: 0.1)",
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep the box of the running arm controller, as rviz2 changed it; the arm is not moved by hand",
    )
    parser.add_argument("--namespace", default="", help="with --save: namespace of the running graph")


def run(arguments: argparse.Namespace) -> int:
    """Watch the tip until enter is pressed, or ask the running arm controller; then write the contract."""
    environment.enter()
    if arguments.save:
        return save(arguments)
    from hilrl_ros.config import find_config
    from hilrl_ros.contract import ContractError
    from hilrl_ros.contract_reader import load_contract
    from hilrl_ros.kinematics import Kinematics
    from so101_driver.calibration import Calibration, CalibrationError

    if arguments.port != EMULATED and not arguments.name:
        raise UserError("--name is missing: the name under which the arm was calibrated")
    if arguments.joint_margin < 0:
        raise UserError(f"--joint-margin is {arguments.joint_margin:g}, expected 0 or more")
    try:
        source = find_config("robots", arguments.robot)
        contract, _ = load_contract(arguments.robot)
        calibration = (
            emulated() if arguments.port == EMULATED else Calibration.find(arguments.name, arguments.role)
        )
        kinematics = Kinematics(contract)
    except (ContractError, CalibrationError) as error:
        raise UserError(str(error)) from None
    if set(calibration.names) != set(contract.joints):
        raise UserError(
            f"the calibration has {', '.join(calibration.names)}, the contract {', '.join(contract.joints)}"
        )
    out = arguments.out or Path(f"{contract.robot}_bounds.yaml")
    check_out(out)  # before anybody moves the arm
    with open_port(arguments) as (port, hand):
        seen = Seen(contract, kinematics)
        watch(port, hand, calibration, seen, Lines())
    limits = seen.joint_limits(arguments.joint_margin, contract.home)
    text = with_bounds(source.read_text(), seen.box(), dict(zip(contract.joints, limits, strict=True)))
    write(out, text)
    picture = out.with_suffix(".png")
    draw(picture, seen)
    print(describe(seen.box(), contract.joints, limits))
    say_home(contract, kinematics, seen.box())
    print(f"Written to {out} ({picture} shows it). Use it with robot:={out}")
    return 0


def save(arguments: argparse.Namespace) -> int:
    """Write a contract with the box of the running arm controller; everything else stays."""
    from hilrl_ros.config import find_config
    from hilrl_ros.contract import ContractError
    from hilrl_ros.contract_reader import load_contract
    from hilrl_ros.kinematics import Kinematics

    try:
        source = find_config("robots", arguments.robot)
        contract, _ = load_contract(arguments.robot)
        kinematics = Kinematics(contract)
    except ContractError as error:
        raise UserError(str(error)) from None
    box = live_box(arguments.namespace)
    out = arguments.out or Path(f"{contract.robot}_bounds.yaml")
    write(out, with_bounds(source.read_text(), box))
    print(describe(box))
    say_home(contract, kinematics, box)
    print(f"Written to {out}. Use it with robot:={out}")
    return 0


def live_box(namespace: str) -> np.ndarray:
    """Return the box [2, 3] of the running arm controller, m, rounded to millimetres.

    Raises:
        UserError: None is heard.
    """
    import rclpy
    from hilrl_msgs.msg import Box
    from rclpy.executors import SingleThreadedExecutor

    from hilrl_ros import qos

    environment.join_graph()
    context, heard = rclpy.Context(), []
    rclpy.init(args=[], context=context)
    executor = SingleThreadedExecutor(context=context)
    node = rclpy.create_node("find_bounds", namespace=namespace, context=context)
    try:
        executor.add_node(node)
        node.create_subscription(Box, "box", heard.append, qos.LATCHED)
        end = time.monotonic() + _HEARD
        while not heard and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        if not heard:
            raise UserError(
                f"no arm controller tells its box on {node.resolve_topic_name('box')}: start a graph first, or name "
                "its --namespace"
            )
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
    return np.round([heard[-1].min, heard[-1].max], 3)


def say_home(contract, kinematics, box: np.ndarray) -> None:
    """Say so where the tip's home lies outside a box [2, 3]."""
    home = kinematics.forward(np.array(contract.home))[0]
    if np.any(home < box[0]) or np.any(home > box[1]):
        print(
            f"The tip's home ({', '.join(f'{v:.3f}' for v in home)}) lies outside this box: an episode begins with "
            "being led into it. Change `home`, or show a larger box."
        )


def emulated():
    """Calibration of the emulated arm, without a file."""
    from hilrl_cli.arm import IDS
    from so101_driver.calibration import Calibration, JointCalibration

    return Calibration({name: JointCalibration(id_, 0, 0, *STOPS[id_]) for name, id_ in IDS.items()})


class Seen:
    """Where the arm was.

    Attributes:
        tips: Positions of the tip in the base frame, m.
        joints: Joint positions, rad.
    """

    def __init__(self, contract, kinematics):
        self.contract, self._forward = contract, kinematics.forward
        self._model_limits = kinematics.joint_limits
        self.tips: list[np.ndarray] = []
        self.joints: list[np.ndarray] = []

    def add(self, joints: np.ndarray) -> None:
        """Take joint positions [n], rad."""
        self.joints.append(joints)
        self.tips.append(self._forward(joints)[0])

    def box(self) -> np.ndarray:
        """Return lower and upper corner [2, 3], m, rounded to millimetres."""
        return np.round([np.min(self.tips, axis=0), np.max(self.tips, axis=0)], 3)

    def small(self) -> str:
        """Axis along which the box is too small, "" if there is none."""
        low, high = self.box()
        return next((a for a, size in zip("xyz", high - low, strict=True) if size < SMALLEST), "")

    def joint_limits(self, margin: float, home: tuple[float, ...]) -> np.ndarray:
        """Return limits [n, 2], rad: what was shown and the home pose, with a margin, within the model's."""
        shown = np.vstack([*self.joints, home])
        limits = np.stack([shown.min(axis=0) - margin, shown.max(axis=0) + margin], axis=1)
        gripper = self.contract.joints.index(self.contract.gripper_joint)
        limits[gripper] = self._model_limits[gripper]  # it opens and closes as far as it can
        low, high = self._model_limits.T
        return np.round(np.clip(limits, low[:, None], high[:, None]), 4)


def watch(port: str, hand: Hand | None, calibration, seen: Seen, lines: Lines) -> None:
    """Follow the arm, whose torque is off, until enter is pressed and the box is large enough."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from so101_driver import registers as reg
    from so101_driver.bus import Bus
    from so101_driver.identity import strangers

    console = Console()
    order = [calibration.names.index(name) for name in seen.contract.joints]
    with Bus(port, calibration.ids, timeout=PATIENCE) as bus:
        other = strangers(bus, calibration)
        if other:
            raise UserError(
                f"the servos of {', '.join(other)} hold other homing offsets than the calibration: name this arm's"
            )
        for id_ in calibration.ids:
            bus.write_register(id_, reg.TORQUE_ENABLE, 0)
        lines.ask("Torque is off. Bring the tip into the place where the task is, then press enter:")
        if hand:
            way = corners(calibration, seen.contract)
            hand.go(way[0])
            hand.move(way)
        console.print(
            "Move the tip to all corners of where it may go, lowest and highest too, then press enter."
        )
        with Live(console=console, auto_refresh=False) as live:
            while True:
                reading = bus.sync_read_state()
                if not reading.errors:
                    ticks = [reading.states[id_].position for id_ in calibration.ids]
                    seen.add(calibration.to_radians(ticks)[order])
                    live.update(Text(status(seen)), refresh=console.is_terminal)
                if lines.entered() and seen.tips:
                    axis = seen.small()
                    if not axis:
                        return
                    console.print(
                        f"The box is smaller than {SMALLEST} m along {axis}: go on, then press enter."
                    )
                time.sleep(PAUSE)


def corners(calibration, contract) -> list[dict[int, float]]:
    """Return poses (ticks) with which an emulated arm shows the contract's own box."""
    from hilrl_ros.kinematics import Kinematics

    kinematics = Kinematics(contract)
    q = np.array(contract.home)
    R = kinematics.forward(q)[1]
    low, high = np.array(contract.box_min), np.array(contract.box_max)
    way = []
    for at in np.ndindex(2, 2, 2):
        corner = np.where(at, high - 0.02, low + 0.02)
        for _ in range(40):
            tip = kinematics.forward(q)[0]
            q = kinematics.step_ik(q, tip + np.clip(corner - tip, -0.02, 0.02), R)
        ticks = calibration.to_ticks(q[[contract.joints.index(name) for name in calibration.names]])
        way.append(dict(zip(calibration.ids, ticks.tolist(), strict=True)))
    return way


def status(seen: Seen) -> str:
    """Where the tip is, and the box so far, in a few lines."""
    low, high = seen.box()
    rows = [
        f"  {a}   now {now:+.3f}   from {lo:+.3f} to {hi:+.3f} m"
        for a, now, lo, hi in zip("xyz", seen.tips[-1], low, high, strict=True)
    ]
    return "\n".join(["tip", *rows])


def describe(box: np.ndarray, joints: tuple[str, ...] = (), limits: np.ndarray | tuple = ()) -> str:
    """The result in words."""
    size = " x ".join(f"{100 * v:.0f}" for v in box[1] - box[0])
    rows = [f"  {name:<14} {lo:+.2f} to {hi:+.2f} rad" for name, (lo, hi) in zip(joints, limits, strict=True)]
    return "\n".join([f"Box of {size} cm: min {box[0].tolist()}, max {box[1].tolist()}", *rows])


def with_bounds(text: str, box: np.ndarray, limits: dict[str, np.ndarray] | None = None) -> str:
    """Return a contract's YAML with another box and, if given, other joint limits; all else, comments too, stays."""

    def change(data) -> None:
        data["box"] = in_line({"min": box[0].tolist(), "max": box[1].tolist()})
        if limits is None:
            return
        ranges = in_line({name: pair.tolist() for name, pair in limits.items()})
        if "joint_limits" in data:
            data["joint_limits"] = ranges
        else:
            data.insert(list(data).index("box"), "joint_limits", ranges)

    return edited(text, change)


def draw(path: Path, seen: Seen) -> None:
    """Draw where the tip was and the box, from above and from the side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tips, (low, high) = np.array(seen.tips), seen.box()
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for axis, (a, b), title in zip(axes, ((1, 0), (0, 2)), ("from above", "from the side"), strict=True):
        axis.plot(tips[:, a], tips[:, b], ".", markersize=2, color="tab:blue", label="tip")
        axis.add_patch(
            plt.Rectangle((low[a], low[b]), high[a] - low[a], high[b] - low[b], fill=False, color="tab:red")
        )
        axis.plot(0, 0, "k^", label="base")
        axis.set(title=title, xlabel=f"{'xyz'[a]} [m]", ylabel=f"{'xyz'[b]} [m]", aspect="equal")
    axes[0].invert_xaxis()  # y points to the left
    axes[0].legend(loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)
