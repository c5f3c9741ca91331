"""One optimizer for many modules: parameters in one vector, one kernel a step."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hilrl_agents.config import option


@dataclass(frozen=True)
class AverageOptions:
    """Which weights of a policy act."""

    policy_average: float = option(
        0.003,
        "Share of the policy's weights that their running average takes over per gradient step; the average acts "
        "(Diffusion Policy): it is steadier than the newest weights; 0: these act",
        low=0,
        high=1,
    )


class FlatAdam:
    """Adam over all parameters of some modules, laid out in one vector: one kernel a step instead of dozens.

    The modules' parameters become views of it; everything else about them stays as usual.

    Args:
        modules: whose parameters are trained; each parameter belongs to one FlatAdam only.
        lr: learning rate.
        average: share of the parameters that their running average takes over per step, more in the first ones
            (Diffusion Policy's code: the count of steps to the power of −0.75); 0: there is none.

    Attributes:
        frozen: bool, the vector's entries that `freeze` named; None: none.
    """

    def __init__(self, modules: Iterable[nn.Module], lr: float, average: float = 0.0) -> None:
        self.parameters = [parameter for module in modules for parameter in module.parameters()]
        self.flat = flatten(self.parameters)
        self.flat.grad = torch.zeros_like(self.flat)
        self.adam = torch.optim.Adam([self.flat], lr=lr, fused=True)
        self.frozen: Tensor | None = None
        self._share, self._average = average, None

    def step(self) -> None:
        """One step along the gradient; the average follows."""
        if self._share and self._average is None:
            self._average = self.flat.detach().clone()
        self.adam.step()
        if self._share:
            count = float(self.adam.state[self.flat]["step"])
            self._average.lerp_(self.flat, max(self._share, count**-0.75))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the modules' parameters are their running averages, where there were steps to average."""
        if self._average is None:
            yield
            return
        newest = self.flat.detach().clone()
        self.flat.copy_(self._average)
        try:
            yield
        finally:
            self.flat.copy_(newest)

    def begin_anew(self) -> None:
        """Lets the average begin with the parameters as they are now."""
        self._average = None

    def freeze(self, parameters: Iterable[nn.Parameter]) -> None:
        """Lets parameters rest from now on, to the last bit: without gradient and moment Adam adds zero.

        An average of frozen weights rests too: a + w (a − a) is a.
        """
        chosen = {id(parameter) for parameter in parameters}
        rests = [torch.full((p.numel(),), id(p) in chosen) for p in self.parameters]
        self.frozen = torch.cat(rests)
        self.load_state(self.state())

    def state(self) -> dict[str, Tensor]:
        """First and second moment, step count, and the parameters' average where there is one."""
        state = dict(self.adam.state[self.flat]) if self.adam.state else {}
        if not state:
            zero = torch.zeros_like(self.flat)
            state = {"exp_avg": zero, "exp_avg_sq": zero.clone(), "step": torch.zeros(())}
        if self._share:
            state["average"] = self.flat.detach().clone() if self._average is None else self._average
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`; what is frozen has no moments."""
        own = {name: value.clone() for name, value in state.items()}
        self._average = own.pop("average", None)
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
        optimizer.step()


def flatten(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Moves parameters into one new vector, of which they become views, and returns it."""
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    parts = flat.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part.view(parameter.shape)
    return flat
