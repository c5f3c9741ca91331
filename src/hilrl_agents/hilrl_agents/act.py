"""ACT: action chunks from a transformer that is trained as a conditional VAE.

Zhao et al., arXiv 2304.13705. LeRobot's ACT has the same network under the same names (`lerobot.py` reads its
checkpoints). B rows, H steps a chunk, A action entries, L latent entries.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hilrl_agents.batch import Batch, Observation
from hilrl_agents.config import ConfigError, option
from hilrl_agents.imitation import Imitation, ImitationOptions, imitated, masked_mean
from hilrl_agents.networks import ImageEncoder, StateNormalizer
from hilrl_agents.resnet import ResNetMaps
from hilrl_agents.spec import PolicySpec
from hilrl_agents.transformer import ACTNetwork


@dataclass(frozen=True)
class ACTConfig(ImitationOptions):
    """Options of `act`; sizes are the paper's."""

    dim_model: int = option(512, "Width of the transformer; divisible by 4 and by the heads", low=4)
    n_heads: int = option(8, "Attention heads of every layer", low=1)
    dim_feedforward: int = option(3200, "Width of the layers' perceptrons", low=1)
    n_encoder_layers: int = option(4, "Layers over the observation", low=1)
    n_decoder_layers: int = option(
        1, "Layers over the chunk; the paper's code builds 7 and uses the first", low=1
    )
    n_vae_encoder_layers: int = option(
        4, "Layers of the CVAE encoder; 0: no CVAE, for data without styles", low=0
    )
    latent_dim: int = option(32, "Entries of the style z", low=1)
    kl_weight: float = option(10.0, "Weight of the KL divergence: the higher, the less style is kept", low=0)
    dropout: float = option(0.1, "Share of entries dropped in training", low=0, high=0.9)
    learning_rate: float = option(1e-5, "Adam's step size; small networks take 1e-3", low=0)
    environment_state: int = option(
        0,
        "Last entries of the state that get a token of their own (LeRobot's observation.environment_state)",
        low=0,
    )


class ACT(Imitation):
    """Chunk of the style z = 0; styles are what the CVAE explains away in training."""

    name = "act"
    Config = ACTConfig

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Normalised state and maps of the images; the transformer."""
        c, spec = self.config, self.spec
        if c.dim_model % c.n_heads or c.dim_model % 4:
            raise ConfigError(
                f"act.dim_model: is {c.dim_model}, expected a multiple of 4 and of n_heads ({c.n_heads})"
            )
        if c.environment_state >= spec.state_dim:
            raise ConfigError(
                f"act.environment_state: is {c.environment_state}, expected less than the state's {spec.state_dim}"
            )
        encoder = MapEncoder(spec, c, self.frozen_file)
        network = ACTNetwork(
            spec.state_dim - c.environment_state, c.environment_state, encoder.channels, spec.action_dim, spec.horizon,
            c.dim_model, c.n_heads, c.dim_feedforward, c.n_encoder_layers, c.n_decoder_layers, c.n_vae_encoder_layers,
            c.latent_dim, c.dropout,
        )  # fmt: skip
        return encoder, network

    def loss(self, seen: tuple[Tensor, list[Tensor]], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """|a − â| + kl_weight · KL(q(z|s, a) ‖ N(0, 1)) (algorithm 1), mean over what was shown."""
        state, maps = seen
        action, weight = self.actions(batch.action), imitated(batch)
        with torch.random.fork_rng(devices=[]):  # dropout draws from torch's own generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
            latent = torch.zeros(len(state), self.config.latent_dim)
            divergence = torch.zeros(())
            if self.config.n_vae_encoder_layers:
                mean, log_variance = self.policy.latent_of(state, action, weight == 0)
                latent = mean + (log_variance / 2).exp() * torch.randn(mean.shape)
                divergence = kl_divergence(mean, log_variance)[:, None, None]
                divergence = masked_mean(divergence, weight.amax(1, keepdim=True))
            l1 = masked_mean((self.policy(state, maps, latent) - action).abs(), weight)
        metrics = {"bc_loss": l1.detach(), "kl": divergence.detach()}
        return l1 + self.config.kl_weight * divergence, metrics

    def seen_images(self, images: Mapping[str, Tensor]) -> Tensor:
        """The cells of the maps as the transformer takes them, side by side."""
        cells = [
            self.policy.encoder_img_feat_input_proj(part) for part in self.encoder.maps({"images": images})
        ]
        return torch.cat([part.flatten(1) for part in cells], 1)

    def sample(self, seen: tuple[Tensor, list[Tensor]], generator: torch.Generator) -> Tensor:
        """Chunk of z = 0 (algorithm 2); nothing is drawn → [1, H, A]."""
        return self.policy(*seen, torch.zeros(1, self.config.latent_dim))


class MapEncoder(nn.Module):
    """Observation → normalised state [B, S], and a map [B, channels, height, width] per camera.

    Images go through a small trained network, one cell a camera, or through a frozen ResNet.

    Args:
        spec: shapes of the observation.
        config: of the small network.
        weights: file of a ResNet; empty for the small network.
    """

    def __init__(self, spec: PolicySpec, config: ImitationOptions, weights: str) -> None:
        super().__init__()
        self.normalizer = StateNormalizer(spec.state_dim)
        self.images: nn.Module | None = None
        self.channels = 0
        if spec.cameras and weights:
            self.images = ResNetMaps(spec.cameras, weights)
            self.channels = self.images.channels
        elif spec.cameras:
            self.channels = config.image_features
            self.images = ImageEncoder(spec.cameras, config.image_channels, self.channels, bf16=False)

    def forward(self, observation: Observation) -> tuple[Tensor, list[Tensor]]:
        """State and maps of a batch of observations."""
        return self.normalizer(observation["state"]), self.maps(observation) if self.images else []

    def maps(self, observation: Observation) -> list[Tensor]:
        """Maps of a batch of observations; of what is observed the images are enough."""
        if isinstance(self.images, ResNetMaps):
            return self.images(observation)
        features = self.images(observation["images"]).split(self.channels, 1)
        return [part[..., None, None] for part in features]


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) ‖ N(0, 1)), summed over entries (arXiv 1312.6114, app. B) → [B]."""
    return (-0.5 * (1 + log_variance - mean.square() - log_variance.exp())).sum(1)
