"""One optimizer for many modules: parameters in one vector, one kernel a step."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class FlatAdam:
    """Adam over all parameters of some modules, laid out in one vector: one kernel a step instead of dozens.

    The modules' parameters become views of it; everything else about them stays as usual.

    Args:
        modules: whose parameters are trained; each parameter belongs to one FlatAdam only.
        lr: learning rate.

    Attributes:
        frozen: bool, the vector's entries that `freeze` named; None: none.
    """

    def __init__(self, modules: Iterable[nn.Module], lr: float) -> None:
        self.parameters = [parameter for module in modules for parameter in module.parameters()]
        self.flat = flatten(self.parameters)
        self.flat.grad = torch.zeros_like(self.flat)
        self.adam = torch.optim.Adam([self.flat], lr=lr, fused=True)
        self.frozen: Tensor | None = None

    def freeze(self, parameters: Iterable[nn.Parameter]) -> None:
        """Lets parameters rest from now on, to the last bit: without gradient and moment Adam adds zero.

        An average of frozen weights rests too: a + w (a − a) is a.
        """
        chosen = {id(parameter) for parameter in parameters}
        rests = [torch.full((p.numel(),), id(p) in chosen) for p in self.parameters]
        self.frozen = torch.cat(rests)
        self.load_state(self.state())

    def state(self) -> dict[str, Tensor]:
        """First and second moment and step count."""
        if not self.adam.state:
            zero = torch.zeros_like(self.flat)
            return {"exp_avg": zero, "exp_avg_sq": zero.clone(), "step": torch.zeros(())}
        return dict(self.adam.state[self.flat])

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`; what is frozen has no moments."""
        own = {name: value.clone() for name, value in state.items()}
        if self.frozen is not None:
            for name in ("exp_avg", "exp_avg_sq"):
                own[name].masked_fill_(self.frozen, 0.0)
        self.adam.state[self.flat] = own


def minimise(loss: Tensor, *optimizers: FlatAdam, clip: float = 0.0) -> None:
    """One gradient step on `loss` for the parameters of the optimizers, and no others.

    Args:
        loss: scalar.
        optimizers: whose parameters move.
        clip: bound on the gradient's norm per optimizer; 0 for none.
    """
    parameters = [parameter for optimizer in optimizers for parameter in optimizer.parameters]
    gradients = iter(torch.autograd.grad(loss, parameters, materialize_grads=True))
    for optimizer in optimizers:
        parts = [next(gradients).reshape(-1) for _ in optimizer.parameters]
        gradient = torch.cat(parts, out=optimizer.flat.grad)
        if optimizer.frozen is not None:
            gradient.masked_fill_(optimizer.frozen, 0.0)
        if clip:
            gradient.mul_((clip / torch.linalg.vector_norm(gradient)).clamp_max(1.0))
        optimizer.adam.step()


def flatten(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Moves parameters into one new vector, of which they become views, and returns it."""
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    parts = flat.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part.view(parameter.shape)
    return flat
