"""Random changes of images, so that what is learnt does not depend on a pixel's place or a lamp."""

import numpy as np
import torch
from torch import Tensor

from hilrl_agents.batch import Observation


def random_shift(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """DrQ's augmentation (arXiv 2004.13649): every image moves by up to `pad` pixels, borders repeated.

    Args:
        images: uint8 [B, height, width, channels].
        pad: largest shift in pixels, each way.
        generator: source of the shifts.

    Returns:
        The shifted images, same shape and type.
    """
    count, height, width, channels = images.shape
    rows, columns = torch.randint(2 * pad + 1, (2, count), generator=generator).numpy()
    around = [(0, 0), (pad, pad), (pad, pad), (0, 0)]
    padded = np.pad(images.numpy(), around, "edge")
    # all the windows of all the images, without a copy: whole rows are then copied at once
    shape = (count, 2 * pad + 1, 2 * pad + 1, height, width * channels)
    strides = (*padded.strides[:3], padded.strides[1], 1)
    windows = np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)
    return torch.from_numpy(windows[np.arange(count), rows, columns].reshape(images.shape))


def random_colors(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Brightness of every image times 1 ± `amount`, each of its channels ± half of that, of 1.

    Args:
        images: uint8 [B, height, width, channels].
        amount: largest change of brightness.
        generator: source of the changes.

    Returns:
        The changed images, same shape and type.
    """
    count, channels = images.shape[0], images.shape[3]
    draw = torch.rand((count, 1, 1, channels + 1), generator=generator, device=generator.device) * 2 - 1
    draw = draw.to(images.device) * amount
    pixels = images.float().mul_(1 + draw[..., :1]).add_(127.5 * draw[..., 1:])
    return pixels.clamp_(0, 255).to(torch.uint8)


def augmented(observation: Observation, shift: int, colors: float, generator: torch.Generator) -> Observation:
    """Observation whose images are changed at random, each on its own; without images it stays as it is.

    Args:
        observation: of a batch.
        shift: see `random_shift`; 0 for none.
        colors: see `random_colors`; 0 for none.
        generator: source of the changes.
    """
    images = observation.get("images")
    if not images:
        return observation
    if shift:
        images = {name: random_shift(i, shift, generator) for name, i in images.items()}
    if colors:
        images = {name: random_colors(i, colors, generator) for name, i in images.items()}
    return {"state": observation["state"], "images": images}
