"""Films: image messages into an mp4 file that browsers play."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np


class VideoWriter:
    """Writes RGB frames as H.264 (yuv420p).

    Args:
        path: File to write.
        rate: Frames per second.
    """

    def __init__(self, path: Path, rate: float):
        self.path, self.rate = path, Fraction(rate).limit_denominator(1000)
        self.container = self.stream = None

    def add(self, rgb: np.ndarray) -> None:
        """Append a frame, uint8 [height, width, 3]; an odd row or column is cut off (the codec needs even ones)."""
        import av

        height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
        if self.container is None:
            self.container = av.open(str(self.path), "w")
            self.stream = self.container.add_stream(
                "libx264", rate=self.rate, options={"preset": "fast", "crf": "20"}
            )
            self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        """Finish the file; without any frame there is none."""
        if self.container is not None:
            self.container.mux(self.stream.encode())
            self.container.close()
            self.container = None
