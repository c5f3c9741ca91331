"""Opens whatever holds episodes."""

from __future__ import annotations

from pathlib import Path

from hilrl_data.bags import BagError
from hilrl_data.episodes import BagSource, Source, bags_of
from hilrl_data.lerobot_layout import INFO
from hilrl_data.lerobot_reader import DatasetError, LeRobotSource
from hilrl_data.mapping import Mapping, MappingError
from hilrl_data.video import VideoError
from hilrl_ros.contract import Contract, ContractError

# what a person can mend
ERRORS = (BagError, DatasetError, MappingError, VideoError, ContractError)


def is_lerobot(path: Path) -> bool:
    """Return whether a folder holds a LeRobotDataset."""
    return (path / INFO).is_file()


def open_source(
    path: Path,
    contract: Contract,
    task: tuple[str, str],
    mapping: Mapping | None = None,
    rewarded: bool = True,
    images: bool = True,
) -> Source:
    """Open a LeRobotDataset, a run, a folder of bags, or a bag.

    Args:
        path: Where it is.
        contract: What its episodes shall fit.
        task: Name and text of the task of episodes that do not say theirs.
        mapping: What the names in a LeRobotDataset do not tell.
        rewarded: Whether rewards must be there.
        images: Whether the cameras of a LeRobotDataset are read too.

    Raises:
        One of `ERRORS`.
    """
    if is_lerobot(path):
        return LeRobotSource(path, contract, task[0], mapping, rewarded, images)
    if mapping is not None:
        raise MappingError(f"{path}: a mapping (--map) is for LeRobot datasets, this is none")
    return BagSource(bags_of(path), contract, task, rewarded)
