"""Joy teleop node: /joy to end-effector motion while the dead-man is held, and to operator events."""

from dataclasses import dataclass

from hilrl_msgs.msg import Action, OperatorEvent
from rclpy.node import Node
from sensor_msgs.msg import Joy

from hilrl_ros import qos
from hilrl_ros.contract import find_config
from hilrl_ros.messages import floats
from hilrl_ros.node import ask_for_realtime, declare, param, run
from hilrl_teleop.joy_mapping import JoyMapping

_EVENTS = {
    "success": OperatorEvent.SUCCESS,
    "failure": OperatorEvent.FAILURE,
    "discard": OperatorEvent.DISCARD,
    "pause": OperatorEvent.PAUSE,
}


@dataclass
class JoyTeleopParams:
    """Parameters of the joy teleop."""

    mapping: str = param("game_controller", "Gamepad mapping: a name from config/gamepads or a path")
    realtime: bool = param(False, "Ask for real-time priority (SCHED_FIFO)")


class JoyTeleopNode(Node):
    """Subscribes to `joy`, publishes `teleop/action` for each reading and `operator_event` for each press."""

    def __init__(self):
        super().__init__("joy_teleop")
        params = declare(self, JoyTeleopParams)
        self.mapping = JoyMapping.load(find_config("gamepads", params.mapping))
        self.buttons: list[int] | None = None
        self.actions = self.create_publisher(Action, "teleop/action", qos.STEP)
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
        for event in self.mapping.pressed(self.buttons, msg.buttons):
            self.events.publish(OperatorEvent(header=msg.header, event=_EVENTS[event]))
        self.buttons = list(msg.buttons)
        controller = Action.PERSON if held else Action.NOBODY
        self.actions.publish(
            Action(header=msg.header, controller=controller, space=Action.EE_DELTA, action=floats(motion))
        )


def main() -> None:
    """Run the node."""
    run(JoyTeleopNode)
