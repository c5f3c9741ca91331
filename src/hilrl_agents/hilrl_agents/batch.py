"""A minibatch of action chunks, and the chunk arithmetic that every algorithm shares."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

# {"state": float32 [B, S], "images": {name: uint8 [B, height, width, channels]}}, or in place of the images
# "features" [B, …]: what a frozen encoder made of them
Observation = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """B starts, each with the H actions and the T ≥ H rewards that followed.

    T is `max(horizon, n_step)`. Steps behind a termination or behind the end of what is stored are padding:
    `steps` counts the real ones, padded rewards and actions are zero.

    Attributes:
        observation: at the start; state [B, S], images {name: [B, height, width, channels]} or features [B, …].
        action: float32 [B, H, A], executed actions.
        reward: float32 [B, T].
        steps: int64 [B], real steps, 1 … T.
        bootstrap: float32 [B], 0 where the episode terminated within the steps, else 1.
        next_observation: the one that followed the last real step (the true final one at a truncation).
        offline: bool [B], rows that came from the offline buffer.
        person: bool [B, H], steps that a person acted.
        left: int64 [B], steps from the start to its episode's end, that included; 0 where that end is not stored.
        solved: bool [B], the episode ended with a termination that was rewarded; False where no end is stored, and
            before a person took over where that ends a sample.
        path: observations after each of the T steps, [B, T, …]; padding repeats the last one. None: not asked for.
    """

    observation: Observation
    action: Tensor
    reward: Tensor
    steps: Tensor
    bootstrap: Tensor
    next_observation: Observation
    offline: Tensor
    person: Tensor
    left: Tensor
    solved: Tensor
    path: Observation | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def valid(self) -> Tensor:
        """float32 [B, H], 1 where the action was executed, 0 on padding."""
        return (torch.arange(self.action.shape[1], device=self.steps.device) < self.steps[:, None]).float()

    def shown(self) -> Tensor:
        """float32 [B, H], 1 on steps of the offline buffer that a person acted: what is imitated."""
        return (self.person & self.offline[:, None]).float()

    def chunk_return(self, gamma: float) -> Tensor:
        """Σ_{i<h} γ^i r_i over the real steps h (Q-chunking, arXiv 2507.07969, eq. 4) → [B]."""
        span = torch.arange(self.reward.shape[1], device=self.steps.device)
        return (self.reward * gamma**span * (span < self.steps[:, None])).sum(1)

    def bootstrap_discount(self, gamma: float) -> Tensor:
        """γ^h (1 − terminated) → [B], what the value of `next_observation` is worth at the start."""
        return gamma**self.steps * self.bootstrap

    def split(self, parts: int) -> list["Batch"]:
        """`parts` smaller batches; strided, so that each keeps the share of offline rows."""
        if parts == 1:
            return [self]
        return [
            Batch(**{item.name: _rows(getattr(self, item.name), part, parts) for item in fields(self)})
            for part in range(parts)
        ]

    def to(self, device: str | torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(**{item.name: _move(getattr(self, item.name), device) for item in fields(self)})


def fold(chunk: Tensor) -> Tensor:
    """Action chunks [B, H, A] → [B, H·A] for a network. Only here is the layout known; `unfold` inverts."""
    return chunk.flatten(1)


def unfold(flat: Tensor, horizon: int) -> Tensor:
    """Network output [B, H·A] → action chunks [B, H, A]."""
    return flat.unflatten(1, (horizon, -1))


def _rows(value: Any, part: int, parts: int) -> Any:
    if isinstance(value, dict):
        return {key: _rows(inner, part, parts) for key, inner in value.items()}
    return None if value is None else value[part::parts]


def _move(value: Any, device: str | torch.device) -> Any:
    if isinstance(value, dict):
        return {key: _move(inner, device) for key, inner in value.items()}
    return None if value is None else value.to(device)
