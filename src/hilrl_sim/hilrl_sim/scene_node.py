"""What every node with a simulated scene does: objects' poses and cameras, as only the world knows them."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState

from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.images import from_rgb
from hilrl_ros.node import UserError, declare, param
from hilrl_sim.scene import image_size
from hilrl_sim.simulation import Simulation


@dataclass
class SceneParams:
    """Parameters of a node with a simulated scene."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    cameras: list = param(
        ["front", "wrist"], "Cameras that are published, rendered while somebody subscribes"
    )
    camera_rate: float = param(30.0, "Images per second in real time", unit="Hz", bounds=(1.0, 60.0))
    image_width: int = param(
        0,
        "Width of published images; 0: as the task's scene.image_size says, else 640",
        unit="px",
        bounds=(0, 1280),
    )
    image_height: int = param(
        0,
        "Height of published images; 0: as the task's scene.image_size says, else 480",
        unit="px",
        bounds=(0, 720),
    )


class SceneNode(Node):
    """A node with a simulated arm and table.

    Publishes `<object>/pose`, `<object>/joint_states` of objects on joints, `<camera>/image_raw` and `camera_info`.

    Attributes:
        params: Its parameters.
        contract: The robot contract.
        simulation: Arm and table.
        image_size: Height and width of published images, px.
    """

    def __init__(self, name: str, params: type[SceneParams]):
        super().__init__(name)
        self.params = declare(self, params)
        self.contract, task = load_contract(self.params.robot, self.params.task)
        self.simulation = Simulation(self.contract, task)
        height, width = image_size(task)
        self.image_size = self.params.image_height or height, self.params.image_width or width
        known = self.simulation.cameras
        for camera in self.params.cameras:
            if camera not in known:
                raise UserError(
                    f"parameter 'cameras': '{camera}' is not in the scene; there are {', '.join(known)}"
                )
        self.pose_publishers = {
            name: self.create_publisher(PoseStamped, f"{name}/pose", qos.STEP)
            for name in self.simulation.object_poses()
        }
        self.joint_publishers = {
            name: self.create_publisher(JointState, f"{name}/joint_states", qos.STEP)
            for name in self.simulation.object_joints()
        }
        self.image_publishers = {
            name: (
                self.create_publisher(Image, f"{name}/image_raw", qos.SENSOR),
                self.create_publisher(CameraInfo, f"{name}/camera_info", qos.SENSOR),
            )
            for name in self.params.cameras
        }

    def publish_poses(self, stamp: Time) -> None:
        """Publish where the objects are, and how far those on joints have moved."""
        for name, (position, velocity) in self.simulation.object_joints().items():
            state = JointState(name=[name], position=[position], velocity=[velocity])
            state.header.stamp, state.header.frame_id = stamp, self.contract.model.base_frame
            self.joint_publishers[name].publish(state)
        for name, (position, quaternion) in self.simulation.object_poses().items():
            msg = PoseStamped()
            msg.header.stamp, msg.header.frame_id = stamp, self.contract.model.base_frame
            p, q = msg.pose.position, msg.pose.orientation
            p.x, p.y, p.z = map(float, position)
            q.x, q.y, q.z, q.w = map(float, quaternion)
            self.pose_publishers[name].publish(msg)

    def publish_images(self, stamp: Time, data: mujoco.MjData | None = None) -> None:
        """Render and publish the cameras that somebody subscribes to, of the present state or of `data`."""
        size = self.image_size
        for name, (images, infos) in self.image_publishers.items():
            frame = f"{name}_optical_frame"
            if images.get_subscription_count():
                images.publish(from_rgb(self.simulation.render(name, *size, data), stamp, frame))
            if infos.get_subscription_count():
                k = self.simulation.camera_matrix(name, *size)
                info = CameraInfo(height=size[0], width=size[1], distortion_model="plumb_bob", d=[0.0] * 5)
                info.header.stamp, info.header.frame_id = stamp, frame
                info.k, info.r = k.flatten().tolist(), np.eye(3).flatten().tolist()
                info.p = np.hstack([k, np.zeros((3, 1))]).flatten().tolist()
                infos.publish(info)
