"""Joy teleop node: /joy to end-effector motion while the dead-man is held, and to operator events."""

from dataclasses import dataclass

from hilrl_msgs.msg import Action, OperatorEvent
from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool

from hilrl_ros import qos
from hilrl_ros.config import find_config
from hilrl_ros.node import ask_for_realtime, declare, param, run
from hilrl_teleop.joy_mapping import JoyMapping
from hilrl_teleop.readings import event, reading


@dataclass
class JoyTeleopParams:
    """Parameters of the joy teleop."""

    mapping: str = param("game_controller", "Gamepad mapping: a name from config/gamepads or a path")
    drives: str = param(
        "tip",
        "What is taken over: the tip, moved by the sticks, or a leader arm, which gets the dead-man on teleop/deadman",
        choices=("tip", "leader"),
    )
    realtime: bool = param(False, "Ask for real-time priority (SCHED_FIFO)")


class JoyTeleopNode(Node):
    """Subscribes to `joy`, publishes `teleop/action` for each reading and `operator_event` for each press.

    The release of the success button is an event too: what is labelled is what was seen while it was held.

    Where it drives a leader arm, it publishes `teleop/deadman` instead of `teleop/action`.
    """

    def __init__(self):
        super().__init__("joy_teleop")
        params = declare(self, JoyTeleopParams)
        self.mapping = JoyMapping.load(find_config("gamepads", params.mapping))
        self.buttons: list[int] | None = None
        self.drives = params.drives
        if self.drives == "tip":
            self.actions = self.create_publisher(Action, "teleop/action", qos.STEP)
        else:
            self.deadman = self.create_publisher(Bool, "teleop/deadman", qos.STEP)
        self.events = self.create_publisher(OperatorEvent, "operator_event", qos.STEP)
        self.create_subscription(Joy, "joy", self.on_joy, qos.STEP)
        ask_for_realtime(self, params.realtime)

    def on_joy(self, msg: Joy) -> None:
        """Translate one reading."""
        try:
            held, motion = self.mapping.read(msg.axes, msg.buttons)
        except ValueError as e:
            self.get_logger().error(str(e), throttle_duration_sec=5.0)
            return
        for name in self.mapping.pressed(self.buttons, msg.buttons):
            self.events.publish(event(msg.header.stamp, name))
        self.buttons = list(msg.buttons)
        if self.drives == "tip":
            self.actions.publish(reading(self.get_name(), msg.header.stamp, held, motion))
        else:
            self.deadman.publish(Bool(data=held))


def main() -> None:
    """Run the node."""
    run(JoyTeleopNode)
