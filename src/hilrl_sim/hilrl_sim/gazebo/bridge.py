"""Which topics ros_gz_bridge carries between Gazebo and the graph, as its configuration file wants it.

What comes raw (`gazebo/…`) is for `gazebo_node` alone, which makes the topics of the graph of it. The clock is not
carried over: Gazebo's comes with every step of the physics, and every process of the graph would wake up for each.
"""

from __future__ import annotations

from collections.abc import Sequence

from hilrl_ros.contract import Contract, Task
from hilrl_sim.objects import SceneObject, scene_objects

from .release import Release

TO_ROS, TO_GAZEBO = "GZ_TO_ROS", "ROS_TO_GZ"


def make_bridge(
    contract: Contract, task: Task, release: Release, cameras: Sequence[str]
) -> list[dict[str, str | bool]]:
    """Return the entries of the bridge's configuration; names in ROS are relative.

    Args:
        contract: Of the robot.
        task: What lies on the table.
        release: Gazebo's release, for the names of its messages.
        cameras: Cameras of the world.
    """

    def entry(ros: str, gazebo: str, ros_type: str, kind: str, way: str, **more) -> dict[str, str | bool]:
        return {
            "ros_topic_name": ros, "gz_topic_name": gazebo, "ros_type_name": ros_type,
            "gz_type_name": f"{release.messages}.{kind}", "direction": way, **more,
        }  # fmt: skip

    states = ("sensor_msgs/msg/JointState", "Model", TO_ROS)
    number = ("std_msgs/msg/Float64", "Double", TO_GAZEBO)
    entries = [entry("joint_states", "joint_states", *states)]
    for joint in contract.joints:
        entries.append(entry(f"gazebo/{joint}/target", f"{joint}/target", *number))
    for camera in cameras:  # Gazebo renders what somebody subscribes to, and physics waits for it
        for ros, gazebo, kind in (
            ("image_raw", "image", "Image"),
            ("camera_info", "camera_info", "CameraInfo"),
        ):
            kinds = (f"sensor_msgs/msg/{kind}", kind, TO_ROS)
            entries.append(entry(f"{camera}/{ros}", f"{camera}/{gazebo}", *kinds, lazy=True))
    objects = scene_objects(task)
    for name, item in objects.items():
        if not item.part_of:
            pose = ("geometry_msgs/msg/PoseStamped", "Pose", TO_ROS)
            entries.append(entry(f"gazebo/{name}/pose", f"/model/{name}/pose", *pose))
            if any(part.joint and root_of(objects, part) == name for part in objects.values()):
                entries.append(entry(f"gazebo/{name}/joint_states", f"{name}/joint_states", *states))
        if item.joint:
            force = f"/model/{root_of(objects, item)}/joint/{name}/cmd_force"
            entries.append(entry(f"gazebo/{name}/force", force, *number))
    return entries


def root_of(objects: dict[str, SceneObject], item: SceneObject) -> str:
    """Return the name of the object that an object is part of in the end, or its own."""
    while item.part_of:
        item = objects[item.part_of]
    return item.name
