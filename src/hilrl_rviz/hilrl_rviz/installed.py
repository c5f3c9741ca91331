"""Says whether a ROS package is installed, as true or false: a launch file starts what is there.

$(command '$(find-pkg-prefix hilrl_rviz)/lib/hilrl_rviz/installed rviz2')
"""

import argparse
from collections.abc import Sequence

from ament_index_python.packages import PackageNotFoundError, get_package_prefix


def main(arguments: Sequence[str] | None = None) -> int:
    """Print true or false, without a line's end: launch takes the output as it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", help="name of a ROS package")
    options = parser.parse_args(arguments)
    try:
        get_package_prefix(options.package)
    except PackageNotFoundError:
        print("false", end="")
    else:
        print("true", end="")
    return 0
