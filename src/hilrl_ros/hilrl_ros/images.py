"""Image messages and numpy arrays: through cv_bridge where a ROS installation has it, else through this file."""

from __future__ import annotations

import array

import numpy as np
from sensor_msgs.msg import Image

try:
    from cv_bridge import CvBridge
except ImportError:
    CvBridge = None

_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


def to_rgb(msg: Image) -> np.ndarray:
    """Return an image message as uint8 [height, width, 3] in RGB order.

    Raises:
        ValueError: The encoding is not an 8-bit colour or grey one, or the data is too short.
    """
    if msg.encoding not in _CHANNELS:
        raise ValueError(
            f"image encoding '{msg.encoding}' is not supported; use one of {', '.join(_CHANNELS)}"
        )
    if msg.step < msg.width * _CHANNELS[msg.encoding]:
        raise ValueError(
            f"image of {msg.width}x{msg.height} {msg.encoding} has rows of {msg.step} bytes, "
            f"expected at least {msg.width * _CHANNELS[msg.encoding]}"
        )
    if len(msg.data) < msg.step * msg.height:
        raise ValueError(
            f"image of {msg.width}x{msg.height} {msg.encoding} has {len(msg.data)} bytes, "
            f"expected {msg.step * msg.height}"
        )
    if CvBridge is not None:
        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(msg, "rgb8"))
    return plain_to_rgb(msg)


def plain_to_rgb(msg: Image) -> np.ndarray:
    """Do as `to_rgb` without cv_bridge: rows may be padded, BGR is swapped, grey is repeated, alpha dropped."""
    channels = _CHANNELS[msg.encoding]
    rows = np.frombuffer(msg.data, np.uint8, msg.height * msg.step).reshape(msg.height, msg.step)
    pixels = rows[:, : msg.width * channels].reshape(msg.height, msg.width, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    rgb = pixels[:, :, :3]
    if msg.encoding.startswith("bgr"):
        rgb = rgb[:, :, ::-1]
    return np.ascontiguousarray(rgb)


def from_rgb(rgb: np.ndarray, stamp=None, frame_id: str = "") -> Image:
    """Make an rgb8 image message from uint8 [height, width, 3]."""
    msg = Image()
    if stamp is not None:
        msg.header.stamp = stamp
    msg.header.frame_id = frame_id
    msg.height, msg.width = rgb.shape[:2]
    msg.encoding, msg.step = "rgb8", 3 * rgb.shape[1]
    msg.data = to_bytes_field(rgb)
    return msg


def to_bytes_field(data: np.ndarray | bytes) -> array.array:
    """Return data as array.array('B'): the only type that rclpy assigns to a uint8[] field without a slow copy."""
    out = array.array("B")
    out.frombytes(np.ascontiguousarray(data) if isinstance(data, np.ndarray) else data)
    return out


def crop_and_resize(
    rgb: np.ndarray, crop: tuple[int, int, int, int] | None, size: tuple[int, int]
) -> np.ndarray:
    """Cut out a part of an image and resize it by area averaging.

    Args:
        rgb: uint8 [height, width, 3].
        crop: x, y, width, height in pixels; None for all of it.
        size: Height and width of the result in pixels.

    Raises:
        ValueError: The crop does not lie in the image.
    """
    if crop is not None:
        x, y, w, h = crop
        if x + w > rgb.shape[1] or y + h > rgb.shape[0]:
            raise ValueError(
                f"crop [{x}, {y}, {w}, {h}] does not lie in an image of {rgb.shape[1]}x{rgb.shape[0]}"
            )
        rgb = rgb[y : y + h, x : x + w]
    if rgb.shape[:2] == tuple(size):
        return rgb
    from PIL import Image as Pillow

    return np.asarray(
        Pillow.fromarray(np.ascontiguousarray(rgb)).resize((size[1], size[0]), Pillow.Resampling.BOX)
    )
