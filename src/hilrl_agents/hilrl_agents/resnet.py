"""Images through a ResNet that was trained elsewhere and stays as it is; only what follows on it learns.

ResNet: He et al., arXiv 1512.03385. Frozen backbone, learned spatial embeddings: HIL-SERL (arXiv 2410.21845),
which takes a ResNet-10: one block per stage. Weights come from a local file with torchvision's names
(`conv1.weight`, `bn1.running_mean`, `layer1.0.conv1.weight`, …, `layer2.0.downsample.0.weight`): safetensors, or a
`.pth` state dict. ResNet-10, 18 and 34 are told apart by their blocks. The `model.safetensors` of a LeRobot policy
(ACT, diffusion) is such a file too, for the backbone in it.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from hilrl_agents.config import ConfigError

BN_EPS = 1e-5
WIDTHS = (64, 128, 256, 512)
EMBEDDINGS = 8  # learned spatial embeddings per channel (HIL-SERL)
GROUP_WIDTH = 16  # channels of a group where batch normalisation was replaced (Diffusion Policy)
KEYPOINTS = 32  # of each frame (Diffusion Policy)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, of RGB in [0, 1]
# where LeRobot's policies keep their backbone; the second one numbers torchvision's layers
_LEROBOT = re.compile(r"(?:model|diffusion\.rgb_encoder)\.backbone\.(.+)")
_NUMBERED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


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
        for name, value in sorted((_backbone_of(found) or found).items())
        if not (name.startswith(skipped[0]) or name.endswith(skipped[1]))
    }


def _backbone_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone of a LeRobot policy by torchvision's names; nothing if it is no such policy."""
    found = {}
    for name, value in tensors.items():
        if match := _LEROBOT.fullmatch(name):
            first, _, rest = match[1].partition(".")
            found[f"{_NUMBERED.get(first, first)}.{rest}"] = value
    return found


class ResNet(nn.Module):
    """Backbone of basic blocks for inference: every batch normalisation is folded into its convolution.

    A normalisation without running mean is one over groups of channels (Diffusion Policy) and stays as it is.

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
        self._folded = any(name.endswith("running_mean") for name in tensors)
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
    ) -> nn.Module:
        """The convolution with its normalisation, γ (W x − μ) / sqrt(σ² + ε) + β, as one convolution."""
        weight = self._take(f"{conv}.weight", (outputs, inputs, side, side))
        if not self._folded:
            return self._grouped(weight, norm, stride)
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

    def _grouped(self, weight: Tensor, norm: str, stride: int) -> nn.Module:
        """A convolution and its normalisation over groups of channels."""
        outputs, inputs, side, _ = weight.shape
        layer = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
        groups = nn.GroupNorm(outputs // GROUP_WIDTH, outputs)
        with torch.no_grad():
            layer.weight.copy_(weight)
            for key in ("weight", "bias"):
                getattr(groups, key).copy_(self._take(f"{norm}.{key}", (outputs,)))
        return nn.Sequential(layer, groups).to(dtype=self._dtype, memory_format=torch.channels_last)

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

    def forward(self, images: Tensor, mean: Any = MEAN, std: Any = STD) -> Tensor:
        """uint8 [N, height, width, 3] RGB → [N, channels, height / 32, width / 32], rounded up.

        `mean` and `std` [3] normalise the images, of RGB in [0, 1].
        """
        x = images.permute(0, 3, 1, 2).float()  # channels_last without a copy
        mean, std = (torch.as_tensor(v, device=x.device)[:, None, None] * 255 for v in (mean, std))
        x = F.relu_(self.stem(((x - mean) / std).to(self._dtype)))
        x = F.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            inner = block["second"](F.relu_(block["first"](x)))
            x = F.relu_(inner.add_(block["shortcut"](x) if "shortcut" in block else x))
        return x


class FrozenResNet(nn.Module):
    """Frozen ResNet; what follows on it is the subclass's.

    The backbone is no part of the state dict: it does not change, so neither weights messages nor optimizers
    carry it. `fingerprint` says which file belongs to the rest.

    Args:
        cameras: image shapes (height, width, 3) by name.
        weights: file of the backbone's weights.
        bf16: backbone in bfloat16.

    Attributes:
        tensors: the backbone's weights as read.
        channels: of the backbone's maps.
        sides: (height, width) of the maps by camera.
    """

    def __init__(self, cameras: Mapping[str, tuple[int, int, int]], weights: str, bf16: bool) -> None:
        super().__init__()
        self.tensors = read_weights(weights)
        backbone = ResNet(self.tensors, weights, torch.bfloat16 if bf16 else torch.float32)
        self._backbone = (backbone,)  # in a tuple, or it would be a part of the state dict
        self.register_buffer("fingerprint", _fingerprint(self.tensors))
        self.cameras, self.channels = dict(cameras), backbone.channels
        self.sides = {
            n: (math.ceil(height / 32), math.ceil(width / 32)) for n, (height, width, _) in cameras.items()
        }


class ResNetEncoder(FrozenResNet):
    """Frozen ResNet, then per camera learned spatial embeddings, projection, LayerNorm, tanh.

    Args:
        cameras: image shapes (height, width, 3) by name.
        weights: file of the backbone's weights.
        features: F, numbers per camera.
        bf16: backbone in bfloat16.
    """

    def __init__(
        self, cameras: dict[str, tuple[int, int, int]], weights: str, features: int, bf16: bool
    ) -> None:
        _check_single_frames(cameras, weights)
        super().__init__(cameras, weights, bf16)
        self.embeddings, self.projections = nn.ParameterDict(), nn.ModuleDict()
        for name, (height, width) in self.sides.items():
            area = height * width
            kernel = torch.randn(self.channels, area, EMBEDDINGS) / math.sqrt(area)
            self.embeddings[name] = nn.Parameter(kernel)
            self.projections[name] = nn.Sequential(
                nn.Linear(self.channels * EMBEDDINGS, features), nn.LayerNorm(features), nn.Tanh()
            )

    def frozen(self, images: dict[str, Tensor]) -> Tensor:
        """{name: uint8 [B, height, width, 3]} → float16 [B, channels, Σ areas], the cameras' maps side by side."""
        maps = [self._backbone[0](images[name]).flatten(2) for name in self.cameras]
        return torch.cat(maps, 2).to(torch.float16)

    def head(self, maps: Tensor) -> Tensor:
        """[B, channels, Σ areas] → float32 [B, F · number of cameras]."""
        parts = maps.float().split([height * width for height, width in self.sides.values()], 2)
        out = []
        for name, part in zip(self.cameras, parts, strict=True):
            # [C, B, area] × [C, area, E]: one small product per channel
            embedded = torch.bmm(part.transpose(0, 1), self.embeddings[name])
            out.append(self.projections[name](embedded.transpose(0, 1).flatten(1)))
        return torch.cat(out, 1)

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """{name: uint8 [B, height, width, 3]} → float32 [B, F · number of cameras]."""
        return self.head(self.frozen(images))


class ResNetMaps(FrozenResNet):
    """Maps of a frozen ResNet, for a policy that takes them cell by cell; arguments as `FrozenResNet`.

    Images are normalised by `mean` and `std` of their camera, ImageNet's unless a checkpoint says others.
    """

    def __init__(self, cameras: Mapping[str, tuple[int, int, int]], weights: str) -> None:
        super().__init__(cameras, weights, bf16=False)
        self.frames = {name: shape[2] // 3 for name, shape in cameras.items()}
        self.register_buffer("mean", torch.tensor([MEAN] * len(cameras)))
        self.register_buffer("std", torch.tensor([STD] * len(cameras)))

    def frozen(self, images: Mapping[str, Tensor]) -> Tensor:
        """{name: uint8 [B, height, width, 3 frames]} → float16 [B, channels, Σ frames · areas], side by side."""
        return torch.cat([part.flatten(2) for part in self._maps(images)], 2).to(torch.float16)

    def forward(self, observation: Mapping[str, Any]) -> list[Tensor]:
        """Maps [B, channels, height, width] of each frame of each camera, from "images" or cached "features"."""
        if "features" not in observation:
            return self._maps(observation["images"])
        sides = [side for name, side in self.sides.items() for _ in range(self.frames[name])]
        parts = observation["features"].float().split([height * width for height, width in sides], 2)
        return [part.unflatten(2, side) for part, side in zip(parts, sides, strict=True)]

    def _maps(self, images: Mapping[str, Tensor]) -> list[Tensor]:
        return [
            self._backbone[0](frame, self.mean[index], self.std[index])
            for index, name in enumerate(self.cameras)
            for frame in images[name].split(3, 3)
        ]


class ResNetKeypoints(ResNetMaps):
    """Where each of some learned filters sees something in the maps of a frozen ResNet.

    Spatial softmax: Finn et al., arXiv 1509.06113; in Diffusion Policy, arXiv 2303.04137, sec. III-B. The cameras
    are of one size and share the filters. Modules are named as LeRobot names them.

    Attributes:
        size: numbers per frame: x and y of each keypoint, mixed by a linear layer.
    """

    def __init__(self, cameras: Mapping[str, tuple[int, int, int]], weights: str) -> None:
        super().__init__(cameras, weights)
        self.size = 2 * KEYPOINTS
        height, width = next(iter(self.sides.values()))
        self.pool = nn.Module()
        self.pool.nets = nn.Conv2d(self.channels, KEYPOINTS, 1)
        rows, columns = (torch.linspace(-1, 1, count, dtype=torch.float64) for count in (height, width))
        grid = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], 2)
        self.pool.register_buffer("pos_grid", grid.flatten(0, 1).float())
        self.out = nn.Linear(self.size, self.size)

    def forward(self, observation: Mapping[str, Any]) -> Tensor:
        """From "images" or "features" → [B, frames, cameras · size]."""
        seen = []
        for picture in super().forward(observation):
            attention = self.pool.nets(picture).flatten(2).softmax(2)  # [B, K, area]
            seen.append(F.relu(self.out((attention @ self.pool.pos_grid).flatten(1))))
        cameras = len(self.cameras)
        # camera by camera, frame by frame → frame by frame, the cameras side by side
        return torch.stack(seen, 1).unflatten(1, (cameras, -1)).transpose(1, 2).flatten(2)


def _check_single_frames(cameras: Mapping[str, tuple[int, int, int]], weights: str) -> None:
    for name, shape in cameras.items():
        if shape[2] != 3:
            raise ConfigError(
                f"image_encoder: {weights} takes single RGB frames, but camera '{name}' stacks {shape[2] // 3}"
            )


def _fingerprint(tensors: dict[str, Tensor]) -> Tensor:
    """sha256 over names and values, uint8 [32]."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(name.encode())
        digest.update(value.numpy())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
