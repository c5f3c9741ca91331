"""Keys of a terminal to end-effector motion: which key does what, and how long a press lasts.

A terminal tells that a key was pressed or repeats, never that it was let go. So one key takes control and
gives it back, and a motion ends by itself when its key stops repeating.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hilrl_ros.config import check_keys, read_yaml
from hilrl_ros.contract import EE_AXES, ContractError
from hilrl_teleop.readings import EVENTS

SPEEDS = (0.125, 0.25, 0.5, 1.0)  # shares of the contract's full motion
REPEATS = 0.2  # s between two presses of a key that is held down; keyboards repeat 10 to 40 times a second

_NAMED = {" ": "space", "\n": "enter", "\r": "enter", "\t": "tab", "\x7f": "backspace", "\b": "backspace"}
_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
_NAMES = {*_NAMED.values(), *_ARROWS.values(), "escape"}
_SEQUENCE = re.compile(r"\x1b[\[O][0-9;]*([A-Za-z~])|(.)", re.S)
_UNFINISHED = re.compile(r"\x1b([\[O][0-9;]*)?$")


class KeyDecoder:
    """Turns a terminal's bytes into names of keys."""

    def __init__(self):
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """Return the keys of newly read bytes (b"" if there are none); unknown sequences are left out."""
        text = self._rest + data.decode("utf-8", "ignore")
        self._rest = ""
        if data and (unfinished := _UNFINISHED.search(text)):  # the rest comes with the next bytes, if any
            text, self._rest = text[: unfinished.start()], unfinished[0]
        keys = []
        for match in _SEQUENCE.finditer(text):
            final, character = match.groups()
            if final:
                keys += [_ARROWS[final]] if final in _ARROWS else []
            else:
                keys.append("escape" if character == "\x1b" else _NAMED.get(character, character.lower()))
        return keys


@dataclass(frozen=True)
class KeyMapping:
    """Which key does what; see `config/keyboards/terminal.yaml`.

    Attributes:
        take_over: Key that takes control and gives it back.
        faster: Key that doubles the motion of a press.
        slower: Key that halves it.
        motion: Component of the motion and its sign, by key.
        events: Operator event, by key.
    """

    take_over: str
    faster: str
    slower: str
    motion: dict[str, tuple[str, int]]
    events: dict[str, str]

    @classmethod
    def load(cls, path: Path) -> KeyMapping:
        """Read a mapping file.

        Raises:
            ContractError: The file does not fit; names file and key.
        """
        raw = read_yaml(path)
        single = ("take_over", "faster", "slower")
        check_keys(path.name, raw, (*single, "motion", "events"))
        check_keys(f"{path.name}.motion", raw["motion"], (), EE_AXES)
        check_keys(f"{path.name}.events", raw["events"], (), tuple(EVENTS))
        uses = [(f"{path.name}.{name}", raw[name]) for name in single]
        motion, events = {}, {}
        for axis, keys in raw["motion"].items():
            check_keys(f"{path.name}.motion.{axis}", keys, ("plus", "minus"))
            uses += [(f"{path.name}.motion.{axis}.{side}", keys[side]) for side in ("plus", "minus")]
            motion |= {str(keys["plus"]): (axis, 1), str(keys["minus"]): (axis, -1)}
        for name, key in raw["events"].items():
            uses.append((f"{path.name}.events.{name}", key))
            events[str(key)] = name
        seen: dict[str, str] = {}
        for where, key in uses:
            key = str(key)
            if key not in _NAMES and (len(key) != 1 or key != key.lower() or key.isspace()):
                raise ContractError(
                    f"{where}: is {key!r}, expected a small character or one of {', '.join(sorted(_NAMES))}"
                )
            if key in seen:
                raise ContractError(f"{where}: key '{key}' is {seen[key]} as well")
            seen[key] = where
        return cls(*(str(raw[name]) for name in single), motion, events)

    def help(self) -> str:
        """Return what the keys do, in a few lines."""
        by_axis: dict[str, dict[int, str]] = {}
        for key, (axis, sign) in self.motion.items():
            by_axis.setdefault(axis, {})[sign] = key
        moves = [f"{axis} {signs[1]}/{signs[-1]}" for axis, signs in by_axis.items()]
        events = [f"{name} {key}" for key, name in self.events.items()]
        return (
            f"{self.take_over}: take control, let go    {self.faster}/{self.slower}: faster, slower    "
            f"ctrl-C: quit\nmove (+/-)  {', '.join(moves)}\nepisode     {', '.join(events)}"
        )


class Keys:
    """What the person does with the keys.

    Attributes:
        held: Whether the person is in control.
        speed: Share of the contract's full motion that a press asks for.
    """

    def __init__(self, mapping: KeyMapping, hold: float):
        """Take a mapping; `hold` is how long one press moves, s."""
        self.mapping, self.hold = mapping, hold
        self.held, self.speed = False, 0.5
        self._pressed: dict[str, tuple[float, bool]] = {}  # key: when, and whether it repeats

    def press(self, key: str, now: float) -> str | None:
        """Take a key at a time (s); return the operator event that it means, if any."""
        mapping = self.mapping
        if key == mapping.take_over:
            self.held = not self.held
            self._pressed.clear()
        elif key in (mapping.faster, mapping.slower):
            at = SPEEDS.index(self.speed) + (1 if key == mapping.faster else -1)
            self.speed = SPEEDS[min(max(at, 0), len(SPEEDS) - 1)]
        elif key in mapping.motion:
            last = self._pressed.get(key, (-np.inf, False))[0]
            self._pressed[key] = now, now - last <= REPEATS
        return mapping.events.get(key)

    def motion(self, now: float) -> np.ndarray:
        """Return the motion [7] (order of EE_AXES) in [-1, 1] at a time, s.

        A press counts in full for `hold` seconds; a key that was repeating fades out over as long again, so that
        a late repetition is no jerk.
        """
        motion = np.zeros(len(EE_AXES))
        for key, (when, repeats) in self._pressed.items():
            axis, sign = self.mapping.motion[key]
            left = 2.0 - (now - when) / self.hold
            share = 1.0 if left >= 1.0 else max(left, 0.0) if repeats else 0.0
            motion[EE_AXES.index(axis)] += sign * share * self.speed
        return np.clip(motion, -1.0, 1.0)
