"""Says which topics belong to an episode, as the regular expression that `ros2 bag record --regex` takes.

    ros2 bag record --regex "$(ros2 run hilrl_data topics --task reach)"

They are those of the suite's recorder, with the announcements of episodes.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from hilrl_data.recorder import recorded_types
from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract


def main(arguments: Sequence[str] | None = None) -> int:
    """Print it, without a line's end: launch takes the output as it is; 1 after one sentence on stderr if it fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--robot", default="so101", help="robot contract: a name from config/robots or a path"
    )
    parser.add_argument("--task", default="pick_cube", help="task: a name from config/tasks or a path")
    parser.add_argument("--namespace", default="", help="namespace of the graph")
    options = parser.parse_args(arguments)
    try:
        contract, _ = load_contract(options.robot, options.task)
    except ContractError as e:
        print(e, file=sys.stderr)
        return 1
    namespace = options.namespace.strip("/")
    names = (
        topic if topic.startswith("/") else "/".join(["", *filter(None, [namespace]), topic])
        for topic in ["episode", *recorded_types(contract)]
    )
    print(f"^({'|'.join(map(re.escape, names))})$", end="")
    return 0
