"""Image encoders that reinforcement learning leaves alone: frames are encoded once, their features are cached.

An encoder is fitted by imitating what people did, and anew from time to time, or it comes from a file
(`resnet.py`). Updates from cached features cost a fifth to a fiftieth of updates from pixels.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hilrl_agents.batch import Batch
from hilrl_agents.networks import EnsembleMLP, FlatAdam, ObservationEncoder, bc_loss, minimise

_versions = itertools.count(1)


class FrozenImages:
    """What replay calls to encode frames (`hilrl_agents.replay.Features`).

    Args:
        images: image encoder with a method `frozen`.

    Attributes:
        version: new whenever the weights changed; features of another version are of no use.
    """

    def __init__(self, images: nn.Module) -> None:
        self._images = images
        self.changed()

    def changed(self) -> None:
        """To be called when the weights have changed."""
        self.version = next(_versions)

    @torch.no_grad()
    def __call__(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """{name: uint8 [N, height, width, channels]} → [N, …], what the encoder's `head` takes."""
        return self._images.frozen({name: torch.from_numpy(i) for name, i in images.items()}).numpy()


class Imitator(nn.Module):
    """Fits an image encoder by behaviour cloning through a policy head of its own.

    The head acts nowhere: the policy that acts learns from features whose encoder never follows its values.

    Args:
        encoder: whose weights are fitted.
        hidden: sizes of the head's hidden layers.
        outputs: H · A.
        lr: learning rate.
    """

    def __init__(self, encoder: ObservationEncoder, hidden: Sequence[int], outputs: int, lr: float) -> None:
        super().__init__()
        self.head = EnsembleMLP(1, encoder.size, hidden, outputs)
        self.optimizer = FlatAdam([encoder, self.head], lr)

    def step(self, features: Tensor, batch: Batch) -> Tensor:
        """One step on all rows; features [B, F] are the encoder's, with gradient. Returns the loss."""
        loss = bc_loss(self.head(features)[0], batch, torch.ones_like(batch.bootstrap))
        minimise(loss, self.optimizer)
        return loss.detach()
