"""Says whether a ROS package is installed, as true or false: a launch file starts what is there.

`$(command '$(find-pkg-prefix hilrl_rviz)/lib/hilrl_rviz/installed rviz2')` comes to `true` or `false`.
"""

import argparse
from collections.abc import Sequence

from ament_index_python.packages import PackageNotFoundError, get_package_prefix


def is_installed(package: str) -> bool:
    """Whether a ROS package is in a prefix of AMENT_PREFIX_PATH."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Print true or false, without a line's end: launch takes the output as it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", help="name of a ROS package")
    print(str(is_installed(parser.parse_args(arguments).package)).lower(), end="")
    return 0
