"""Who acts where nothing is explored: a policy that began as another one takes over when it has earned it."""

from dataclasses import dataclass

import torch
from torch import nn

from hilrl_agents.config import option


@dataclass(frozen=True)
class GateOptions:
    """When a warm-started policy takes over from what acted before."""

    gate_episodes: int = option(
        20,
        "Newest episodes of training, explored and without a person's help, that must surely have earned as much as "
        "the prior did before what was learnt since acts where nothing is explored too; 0: it acts at once",
        "episodes",
        low=0,
    )
    gate_confidence: float = option(
        1.64,
        "Standard errors of those episodes' mean by which it must exceed what the prior earned: a window that slides "
        "over many episodes is good by chance at some time; 1.64 is sure to 95 %",
        low=0,
    )
    gate_margin: float = option(
        0.1,
        "How much less than at its last hand-over it may earn at the next, chance being large; never less than the "
        "prior",
        low=0,
    )


class Gate(nn.Module):
    """Compares what episodes earned; all of it is state, so that a resumed run goes on with it.

    The first bar is what the prior earned when it was measured, else the mean of the first episodes, which are the
    prior's, explored: few, and worse than it is.

    Args:
        episodes: `GateOptions.gate_episodes`, at least 1.
        confidence: `GateOptions.gate_confidence`.
        margin: `GateOptions.gate_margin`.
    """

    def __init__(self, episodes: int, confidence: float, margin: float) -> None:
        super().__init__()
        self.confidence, self.margin = confidence, margin
        self.register_buffer("newest", torch.zeros(episodes))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # of those
        self.register_buffer("prior", torch.zeros(()))  # mean of the prior's
        self.register_buffer("prior_count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("bar", torch.zeros(()))
        self.register_buffer("known", torch.tensor(False))  # the prior was measured

    @torch.no_grad()
    def measured(self, earned: float) -> None:
        """Notes what the prior earns on average; too late when it is known, or what is learnt has acted."""
        if not self.known and not self.count:
            self.prior.fill_(earned)
            self.bar.fill_(earned)
            self.known.fill_(True)

    @torch.no_grad()
    def passes(self, earned: float, prior_acted: bool) -> bool:
        """Notes an episode of training; returns whether what learnt since may take over.

        Args:
            earned: sum of its rewards; 0 where a person helped.
            prior_acted: the learner had not moved the policy yet.
        """
        if prior_acted:
            if not self.known:
                self.prior_count += 1
                self.prior += (earned - self.prior) / self.prior_count
                self.bar.copy_(self.prior)
            return False
        self.newest[int(self.count) % len(self.newest)] = earned
        self.count += 1
        mean = self.newest.mean()
        error = self.newest.std(correction=0) / len(self.newest) ** 0.5
        if self.count < len(self.newest) or mean < self.bar or mean - self.confidence * error < self.prior:
            return False
        self.bar.copy_(torch.maximum(self.prior, mean - self.margin))
        return True
