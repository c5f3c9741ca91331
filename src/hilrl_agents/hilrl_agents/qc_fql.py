"""Q-chunking with a one-step actor: distilled from a flow policy that imitates, and pulled towards what is worth more.

QC-FQL: Li et al., arXiv 2507.07969; FQL: Park et al., arXiv 2502.02538. Acts in one step in place of many draws. B
rows, E critics, H steps a chunk, A action entries, F features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hilrl_agents.batch import Batch, fold, unfold
from hilrl_agents.config import option
from hilrl_agents.networks import EnsembleMLP
from hilrl_agents.qc import QC, QChunkingOptions


@dataclass(frozen=True)
class QCFQLConfig(QChunkingOptions):
    """Options of `qc_fql`."""

    alpha: float = option(
        10.0,
        "Weight of the distillation: large stays near what is imitated, small follows the critic (FQL: 10; with "
        "normalize_q_loss 0.03 to 10)",
        low=0,
    )
    normalize_q_loss: bool = option(
        False, "Values in the actor's loss are divided by their mean size, so that alpha fits any reward"
    )


class QCFQL(QC):
    """Flow policy that imitates, chunk critic, and a one-step actor between them."""

    name = "qc_fql"
    Config = QCFQLConfig
    policy_networks = ("encoder", "policy", "actions", "actor", "handover")

    def build_actors(self, flat: int) -> dict[str, nn.Module]:
        """The one-step actor μ(s, e)."""
        self.actor = EnsembleMLP(1, self.encoder.size + flat, self.config.hidden, flat)
        return {"actor": self.actor}

    def policy_loss(self, batch: Batch, features: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """L_flow + α |μ(s, e) − z(s, e)|² − mean_E Q(s, μ(s, e)), z the flow policy's chunk from e (FQL, algorithm 1).

        The last term comes when the critic is warm; until then an actor that has been handed over to, a prior's, rests.
        Cloning is of weighted steps, the rest of all rows.

        Returns:
            The loss (scalar) and metrics.
        """
        c = self.config
        loss, metrics = self.cloning_loss(batch, features, weight)
        if self.handover.done and not self.ready:
            return loss, metrics
        distance, chunk = self.distillation(features)
        loss = loss + c.alpha * distance
        metrics |= {"distill_loss": distance.detach()}
        if self.ready:
            q = self.value(self.critic, features, self.actions.inverse(chunk), frozen=True).mean(0)
            scale = q.detach().abs().mean().clamp_min(1e-6) if c.normalize_q_loss else 1.0
            loss = loss - q.mean() / scale
            metrics |= {"q_policy": q.detach().mean()}
        return loss, metrics

    def imitation_loss(
        self, batch: Batch, features: Tensor, weight: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `qc`'s, and the actor follows the flow policy once it acts."""
        loss, metrics = self.cloning_loss(batch, features, weight)
        return loss + (
            self.config.alpha * self.distillation(features)[0] if self.handover.done else 0
        ), metrics

    def distillation(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """|μ(s, e) − z(s, e)|², a mean (scalar), and the normalised chunks μ(s, e) [B, H, A]; features [B, F]."""
        noise = self.noise(len(features), self.generator)
        chunk = self.one_step(features, noise)
        with torch.no_grad():
            taught = self.actions(self.actions.inverse(self.draw(features, noise)))
        return (chunk - taught).square().mean(), chunk

    def one_step(self, features: Tensor, noise: Tensor) -> Tensor:
        """Normalised chunks μ(s, e): features [B, F], noise [B, H, A] → [B, H, A]."""
        return unfold(self.actor(features, fold(noise))[0], self.spec.horizon)

    def choose(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Chunks to execute in [-1, 1]: the actor's, until the critic is warm the flow policy's; [B, F] → [B, H, A]."""
        make = self.one_step if self.handover.done else self.draw
        return self.actions.inverse(make(features, self.noise(len(features), generator)))
