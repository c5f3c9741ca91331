"""Transformer of ACT: encoder over the observation's tokens, decoder over the chunk's steps, CVAE encoder.

Zhao et al., arXiv 2304.13705, sec. IV-C and fig. 4, after DETR (arXiv 2005.12872): positions are added to queries and
keys of every layer, LayerNorm follows each sum. Modules are named as LeRobot's ACT names them, so that its weights fit.
B rows, N tokens, D width, H steps a chunk, L latent entries.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each with residual and LayerNorm.

    Args:
        dim: D.
        heads: attention heads; divide D.
        feedforward: width of the perceptron.
        dropout: share of entries dropped in training.
    """

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
        """Tokens [B, N, D], position [N, D], padding bool [B, N], True where there is no token → [B, N, D]."""
        query = x + position
        attended = self.self_attn(query, query, x, key_padding_mask=padding, need_weights=False)[0]
        x = self.norm1(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder's output and a perceptron; arguments as `EncoderLayer`."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor, memory_position: Tensor) -> Tensor:
        """Queries [B, H, D], memory [B, N, D], positions [H, D] and [N, D] → [B, H, D]."""
        query = x + position
        attended = self.self_attn(query, query, x, need_weights=False)[0]
        x = self.norm1(x + self.dropout(attended))
        key = memory + memory_position
        attended = self.multihead_attn(x + position, key, memory, need_weights=False)[0]
        x = self.norm2(x + self.dropout(attended))
        return self.norm3(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))


class Layers(nn.Module):
    """Layers of one kind, one behind the other; `norm` after the last one, if there is one."""

    def __init__(self, layers: list[nn.Module], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm

    def forward(self, x: Tensor, *others: Tensor | None) -> Tensor:
        """[B, N, D] → [B, N, D]; the other arguments go to every layer."""
        for layer in self.layers:
            x = layer(x, *others)
        return self.norm(x) if self.norm else x


class ACTNetwork(nn.Module):
    """Observation (and, in training, the executed chunk) → chunk.

    Args:
        state: entries of the robot's state.
        environment: entries of a second state vector with a token of its own; 0: there is none.
        channels: of the images' maps; 0: there are none.
        action: A.
        horizon: H.
        dim: D.
        heads: attention heads.
        feedforward: width of the layers' perceptrons.
        encoder_layers: of the observation's encoder.
        decoder_layers: of the chunk's decoder.
        vae_layers: of the CVAE encoder; 0: no CVAE, the latent is zero.
        latent: L.
        dropout: share of entries dropped in training.
    """

    def __init__(
        self,
        state: int,
        environment: int,
        channels: int,
        action: int,
        horizon: int,
        dim: int,
        heads: int,
        feedforward: int,
        encoder_layers: int,
        decoder_layers: int,
        vae_layers: int,
        latent: int,
        dropout: float,
    ) -> None:
        super().__init__()
        layer = dim, heads, feedforward, dropout
        self.latent, self.state = latent, state
        self.vae_encoder: nn.Module | None = None
        if vae_layers:
            self.vae_encoder = Layers([EncoderLayer(*layer) for _ in range(vae_layers)])
            self.vae_encoder_cls_embed = nn.Embedding(1, dim)
            self.vae_encoder_robot_state_input_proj = nn.Linear(state, dim)
            self.vae_encoder_action_input_proj = nn.Linear(action, dim)
            self.vae_encoder_latent_output_proj = nn.Linear(dim, 2 * latent)
            self.register_buffer("vae_encoder_pos_enc", sinusoids(2 + horizon, dim)[None])
        self.encoder = Layers([EncoderLayer(*layer) for _ in range(encoder_layers)])
        self.decoder = Layers([DecoderLayer(*layer) for _ in range(decoder_layers)], nn.LayerNorm(dim))
        self.encoder_robot_state_input_proj = nn.Linear(state, dim)
        if environment:
            self.encoder_env_state_input_proj = nn.Linear(environment, dim)
        self.encoder_latent_input_proj = nn.Linear(latent, dim)
        if channels:
            self.encoder_img_feat_input_proj = nn.Conv2d(channels, dim, 1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(3 if environment else 2, dim)
        self.decoder_pos_embed = nn.Embedding(horizon, dim)
        self.action_head = nn.Linear(dim, action)
        for parameter in (*self.encoder.parameters(), *self.decoder.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def latent_of(self, state: Tensor, action: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of the style z of a chunk (sec. IV-C, fig. 4 left).

        Args:
            state: normalised, [B, S]; what is not the robot's is left out.
            action: normalised, [B, H, A].
            padding: bool [B, H], True on steps that are not seen.

        Returns:
            Mean and log variance, [B, L] each.
        """
        state = state[:, : self.state]
        tokens = [
            self.vae_encoder_cls_embed.weight.expand(len(state), 1, -1),
            self.vae_encoder_robot_state_input_proj(state)[:, None],
            self.vae_encoder_action_input_proj(action),
        ]
        hidden = F.pad(padding, (2, 0), value=False)
        out = self.vae_encoder(torch.cat(tokens, 1), self.vae_encoder_pos_enc[0], hidden)[:, 0]
        return self.vae_encoder_latent_output_proj(out).chunk(2, 1)

    def forward(self, state: Tensor, maps: list[Tensor], latent: Tensor) -> Tensor:
        """Chunk of a style (sec. IV-C, fig. 4 right).

        Args:
            state: normalised, [B, S], the robot's entries first.
            maps: of the cameras, [B, channels, height, width] each.
            latent: z, [B, L].

        Returns:
            Normalised actions [B, H, A].
        """
        tokens = [
            self.encoder_latent_input_proj(latent),
            self.encoder_robot_state_input_proj(state[:, : self.state]),
        ]
        if state.shape[1] > self.state:
            tokens.append(self.encoder_env_state_input_proj(state[:, self.state :]))
        sequence, positions = [torch.stack(tokens, 1)], [self.encoder_1d_feature_pos_embed.weight]
        for picture in maps:
            sequence.append(self.encoder_img_feat_input_proj(picture).flatten(2).mT)
            positions.append(sinusoids_2d(*picture.shape[2:], self.action_head.in_features))
        position = torch.cat(positions)
        memory = self.encoder(torch.cat(sequence, 1), position, None)
        queries = self.decoder_pos_embed.weight
        start = torch.zeros(len(state), *queries.shape)
        return self.action_head(self.decoder(start, memory, queries, position))


def sinusoids(count: int, dim: int) -> Tensor:
    """Positions 0 … count − 1 as sines and cosines in turn (arXiv 1706.03762, sec. 3.5) → [count, dim]."""
    return _waves(torch.arange(count, dtype=torch.float64), dim).float()


def sinusoids_2d(height: int, width: int, dim: int) -> Tensor:
    """Cells of a map as sinusoids of row, then column, both up to 2π (DETR, appendix A.4) → [height · width, dim]."""
    rows = torch.arange(1, height + 1) / (height + 1e-6) * 2 * math.pi
    columns = torch.arange(1, width + 1) / (width + 1e-6) * 2 * math.pi
    half = dim // 2
    by_row, by_column = _waves(rows, half), _waves(columns, half)
    shape = height, width, half
    return torch.cat([by_row[:, None].expand(shape), by_column[None].expand(shape)], 2).flatten(0, 1)


def _waves(position: Tensor, dim: int) -> Tensor:
    """[N] → [N, dim], sin and cos in turn, wave lengths from 2π to 10000 · 2π."""
    angle = position[:, None] / 10000 ** (torch.arange(0, dim, 2, dtype=position.dtype) / dim)
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
