"""Keyboard node: keys of its terminal to end-effector motion, and to operator events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from hilrl_msgs.msg import Action, OperatorEvent
from rclpy.node import Node
from std_msgs.msg import Bool

from hilrl_ros import qos
from hilrl_ros.config import find_config
from hilrl_ros.contract import EE_AXES
from hilrl_ros.node import declare, heard, param, run
from hilrl_teleop.keys import KeyDecoder, KeyMapping, Keys
from hilrl_teleop.readings import event, reading
from hilrl_teleop.terminal import Terminal


@dataclass
class KeyboardParams:
    """Parameters of the keyboard."""

    mapping: str = param("terminal", "What the keys do: a name from config/keyboards or a path")
    drives: str = param(
        "tip",
        "What is taken over: the tip, moved by keys, or a leader arm, which gets the dead-man on teleop/deadman",
        choices=("tip", "leader"),
    )
    hold: float = param(
        0.1,
        "How long one press of a key moves; the control period makes it one step",
        unit="s",
        bounds=(0.02, 2.0),
    )
    rate: float = param(50.0, "Readings per second", unit="Hz", bounds=(1.0, 200.0))


class KeyboardNode(Node):
    """Reads keys of its terminal; publishes `teleop/action` at a fixed rate and `operator_event` for each press.

    It needs a terminal of its own: a launch file gives none.

    Args:
        terminal: Where keys come from and lines go; the controlling terminal if it is left out.
    """

    def __init__(self, terminal: Terminal | None = None):
        super().__init__("keyboard")
        self.params = declare(self, KeyboardParams)
        self.keys = Keys(KeyMapping.load(find_config("keyboards", self.params.mapping)), self.params.hold)
        self.decoder = KeyDecoder()
        self.finished = False
        if self.params.drives == "tip":
            self.publisher = self.create_publisher(Action, "teleop/action", qos.STEP)
        else:
            self.publisher = self.create_publisher(Bool, "teleop/deadman", qos.STEP)
        self.events = self.create_publisher(OperatorEvent, "operator_event", qos.STEP)
        self.terminal = terminal or Terminal()
        self.terminal.print(self.keys.mapping.help())
        self.create_timer(1.0 / self.params.rate, self.read)

    def read(self) -> None:
        """Take the keys that were pressed, publish what they mean."""
        now = time.monotonic()
        for key in self.decoder.feed(self.terminal.read()):
            name = self.keys.press(key, now)
            if name:
                self.events.publish(event(self.get_clock().now().to_msg(), name))
                self.terminal.print(f"told: {name}")
        if not self.terminal.open:
            self.get_logger().warning("the terminal was closed: the keyboard lets go")
            self.finished = True
            return
        motion = self.keys.motion(now)
        self.publish(motion)
        self.terminal.status(self.status(motion))

    def publish(self, motion: Sequence[float]) -> None:
        """Publish one reading."""
        if self.params.drives == "tip":
            stamp = self.get_clock().now().to_msg()
            self.publisher.publish(reading(self.get_name(), stamp, self.keys.held, motion))
        else:
            self.publisher.publish(Bool(data=self.keys.held))

    def status(self, motion: Sequence[float]) -> str:
        """Return the status line."""
        who = "you drive" if self.keys.held else "you have let go"
        if self.params.drives == "leader":
            return f"{who} (leader arm)"
        moving = [f"{axis} {value:+.2f}" for axis, value in zip(EE_AXES, motion, strict=True) if value]
        return f"{who}   speed {100 * self.keys.speed:g}%   {'  '.join(moving)}"

    def close(self) -> None:
        """Let go, and give the terminal back."""
        self.keys.held = False
        self.publish([0.0] * len(EE_AXES))
        heard(self.publisher)
        self.terminal.close()


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    run(KeyboardNode, args)
