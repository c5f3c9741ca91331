"""Camera node: a USB camera as image_raw, camera_info and, where somebody listens, compressed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from hilrl_camera.capture import Capture, device_path
from hilrl_ros import qos
from hilrl_ros.config import check_keys, read_yaml
from hilrl_ros.contract import ContractError
from hilrl_ros.images import from_rgb, to_bytes_field
from hilrl_ros.node import UserError, declare, param, run


@dataclass
class CameraParams:
    """Parameters of a camera."""

    camera: str = param("front", "Name of the camera; its topics begin with it")
    device: str = param(
        "/dev/video0",
        "Path of the camera, best one of /dev/v4l/by-id, which stays; or its number as text; a video file is played in "
        "a loop. Or name=path of several cameras, of which this one is the one named as `camera`",
    )
    width: int = param(640, "Width asked for", unit="pixels", bounds=(16, 8192))
    height: int = param(480, "Height asked for", unit="pixels", bounds=(16, 8192))
    rate: float = param(30.0, "Frames per second asked for", unit="Hz", bounds=(0.1, 240.0))
    fourcc: str = param(
        "MJPG", "Pixel format asked for, as YUYV; `v4l2-ctl --list-formats-ext` shows which there are"
    )
    camera_info: str = param("", "Calibration file as camera_calibration writes it; empty: not calibrated")
    jpeg_quality: int = param(90, "Quality of the compressed images", bounds=(1, 100))


class CameraNode(Node):
    """Publishes `<camera>/image_raw`, `<camera>/camera_info` and `<camera>/image_raw/compressed` while subscribed.

    A camera that is not there, or is unplugged, is looked for again without end.
    """

    def __init__(self):
        super().__init__("camera")
        self.params = params = declare(self, CameraParams)
        if len(params.fourcc) != 4:
            raise UserError(f"parameter 'fourcc' is '{params.fourcc}', expected four letters such as MJPG")
        device = own_device(params.device, params.camera)
        self.path = device_path(device)
        self.frame_id = f"{params.camera}_optical_frame"
        self.info = load_camera_info(Path(params.camera_info)) if params.camera_info else None
        self.images = self.create_publisher(Image, f"{params.camera}/image_raw", qos.SENSOR)
        self.infos = self.create_publisher(CameraInfo, f"{params.camera}/camera_info", qos.SENSOR)
        self.compressed = self.create_publisher(
            CompressedImage, f"{params.camera}/image_raw/compressed", qos.SENSOR
        )
        self.size: tuple[int, int] | None = None
        self.newest: tuple[Time, np.ndarray] | None = None
        # the capture's thread only leaves the frame here: publishing stays in the executor's
        self.arrived = self.create_guard_condition(self.publish)
        self.capture = Capture(
            device,
            params.width,
            params.height,
            params.rate,
            params.fourcc,
            self.on_frame,
            self.on_change,
        )

    def on_frame(self, frame: np.ndarray) -> None:
        """Leave a frame (BGR) to the executor; one that it had no time for is dropped."""
        self.newest = self.get_clock().now(), frame
        self.arrived.trigger()

    def on_change(self, there: bool) -> None:
        """Tell once that the camera comes or goes."""
        if there:
            self.get_logger().info(f"camera '{self.params.camera}' ({self.path}) gives images")
        else:
            self.get_logger().warning(
                f"camera '{self.params.camera}' gives no images: {self.path} is not there, or another "
                "program has it; waiting for it"
            )

    def publish(self) -> None:
        """Publish the newest frame."""
        newest, self.newest = self.newest, None
        if newest is None:
            return
        stamp, frame = newest[0].to_msg(), newest[1]
        self.check_size(frame)
        if self.images.get_subscription_count():
            self.images.publish(from_rgb(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), stamp, self.frame_id))
        if self.compressed.get_subscription_count():
            _, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, self.params.jpeg_quality])
            msg = CompressedImage(format="rgb8; jpeg compressed bgr8", data=to_bytes_field(jpeg))
            msg.header.stamp, msg.header.frame_id = stamp, self.frame_id
            self.compressed.publish(msg)
        if self.infos.get_subscription_count():
            height, width = frame.shape[:2]
            info = self.info or CameraInfo(height=height, width=width)  # K of zeros: not calibrated
            info.header.stamp, info.header.frame_id = stamp, self.frame_id
            self.infos.publish(info)

    def check_size(self, frame: np.ndarray) -> None:
        """Warn where frames have another size than was asked for, or was calibrated."""
        height, width = frame.shape[:2]
        if (width, height) == self.size:
            return
        self.size = width, height
        if self.size != (self.params.width, self.params.height):
            self.get_logger().warning(
                f"camera '{self.params.camera}' gives {width}x{height}, asked for "
                f"{self.params.width}x{self.params.height}"
            )
        if self.info and self.size != (self.info.width, self.info.height):
            self.get_logger().warning(
                f"{self.params.camera_info} is a calibration at {self.info.width}x{self.info.height}, the images are "
                f"{width}x{height}: calibrate at that size"
            )

    def close(self) -> None:
        """Stop the capture."""
        self.capture.close()


def own_device(device: str, camera: str) -> str:
    """Return a camera's path out of `name=path` words; a text without them is the path itself.

    Raises:
        UserError: The words do not name the camera.
    """
    words = device.split()
    if not all("=" in word and not word.startswith("/") for word in words):
        return device
    pairs = dict(word.split("=", 1) for word in words)
    if camera not in pairs:
        raise UserError(f"parameter 'device' is '{device}', it has no {camera}=path")
    return pairs[camera]


def load_camera_info(path: Path) -> CameraInfo:
    """Read a calibration as ROS's camera_calibration writes it.

    Raises:
        UserError: It cannot be read, or does not fit; names file and key.
    """
    sizes = {
        "camera_matrix": 9,
        "rectification_matrix": 9,
        "projection_matrix": 12,
        "distortion_coefficients": None,
    }
    try:
        raw = read_yaml(path)
        check_keys(
            path.name, raw, ("image_width", "image_height", "distortion_model", *sizes), ("camera_name",)
        )
        values = {}
        for key, size in sizes.items():
            check_keys(f"{path.name}.{key}", raw[key], ("rows", "cols", "data"))
            values[key] = [float(v) for v in raw[key]["data"]]
            if size and len(values[key]) != size:
                raise ContractError(
                    f"{path.name}.{key}.data: has {len(values[key])} numbers, expected {size}"
                )
        width, height = int(raw["image_width"]), int(raw["image_height"])
    except OSError as error:
        raise UserError(f"cannot read the camera calibration {path}: {error.strerror}") from None
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from None
    return CameraInfo(
        width=width, height=height, distortion_model=str(raw["distortion_model"]), k=values["camera_matrix"],
        d=values["distortion_coefficients"], r=values["rectification_matrix"], p=values["projection_matrix"],
    )  # fmt: skip


def main() -> None:
    """Run the node."""
    run(CameraNode)
