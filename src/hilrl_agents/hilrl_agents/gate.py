"""Who acts where nothing is explored: a policy that began as another one takes over when it has earned it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hilrl_agents.config import option


@dataclass(frozen=True)
class GateOptions:
    """When a warm-started policy takes over from what acted before."""

    gate_episodes: int = option(
        20,
        "Newest episodes of training, explored, that must have earned as much as the prior did before what was learnt "
        "since acts where nothing is explored too; where a person helped, an episode earned its rewards by the share "
        "of the steps that were the policy's; 0: it acts at once",
        "episodes",
        low=0,
    )
    gate_margin: float = option(
        0.2,
        "How much less than at its last hand-over it may earn at the next, chance being large; never less than the "
        "prior",
        low=0,
    )


class Gate(nn.Module):
    """Compares what episodes earned; all of it is state, so that a resumed run goes on with it.

    The first bar is what the prior earned when it was measured; explored it earns less, so what passes is better.
    Unmeasured, or with a person there who helps, it is at least what the first episodes earned, which are the prior's.

    Args:
        episodes: `GateOptions.gate_episodes`, at least 1.
        margin: `GateOptions.gate_margin`.
    """

    def __init__(self, episodes: int, margin: float) -> None:
        super().__init__()
        self.margin = margin
        self.register_buffer("newest", torch.zeros(episodes))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # of those
        self.register_buffer("first", torch.zeros(()))  # mean of the prior's
        self.register_buffer("first_count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("helped", torch.tensor(False))  # a person helped in those
        self.register_buffer("alone", torch.tensor(-torch.inf))  # what the prior was measured to earn
        self.register_buffer("handed", torch.tensor(-torch.inf))  # what was earned at the last hand-over

    @property
    def bar(self) -> Tensor:
        """What the newest episodes must have earned on average."""
        bar = torch.maximum(self.alone, self.handed - self.margin)
        return torch.maximum(bar, self.first) if self.helped or self.alone.isinf() else bar

    @torch.no_grad()
    def measured(self, earned: float) -> None:
        """Notes what the prior earns on average; too late when it is known, or what is learnt has acted."""
        if self.alone.isinf() and not self.count:
            self.alone.fill_(earned)

    @torch.no_grad()
    def passes(self, earned: float, helped: bool, prior_acted: bool) -> bool:
        """Notes an episode of training; returns whether what learnt since may take over.

        Args:
            earned: sum of its rewards, by the share of its steps that no person acted.
            helped: a person acted.
            prior_acted: the learner had not moved the policy yet.
        """
        if prior_acted:
            self.first_count += 1
            self.first += (earned - self.first) / self.first_count
            self.helped |= helped
            return False
        self.newest[int(self.count) % len(self.newest)] = earned
        self.count += 1
        mean = self.newest.mean()
        if self.count < len(self.newest) or mean < self.bar:
            return False
        self.handed.copy_(mean)
        return True
