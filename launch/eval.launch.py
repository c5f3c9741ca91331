"""Includes eval.launch.yaml, which describes the graph."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource


def generate_launch_description():
    # a plain path: --show-args reads the arguments before there is a context for substitutions
    source = AnyLaunchDescriptionSource(str(Path(__file__).with_name("eval.launch.yaml")))
    return LaunchDescription([IncludeLaunchDescription(source)])
