"""Films: image messages into an mp4 file that browsers play; videos of datasets, written and read."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

# codec, pixel format and options. Of datasets: colour in full resolution (halved, as in films, small images lose
# their colours) and every second frame complete, so that single frames are found quickly.
_CODING = {
    "film": ("libx264", "yuv420p", {"preset": "fast", "crf": "20"}),
    "dataset": ("libx264", "yuv444p", {"preset": "fast", "crf": "14", "g": "2"}),
    "lossless": ("libx264rgb", "rgb24", {"preset": "fast", "qp": "0", "g": "2"}),
}
_FAR = 64  # frames: what lies further ahead is sought, not read through


class VideoError(ValueError):
    """A video that cannot be read or lacks a frame; the message names it."""


class VideoWriter:
    """Writes RGB frames as H.264.

    Args:
        path: File to write.
        rate: Frames per second.
        coding: `film` (yuv420p, small), `dataset` (yuv444p, PSNR of 35 dB and more) or `lossless` (RGB).

    Attributes:
        frames: Frames added.
        bytes: Size of what was encoded.
    """

    def __init__(self, path: Path, rate: float, coding: str = "film"):
        self.path, self.rate, self.coding = path, Fraction(rate).limit_denominator(1000), coding
        self.container = self.stream = None
        self.frames = self.bytes = 0

    def add(self, rgb: np.ndarray) -> None:
        """Append a frame, uint8 [height, width, 3]; of a film, an odd row or column is cut off (it needs even ones)."""
        import av

        codec, pixels, options = _CODING[self.coding]
        height, width = (n // 2 * 2 if pixels == "yuv420p" else n for n in rgb.shape[:2])
        if self.container is None:
            self.container = av.open(str(self.path), "w")
            self.stream = self.container.add_stream(codec, rate=self.rate, options=options)
            self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, pixels
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")
        self._mux(self.stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Finish the file; without any frame there is none."""
        if self.container is not None:
            self._mux(self.stream.encode())
            self.container.close()
            self.container = None

    def _mux(self, packets: list) -> None:
        self.bytes += sum(packet.size for packet in packets)
        self.container.mux(packets)


class VideoReader:
    """Reads frames of videos by their times; cheap where the times rise.

    Args:
        rate: Frames per second; a frame's time may be half a period off.
    """

    def __init__(self, rate: float):
        self.rate = rate
        self.path: Path | None = None
        self.container = self.decoded = self.reformatter = None
        self.newest: float = -1.0

    def frames(self, path: Path, times: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the frames at rising times (s), uint8 [height, width, 3].

        Raises:
            VideoError: The file is missing or damaged, or has no frame at such a time.
        """
        from av import FFmpegError

        try:
            self._open(path, float(times[0]))
            for time in times:
                yield self._at(float(time))
        except (FFmpegError, OSError) as e:
            raise VideoError(f"{path}: cannot be read ({' '.join(str(e).split())})") from None

    def close(self) -> None:
        """Close the file."""
        if self.container is not None:
            self.container.close()
            self.container = self.path = None

    def _open(self, path: Path, first: float) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        if path != self.path:
            self.close()
            self.container = av.open(str(path))
            if not self.container.streams.video:
                raise VideoError(f"{path}: holds no video")
            self.container.streams.video[0].thread_type = "AUTO"
            # one for all frames: each frame's own would be made anew every time
            self.path, self.reformatter = path, VideoReformatter()
            self.decoded, self.newest = self.container.decode(video=0), -1.0
        if not self.newest < first < self.newest + _FAR / self.rate:
            stream = self.container.streams.video[0]
            self.container.seek(max(0, int((first - 0.5 / self.rate) / stream.time_base)), stream=stream)
            self.decoded = self.container.decode(video=0)

    def _at(self, time: float) -> np.ndarray:
        margin = 0.5 / self.rate
        for frame in self.decoded:
            self.newest = frame.time
            if frame.time >= time - margin:
                if frame.time > time + margin:
                    break
                return self.reformatter.reformat(frame, format="rgb24").to_ndarray()
        raise VideoError(f"{self.path}: has no frame at {time:.3f} s")
