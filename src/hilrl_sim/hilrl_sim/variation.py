"""What looks different from episode to episode: light, colours, cameras.

A policy that sees only one simulated table learns that table. With these ranges (domain randomisation, Tobin
et al., arXiv 1703.06907) it has to look for the thing itself. Physics is not touched.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from hilrl_ros.config import check_keys
from hilrl_ros.contract import ContractError, Task

VARIATION_KEYS = ("light", "lamp_position", "color", "camera_position", "camera_angle")


class Variation:
    """Draws the look of an episode around the one that the scene was built with.

    Ranges come from the task's `scene.variation`; each may be left out (no variation):

    - `light`: the lamps' and the ambient light's strength changes by a factor of up to 1 ± this,
    - `lamp_position`: every lamp moves by up to this along each axis, m,
    - `color`: every channel of every colour (table, things, arm) changes by up to this, of 1,
    - `camera_position`: every camera moves by up to this along each of its axes, m,
    - `camera_angle`: every camera turns by up to this about each of its axes, degrees.
    """

    def __init__(self, model: mujoco.MjModel, task: Task):
        """Remember the look of the model; raises `ContractError` for an unknown key or a negative number."""
        where = f"{task.name}.scene.variation"
        raw: dict[str, Any] = task.scene.get("variation", {})
        check_keys(where, raw, (), VARIATION_KEYS)
        for key, value in raw.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ContractError(f"{where}.{key}: is {value!r}, expected a number that is not negative")
        self._range = {key: float(raw.get(key, 0.0)) for key in VARIATION_KEYS}
        self._model = model
        self._arrays = {
            name: getattr(model, name)
            for name in (
                "light_diffuse", "light_pos", "light_ambient", "mat_rgba", "geom_rgba", "cam_pos", "cam_quat",
            )
        }  # fmt: skip
        headlight = model.vis.headlight
        self._arrays |= {"head_ambient": headlight.ambient, "head_diffuse": headlight.diffuse}
        self._nominal = {name: array.copy() for name, array in self._arrays.items()}

    def apply(self, seed: int) -> None:
        """Give the model the look that `seed` draws."""
        if not any(self._range.values()):
            return
        rng = np.random.default_rng([seed, 1])  # not the draw of the things' poses

        def around(name: str, amount: float, each: int = 3) -> np.ndarray:
            return rng.uniform(-amount, amount, (*self._nominal[name].shape[:-1], each))

        for name in ("light_diffuse", "head_ambient", "head_diffuse"):
            self._arrays[name][:] = self._nominal[name] * (1 + around(name, self._range["light"], 1))
        for name, key in (
            ("light_pos", "lamp_position"), ("mat_rgba", "color"), ("geom_rgba", "color"),
        ):  # fmt: skip
            new = self._nominal[name].copy()
            new[..., :3] += around(name, self._range[key])
            self._arrays[name][:] = new.clip(0.0, 1.0) if key == "color" else new
        for i, quat in enumerate(self._nominal["cam_quat"]):
            axes = np.empty(9)
            mujoco.mju_quat2Mat(axes, quat)
            shift = rng.uniform(-1, 1, 3) * self._range["camera_position"]
            self._arrays["cam_pos"][i] = self._nominal["cam_pos"][i] + axes.reshape(3, 3) @ shift
            turn, quaternion = np.radians(rng.uniform(-1, 1, 3) * self._range["camera_angle"]), np.empty(4)
            angle = float(np.linalg.norm(turn))
            mujoco.mju_axisAngle2Quat(quaternion, turn / max(angle, 1e-9), angle)
            mujoco.mju_mulQuat(self._arrays["cam_quat"][i], quat, quaternion)
