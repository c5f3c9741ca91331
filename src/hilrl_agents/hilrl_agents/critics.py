"""What the agents with an ensemble of critics share: its options, the backup over a chunk, and both losses.

B rows, E critics.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hilrl_agents.batch import Batch
from hilrl_agents.config import option
from hilrl_agents.networks import fast_bf16


@dataclass(frozen=True)
class CriticOptions:
    """How values are learnt."""

    gamma: float = option(
        0.97,
        "Discount per robot step; 0.97 looks some 3 s ahead at 10 Hz (QC: 0.99, longer tasks)",
        low=0,
        high=1,
    )
    tau: float = option(
        0.005, "Share of the critic that the target takes over per critic step", low=0, high=1
    )
    critics: int = option(2, "Ensemble size; RLPD's 10 pays only with a high utd_ratio", low=1)
    critic_subsample: int = option(0, "Critics drawn for each target's minimum (RLPD); 0 for all", low=0)
    largest_return: float = option(
        0.0,
        "Bound on the target, the most that an episode can earn: 1 for rewards that are scaled so; keeps values from "
        "running away; 0 for none",
        low=0,
    )
    pretrain_returns: int = option(
        0,
        "Steps of the demonstrations' returns on which the critic is started while the policy imitates, an episode's "
        "length; 0: the critic starts untrained",
        "steps",
        low=0,
    )
    precision: str = option(
        "auto",
        "Matrix products of the critics' hidden layers, in sac of the actor's too: auto takes bfloat16 where the "
        "machine has it in hardware",
        choices=("auto", "float32", "bfloat16"),
    )


def uses_bf16(config: CriticOptions) -> bool:
    """Whether `precision` comes to bfloat16 on this machine."""
    return config.precision == "bfloat16" or (config.precision == "auto" and fast_bf16())


def least(q: Tensor, subsample: int, generator: torch.Generator) -> Tensor:
    """The least of the critics, or of `subsample` of them that are drawn (RLPD, algorithm 1); q [E, B] → [B]."""
    if subsample:
        q = q[torch.randperm(len(q), generator=generator)[:subsample]]
    return q.amin(0)


def backup(batch: Batch, value: Tensor, config: CriticOptions) -> Tensor:
    """Target y = Σ_{i<h} γ^i r_i + γ^h (1 − terminated) V(s_h) over the h executed steps, bounded by `largest_return`.

    Q-chunking, arXiv 2507.07969, eq. 4. value of the next observations [B] → [B].
    """
    target = batch.chunk_return(config.gamma) + batch.bootstrap_discount(config.gamma) * value
    return target.clamp(max=config.largest_return) if config.largest_return else target


def td_loss(q: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over critics and rows of (Q(s, a) − y)² (RLPD, algorithm 1); q [E, B], y [B] → scalar, metrics."""
    loss = (q - y).square().mean()
    return loss, {"critic_loss": loss.detach(), "q": q.detach().mean(), "td_target": y.mean()}


def return_loss(q: Tensor, batch: Batch, gamma: float) -> Tensor:
    """Mean over critics and rows of (Q(s, a) − Σ γ^i r_i)², rows whose episode was solved; q [E, B] → scalar."""
    whole = 1 - batch.bootstrap
    error = (q - batch.chunk_return(gamma)).square().mean(0)
    return (error * whole).sum() / whole.sum().clamp_min(1)
