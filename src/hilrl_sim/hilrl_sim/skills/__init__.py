"""What the scripted person can do: one expert for each kind of task.

An expert sees what a person at the pad sees (the contract's named state entries) and answers
with a stick position. It keeps almost no memory, so it resumes from whatever mess a policy left.
"""

from __future__ import annotations

import numpy as np

from hilrl_ros.contract import Contract, ContractError, Task

from .base import Expert
from .drawer import OpenDrawerExpert
from .grasp import PickExpert
from .peg import InsertPegExpert
from .reach import ReachExpert

EXPERTS: dict[str, type[Expert]] = {
    "pick": PickExpert,
    "reach": ReachExpert,
    "open_drawer": OpenDrawerExpert,
    "insert_peg": InsertPegExpert,
}


def make_expert(contract: Contract, task: Task, rng: np.random.Generator, variation: float = 1.0) -> Expert:
    """Return the task's expert.

    Raises:
        ContractError: The task names none, or one that does not exist or fit.
    """
    if task.expert not in EXPERTS:
        raise ContractError(f"{task.name}.expert: is {task.expert!r}, expected one of {', '.join(EXPERTS)}")
    return EXPERTS[task.expert](contract, task, rng, variation)
