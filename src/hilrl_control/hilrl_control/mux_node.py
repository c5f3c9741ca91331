"""Intervention mux node: forwards the policy's action, or the person's while the dead-man of a device is held."""

from dataclasses import dataclass

from hilrl_msgs.msg import Action, Episode
from rclpy.node import Node

from hilrl_control.mux import Mux
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.node import ask_for_realtime, declare, param, run, steady_ns


@dataclass
class MuxParams:
    """Parameters of the mux."""

    exact: bool = param(
        False, "Wait at each step for the teleop reading of that step (lockstep); else take the newest"
    )
    timeout: float = param(
        0.25,
        "A teleop reading older than this does not count: the dead-man is let go",
        unit="s",
        bounds=(0.01, 5.0),
    )
    teleop: bool = param(
        False, "No policy acts: the person's newest reading is forwarded at the robot contract's control rate"
    )
    robot: str = param("so101", "Robot contract, for that rate: a name from config/robots or a path")
    realtime: bool = param(False, "Ask for real-time priority (SCHED_FIFO)")


class MuxNode(Node):
    """Subscribes to `policy/action` and `teleop/action`, publishes `command`.

    With `teleop`, to `teleop/action` alone: it publishes while somebody drives, and else leaves the arm to the driver,
    which holds.
    """

    def __init__(self):
        super().__init__("mux")
        params = declare(self, MuxParams)
        self.mux = Mux(params.exact, round(params.timeout * 1e9))
        self.publisher = self.create_publisher(Action, "command", qos.STEP)
        self.create_subscription(Action, "teleop/action", self.on_person, qos.STEP)
        if params.teleop:
            contract, _ = load_contract(params.robot)
            self.create_timer(contract.period, self.on_tick)
        else:
            self.create_subscription(Action, "policy/action", self.on_policy, qos.STEP)
            self.create_subscription(Episode, "episode", self.on_episode, qos.LATCHED)
        ask_for_realtime(self, params.realtime)

    def on_policy(self, msg: Action) -> None:
        """Forward the step's action as soon as it is decided."""
        self.send(self.mux.on_policy(msg, steady_ns(self)))

    def on_person(self, msg: Action) -> None:
        """Remember the reading; forward the step that waited for it."""
        self.send(self.mux.on_person(msg, steady_ns(self)))

    def on_tick(self) -> None:
        """Let the person drive for one control period."""
        self.send(self.mux.on_tick(steady_ns(self)))

    def on_episode(self, msg: Episode) -> None:
        """Learn whether the person may take over in this episode."""
        self.mux.person_allowed = msg.person

    def send(self, msg: Action | None) -> None:
        """Publish a decided action."""
        if msg is not None:
            self.publisher.publish(msg)


def main() -> None:
    """Run the node."""
    run(MuxNode)
