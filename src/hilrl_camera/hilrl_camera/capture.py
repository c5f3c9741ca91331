"""The newest frame of a camera, read in a thread of its own; a camera may be unplugged and plugged in again.

>>> from hilrl_camera.capture import Capture
>>> with Capture("/dev/video0", on_frame=lambda frame: print(frame.shape)) as capture:
...     time.sleep(1)
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable

import numpy as np

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # a missing camera is told in our own words
import cv2  # reads the variable when it is imported

RETRY = 0.5  # s between two looks for a camera that is not there


def device_path(device: str) -> str:
    """Return the path of a camera given by number or path."""
    return f"/dev/video{device}" if device.isdigit() else device


class Capture:
    """Reads a camera until it is closed.

    Callbacks run in the reading thread.

    Args:
        device: Number of a camera, path such as /dev/video0 or /dev/v4l/by-id/…, or a video file, which is played
            again and again.
        width: Pixels asked for; a file gives its own.
        height: Pixels asked for.
        rate: Frames per second asked for; a file is played at this rate.
        fourcc: Pixel format asked for; MJPG lets most cameras give 30 frames/s over USB 2.
        on_frame: Takes each frame, uint8 [height, width, 3] in BGR order.
        on_change: Takes True when frames come, False when the camera is not there or stops.
    """

    def __init__(
        self,
        device: str,
        width: int = 640,
        height: int = 480,
        rate: float = 30.0,
        fourcc: str = "MJPG",
        on_frame: Callable[[np.ndarray], None] = lambda frame: None,
        on_change: Callable[[bool], None] = lambda there: None,
    ):
        self.path = device_path(device)
        self.width, self.height, self.rate, self.fourcc = width, height, rate, fourcc
        self._on_frame, self._on_change = on_frame, on_change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"camera {device}", daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join(timeout=2.0)  # a driver may hang in the middle of a frame

    def _run(self) -> None:
        there = None
        while not self._stop.is_set():
            video = self._open()
            frames = 0
            while video is not None and not self._stop.is_set() and os.path.exists(self.path):
                ok, frame = video.read()
                if not ok and self._is_file() and frames:
                    video.set(cv2.CAP_PROP_POS_FRAMES, 0)
                    frames = 0
                    continue
                if not ok:
                    break
                frames += 1
                if not there:
                    there = True
                    self._on_change(True)
                self._on_frame(frame)
                self._pace()
            if video is not None:
                video.release()
            if self._stop.is_set():
                return
            if there is not False:
                there = False
                self._on_change(False)
            self._stop.wait(RETRY)

    def _open(self) -> cv2.VideoCapture | None:
        if not os.path.exists(self.path):
            return None
        if self._is_file():
            self._due = time.monotonic()
            video = cv2.VideoCapture(self.path)
        else:
            video = cv2.VideoCapture(os.path.realpath(self.path), cv2.CAP_V4L2)
            # the format first: it decides which sizes and rates there are
            video.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*self.fourcc))
            video.set(cv2.CAP_PROP_FRAME_WIDTH, self.width)
            video.set(cv2.CAP_PROP_FRAME_HEIGHT, self.height)
            video.set(cv2.CAP_PROP_FPS, self.rate)
            video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not one that waited
        if video.isOpened():
            return video
        video.release()
        return None

    def _is_file(self) -> bool:
        try:
            return stat.S_ISREG(os.stat(self.path).st_mode)
        except OSError:
            return False

    def _pace(self) -> None:
        """Wait for a file's next frame; a camera paces itself."""
        if self._is_file():
            self._due = max(self._due + 1.0 / self.rate, time.monotonic() - 1.0)
            self._stop.wait(max(self._due - time.monotonic(), 0.0))
