"""Statistics of a dataset's features, as LeRobotDataset keeps them, in memory that does not grow with its length."""

from __future__ import annotations

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_SIDE = 128  # pixels: larger images are counted at every second, third, … pixel


def vector_statistics(values: np.ndarray) -> dict[str, list]:
    """Return minimum, maximum, mean, standard deviation, quantiles [D] and count [1] of values [N, D]."""
    values = values.astype(np.float64)
    numbers = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    numbers |= dict(zip(QUANTILES, quantiles, strict=True))
    return {name: number.tolist() for name, number in numbers.items()} | {"count": [len(values)]}


class PixelStatistics:
    """Counts of each value of each channel."""

    def __init__(self):
        self.counts, self.frames = np.zeros((3, 256), np.int64), 0

    def add(self, rgb: np.ndarray) -> None:
        """Count an image, uint8 [height, width, 3]."""
        stride = -(-max(rgb.shape[:2]) // _SIDE)
        for channel, counts in enumerate(self.counts):
            counts += np.bincount(rgb[::stride, ::stride, channel].ravel(), minlength=256)
        self.frames += 1

    def merge(self, other: PixelStatistics) -> None:
        """Add the counts of others."""
        self.counts += other.counts
        self.frames += other.frames

    def statistics(self) -> dict[str, list]:
        """Return the same as `vector_statistics` of pixels in [0, 1], per channel [3, 1, 1]; count is of frames [1]."""
        levels = np.arange(256) / 255
        share = self.counts / self.counts.sum(1, keepdims=True)
        mean = share @ levels
        std = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0))
        there, sums = self.counts > 0, np.cumsum(share, 1)
        numbers = {
            "min": levels[there.argmax(1)], "max": levels[255 - there[:, ::-1].argmax(1)], "mean": mean, "std": std,
        }  # fmt: skip
        numbers |= {name: levels[np.minimum((sums < q).sum(1), 255)] for name, q in QUANTILES.items()}
        return {name: n.reshape(3, 1, 1).tolist() for name, n in numbers.items()} | {"count": [self.frames]}
