"""Observations, episodes and batches made up for the tests of agents and replay."""

import numpy as np
import torch

from hilrl_agents import Batch


def observation(spec, value):
    """An observation that can be told from every other one by `value`, in the state and in the images."""
    images = {name: np.full(shape, value % 251, np.uint8) for name, shape in spec.cameras.items()}
    return {"state": np.full(spec.state_dim, value, np.float32), "images": images}


def stamp(episode, step):
    """A number that names episode and step."""
    return 100 * episode + step


def add_episode(buffer, seq, episode, length, end, first=0, controller=0, skip=()):
    """Steps of one episode; reward 2^step, the state stamps episode and step. Returns the next seq."""
    for step in range(first, first + length):
        last = step == first + length - 1
        if step not in skip:
            buffer.add(
                seq,
                episode,
                step,
                observation(buffer.spec, stamp(episode, step)),
                np.full(buffer.spec.action_dim, step / 100, np.float32),
                2.0**step,
                last and end == "terminated",
                last and end == "truncated",
                controller,
                7,
                observation(buffer.spec, stamp(episode, step + 1)) if last and end else None,
            )
        seq += 1
    return seq


def random_batch(spec, rows, steps=None, offline=None, seed=0, n_step=1, path=False):
    """A batch of noise that fits the spec."""
    generator = torch.Generator().manual_seed(seed)

    def seen(*times):
        images = {
            name: torch.randint(0, 256, (rows, *times, *shape), dtype=torch.uint8, generator=generator)
            for name, shape in spec.cameras.items()
        }
        return {"state": torch.randn(rows, *times, spec.state_dim, generator=generator), "images": images}

    span = max(spec.horizon, n_step)
    offline = torch.arange(rows) >= rows // 2 if offline is None else torch.tensor(offline)
    return Batch(
        observation=seen(),
        action=torch.rand(rows, spec.horizon, spec.action_dim, generator=generator) * 2 - 1,
        reward=torch.randn(rows, span, generator=generator),
        steps=torch.full((rows,), span) if steps is None else torch.tensor(steps),
        bootstrap=torch.ones(rows),
        next_observation=seen(),
        offline=offline,
        person=offline[:, None].repeat(1, spec.horizon),
        left=torch.zeros(rows, dtype=torch.int64),
        solved=torch.zeros(rows, dtype=torch.bool),
        path=seen(span) if path else None,
    )
