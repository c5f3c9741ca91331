"""Images through a ResNet that was trained elsewhere and stays as it is; only what follows on it learns.

ResNet: He et al., arXiv 1512.03385. Frozen backbone, learned spatial embeddings: HIL-SERL (arXiv 2410.21845),
which takes a ResNet-10: one block per stage. Weights come from a local file with torchvision's names
(`conv1.weight`, `bn1.running_mean`, `layer1.0.conv1.weight`, …, `layer2.0.downsample.0.weight`): safetensors, or a
`.pth` state dict. ResNet-10, 18 and 34 are told apart by their blocks.
"""

import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from hilrl_agents.config import ConfigError

BN_EPS = 1e-5
WIDTHS = (64, 128, 256, 512)
EMBEDDINGS = 8  # learned spatial embeddings per channel (HIL-SERL)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, of RGB in [0, 1]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a ResNet's tensors by torchvision's names, without the classifier on top.

    Raises:
        ConfigError: no such file, or it holds something else.
    """
    path = Path(path).expanduser()
    try:
        if path.suffix == ".safetensors":
            found = load(path.read_bytes())
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(
            f"image_encoder: {path} cannot be read ({error.strerror}); expected trained, imitation or a file of "
            "ResNet weights"
        ) from None
    except (
        SafetensorError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        ImportError,
        AttributeError,
    ) as error:
        raise ConfigError(f"image_encoder: {path} is damaged: {_sentence(error)}") from None
    except Exception as error:  # torch.load's unpickler refuses in its own ways
        raise ConfigError(
            f"image_encoder: {path} is no plain state dict of tensors: {_sentence(error)}"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ConfigError(
            f"image_encoder: {path} is no state dict; save one with torch.save(model.state_dict(), …)"
        )
    skipped = ("fc.", "num_batches_tracked")
    return {
        name: value.float().contiguous()
        for name, value in sorted(found.items())
        if not (name.startswith(skipped[0]) or name.endswith(skipped[1]))
    }


class ResNet(nn.Module):
    """Backbone of basic blocks for inference: every batch normalisation is folded into its convolution.

    Args:
        tensors: by torchvision's names.
        where: what the error sentence names.
        dtype: of the arithmetic.

    Attributes:
        channels: of the last map.
    """

    def __init__(self, tensors: dict[str, Tensor], where: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._left, self._where, self._dtype = dict(tensors), where, dtype
        self.stem = self._convolution("conv1", "bn1", 3, 64, 7, 2)
        self.blocks = nn.ModuleList()
        channels = 64
        for stage, width in enumerate(WIDTHS, 1):
            block = 0
            while block == 0 or f"layer{stage}.{block}.conv1.weight" in tensors:
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                parts = {
                    "first": self._convolution(f"{name}.conv1", f"{name}.bn1", channels, width, 3, stride),
                    "second": self._convolution(f"{name}.conv2", f"{name}.bn2", width, width, 3, 1),
                }
                if stride > 1:
                    keys = f"{name}.downsample.0", f"{name}.downsample.1"
                    parts["shortcut"] = self._convolution(*keys, channels, width, 1, stride)
                self.blocks.append(nn.ModuleDict(parts))
                channels, block = width, block + 1
        self.channels = channels
        if self._left:
            raise ConfigError(
                f"image_encoder: {where} has '{next(iter(self._left))}', which a ResNet of basic blocks "
                "(10, 18, 34) with torchvision's names has not"
            )
        self.requires_grad_(False)

    def _convolution(
        self, conv: str, norm: str, inputs: int, outputs: int, side: int, stride: int
    ) -> nn.Conv2d:
        """The convolution with its normalisation, γ (W x − μ) / sqrt(σ² + ε) + β, as one convolution."""
        weight = self._take(f"{conv}.weight", (outputs, inputs, side, side))
        gamma, beta, mean, variance = (
            self._take(f"{norm}.{key}", (outputs,))
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / (variance + BN_EPS).sqrt()
        layer = nn.Conv2d(inputs, outputs, side, stride, side // 2)
        with torch.no_grad():
            layer.weight.copy_(weight * scale[:, None, None, None])
            layer.bias.copy_(beta - mean * scale)
        return layer.to(dtype=self._dtype, memory_format=torch.channels_last)

    def _take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self._left:
            raise ConfigError(
                f"image_encoder: {self._where} lacks '{name}' {shape} of a ResNet with torchvision's names"
            )
        value = self._left.pop(name)
        if tuple(value.shape) != shape:
            raise ConfigError(
                f"image_encoder: {self._where}: '{name}' has shape {tuple(value.shape)}, expected {shape}"
            )
        return value

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [N, height, width, 3] RGB → [N, channels, height / 32, width / 32], rounded up."""
        x = images.permute(0, 3, 1, 2).float()  # channels_last without a copy
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] * 255 for v in (MEAN, STD))
        x = F.relu_(self.stem(((x - mean) / std).to(self._dtype)))
        x = F.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            inner = block["second"](F.relu_(block["first"](x)))
            x = F.relu_(inner.add_(block["shortcut"](x) if "shortcut" in block else x))
        return x


class ResNetEncoder(nn.Module):
    """Frozen ResNet, then per camera learned spatial embeddings, projection, LayerNorm, tanh.

    The backbone is no part of the state dict: it does not change, so neither weights messages nor optimizers
    carry it. `fingerprint` says which file belongs to the rest.

    Args:
        cameras: image shapes (height, width, 3) by name.
        weights: file of the backbone's weights.
        features: F, numbers per camera.
        bf16: backbone in bfloat16.

    Attributes:
        tensors: the backbone's weights as read.
    """

    def __init__(
        self, cameras: dict[str, tuple[int, int, int]], weights: str, features: int, bf16: bool
    ) -> None:
        super().__init__()
        for name, shape in cameras.items():
            if shape[2] != 3:
                raise ConfigError(
                    f"image_encoder: {weights} takes single RGB frames, but camera '{name}' stacks {shape[2] // 3}"
                )
        self.tensors = read_weights(weights)
        backbone = ResNet(self.tensors, weights, torch.bfloat16 if bf16 else torch.float32)
        self._backbone = (backbone,)  # in a tuple, or it would be a part of the state dict
        self.register_buffer("fingerprint", _fingerprint(self.tensors))
        self.cameras = dict(cameras)
        self.areas = {
            n: math.ceil(height / 32) * math.ceil(width / 32) for n, (height, width, _) in cameras.items()
        }
        self.embeddings, self.projections = nn.ParameterDict(), nn.ModuleDict()
        for name, area in self.areas.items():
            kernel = torch.randn(backbone.channels, area, EMBEDDINGS) / math.sqrt(area)
            self.embeddings[name] = nn.Parameter(kernel)
            self.projections[name] = nn.Sequential(
                nn.Linear(backbone.channels * EMBEDDINGS, features), nn.LayerNorm(features), nn.Tanh()
            )

    def frozen(self, images: dict[str, Tensor]) -> Tensor:
        """{name: uint8 [B, height, width, 3]} → float16 [B, channels, Σ areas], the cameras' maps side by side."""
        maps = [self._backbone[0](images[name]).flatten(2) for name in self.cameras]
        return torch.cat(maps, 2).to(torch.float16)

    def head(self, maps: Tensor) -> Tensor:
        """[B, channels, Σ areas] → float32 [B, F · number of cameras]."""
        parts = maps.float().split(list(self.areas.values()), 2)
        out = []
        for name, part in zip(self.cameras, parts, strict=True):
            # [C, B, area] × [C, area, E]: one small product per channel
            embedded = torch.bmm(part.transpose(0, 1), self.embeddings[name])
            out.append(self.projections[name](embedded.transpose(0, 1).flatten(1)))
        return torch.cat(out, 1)

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """{name: uint8 [B, height, width, 3]} → float32 [B, F · number of cameras]."""
        return self.head(self.frozen(images))


def _fingerprint(tensors: dict[str, Tensor]) -> Tensor:
    """sha256 over names and values, uint8 [32]."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(name.encode())
        digest.update(value.numpy())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
