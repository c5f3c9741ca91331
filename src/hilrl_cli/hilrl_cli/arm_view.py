"""The live view of an arm that a person drives: joints, tip, servos, who drives and with what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from hilrl_msgs.msg import Action
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from sensor_msgs.msg import JointState

from hilrl_ros import node as ros_node
from hilrl_ros import qos
from hilrl_ros.contract import Contract
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.executor import Executor
from hilrl_ros.kinematics import Kinematics
from hilrl_ros.messages import joint_vector
from hilrl_teleop.keyboard_node import KeyboardNode
from hilrl_teleop.terminal import Terminal

from .errors import UserError
from .view import for_people

_PLAIN_S = 2.0  # s between two lines where there is no terminal to draw on
_FRESH_S = 0.5  # s after which a joint state is old, and whoever drove has let go
_DIAGNOSTICS_S = 3.0  # s; they come once a second
_LEVELS = ("green", "yellow", "bold red", "bold red")
_SERVO = (("temperature", "°C"), ("voltage", "V"), ("current", "A"))


class ArmNode(Node):
    """Hears what the view shows.

    Attributes:
        joints: Newest joint positions [n], rad, None before the first; `joints_at` is when they came.
        diagnostics: Level, message and values of each part, and when they came.
    """

    def __init__(self, contract: Contract):
        super().__init__("arm_view")
        self.contract = contract
        self.joints: np.ndarray | None = None
        self.joints_at = self.command_at = -np.inf
        self.device = ""
        self.diagnostics: dict[str, tuple[int, str, dict[str, str], float]] = {}
        self.create_subscription(JointState, "joint_states", self.on_joints, qos.SENSOR)
        self.create_subscription(Action, "command", self.on_command, qos.STEP)
        self.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, qos.STEP)

    def on_joints(self, msg: JointState) -> None:
        """Note where the arm is."""
        try:
            self.joints, self.joints_at = joint_vector(msg, self.contract.joints), time.monotonic()
        except ValueError as error:
            self.get_logger().error(f"joint_states: {error}", throttle_duration_sec=5.0)

    def on_command(self, msg: Action) -> None:
        """Note who drives."""
        self.device, self.command_at = msg.device, time.monotonic()

    def on_diagnostics(self, msg: DiagnosticArray) -> None:
        """Note how the parts are."""
        for status in msg.status:
            values = {pair.key: pair.value for pair in status.values}
            level = int.from_bytes(status.level, "little")
            self.diagnostics[status.name] = (level, status.message, values, time.monotonic())

    def driver(self) -> str:
        """Return the device that drives now, "" for none."""
        return self.device if time.monotonic() - self.command_at < _FRESH_S else ""

    def parts(self) -> dict[str, tuple[int, str, dict[str, str]]]:
        """Return level, message and values of each part that is still heard of."""
        now = time.monotonic()
        return {
            name: (level, text, values)
            for name, (level, text, values, at) in list(self.diagnostics.items())
            if now - at < _DIAGNOSTICS_S
        }


class Keys(Terminal):
    """The terminal of a keyboard node whose lines are shown elsewhere."""

    def __init__(self, show: Callable[[str], None]):
        super().__init__()
        self.line, self._show = "", show

    def print(self, text: str) -> None:
        """Show lines that stay."""
        self._show(text)

    def status(self, line: str) -> None:
        """Keep the line that the view shows."""
        self.line = line


class ArmView:
    """Shows an arm while processes run; drives it with the keys of this terminal where that is wanted.

    Args:
        robot: Robot contract: a name from config/robots or a path.
        keyboard: Whether the keys of this terminal drive.
        namespace: Of the graph.
        console: Where to draw; plain lines where it is no terminal.
    """

    def __init__(self, robot: str, keyboard: bool, namespace: str = "", console: Console | None = None):
        self.contract, _ = load_contract(robot)
        self.kinematics = Kinematics(self.contract)
        self.console = console or Console()
        self.keyboard, self.namespace = keyboard, namespace
        self.keys: Keys | None = None
        self.ending = threading.Event()

    def __enter__(self) -> ArmView:
        names = ["--ros-args", "-r", f"__ns:=/{self.namespace}"] if self.namespace else []
        rclpy.init(args=names, signal_handler_options=SignalHandlerOptions.NO)
        self.node = ArmNode(self.contract)
        self.nodes: list[Node] = [self.node]
        try:
            if self.keyboard:
                self.keys = Keys(lambda text: self.console.print(Text(text)))
                self.nodes.append(KeyboardNode(self.keys))
        except ros_node.UserError as error:
            rclpy.shutdown()
            raise UserError(str(error)) from None
        if not self.console.is_terminal:
            self.node.create_timer(_PLAIN_S, lambda: self.console.print(self.line(), soft_wrap=True))
        self.thread = threading.Thread(target=self.spin, name="ros")
        self.thread.start()
        self.live = Live(get_renderable=self.panel, console=self.console, refresh_per_second=4)
        if self.console.is_terminal:
            self.live.start()
        return self

    def spin(self) -> None:
        """Hear until the end."""
        executor = Executor()
        for node in self.nodes:
            executor.add_node(node)
        while not self.ending.is_set():
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()

    def __exit__(self, *exception: object) -> None:
        self.live.stop()
        self.ending.set()
        self.thread.join()
        for node in reversed(self.nodes):
            if isinstance(node, KeyboardNode):
                node.close()
            node.destroy_node()
        rclpy.shutdown()

    def update(self, lines: list[str]) -> None:
        """Take new lines of the processes."""
        for line in lines:
            if text := for_people(line):
                self.console.print(Text(text), soft_wrap=True)

    def panel(self) -> Panel:
        """Return what is drawn now."""
        q, parts = self.node.joints, self.node.parts()
        if q is None:
            return Panel(
                Text("waiting for the arm's joint_states …"), title="hilrl teleop", title_align="left"
            )
        joints = Table(box=None, header_style="dim", padding=(0, 1))
        for column in ("joint", "rad", "deg", *(unit for _, unit in _SERVO), "servo"):
            joints.add_column(column, justify="left" if column in ("joint", "servo") else "right")
        for name, angle in zip(self.contract.joints, q, strict=True):
            level, text, values = next(
                (p for part, p in parts.items() if part.endswith(f": {name}")), (0, "", {})
            )
            joints.add_row(
                name, f"{angle:+.3f}", f"{np.degrees(angle):+.1f}", *(values.get(key, "") for key, _ in _SERVO),
                Text(text, style=_LEVELS[level]),
            )  # fmt: skip
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", justify="right")
        rows.add_column()
        rows.add_row("tip", self.tip(q))
        rows.add_row("gripper", f"{self.opened(q):.0%} open")
        rows.add_row("drives", Text(self.drives(), style="bold yellow" if self.node.driver() else ""))
        level, text = self.worst()
        rows.add_row("arm", Text(text, style=_LEVELS[level]))
        if self.keys:
            rows.add_row("keys", self.keys.line)
        return Panel(Group(joints, rows), title=f"hilrl teleop  {self.contract.robot}", title_align="left",
                     subtitle="ctrl-C ends", subtitle_align="left")  # fmt: skip

    def line(self) -> Text:
        """Return the same in one plain line."""
        q = self.node.joints
        if q is None:
            return Text("waiting for the arm's joint_states …")
        joints = "  ".join(
            f"{name} {angle:+.2f}" for name, angle in zip(self.contract.joints, q, strict=True)
        )
        facts = (
            f"{joints} rad",
            f"tip {self.tip(q)}",
            f"gripper {self.opened(q):.0%} open",
            self.drives(),
            self.servos(),
            self.worst()[1],
        )
        return Text(" | ".join(facts))

    def tip(self, q: np.ndarray) -> str:
        """Return where the tip is for joints [n], rad, and how far outside the box."""
        tip, _ = self.kinematics.forward(q)
        outside = np.maximum(self.contract.box_min - tip, tip - self.contract.box_max)
        axis = int(outside.argmax())
        off = f"{1000 * outside[axis]:.0f} mm outside the box along {'xyz'[axis]}"
        where = off if outside[axis] > 0 else "in the box"
        return "  ".join(f"{a} {v:+.3f}" for a, v in zip("xyz", tip, strict=True)) + f" m, {where}"

    def opened(self, q: np.ndarray) -> float:
        """Return how far the gripper is open for joints [n], rad: 0 to 1."""
        index = self.contract.joints.index(self.contract.gripper_joint)
        low, high = self.kinematics.joint_limits[index]
        return (q[index] - low) / (high - low)

    def drives(self) -> str:
        """Return who drives, and with what."""
        device = self.node.driver()
        return f"you, with {device}" if device else "nobody, the arm holds"

    def servos(self) -> str:
        """Return the hottest, weakest and hardest working of the servos' readings."""
        readings = [values for _, _, values in self.node.parts().values() if "temperature" in values]
        return (
            ", ".join(
                f"{extreme((values[key] for values in readings), key=float)} {unit}"
                for (key, unit), extreme in zip(_SERVO, (max, min, max), strict=True)
                if readings
            )
            or "servos unknown"
        )

    def worst(self) -> tuple[int, str]:
        """Return level and message of what is worst about the arm."""
        age = time.monotonic() - self.node.joints_at
        if age > _FRESH_S:
            return 2, f"no joint_states for {age:.1f} s"
        parts = self.node.parts()
        if not parts:
            return 0, "no diagnostics"
        name, (level, text, _) = max(parts.items(), key=lambda part: part[1][0])
        return level, f"{name}: {text}" if level else "fine"
