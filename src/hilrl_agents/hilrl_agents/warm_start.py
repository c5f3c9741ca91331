"""From an imitation policy to the start of an agent: what is copied, what stays fresh and why, what is frozen."""

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hilrl_agents.config import ConfigError


class WarmStartError(ConfigError):
    """A prior that an agent cannot start from; the message is one sentence for the user."""


@dataclass(frozen=True)
class WarmStart:
    """What an agent took over from a prior policy; all names are the agent's own.

    Attributes:
        prior: name of the prior's algorithm.
        copied: tensors that are the prior's, bit for bit.
        fresh: (tensor or whole network, why it is not the prior's).
        frozen: parameters that no gradient moves.
    """

    prior: str
    copied: tuple[str, ...]
    fresh: tuple[tuple[str, str], ...]
    frozen: tuple[str, ...]

    def describe(self) -> list[str]:
        """Lines for a log: what matched, what did not and why, what is frozen."""
        lines = [f"starts from '{self.prior}': copied {', '.join(self.copied) or 'no tensor'}"]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.fresh:
            reasons.setdefault(reason, []).append(name)
        lines += [f"not copied: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
        return lines + ([f"frozen: {', '.join(self.frozen)}"] if self.frozen else [])


def copy_matching(
    own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], origins: Mapping[str, str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Copies tensors of equal name and shape into an agent, in place.

    Args:
        own: the agent's tensors, by name.
        theirs: the prior's.
        origins: whose part is whose: first parts of own names, each with the first part of the prior's name.

    Returns:
        Names that were copied, and those that were not, with the reason; a network without any tensor of the
        prior's is named as a whole.
    """

    def part_of(name: str) -> str | None:
        return max((part for part in origins if name.startswith(f"{part}.")), key=len, default=None)

    shared = {name.partition(".")[0] for name in own if part_of(name)}
    copied: list[str] = []
    fresh: dict[str, str] = {}
    for name, tensor in own.items():
        part, network = part_of(name), name.partition(".")[0]
        if part is None:
            fresh[name if network in shared else network] = "the prior has nothing of the kind"
            continue
        origin = origins[part] + name[len(part) :]
        if origin not in theirs:
            fresh[name] = f"the prior has no {origin}"
        elif theirs[origin].shape != tensor.shape:
            shapes = [tuple(t.shape) for t in (tensor, theirs[origin])]
            fresh[name] = f"is {shapes[0]}, the prior's {origin} is {shapes[1]}"
        else:
            tensor.copy_(theirs[origin])
            copied.append(name)
    return copied, list(fresh.items())


def matching(patterns: Sequence[str], names: Iterable[str], agent: str) -> list[str]:
    """Names that one of the glob patterns fits, such as encoder.* or actor.mean.weights.0.

    Raises:
        WarmStartError: a pattern fits no name; lists those that it could.
    """
    names = list(names)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise WarmStartError(
                f"warm_start.freeze: '{pattern}' fits no parameter that '{agent}' trains; they are {', '.join(names)}"
            )
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def fingerprint(tensors: Mapping[str, Tensor]) -> Tensor:
    """First eight bytes of sha256 over names and values, int64 [1]: the same tensors, the same number."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return torch.tensor([int.from_bytes(digest.digest()[:8], "little", signed=True)])
