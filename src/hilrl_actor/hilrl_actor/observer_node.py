"""Observer node: turns joint states, poses and camera frames into one Observation per control period."""

from dataclasses import dataclass

from hilrl_msgs.msg import Episode, Observation, Reward
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from hilrl_actor.observer import EXECUTED, JOINT_STATES, Observer
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import message_class, nanoseconds
from hilrl_ros.node import ask_for_realtime, declare, param, run


@dataclass
class ObserverParams:
    """Parameters of the observer."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    max_age: float = param(
        0.2, "A pose or image older than this at a tick is waited for", unit="s", bounds=(0.001, 10.0)
    )
    privileged: bool = param(
        True, "Observe the task's privileged entries too; off where no simulator publishes them"
    )
    realtime: bool = param(False, "Ask for real-time priority (SCHED_FIFO)")


class ObserverNode(Node):
    """Subscribes to what the contract names, publishes `observation`."""

    def __init__(self):
        super().__init__("observer")
        params = declare(self, ObserverParams)
        contract, _ = load_contract(params.robot, params.task)
        self.observer = Observer(contract, params.max_age, params.privileged)
        self.publisher = self.create_publisher(Observation, "observation", qos.STEP)
        types = {JOINT_STATES: JointState}
        types |= {entry.topic: message_class(entry.type) for entry in self.observer.entries}
        types |= {camera.topic: Image for camera in contract.cameras.values()}
        for topic, kind in types.items():
            profile = qos.STEP if topic == EXECUTED else qos.SENSOR
            self.create_subscription(kind, topic, lambda msg, t=topic: self.on_message(t, msg), profile)
        self.create_subscription(Episode, "episode", self.on_episode, qos.LATCHED)
        self.create_subscription(Reward, "reward", self.on_reward, qos.STEP)
        ask_for_realtime(self, params.realtime)

    def on_message(self, topic: str, msg) -> None:
        """Take a message; one that does not fit the contract makes no observation, so nobody acts on it."""
        try:
            self.send(self.observer.add(topic, msg))
        except ValueError as e:
            self.get_logger().error(f"no observation: {topic}: {e}", throttle_duration_sec=5.0)

    def on_episode(self, msg: Episode) -> None:
        """Begin an episode, go on with it, or pause between episodes and on the person's wish."""
        if msg.status == Episode.RUNNING:
            try:
                self.send(self.observer.begin(msg.episode, nanoseconds(msg.header.stamp)))
            except ValueError as e:
                self.get_logger().error(f"no observation: {e}", throttle_duration_sec=5.0)
        else:
            self.observer.pause()

    def on_reward(self, msg: Reward) -> None:
        """End the episode where the reward says so."""
        if msg.terminated or msg.truncated:
            self.observer.end(msg.episode)

    def send(self, observation: Observation | None) -> None:
        """Publish an observation if one is due."""
        if observation is not None:
            self.publisher.publish(observation)


def main() -> None:
    """Run the node."""
    run(ObserverNode)
