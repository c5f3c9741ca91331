"""Shapes that an agent, its replay buffer and its checkpoints share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PolicySpec:
    """What goes into a policy and what comes out.

    An observation of one step is ``{"state": float32 [S], "images": {name: uint8 [H, W, C]}}``;
    a batch of them has the same keys with a leading B. An action chunk is float32 ``[horizon, A]`` in [-1,
    1].

    Attributes:
        state_dim: S, length of the state vector.
        action_dim: A, length of one action.
        cameras: image shape (height, width, channels) by camera name, in the order of the robot contract.
        horizon: H, robot steps in one action chunk; 1 is the classic case.
        absolute: actions say where to go, not how far: those of neighbouring steps differ by little of their range.
    """

    state_dim: int
    action_dim: int
    cameras: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    horizon: int = 1
    absolute: bool = False

    def __post_init__(self) -> None:
        for key in ("state_dim", "action_dim", "horizon"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) < 1:
                raise ValueError(f"PolicySpec.{key}: a positive whole number, not {getattr(self, key)!r}")
        for name, shape in self.cameras.items():
            if len(shape) != 3 or any(int(side) != side or side < 1 for side in shape):
                raise ValueError(f"PolicySpec.cameras.{name}: (height, width, channels), not {shape!r}")
        object.__setattr__(self, "cameras", {n: tuple(int(x) for x in s) for n, s in self.cameras.items()})

    @classmethod
    def from_contract(cls, contract: Mapping[str, Any], horizon: int = 1) -> "PolicySpec":
        """The shapes that a robot contract (its plain dict: `state`, `cameras`, `action`) asks for.

        Frames of a camera with a `stack` lie one behind the other in the channels, the newest last.
        """
        cameras = {
            name: (*camera["size"], 3 * camera.get("stack", 1))
            for name, camera in contract["cameras"].items()
        }
        action = contract["action"]
        absolute = action.get("type") == "joint_position"
        return cls(len(contract["state"]), len(action["names"]), cameras, horizon, absolute)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, as the checkpoint's YAML holds them."""
        return asdict(self) | {"cameras": {name: list(shape) for name, shape in self.cameras.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PolicySpec":
        """Inverse of `to_dict`."""
        return cls(**data)

    def check(self, observation: Mapping[str, Any]) -> None:
        """Refuses an observation of one step that does not fit.

        Raises:
            ValueError: names the entry, its shape and the shape that would fit.
        """
        state = np.shape(observation["state"])
        if state != (self.state_dim,):
            raise ValueError(f"observation state has shape {state}; this policy takes ({self.state_dim},)")
        images = observation.get("images") or {}
        if set(images) != set(self.cameras):
            raise ValueError(
                f"observation has cameras {sorted(images)}; this policy takes {sorted(self.cameras)}"
            )
        for name, shape in self.cameras.items():
            if images[name].shape != shape or images[name].dtype != np.uint8:
                raise ValueError(
                    f"camera '{name}' has {images[name].dtype} {images[name].shape}; "
                    f"this policy takes uint8 {shape}"
                )
