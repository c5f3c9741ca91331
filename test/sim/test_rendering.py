import ctypes.util
from pathlib import Path

import numpy as np
import pytest

from hilrl_ros.contract_reader import load_contract
from hilrl_sim import rendering
from hilrl_sim.simulation import Simulation

CONFIG = Path(__file__).parents[2] / "config"
CONTRACT, TASK = load_contract(CONFIG / "robots/so101.yaml", CONFIG / "tasks/pick_cube.yaml")
HAS_GL = any(ctypes.util.find_library(library) for library, _ in rendering.PLATFORMS.values())
needs_gl = pytest.mark.skipif(not HAS_GL, reason="no headless OpenGL library (libegl1 or libosmesa6)")


@pytest.fixture(scope="module")
def sim():
    simulation = Simulation(CONTRACT, TASK)
    yield simulation
    simulation.close()


def reddish(image):
    r, g, b = image.astype(int).transpose(2, 0, 1)
    return (r > 120) & (g < 0.5 * r) & (b < 0.5 * r)


@needs_gl
@pytest.mark.parametrize("camera", CONTRACT.sim["cameras"])
def test_every_camera_gives_a_picture_of_the_arm(sim, camera):
    sim.reset(0)
    image = sim.render(camera, 96, 128)
    assert image.shape == (96, 128, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    r, g, b = image.astype(int).transpose(2, 0, 1)
    yellow = (r > 100) & (g > 0.6 * r) & (b < 0.4 * r)
    assert yellow.mean() > 0.02
    assert 40 < image.mean() < 220


@needs_gl
@pytest.mark.parametrize("camera", ["front", "top"])
def test_the_cube_is_where_the_camera_matrix_says(sim, camera):
    seen = 0
    for seed in range(8):
        sim.reset(seed)
        red = reddish(sim.render(camera, 240, 320))
        if red.sum() < 30:  # behind the arm
            continue
        seen += 1
        index = sim.model.camera(camera).id
        pos = sim.data.cam_xmat[index].reshape(3, 3).T @ (
            sim.object_poses()["cube"][0] - sim.data.cam_xpos[index]
        )
        u, v, w = sim.camera_matrix(camera, 240, 320) @ (pos * [1, -1, -1])  # MuJoCo looks along -z, y up
        rows, columns = np.nonzero(red)
        assert abs(columns.mean() - u / w) < 8 and abs(rows.mean() - v / w) < 8
    assert seen >= 5


@needs_gl
def test_the_same_state_gives_the_same_pixels(sim):
    sim.reset(4)
    first = sim.render("front", 64, 64)
    sim.render("wrist", 128, 128)
    assert np.array_equal(first, sim.render("front", 64, 64))


@needs_gl
def test_pictures_beyond_the_buffer_and_unknown_cameras_are_refused(sim):
    with pytest.raises(ValueError, match=r"picture of 2000x64: larger than 720x1280"):
        sim.render("front", 2000, 64)
    with pytest.raises(
        ValueError, match=r"camera 'back': unknown; so101.sim.cameras has front, side, top, wrist"
    ):
        sim.render("back", 64, 64)


def test_without_a_graphics_library_one_sentence_says_what_to_install(sim, monkeypatch):
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(
        rendering.RenderingError, match=r"'apt install libegl1 libgl1' or 'apt install libosmesa6"
    ):
        rendering.Renderer(sim.model)
