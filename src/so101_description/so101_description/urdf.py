"""Writes a robot's URDF with absolute mesh paths, as robot_state_publisher and rviz2 need it.

    ros2 run so101_description urdf > so101.urdf
    ros2 run so101_description urdf --ros2-control mock_components/GenericSystem > so101.urdf

The published URDF names its meshes relative to its own folder, which ROS tools do not resolve.
"""

import argparse
import sys
from collections.abc import Sequence

from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import urdf_text
from so101_description.ros2_control import with_ros2_control


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the URDF; return 1 after one sentence on stderr if it cannot be found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--robot", default="so101", help="robot contract: a name from config/robots or a path"
    )
    parser.add_argument(
        "--ros2-control",
        metavar="PLUGIN",
        help="add a ros2_control tag with this hardware plugin, such as mock_components/GenericSystem",
    )
    options, _ = parser.parse_known_args(arguments)  # launch appends --ros-args
    try:
        contract, _ = load_contract(options.robot)
        urdf = urdf_text(contract.model)
        print(with_ros2_control(urdf, contract, options.ros2_control) if options.ros2_control else urdf)
    except ContractError as e:
        print(e, file=sys.stderr)
        return 1
    return 0
