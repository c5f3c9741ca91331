"""Headless rendering of a MuJoCo model, cheap enough for software OpenGL.

MuJoCo's own `Renderer` chooses its OpenGL platform when `mujoco` is first imported, and falls back to
a windowed one; here it is chosen when the first picture is asked for, so tasks without cameras need
no graphics library at all.
"""

from __future__ import annotations

import ctypes.util
import importlib
import os
import weakref

import mujoco
import numpy as np

PLATFORMS = {"egl": ("EGL", "libegl1 libgl1"), "osmesa": ("OSMesa", "libosmesa6 libgl1")}


class RenderingError(RuntimeError):
    """No picture can be rendered; the message says what to install."""


def _gl_context(width: int, height: int):
    """Return a current OpenGL context on the platform of MUJOCO_GL, or on the first that is installed.

    Raises:
        RenderingError: None is installed, or it cannot open a display.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    platforms = [wanted] if wanted in PLATFORMS else list(PLATFORMS)
    for platform in platforms:
        library, packages = PLATFORMS[platform]
        if ctypes.util.find_library(library) is None:
            continue
        try:
            context = importlib.import_module(f"mujoco.{platform}").GLContext(width, height)
        except Exception as e:  # PyOpenGL raises whatever its C library's loader met
            raise RenderingError(
                f"rendering: lib{library} is installed but opens no display ({e}); "
                f"try 'apt install {packages}' or MUJOCO_GL=osmesa"
            ) from None
        context.make_current()
        return context
    hints = " or ".join(f"'apt install {PLATFORMS[p][1]}'" for p in platforms)
    raise RenderingError(f"rendering needs a headless OpenGL library: {hints}")


class Renderer:
    """Renders pictures of any size up to `max_size` from one model's cameras.

    Everything that costs time in software OpenGL is off: shadows, reflections, multisampling, haze.
    """

    def __init__(self, model: mujoco.MjModel, max_size: tuple[int, int] = (720, 1280)):
        """Open a context and upload the model; raises `RenderingError` where that cannot be."""
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.vis.global_.offheight, model.vis.global_.offwidth = max_size
        self._model, self._max_size = model, max_size
        self._gl = _gl_context(max_size[1], max_size[0])
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=500)
        for flag in ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_HAZE", "mjRND_ADDITIVE"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, flag)] = 0
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[[0, 1, 2]] = 1
        self._option.sitegroup[:] = 0  # marks of the model's author
        # At interpreter exit the OpenGL modules go before __del__ runs; finalize comes in time.
        self._finalizer = weakref.finalize(self, _free, self._context, self._gl)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def render(self, data: mujoco.MjData, camera: int, height: int, width: int) -> np.ndarray:
        """Return the picture [height, width, 3] uint8 RGB, first row on top, of camera number `camera`.

        Raises:
            ValueError: Larger than `max_size`.
        """
        if height > self._max_size[0] or width > self._max_size[1]:
            raise ValueError(
                f"picture of {height}x{width}: larger than {self._max_size[0]}x{self._max_size[1]}"
            )
        self._gl.make_current()
        self._camera.fixedcamid = camera
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        rect = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(rect, self._scene, self._context)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, rect, self._context)
        return np.ascontiguousarray(image[::-1])

    def close(self) -> None:
        """Free the context."""
        self._finalizer()


def _free(context: mujoco.MjrContext, gl) -> None:
    context.free()
    gl.free()
