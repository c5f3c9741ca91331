"""Includes sim.launch.yaml, which describes the graph."""

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch.substitutions import ThisLaunchFileDir


def generate_launch_description():
    source = AnyLaunchDescriptionSource([ThisLaunchFileDir(), "/sim.launch.yaml"])
    return LaunchDescription([IncludeLaunchDescription(source)])
