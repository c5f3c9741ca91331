"""The YAML launch file of the same name, which describes the graph, for those who type `.launch.py`."""

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration


def generate_launch_description():
    # A plain path: the arguments show under --show-args only if the file is known without launching.
    source = AnyLaunchDescriptionSource(__file__.replace(".launch.py", ".launch.yaml"))
    # An argument without default must be handed on by name: ROS 2's include asks for it.
    given = {"policy": LaunchConfiguration("policy")}
    return LaunchDescription([IncludeLaunchDescription(source, launch_arguments=given.items())])
