"""Networks shared by the agents: one batched MLP ensemble, observation encoder, tanh-Gaussian."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hilrl_agents.batch import Batch, Observation, unfold
from hilrl_agents.resnet import ResNetEncoder
from hilrl_agents.spec import PolicySpec

LAYER_NORM_EPS = 1e-5


def fast_bf16(device: str = "cpu") -> bool:
    """Whether bfloat16 is multiplied in hardware here (AVX512-BF16, AMX, a GPU); else it is slower."""
    return torch.device(device).type != "cpu" or torch.cpu._is_avx512_bf16_supported()


class _LayerNormMLP(torch.autograd.Function):
    """E multilayer perceptrons as batched matrix products, with a hand-written backward.

    Per hidden layer: y = relu(LN(x W) + offset); the last layer is linear. (LayerNorm's gain is left out:
    before a relu, the next layer's weights can do the same.) Autograd over these operations takes about twice
    as long on a CPU. Products between hidden layers run in `dtype`; the first layer (the state's resolution)
    and the last one (a value's) stay in float32.
    """

    @staticmethod
    def forward(ctx, dtype: torch.dtype, parts: int, *tensors: Tensor) -> Tensor:
        """From `parts` inputs [B, ·], then (W, offset) per hidden layer, then (W, b), → [E, B, out]."""
        inputs, hidden, (weight, bias) = tensors[:parts], tensors[parts:-2], tensors[-2:]
        ctx.trained, ctx.widths, ctx.layers = weight.requires_grad, [part.shape[1] for part in inputs], []
        inner = (torch.cat(inputs, 1) if parts > 1 else inputs[0]).expand(len(weight), -1, -1)
        for w, offset in zip(hidden[::2], hidden[1::2], strict=True):
            if ctx.layers:
                inner, w = inner.to(dtype), w.to(dtype)
            z = torch.bmm(inner, w).float()
            # the kernel has one offset for all members, so theirs comes after it (given none, it is slower)
            unit, zero = z.new_ones(z.shape[-1]), z.new_zeros(z.shape[-1])
            output, mean, rstd = torch.native_layer_norm(z, unit.shape, unit, zero, LAYER_NORM_EPS)
            output.add_(offset).relu_()
            ctx.layers.append((inner, w, z, mean, rstd, output))
            inner = output
        ctx.last = inner, weight
        # the thin last layer with its factors in transposed order: several times faster
        return torch.bmm(weight, inner.mT).mT.add(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, flow: Tensor) -> tuple[Tensor | None, ...]:
        """Reverse of `forward`; skips the weights' gradients where the parameters were passed detached."""
        inner, weight = ctx.last
        gradients: list[Tensor | None] = [None, None]
        if ctx.trained:
            gradients = [torch.bmm(flow.mT, inner), flow.sum(1, keepdim=True)]
        if not ctx.layers:  # the only layer is the last one, [E, out, in]
            weight = weight.mT
        elif weight.shape[1] == 1:  # an outer product: as a matrix product it is slow
            flow = flow * weight
        else:
            flow = torch.bmm(flow, weight)
        for index, (inner, weight, z, mean, rstd, output) in reversed(list(enumerate(ctx.layers))):
            flow = torch.ops.aten.threshold_backward(flow, output, 0.0)
            offset_gradient = flow.sum(1, keepdim=True) if ctx.trained else None
            flow, _, _ = torch.ops.aten.native_layer_norm_backward(
                flow, z, z.shape[-1:], mean, rstd, None, None, [True, False, False]
            )
            flow = flow.to(weight.dtype)
            weight_gradient = torch.bmm(inner.mT, flow).float() if ctx.trained else None
            if index:
                flow = torch.bmm(flow, weight.mT).float()
            gradients = [weight_gradient, offset_gradient, *gradients]
        inputs = [None] * len(ctx.widths)
        for part, rows in enumerate(weight.split(ctx.widths, 1)):
            if ctx.needs_input_grad[2 + part]:
                inputs[part] = torch.bmm(rows, flow.mT).sum(0).mT
        return None, None, *inputs, *gradients


class EnsembleMLP(nn.Module):
    """E independent LayerNorm-ReLU perceptrons, evaluated as one batched network.

    Args:
        members: E; 1 for an ordinary network.
        inputs: size of the input.
        hidden: sizes of the hidden layers.
        outputs: size of the output.
        bf16: products between hidden layers in bfloat16.
        final_scale: factor on the last layer's initial weights; small values start near zero output.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        bf16: bool = False,
        final_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.weights = nn.ParameterList()
        sizes = [inputs, *hidden]
        for fan_in, fan_out in pairwise(sizes):
            self.weights.append(_uniform(1 / math.sqrt(fan_in), members, fan_in, fan_out))
            self.weights.append(torch.zeros(members, 1, fan_out))
        self.weights.append(_uniform(final_scale / math.sqrt(sizes[-1]), members, outputs, sizes[-1]))
        self.weights.append(torch.zeros(members, 1, outputs))

    def forward(self, *inputs: Tensor, frozen: bool = False) -> Tensor:
        """Inputs [B, ·], side by side, → [E, B, out]. `frozen` keeps gradients from the weights."""
        weights = [weight.detach() for weight in self.weights] if frozen else list(self.weights)
        return _LayerNormMLP.apply(self.dtype, len(inputs), *inputs, *weights)


def _uniform(bound: float, *shape: int) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound)


class StateNormalizer(nn.Module):
    """(state − mean) / std per entry, clipped; fitted once before learning and stored with the weights.

    Args:
        size: S, length of the state vector.
        clip: bound on the normalised value; an entry that hardly moved in the data cannot blow up later.
    """

    def __init__(self, size: int, clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, states: Tensor, floor: float) -> None:
        """Takes mean and standard deviation of states [N, S]; `floor` is the smallest std taken."""
        self.mean.copy_(states.mean(0))
        self.std.copy_(states.std(0, correction=0).clamp_min(floor))

    def forward(self, state: Tensor) -> Tensor:
        """[B, S] → [B, S]."""
        return ((state - self.mean) / self.std).clamp(-self.clip, self.clip)


class ImageEncoder(nn.Module):
    """Three convolutions shared by all cameras of one shape, then one projection per camera.

    6×6 with stride 4, 3×3 with stride 2, 3×3: less than half the time of DrQ-v2's four (arXiv 2107.09645, sec.
    3.1), whose first layers cost the most on a CPU. Projection to `features` numbers, LayerNorm, tanh.

    Args:
        cameras: image shapes (height, width, channels) by name.
        channels: channels of every convolution.
        features: F, numbers per camera.
        bf16: convolutions in bfloat16.
    """

    def __init__(
        self, cameras: dict[str, tuple[int, int, int]], channels: int, features: int, bf16: bool
    ) -> None:
        super().__init__()
        self.cameras, self.bf16 = dict(cameras), bf16
        self.convolutions, self.projections = nn.ModuleDict(), nn.ModuleDict()
        for name, shape in self.cameras.items():
            if _key(shape) not in self.convolutions:
                layers: list[nn.Module] = []
                for size_in, side, stride in ((shape[2], 6, 4), (channels, 3, 2), (channels, 3, 1)):
                    layers += [nn.Conv2d(size_in, channels, side, stride, padding=1), nn.ReLU(inplace=True)]
                self.convolutions[_key(shape)] = nn.Sequential(*layers)
            side = [math.ceil((length // 4) / 2) for length in shape[:2]]
            flat = channels * side[0] * side[1]
            self.projections[name] = nn.Sequential(
                nn.Linear(flat, features), nn.LayerNorm(features), nn.Tanh()
            )

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """{name: uint8 [B, height, width, channels]} → float32 [B, F · number of cameras]."""
        maps: dict[str, Tensor] = {}
        with torch.autocast("cpu" if self._on_cpu() else "cuda", torch.bfloat16, enabled=self.bf16):
            for key, network in self.convolutions.items():
                names = [name for name, shape in self.cameras.items() if _key(shape) == key]
                stack = torch.cat([images[name] for name in names]) if len(names) > 1 else images[names[0]]
                # NHWC storage seen as NCHW is channels_last: no copy, and the fast layout on a CPU
                pixels = stack.permute(0, 3, 1, 2).to(torch.bfloat16 if self.bf16 else torch.float32)
                output = network(pixels.mul_(1 / 255).sub_(0.5)).flatten(1)
                maps |= dict(zip(names, output.chunk(len(names)), strict=True))
            return torch.cat([self.projections[name](maps[name]).float() for name in self.cameras], 1)

    def frozen(self, images: dict[str, Tensor]) -> Tensor:
        """The part that can be cached once the weights rest: all of it."""
        return self(images)

    def head(self, features: Tensor) -> Tensor:
        """What follows on `frozen`: nothing."""
        return features

    def _on_cpu(self) -> bool:
        return next(self.parameters()).device.type == "cpu"


def _key(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


class ObservationEncoder(nn.Module):
    """Observation → features [B, F]: the normalised state, then the encoded images, if there are cameras.

    Args:
        spec: shapes of the observation.
        channels: channels of the image encoder.
        image_features: features per camera.
        bf16: image encoder in bfloat16.
        weights: file of a ResNet that encodes images, see `resnet.py`; empty for a small network that is trained.
    """

    def __init__(
        self,
        spec: PolicySpec,
        channels: int = 32,
        image_features: int = 50,
        bf16: bool = False,
        weights: str = "",
    ) -> None:
        super().__init__()
        self.normalizer = StateNormalizer(spec.state_dim)
        self.images: nn.Module | None = None
        if spec.cameras and weights:
            self.images = ResNetEncoder(spec.cameras, weights, image_features, bf16)
        elif spec.cameras:
            self.images = ImageEncoder(spec.cameras, channels, image_features, bf16)
        self.size = spec.state_dim + image_features * len(spec.cameras)

    def forward(self, observation: Observation) -> Tensor:
        """{"state": [B, S], "images": {name: [B, height, width, channels]}} → [B, F].

        In place of "images" there may be "features", what `images.frozen` made of them.
        """
        state = self.normalizer(observation["state"])
        if self.images is None:
            return state
        if "features" in observation:
            return torch.cat([state, self.images.head(observation["features"])], 1)
        return torch.cat([state, self.images(observation["images"])], 1)


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample of a tanh-Gaussian and its log-density (SAC, arXiv 1812.05905, appendix C).

    Args:
        mean: of the Gaussian, [B, D].
        log_std: of the Gaussian, [B, D].
        noise: standard normal draw, [B, D].

    Returns:
        Action tanh(mean + std · noise) [B, D] and log π(action) [B].
    """
    raw = mean + log_std.exp() * noise
    # log(1 − tanh²u) = 2 (log 2 − u − softplus(−2u)): exact also where tanh is 1 in float32
    jacobian = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    log_density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - jacobian
    return torch.tanh(raw), log_density.sum(1)


def bc_loss(mean: Tensor, batch: Batch, weight: Tensor) -> Tensor:
    """`cloning_loss` of tanh(mean); mean of the Gaussian before tanh, [B, H·A] → scalar."""
    return cloning_loss(torch.tanh(mean), batch, weight)


def cloning_loss(action: Tensor, batch: Batch, weight: Tensor) -> Tensor:
    """|â − a|², summed over action entries, averaged over executed steps of weighted rows → scalar.

    Args:
        action: â, of the policy, [B, H·A].
        batch: actions [B, H, A] and which of their steps were executed.
        weight: of each row (or of each step of it), [B] or [B, H].
    """
    error = (unfold(action, batch.action.shape[1]) - batch.action).square().sum(-1)  # [B, H]
    weight = batch.valid() * (weight if weight.dim() == 2 else weight[:, None])
    return (error * weight).sum() / weight.sum().clamp_min(1)


class GaussianActor(nn.Module):
    """Features → mean and log std of a Gaussian over the folded chunk, before tanh.

    Args:
        inputs: F, size of the features.
        hidden: sizes of the hidden layers.
        outputs: H · A.
        std_min: smallest standard deviation.
        std_max: largest standard deviation.
        initial_std: standard deviation of the untrained actor.
        bf16: products between hidden layers in bfloat16.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        std_min: float,
        std_max: float,
        initial_std: float,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.net = EnsembleMLP(1, inputs, hidden, 2 * outputs, bf16, final_scale=0.1)
        self.bounds = (math.log(std_min), math.log(std_max))
        self.initial = math.log(initial_std)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F] → mean [B, H·A], log_std [B, H·A]."""
        mean, log_std = self.net(features)[0].chunk(2, dim=-1)
        return mean, (log_std + self.initial).clamp(*self.bounds)


class Handover(nn.Module):
    """Whether what was learnt from reward has a say in acting yet; travels with the policy's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("done", torch.zeros((), dtype=torch.bool))


class RunningMean(nn.Module):
    """Mean over the newest hundred or so values of a quantity.

    Args:
        initial: what counts before the first value.
    """

    def __init__(self, initial: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float(initial)))
        self.register_buffer("count", torch.zeros(()))

    def follow(self, newest: Tensor) -> None:
        """Takes over a hundredth of the newest value (scalar), more at first."""
        self.count += 1
        self.value.lerp_(newest, max(0.01, 1 / self.count.item()))


class PriorActor(nn.Module):
    """The actor of an agent that starts from an imitation policy: that policy is the mean, the spread is new.

    Args:
        mean: the imitation policy's network: features → [1, B, H·A], before tanh.
        inputs: F, size of the features.
        hidden: sizes of the spread's hidden layers.
        outputs: H · A.
        std_min: smallest standard deviation.
        std_max: largest standard deviation.
        initial_std: standard deviation before any learning.
        bf16: the spread's products between hidden layers in bfloat16.
    """

    def __init__(
        self,
        mean: nn.Module,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        std_min: float,
        std_max: float,
        initial_std: float,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.mean = mean
        self.spread = EnsembleMLP(1, inputs, hidden, outputs, bf16, final_scale=0.1)
        self.bounds = (math.log(std_min), math.log(std_max))
        self.initial = math.log(initial_std)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F] → mean [B, H·A], log_std [B, H·A]."""
        log_std = self.spread(features)[0] + self.initial
        return self.mean(features)[0], log_std.clamp(*self.bounds)


class Temperature(nn.Module):
    """α = exp(log α), the price of entropy, learnt so that the policy keeps its target entropy."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([math.log(initial)]))

    def forward(self) -> Tensor:
        """→ scalar."""
        return self.log.exp().squeeze()
