"""Gamepad readings to end-effector motion, and back (the scripted operator presses the same buttons)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hilrl_ros.config import check_keys, read_yaml
from hilrl_ros.contract import EE_AXES, ContractError
from hilrl_teleop.readings import EVENTS, SUCCESS_RELEASED


def _index(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ContractError(f"{where}: is {value!r}, expected a number counted from 0")
    return value


@dataclass(frozen=True)
class JoyMapping:
    """Which axis and button does what; see `config/gamepads/game_controller.yaml`.

    Attributes:
        deadman: Button held while the person drives.
        deadzone: Stick readings below this count as zero; the rest is stretched to the full range.
        axes: Axis index and sign per component of the motion.
        gripper_open: Trigger that opens, 0 when let go; its sign does not matter.
        gripper_close: Trigger that closes.
        events: Button of each operator event.
    """

    deadman: int
    deadzone: float
    axes: dict[str, tuple[int, int]]
    gripper_open: int
    gripper_close: int
    events: dict[str, int]

    @classmethod
    def load(cls, path: Path) -> JoyMapping:
        """Read a mapping file.

        Raises:
            ContractError: The file does not fit; names file and key.
        """
        raw = read_yaml(path)
        check_keys(path.name, raw, ("deadman", "deadzone", "axes", "gripper_open", "gripper_close", "events"))
        deadzone = raw["deadzone"]
        if isinstance(deadzone, bool) or not isinstance(deadzone, int | float) or not 0 <= deadzone < 1:
            raise ContractError(f"{path.name}.deadzone: is {deadzone!r}, expected a number from 0 to below 1")
        check_keys(f"{path.name}.events", raw["events"], (), tuple(EVENTS))
        check_keys(f"{path.name}.axes", raw["axes"], (), EE_AXES[:-1])
        axes = {}
        for name, axis in raw["axes"].items():
            check_keys(f"{path.name}.axes.{name}", axis, ("axis", "sign"))
            if axis["sign"] not in (1, -1):
                raise ContractError(f"{path.name}.axes.{name}.sign: is {axis['sign']!r}, expected 1 or -1")
            axes[name] = (_index(f"{path.name}.axes.{name}.axis", axis["axis"]), int(axis["sign"]))
        events = {name: _index(f"{path.name}.events.{name}", b) for name, b in raw["events"].items()}
        deadman, opens, closes = (
            _index(f"{path.name}.{key}", raw[key]) for key in ("deadman", "gripper_open", "gripper_close")
        )
        if deadman in events.values():
            raise ContractError(f"{path.name}.deadman: button {deadman} is an event's as well")
        return cls(deadman, float(deadzone), axes, opens, closes, events)

    def sizes(self) -> tuple[int, int]:
        """Return how many axes and buttons a reading must have."""
        axes = [a for a, _ in self.axes.values()] + [self.gripper_open, self.gripper_close]
        return 1 + max(axes), 1 + max([self.deadman, *self.events.values()])

    def read(self, axes, buttons) -> tuple[bool, np.ndarray]:
        """Return whether the dead-man is held, and the motion [7] (x, y, z, roll, pitch, yaw, gripper) in [-1, 1].

        Raises:
            ValueError: The reading has fewer axes or buttons than the mapping names.
        """
        n_axes, n_buttons = self.sizes()
        if len(axes) < n_axes or len(buttons) < n_buttons:
            raise ValueError(
                f"/joy has {len(axes)} axes and {len(buttons)} buttons, the mapping needs {n_axes} and {n_buttons}: "
                "choose the mapping of this pad with the 'mapping' parameter"
            )
        motion = np.zeros(len(EE_AXES))
        for name, (axis, sign) in self.axes.items():
            motion[EE_AXES.index(name)] = sign * self._outside_deadzone(axes[axis])
        motion[-1] = self._outside_deadzone(abs(axes[self.gripper_open])) - self._outside_deadzone(
            abs(axes[self.gripper_close])
        )
        return bool(buttons[self.deadman]), np.clip(motion, -1.0, 1.0)

    def write(self, deadman: bool, motion: np.ndarray, event: str = "") -> tuple[list[float], list[int]]:
        """Return the axes and buttons of a pad on which a person asks for `motion` [7]; the inverse of `read`."""
        n_axes, n_buttons = self.sizes()
        axes, buttons = [0.0] * n_axes, [0] * n_buttons
        for name, (axis, sign) in self.axes.items():
            axes[axis] = sign * self._with_deadzone(motion[EE_AXES.index(name)])
        grip = float(motion[-1])
        axes[self.gripper_open] = -self._with_deadzone(max(grip, 0.0))
        axes[self.gripper_close] = -self._with_deadzone(max(-grip, 0.0))
        buttons[self.deadman] = int(deadman)
        if event:
            buttons[self.events[event]] = 1
        return axes, buttons

    def pressed(self, before, buttons) -> list[str]:
        """Return the events whose button is down now and was not before, and whether success was let go."""

        def down(readings, button: int) -> bool:
            return bool(readings) and button < len(readings) and bool(readings[button])

        events = [e for e, b in self.events.items() if down(buttons, b) and not down(before, b)]
        success = self.events.get("success")
        if success is not None and down(before, success) and not down(buttons, success):
            events.append(SUCCESS_RELEASED)
        return events

    def _outside_deadzone(self, value: float) -> float:
        rest = max(abs(value) - self.deadzone, 0.0) / (1.0 - self.deadzone)
        return rest if value > 0 else -rest

    def _with_deadzone(self, value: float) -> float:
        if value == 0.0:
            return 0.0
        return float(np.sign(value) * (self.deadzone + abs(float(value)) * (1.0 - self.deadzone)))
