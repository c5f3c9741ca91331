"""Box handles node: in rviz2 a person drags the sides of the tip's box; the arm controller has the last word."""

from dataclasses import dataclass

import numpy as np
from hilrl_msgs.msg import Box
from hilrl_msgs.srv import SetBox
from rclpy.node import Node
from rclpy.task import Future
from visualization_msgs.msg import InteractiveMarkerFeedback, InteractiveMarkerUpdate
from visualization_msgs.srv import GetInteractiveMarkers

from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.node import declare, param, run
from hilrl_rviz.handles import SIDES, dragged, interactive_markers, poses


@dataclass
class BoxHandlesParams:
    """Parameters of the handles."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")


class BoxHandlesNode(Node):
    """A handle on each side of the arm controller's `box`, for rviz2's display *InteractiveMarkers*.

    Where a handle is let go, the new box goes to the arm controller through `set_box`; whatever it answers, the
    handles return to the box that holds. They are there once an arm controller is.

    rviz2 asks for the handles at `box_handles/get_interactive_markers`, then follows `box_handles/update`; a jump
    in the updates' sequence numbers makes it ask again.
    """

    def __init__(self):
        super().__init__("box_handles")
        self.frame = load_contract(declare(self, BoxHandlesParams).robot)[0].model.base_frame
        self.box: np.ndarray | None = None
        self.sequence = 0
        self.updates = self.create_publisher(InteractiveMarkerUpdate, "box_handles/update", qos.STEP)
        self.create_subscription(
            InteractiveMarkerFeedback, "box_handles/feedback", self.on_feedback, qos.STEP
        )
        self.create_service(GetInteractiveMarkers, "box_handles/get_interactive_markers", self.on_get_markers)
        self.create_subscription(Box, "box", self.on_box, qos.LATCHED)
        self.set_box = self.create_client(SetBox, "set_box")

    def on_box(self, msg: Box) -> None:
        """Put the handles on the box that holds now."""
        first, self.box = self.box is None, np.array([msg.min, msg.max])
        self.update(
            InteractiveMarkerUpdate(markers=interactive_markers(self.box, self.frame) if first else [])
        )

    def update(self, msg: InteractiveMarkerUpdate) -> None:
        """Publish a change, and where all handles are."""
        self.sequence += 1
        msg.server_id, msg.type, msg.seq_num = self.get_name(), InteractiveMarkerUpdate.UPDATE, self.sequence
        msg.poses = poses(self.box, self.frame)
        self.updates.publish(msg)

    def on_get_markers(
        self, request: GetInteractiveMarkers.Request, response: GetInteractiveMarkers.Response
    ) -> GetInteractiveMarkers.Response:
        """Give the handles to an rviz2 that has just come."""
        response.sequence_number = self.sequence
        if self.box is not None:
            response.markers = interactive_markers(self.box, self.frame)
        return response

    def on_feedback(self, msg: InteractiveMarkerFeedback) -> None:
        """Ask for the new box where a handle was let go."""
        if (
            msg.event_type != InteractiveMarkerFeedback.MOUSE_UP
            or msg.marker_name not in SIDES
            or self.box is None
        ):
            return
        if msg.header.frame_id != self.frame:
            self.refuse(f"rviz2's fixed frame is '{msg.header.frame_id}', expected '{self.frame}'")
        elif not self.set_box.service_is_ready():
            self.refuse("no arm controller serves set_box")
        else:
            low, high = dragged(self.box, msg.marker_name, msg.pose.position)
            future = self.set_box.call_async(SetBox.Request(box=Box(min=low, max=high)))
            future.add_done_callback(self.on_answer)

    def on_answer(self, future: Future) -> None:
        """Say why a box was refused; one that was taken is published as `box`."""
        if not future.result().success:
            self.refuse(future.result().message)

    def refuse(self, why: str) -> None:
        """Let the handles snap back, and say why."""
        self.get_logger().warning(why)
        self.update(InteractiveMarkerUpdate())


def main() -> None:
    """Run the node."""
    run(BoxHandlesNode)
