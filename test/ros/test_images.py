import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image

from hilrl_ros import images
from hilrl_ros.images import crop_and_resize, from_rgb, plain_to_rgb, to_rgb

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


def message(encoding, height=4, width=5, padding=0):
    """An image of random bytes; also its pixels [height, width, channels] without the padding."""
    channels = CHANNELS[encoding]
    rows = np.random.default_rng(0).integers(0, 256, (height, width * channels + padding), np.uint8)
    msg = Image(height=height, width=width, encoding=encoding, step=rows.shape[1])
    msg.data = images.to_bytes_field(rows)
    return msg, rows[:, : width * channels].reshape(height, width, channels)


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb8", [0, 1, 2]),
        ("bgr8", [2, 1, 0]),
        ("rgba8", [0, 1, 2]),
        ("bgra8", [2, 1, 0]),
        ("mono8", [0, 0, 0]),
    ],
)
def test_every_encoding_becomes_rgb(encoding, order, padding):
    msg, pixels = message(encoding, padding=padding)
    rgb = plain_to_rgb(msg)
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    assert np.array_equal(rgb, pixels[:, :, order])
    assert np.array_equal(to_rgb(msg), rgb)


@pytest.mark.skipif(images.CvBridge is None, reason="cv_bridge comes with a ROS installation, not from PyPI")
@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("encoding", CHANNELS)
def test_cv_bridge_gives_the_same_pixels(encoding, padding):
    msg, _ = message(encoding, padding=padding)
    assert np.array_equal(images.CvBridge().imgmsg_to_cv2(msg, "rgb8"), plain_to_rgb(msg))


def test_an_image_survives_the_wire():
    rgb = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    msg = deserialize_message(serialize_message(from_rgb(rgb[:, ::2], frame_id="front")), Image)
    assert (msg.height, msg.width, msg.step, msg.encoding) == (6, 4, 12, "rgb8")
    assert msg.header.frame_id == "front"
    assert np.array_equal(to_rgb(msg), rgb[:, ::2])


def test_images_that_cannot_be_read_say_why():
    msg, _ = message("rgb8")
    msg.encoding = "16UC1"
    with pytest.raises(ValueError, match="image encoding '16UC1' is not supported; use one of rgb8, bgr8"):
        to_rgb(msg)
    msg, _ = message("rgb8")
    msg.data = msg.data[:-1]
    with pytest.raises(ValueError, match="image of 5x4 rgb8 has 59 bytes, expected 60"):
        to_rgb(msg)
    msg, _ = message("mono8")
    msg.encoding = "rgb8"
    with pytest.raises(ValueError, match="image of 5x4 rgb8 has rows of 5 bytes, expected at least 15"):
        to_rgb(msg)


def test_crop_is_x_y_width_height_and_resizing_averages_areas():
    rgb = np.zeros((8, 12, 3), np.uint8)
    rgb[2:6, 3:11] = 100
    rgb[2:4, 3:5] = 200
    cut = crop_and_resize(rgb, (3, 2, 8, 4), (4, 8))
    assert np.array_equal(cut, rgb[2:6, 3:11])
    small = crop_and_resize(rgb, (3, 2, 8, 4), (2, 4))
    assert small.shape == (2, 4, 3)
    assert small[0, 0, 0] == 200 and small[0, 1, 0] == 100 and small[1, 0, 0] == 100
    assert crop_and_resize(rgb, None, (4, 6))[1, 1, 0] == 100  # half of its area is 200


def test_a_crop_outside_the_image_says_both_sizes():
    with pytest.raises(ValueError, match=r"crop \[0, 0, 9, 4\] does not lie in an image of 8x6"):
        crop_and_resize(np.zeros((6, 8, 3), np.uint8), (0, 0, 9, 4), (4, 4))
