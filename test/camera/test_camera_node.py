"""The camera node on a video file instead of a camera: what it publishes, and that it comes back."""

import os
import shutil
import time

import cv2
import numpy as np
import pytest
import yaml
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from hilrl_camera.camera_node import CameraNode
from hilrl_ros import qos
from hilrl_ros.images import to_rgb
from hilrl_ros.messages import seconds
from hilrl_ros.node import UserError

WIDTH, HEIGHT, RATE, FRAMES = 320, 240, 30.0, 20
SIZE = {"width": WIDTH, "height": HEIGHT}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Frames that become brighter, red on the left."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    for k in range(FRAMES):
        frame = np.full((HEIGHT, WIDTH, 3), 10 * k, np.uint8)
        frame[:, : WIDTH // 2] = (0, 0, 200)
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def camera(film, tmp_path):
    """A camera's path, with the film in it."""
    shutil.copy(film, tmp_path / "camera.mp4")
    return tmp_path / "camera.mp4"


def calibration(width=WIDTH):
    def matrix(rows, cols, data):
        return {"rows": rows, "cols": cols, "data": [float(v) for v in data]}

    return {
        "image_width": width, "image_height": HEIGHT, "camera_name": "wrist",
        "camera_matrix": matrix(3, 3, [600, 0, 320, 0, 601, 240, 0, 0, 1]),
        "distortion_model": "plumb_bob",
        "distortion_coefficients": matrix(1, 5, [0.1, -0.2, 0, 0, 0]),
        "rectification_matrix": matrix(3, 3, np.eye(3).flatten()),
        "projection_matrix": matrix(3, 4, [600, 0, 320, 0, 0, 601, 240, 0, 0, 0, 1, 0]),
    }  # fmt: skip


def test_images_their_calibration_and_jpegs_are_published(make_graph, camera, tmp_path):
    (tmp_path / "wrist.yaml").write_text(yaml.safe_dump(calibration()))
    graph = make_graph(**SIZE, camera="wrist", device=camera, camera_info=tmp_path / "wrist.yaml")
    graph.add(CameraNode())
    images = graph.listen(Image, "wrist/image_raw", qos.SENSOR)
    infos = graph.listen(CameraInfo, "wrist/camera_info", qos.SENSOR)
    jpegs = graph.listen(CompressedImage, "wrist/image_raw/compressed", qos.SENSOR)
    graph.connect()
    graph.until(lambda: len(images) > 2 * FRAMES and infos and jpegs)  # the film begins again
    rgb = to_rgb(images[-1])
    assert rgb.shape == (HEIGHT, WIDTH, 3) and images[-1].encoding == "rgb8"
    assert rgb[120, 50].astype(int) == pytest.approx([200, 0, 0], abs=12)  # red, not blue
    assert {images[-1].header.frame_id, infos[-1].header.frame_id} == {"wrist_optical_frame"}
    assert infos[-1].k[0] == 600 and list(infos[-1].d) == [0.1, -0.2, 0, 0, 0] and infos[-1].p[5] == 601
    assert seconds(infos[-1].header.stamp) in {seconds(i.header.stamp) for i in images}
    decoded = cv2.imdecode(np.frombuffer(jpegs[-1].data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded[120, 50].astype(int) == pytest.approx([0, 0, 200], abs=15)
    stamps = [seconds(i.header.stamp) for i in images]
    assert 25 <= 1 / np.median(np.diff(stamps)) <= 35


def test_unplugged_and_plugged_in_again_is_one_warning_and_one_line(make_graph, camera, film, logged):
    graph = make_graph(**SIZE, device=camera)
    graph.add(CameraNode())
    images = graph.listen(Image, "front/image_raw", qos.SENSOR)
    graph.connect()
    graph.until(lambda: images)
    camera.unlink()
    graph.until(lambda: any(level == "WARN" for level, _ in logged))
    logged.clear()
    images.clear()
    before, end = time.process_time(), time.monotonic() + 1.5
    graph.executor.spin_once(timeout_sec=0)
    time.sleep(max(end - time.monotonic(), 0))
    assert time.process_time() - before < 0.15  # it does not look for it all the time
    assert logged == [] and images == []
    shutil.copy(film, f"{camera}.new")
    os.replace(f"{camera}.new", camera)
    graph.until(lambda: len(images) > 3)
    assert logged == [("INFO", f"camera 'front' ({camera}) gives images")]


def test_a_camera_that_is_not_there_is_waited_for(make_graph, tmp_path, logged):
    graph = make_graph(device=tmp_path / "nothing")
    graph.add(CameraNode())
    graph.until(lambda: logged)
    assert logged == [
        (
            "WARN",
            f"camera 'front' gives no images: {tmp_path / 'nothing'} is not there, or another program has it; "
            "waiting for it",
        )
    ]


def test_another_size_than_asked_for_or_calibrated_is_told_once(make_graph, camera, tmp_path, logged):
    (tmp_path / "info.yaml").write_text(yaml.safe_dump(calibration(width=1280)))
    graph = make_graph(device=camera, camera_info=tmp_path / "info.yaml")
    graph.add(CameraNode())
    infos = graph.listen(CameraInfo, "front/camera_info", qos.SENSOR)
    graph.connect()
    graph.until(lambda: len(infos) > 5)
    assert [text.split(",")[0] for level, text in logged if level == "WARN"] == [
        "camera 'front' gives 320x240",
        f"{tmp_path / 'info.yaml'} is a calibration at 1280x240",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"camera_matrix": {"rows": 1, "cols": 1, "data": [1.0]}},
            r"\.camera_matrix\.data: has 1 numbers, expected 9",
        ),
        ({"image_width": "wide"}, "invalid literal"),
        ({"distorsion": 1}, r"info\.yaml\.distorsion: unknown key"),
    ],
    ids=str,
)
def test_a_wrong_calibration_file_is_one_sentence(make_graph, camera, tmp_path, change, message):
    (tmp_path / "info.yaml").write_text(yaml.safe_dump(calibration() | change))
    make_graph(device=camera, camera_info=tmp_path / "info.yaml")
    with pytest.raises(UserError, match=message):
        CameraNode()


def test_wrong_parameters_are_one_sentence(make_graph, tmp_path):
    make_graph(fourcc="MJPEG")
    with pytest.raises(UserError, match="parameter 'fourcc' is 'MJPEG', expected four letters such as MJPG"):
        CameraNode()
