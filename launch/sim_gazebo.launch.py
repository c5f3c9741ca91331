"""The YAML launch file of the same name, which describes the graph, for those who type `.launch.py`."""

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource


def generate_launch_description():
    # A plain path: the arguments show under --show-args only if the file is known without launching.
    source = AnyLaunchDescriptionSource(__file__.replace(".launch.py", ".launch.yaml"))
    return LaunchDescription([IncludeLaunchDescription(source)])
