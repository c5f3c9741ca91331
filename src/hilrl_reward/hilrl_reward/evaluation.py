"""How good a classifier is on frames that it was not trained on: precision and recall, and the frames it gets wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hilrl_reward.labels import Frames

# what one wrong success costs: the policy learns to repeat it. So the threshold is chosen by the false alarms.
MOST_FALSE = 0.01
LOWEST_THRESHOLD = 0.5
_SHOWN, _PER_ROW = 24, 12  # wrong frames of each kind


@dataclass(frozen=True)
class Evaluation:
    """Probabilities of labelled frames, and what a threshold makes of them.

    Attributes:
        frames: The labelled frames, N of them.
        probability: Of success, as the classifier says; 0 where the task's other conditions rule it out [N].
    """

    frames: Frames
    probability: np.ndarray

    def recall(self, threshold: float) -> float:
        """Share of the frames of success whose probability is above the threshold."""
        return float(np.mean(self.probability[self.frames.success] > threshold))

    def false_positive_rate(self, threshold: float) -> float:
        """Share of the other frames whose probability is above it too."""
        return float(np.mean(self.probability[~self.frames.success] > threshold))

    def precision(self, threshold: float) -> float:
        """Share of success among the frames above the threshold; 1 where there is none."""
        above = self.probability > threshold
        return float(np.mean(self.frames.success[above])) if above.any() else 1.0

    def choose_threshold(self) -> float:
        """Return the lowest threshold, from LOWEST_THRESHOLD on, with at most MOST_FALSE false positives."""
        others = np.sort(self.probability[~self.frames.success])[::-1]
        return max(LOWEST_THRESHOLD, float(others[int(MOST_FALSE * len(others))]))

    def metrics(self, threshold: float) -> dict[str, float]:
        """Return the figures at a threshold."""
        return {
            "threshold": threshold,
            "recall": self.recall(threshold),
            "false_positive_rate": self.false_positive_rate(threshold),
            "precision": self.precision(threshold),
            "successes": int(self.frames.success.sum()),
            "others": int((~self.frames.success).sum()),
            "episodes": len(np.unique(self.frames.episode)),
        }


def describe(metrics: dict[str, float]) -> str:
    """Return the figures in one line for people."""
    return (
        f"recall {metrics['recall']:.1%} of {metrics['successes']} successes, false positives "
        f"{metrics['false_positive_rate']:.2%} of {metrics['others']} other frames "
        f"at threshold {metrics['threshold']:.2f}, {metrics['episodes']} episodes"
    )


def draw(evaluation: Evaluation, threshold: float, path: Path) -> None:
    """Draw precision and recall against the threshold, and the frames that it gets wrong, into one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    frames, probability = evaluation.frames, evaluation.probability
    missed = np.flatnonzero(frames.success & (probability <= threshold))
    false = np.flatnonzero(~frames.success & (probability > threshold))
    missed = missed[np.argsort(probability[missed])]  # the worst first
    false = false[np.argsort(-probability[false])]
    kinds = {"taken for success": false, "success that is missed": missed}
    rows = [-(-min(len(wrong), _SHOWN) // _PER_ROW) for wrong in kinds.values()]
    heights = [0.4 + 1.6 * count for count in rows]
    figure = plt.figure(figsize=(12, 3.6 + sum(heights)), constrained_layout=True)
    top, *below = figure.subfigures(3, 1, height_ratios=(3.6, *heights))
    axes = top.subplots(1, 2)
    thresholds = np.unique(np.concatenate([np.linspace(0, 1, 201), [threshold]]))
    recall = [evaluation.recall(t) for t in thresholds]
    axes[0].plot(recall, [evaluation.precision(t) for t in thresholds])
    axes[0].plot(evaluation.recall(threshold), evaluation.precision(threshold), "D")
    axes[0].set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes[1].plot(thresholds, recall, label="recall")
    axes[1].plot(
        thresholds, [evaluation.false_positive_rate(t) for t in thresholds], label="false positive rate"
    )
    axes[1].axvline(threshold, linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
    axes[1].set(xlabel="threshold", ylim=(0, 1.02))
    axes[1].legend()
    for axis in axes:
        axis.grid(alpha=0.3)
    for part, count, (title, wrong) in zip(below, rows, kinds.items(), strict=True):
        worst = f", the worst {_SHOWN}" if len(wrong) > _SHOWN else ""
        part.suptitle(f"{title}: {len(wrong) or 'none'}{worst}")
        for place, index in enumerate(wrong[:_SHOWN]):
            axis = part.add_subplot(count, _PER_ROW, place + 1)
            axis.imshow(side_by_side(frames, index))
            axis.set_title(
                f"{frames.names[frames.episode[index]]}\nstep {frames.step[index]}, {probability[index]:.2f}",
                fontsize=5,
            )
            axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def side_by_side(frames: Frames, index: int) -> np.ndarray:
    """Return a frame's cameras below each other, uint8 [H, W, 3]; smaller ones are filled up with black."""
    pictures = [pixels[index] for pixels in frames.images.values()]
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0))) for p in pictures])
