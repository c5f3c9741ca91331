"""Flow matching policy: a velocity field carries noise to the chunk that a person would execute.

Lipman et al., arXiv 2210.02747; as a policy: FQL (Park et al., arXiv 2502.02538, eq. 6) with a perceptron, and π0
(Black et al., arXiv 2410.24164, sec. IV), SmolVLA and GR00T behind a vision-language model. B rows, H steps a chunk,
A action entries, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hilrl_agents.batch import Batch, fold, unfold
from hilrl_agents.config import option
from hilrl_agents.imitation import Imitation, ImitationOptions, gone_on, masked_mean
from hilrl_agents.networks import EnsembleMLP, ObservationEncoder


@dataclass(frozen=True)
class FlowConfig(ImitationOptions):
    """Options of `flow`."""

    hidden: tuple = option((512, 512, 512, 512), "Hidden layers of the velocity field (FQL)")
    learning_rate: float = option(3e-4, "Adam's step size (FQL)", low=0)
    flow_steps: int = option(10, "Euler steps from noise to chunk (FQL, π0)", low=1)


class Flow(Imitation):
    """Velocity field v(s, x, t), integrated from noise at t = 0 to a chunk at t = 1."""

    name = "flow"
    Config = FlowConfig

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Observation encoder, and a perceptron of features, noisy chunk and time."""
        c, flat = self.config, self.spec.horizon * self.spec.action_dim
        encoder = ObservationEncoder(self.spec, c.image_channels, c.image_features, weights=self.frozen_file)
        return encoder, EnsembleMLP(1, encoder.size + flat + 1, c.hidden, flat)

    def velocity(self, features: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Velocity v(s, x, t): features [B, F], x [B, H, A], time [B, 1] → [B, H, A]."""
        return unfold(self.policy(features, fold(x), time)[0], self.spec.horizon)

    def loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `flow_loss`; mean over what was shown."""
        action, weight = gone_on(batch)
        loss = flow_loss(partial(self.velocity, features), self.actions(action), weight, self.generator)
        return loss, {"bc_loss": loss.detach()}

    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """See `integrate` → [1, H, A]."""
        noise = torch.randn((1, self.spec.horizon, self.spec.action_dim), generator=generator)
        return integrate(partial(self.velocity, features), noise, self.config.flow_steps)


def flow_loss(
    velocity: Callable[[Tensor, Tensor], Tensor], chunk: Tensor, weight: Tensor, generator: torch.Generator
) -> Tensor:
    """|v((1 − t) e + t a, t) − (a − e)|², t ~ U(0, 1), e ~ N(0, 1) (FQL, eq. 6) → scalar.

    Args:
        velocity: x [B, H, A], time [B, 1] → [B, H, A].
        chunk: normalised actions a, [B, H, A].
        weight: of each step in the mean, [B, H].
        generator: source of t and e.
    """
    noise = torch.randn(chunk.shape, generator=generator)
    time = torch.rand((len(chunk), 1), generator=generator)
    at = time[..., None]
    error = velocity((1 - at) * noise + at * chunk, time) - (chunk - noise)
    return masked_mean(error.square(), weight)


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Euler steps x ← x + v(x, k / K) / K for k = 0 … K − 1 (FQL, algorithm 1): noise [B, H, A] → chunk [B, H, A]."""
    x = noise
    for k in range(steps):
        x = x + velocity(x, torch.full((len(x), 1), k / steps)) / steps
    return x
