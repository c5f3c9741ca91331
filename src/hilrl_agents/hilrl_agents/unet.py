"""1-D U-Net over a chunk's steps, conditioned by FiLM (Diffusion Policy, arXiv 2303.04137, sec. III-A).

Modules are named as LeRobot's diffusion policy names them, so that its weights fit. B rows, T steps, A action
entries, C entries of the condition.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from hilrl_agents.networks import EnsembleMLP

FINAL_GROUPS = 8  # of the last block's normalisation, whatever the others have


class Block(nn.Module):
    """Convolution over the steps, GroupNorm, Mish."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        super().__init__()
        convolution = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
        self.block = nn.Sequential(convolution, nn.GroupNorm(groups, outputs), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, T] → [B, outputs, T]."""
        return self.block(x)


class ResidualBlock(nn.Module):
    """Two `Block`s; in between the condition scales and shifts each channel (FiLM, arXiv 1709.07871)."""

    def __init__(
        self, inputs: int, outputs: int, condition: int, kernel: int, groups: int, scale: bool
    ) -> None:
        super().__init__()
        self.scale = scale
        self.conv1 = Block(inputs, outputs, kernel, groups)
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(condition, (1 + scale) * outputs))
        self.conv2 = Block(outputs, outputs, kernel, groups)
        self.residual_conv = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map [B, inputs, T], condition [B, C] → [B, outputs, T]."""
        out, film = self.conv1(x), self.cond_encoder(condition)[..., None]
        if self.scale:
            scale, shift = film.chunk(2, 1)
            out = scale * out + shift
        else:
            out = out + film
        return self.conv2(out) + self.residual_conv(x)


class StepEmbedding(nn.Module):
    """Diffusion step → sines, then cosines."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, step: Tensor) -> Tensor:
        """[B] → [B, dim]."""
        half = self.dim // 2
        angle = step[:, None] * torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
        return torch.cat([angle.sin(), angle.cos()], 1)


class UNet(nn.Module):
    """Noisy chunk, diffusion step and condition → what the noise (or the chunk) is.

    Args:
        action: A.
        condition: C.
        widths: channels, from the finest level to the coarsest; T halves between two levels.
        kernel: length of the convolutions, odd.
        groups: of the normalisation; divide every width.
        embedding: entries of the diffusion step.
        scale: FiLM scales, besides shifting.
        hidden: layers of a network of the condition, the last one its output, which is told besides the condition
            itself; none: each block has but one linear layer for it.
    """

    def __init__(
        self,
        action: int,
        condition: int,
        widths: tuple[int, ...],
        kernel: int,
        groups: int,
        embedding: int,
        scale: bool,
        hidden: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.condition_encoder = EnsembleMLP(1, condition, hidden[:-1], hidden[-1]) if hidden else None
        told = condition + sum(hidden[-1:])
        self.diffusion_step_encoder = nn.Sequential(
            StepEmbedding(embedding),
            nn.Linear(embedding, 4 * embedding),
            nn.Mish(),
            nn.Linear(4 * embedding, embedding),
        )

        def residual(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, embedding + told, kernel, groups, scale)

        levels = list(pairwise((action, *widths)))
        self.down_modules = nn.ModuleList()
        for level, (inputs, outputs) in enumerate(levels, 1):
            shorter = nn.Conv1d(outputs, outputs, 3, 2, 1) if level < len(levels) else nn.Identity()
            self.down_modules.append(
                nn.ModuleList([residual(inputs, outputs), residual(outputs, outputs), shorter])
            )
        self.mid_modules = nn.ModuleList([residual(widths[-1], widths[-1]) for _ in range(2)])
        self.up_modules = nn.ModuleList()
        for finer, coarser in reversed(levels[1:]):
            longer = nn.ConvTranspose1d(finer, finer, 4, 2, 1)
            self.up_modules.append(
                nn.ModuleList([residual(2 * coarser, finer), residual(finer, finer), longer])
            )
        last = Block(widths[0], widths[0], kernel, FINAL_GROUPS)
        self.final_conv = nn.Sequential(last, nn.Conv1d(widths[0], action, 1))

    def forward(self, chunk: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """Chunk [B, T, A], step int64 [B], condition [B, C] → [B, T, A]."""
        x = chunk.mT
        if self.condition_encoder:
            condition = torch.cat([condition, self.condition_encoder(condition)[0]], 1)
        condition = torch.cat([self.diffusion_step_encoder(step), condition], 1)
        finer: list[Tensor] = []
        for first, second, shorter in self.down_modules:
            x = second(first(x, condition), condition)
            finer.append(x)
            x = shorter(x)
        for block in self.mid_modules:
            x = block(x, condition)
        for first, second, longer in self.up_modules:
            x = torch.cat([x, finer.pop()], 1)
            x = longer(second(first(x, condition), condition))
        return self.final_conv(x).mT
