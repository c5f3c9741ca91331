"""Recorder node: episodes to rosbag2 MCAP bags, the final policy to a film."""

from dataclasses import dataclass
from pathlib import Path

from hilrl_msgs.msg import Episode, OperatorEvent, Recording
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from hilrl_data.bags import STEP_TOPICS, typestore_for
from hilrl_data.recorder import EpisodeRecorder, Message, recorded_types
from hilrl_data.video import VideoWriter
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.images import to_rgb
from hilrl_ros.messages import message_class, nanoseconds
from hilrl_ros.node import declare, param, run

_PHASES = {
    "demos": (Episode.LABEL, Episode.DEMONSTRATE),
    "all": (
        Episode.LABEL,
        Episode.DEMONSTRATE,
        Episode.BASELINE,
        Episode.TRAIN,
        Episode.EVALUATE,
        Episode.SHOWCASE,
    ),
}
_FOLDERS = {Episode.LABEL: "labels", Episode.DEMONSTRATE: "demos"}


@dataclass
class RecorderParams:
    """Parameters of the recorder."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    runs_dir: str = param(
        "runs", "Folder of the runs; bags go to <run>/labels, <run>/demos and <run>/episodes"
    )
    record: str = param("demos", "Which episodes are recorded", choices=("demos", "all"))
    steps_alone: bool = param(
        False, "Leave out the contract's own topics, such as full camera frames: only what the policy meets"
    )
    camera: str = param("front", "Camera that films the final policy; empty: no film")


class RecorderNode(Node):
    """Records the contract's topics, `observation`, `executed_action` and `reward`, one bag per episode."""

    def __init__(self):
        super().__init__("recorder")
        self.params = declare(self, RecorderParams)
        self.contract, task = load_contract(self.params.robot, self.params.task)
        self.recorder = EpisodeRecorder(self.contract, task, _PHASES[self.params.record])
        self.film: VideoWriter | None = None
        self.film_subscription = None
        self.run_folder: Path | None = None
        self.publisher = self.create_publisher(Recording, "recording", qos.STEP)
        self.create_subscription(Episode, "episode", self.on_episode, qos.LATCHED)
        types = recorded_types(self.contract)
        self.raw_types = {t: types[t] for t in STEP_TOPICS} if self.params.steps_alone else types
        self.raw_subscriptions: list = []
        for type_name in ("hilrl_msgs/msg/Episode", *types.values()):
            typestore_for(type_name)  # takes a tenth of a second: no sensor's message shall be missed by it
        self.create_subscription(OperatorEvent, "operator_event", self.on_event, qos.STEP)
        # from the beginning: connecting takes a moment, and the first episode shall be whole
        self.listen(True)

    def on_episode(self, msg: Episode) -> None:
        """Begin an episode's bag, begin or end the film."""
        self.run_folder = Path(self.params.runs_dir) / msg.run
        self.listen(msg.phase in self.recorder.phases)
        kind = _FOLDERS.get(msg.phase, "episodes")
        folder = self.run_folder / kind / f"episode_{msg.episode:06d}"
        recording = self.recorder.begin(msg, folder, self.resolve_topic_name("episode"))
        if recording:
            self.publisher.publish(recording)
        if self.params.camera and msg.phase == Episode.SHOWCASE and self.film is None:
            self.film = VideoWriter(self.run_folder / "policy.mp4", self.contract.control_rate)
            self.film_subscription = self.create_subscription(
                Image, f"{self.params.camera}/image_raw", self.on_frame, qos.SENSOR
            )
        elif msg.phase != Episode.SHOWCASE:
            self.close_film()

    def listen(self, wanted: bool) -> None:
        """Subscribe to what is recorded only while something is recorded: it costs time at every step."""
        if wanted and not self.raw_subscriptions:
            for topic, type_name in self.raw_types.items():
                profile = qos.STEP_ASIDE if topic in STEP_TOPICS else qos.SENSOR
                self.raw_subscriptions.append(
                    self.create_subscription(
                        message_class(type_name),
                        topic,
                        lambda data, t=topic, n=type_name: self.on_raw(t, n, data),
                        profile,
                        raw=True,
                    )
                )
        elif not wanted:
            for subscription in self.raw_subscriptions:
                self.destroy_subscription(subscription)
            self.raw_subscriptions = []

    def on_raw(self, topic: str, type_name: str, data: bytes) -> None:
        """Write a message to the open bag; close the bag when its episode is complete."""
        msg = deserialize_message(data, message_class(type_name))
        stamp = nanoseconds(msg.header.stamp)
        part = msg if topic in STEP_TOPICS else None
        recording = self.recorder.add(Message(self.resolve_topic_name(topic), type_name, stamp, data, part))
        if recording:
            self.publisher.publish(recording)

    def on_event(self, msg: OperatorEvent) -> None:
        """Delete the bag of a discarded episode."""
        if msg.event == OperatorEvent.DISCARD:
            self.recorder.discard()

    def on_frame(self, msg: Image) -> None:
        """Add a frame to the film."""
        if self.film:
            self.film.add(to_rgb(msg))

    def close_film(self) -> None:
        """Finish the film."""
        if self.film:
            self.destroy_subscription(self.film_subscription)
            self.film.close()
            self.film = None

    def close(self) -> None:
        """Leave no half bag and a film that plays."""
        self.recorder.discard()
        self.close_film()


def main() -> None:
    """Run the node."""
    run(RecorderNode)
