"""Diffusion Policy: a chunk is denoised out of noise, conditioned on the observation.

Chi et al., arXiv 2303.04137; DDPM: Ho et al., arXiv 2006.11239; DDIM: Song et al., arXiv 2010.02502. LeRobot's
diffusion policy has the same network under the same names (`lerobot.py` reads its checkpoints). B rows, H steps a
chunk, A action entries, F features.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hilrl_agents.batch import Batch, Observation
from hilrl_agents.config import ConfigError, option
from hilrl_agents.imitation import Imitation, ImitationOptions, gone_on, masked_mean
from hilrl_agents.networks import ObservationEncoder, StateNormalizer
from hilrl_agents.resnet import ResNetKeypoints
from hilrl_agents.spec import PolicySpec
from hilrl_agents.unet import FINAL_GROUPS, UNet


@dataclass(frozen=True)
class DiffusionConfig(ImitationOptions):
    """Options of `diffusion`; sizes are the paper's."""

    down_dims: tuple = option(
        (512, 1024, 2048), "Channels of the U-Net's levels; each halves the chunk's length"
    )
    kernel_size: int = option(5, "Length of its convolutions, odd", "steps", low=1)
    n_groups: int = option(8, "Groups of its normalisation; divide every level's channels", low=1)
    diffusion_step_embed_dim: int = option(128, "Entries that say how noisy the chunk is, even", low=4)
    condition_hidden: tuple = option(
        (),
        "Layers of a network of the observation whose output the U-Net is told besides the observation (paper: none; "
        "the U-Net's own layers for it are linear)",
    )
    use_film_scale_modulation: bool = option(True, "The observation scales channels, besides shifting them")
    num_train_timesteps: int = option(100, "Noise levels in training", low=2)
    noise_scheduler_type: str = option(
        "DDIM",
        "How a chunk is drawn: DDIM takes few steps; DDPM adds noise at each",
        choices=("DDIM", "DDPM"),
    )
    num_inference_steps: int = option(10, "Denoising steps of a chunk; divides num_train_timesteps", low=1)
    prediction_type: str = option(
        "epsilon", "What the network tells: the noise, or the chunk (sample)", choices=("epsilon", "sample")
    )
    clip_sample_range: float = option(
        1.0,
        "Bound on the denoised chunk; 1 is the range of the actions that it was taught first, beyond which no "
        "correction can lead it: a gripper that nobody opened in a demonstration stays closed",
        low=1,
    )
    learning_rate: float = option(1e-4, "Adam's step size; small networks take 1e-3", low=0)
    past_actions: int = option(
        0, "Steps that the denoised chunk begins before now; LeRobot: n_obs_steps - 1", "steps", low=0
    )


class Diffusion(Imitation):
    """Noise predictor over chunks, and the schedule that leads from noise to a chunk."""

    name = "diffusion"
    Config = DiffusionConfig
    to_range = True

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Observation encoder and U-Net."""
        c, spec = self.config, self.spec
        self.length = spec.horizon + c.past_actions
        self._check()
        self.schedule = cosine_schedule(c.num_train_timesteps)
        if self.frozen_file:
            encoder: nn.Module = KeypointEncoder(spec, self.frozen_file)
        else:
            encoder = ObservationEncoder(spec, c.image_channels, c.image_features)
        return encoder, UNet(
            spec.action_dim, encoder.size, c.down_dims, c.kernel_size, c.n_groups, c.diffusion_step_embed_dim,
            c.use_film_scale_modulation, c.condition_hidden,
        )  # fmt: skip

    def _check(self) -> None:
        """Refuses sizes that do not go together."""
        c, parts = self.config, 2 ** (len(self.config.down_dims) - 1)
        wanted = {
            "chunk_size": (
                self.length % parts == 0,
                f"with past_actions a multiple of {parts}, for the {len(c.down_dims)} levels of down_dims",
            ),
            "down_dims": (
                all(width % c.n_groups == 0 for width in c.down_dims) and c.down_dims[0] % FINAL_GROUPS == 0,
                f"multiples of n_groups ({c.n_groups}), the first one also of {FINAL_GROUPS}",
            ),
            "kernel_size": (c.kernel_size % 2 == 1, "an odd number"),
            "diffusion_step_embed_dim": (c.diffusion_step_embed_dim % 2 == 0, "an even number"),
            "num_inference_steps": (
                c.num_train_timesteps % c.num_inference_steps == 0,
                f"a divisor of num_train_timesteps ({c.num_train_timesteps})",
            ),
        }
        for key, (right, expected) in wanted.items():
            if not right:
                value = getattr(c, key, self.spec.horizon)
                raise ConfigError(f"diffusion.{key}: is {value}, expected {expected}")

    def loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """|ε − ε_θ(√ᾱ_k a + √(1 − ᾱ_k) ε, k, s)|², k ~ U (arXiv 2303.04137, eq. 5), mean over what was shown."""
        action, weight = gone_on(batch)
        past = self.config.past_actions
        # what was done before is not in the batch; the first action is close to it, and is not imitated there
        action = self.actions(torch.cat([action[:, :1].expand(-1, past, -1), action], 1))
        weight = torch.cat([weight.new_zeros(len(batch), past), weight], 1)
        noise = self.noise(*action.shape)
        step = torch.randint(self.config.num_train_timesteps, (len(batch),), generator=self.generator)
        kept = self.schedule[step, None, None]
        told = self.policy(kept.sqrt() * action + (1 - kept).sqrt() * noise, step, features)
        error = told - (noise if self.config.prediction_type == "epsilon" else action)
        loss = masked_mean(error.square(), weight)
        return loss, {"bc_loss": loss.detach()}

    def seen_images(self, images: Mapping[str, Tensor]) -> Tensor:
        """What the U-Net is told of images."""
        seen = super().seen_images({"images": images} if self.frozen_file else images)
        return seen.flatten(1)

    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Denoises from pure noise, through every num_train / num_inference-th level → [1, H, A]."""
        c = self.config
        x = torch.randn((1, self.length, self.spec.action_dim), generator=generator)
        jump = c.num_train_timesteps // c.num_inference_steps
        for level in reversed(range(0, c.num_train_timesteps, jump)):
            told = self.policy(x, torch.tensor([level]), features)
            kept = self.schedule[level]
            kept_after = self.schedule[level - jump] if level else torch.tensor(1.0)
            x = self._denoised(x, told, kept, kept_after, generator)
        return x[:, c.past_actions :]

    def _denoised(
        self, x: Tensor, told: Tensor, kept: Tensor, kept_after: Tensor, generator: torch.Generator
    ) -> Tensor:
        """One step from ᾱ_k (`kept`) to ᾱ of the next level (`kept_after`), the chunk in it clipped."""
        if self.config.prediction_type == "epsilon":
            noise, clean = told, (x - (1 - kept).sqrt() * told) / kept.sqrt()
        else:
            noise, clean = (x - kept.sqrt() * told) / (1 - kept).sqrt(), told
        clean = clean.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        if self.config.noise_scheduler_type == "DDIM":  # eq. 12 with σ = 0
            return kept_after.sqrt() * clean + (1 - kept_after).sqrt() * noise
        # DDPM, eq. 7: mean and variance of q(x_after | x, clean)
        ratio = kept / kept_after
        mean = (
            kept_after.sqrt() * (1 - ratio) / (1 - kept) * clean
            + ratio.sqrt() * (1 - kept_after) / (1 - kept) * x
        )
        if kept_after == 1:
            return mean
        variance = (1 - kept_after) / (1 - kept) * (1 - ratio)
        return mean + variance.sqrt() * torch.randn(x.shape, generator=generator)


def cosine_schedule(levels: int) -> Tensor:
    """ᾱ_k: the share of the chunk's variance left at each noise level (arXiv 2102.09672, eq. 17) → [levels]."""

    def left(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - left((k + 1) / levels) / left(k / levels), 0.999) for k in range(levels)]
    return torch.cumprod(1 - torch.tensor(betas), 0)


class KeypointEncoder(nn.Module):
    """Observation → features [B, F]: for each frame of the cameras' stacks the state then, and where it sees what.

    Where frames are stacked, the state holds as many states, the newest first (LeRobot's n_obs_steps); of the frames
    the newest is the last one.

    Args:
        spec: shapes of the observation.
        weights: file of a ResNet.
    """

    def __init__(self, spec: PolicySpec, weights: str) -> None:
        super().__init__()
        self.frames = next(iter(spec.cameras.values()))[2] // 3
        if spec.state_dim % self.frames or len({shape for shape in spec.cameras.values()}) > 1:
            raise ConfigError(
                f"diffusion.image_encoder: {weights} needs cameras of one size and stack, and a state as often "
                f"as a frame; the state has {spec.state_dim} entries, the cameras are "
                f"{', '.join(f'{name} {shape}' for name, shape in spec.cameras.items())}"
            )
        self.normalizer = StateNormalizer(spec.state_dim)
        self.images = ResNetKeypoints(spec.cameras, weights)
        self.size = spec.state_dim + self.frames * len(spec.cameras) * self.images.size

    def forward(self, observation: Observation) -> Tensor:
        """{"state": [B, S], "images" or "features"} → [B, F]."""
        state = self.normalizer(observation["state"]).unflatten(1, (self.frames, -1)).flip(1)
        return torch.cat([state, self.images(observation)], 2).flatten(1)
