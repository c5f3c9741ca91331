"""Options of an agent: default, unit and reason in one place, overrides checked by name and type."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration value that cannot be used; the message is one sentence for the user."""


def option(
    default: Any,
    reason: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
):
    """A dataclass field that carries what the documentation prints.

    Args:
        default: value without any override; its type is the option's type.
        reason: what the option does and why the default is what it is.
        unit: unit of the value, empty if it has none.
        low: smallest allowed value, inclusive.
        high: largest allowed value, inclusive.
        choices: the allowed words, if the option is one of a few.
    """
    metadata = {"reason": reason, "unit": unit, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def nearest(key: str, allowed: list[str]) -> str:
    """' did you mean …? Allowed: …' for the end of an error about an unknown name."""
    close = difflib.get_close_matches(key, allowed, n=1, cutoff=0.4)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Allowed: {', '.join(sorted(allowed))}."


def build_config(cls: type[Config], overrides: Mapping[str, Any], where: str) -> Config:
    """Makes a config from its defaults and the user's overrides.

    Args:
        cls: frozen dataclass whose fields are `option`s.
        overrides: values by option name, as YAML gives them.
        where: what the error sentence starts with, e.g. the agent's name.

    Raises:
        ConfigError: unknown option, wrong type or value out of range.
    """
    fields = {item.name: item for item in dataclasses.fields(cls)}
    values = {}
    for key, value in overrides.items():
        if key not in fields:
            raise ConfigError(f"{where}.{key}: unknown option; {nearest(key, list(fields))}")
        values[key] = _checked(value, fields[key], f"{where}.{key}")
    return cls(**values)


def _checked(value: Any, item: dataclasses.Field, where: str) -> Any:
    """The value in the option's type, or a ConfigError that says what would be right."""
    kind = type(item.default)
    try:
        if kind is tuple:
            value = tuple(int(part) for part in value)
        elif kind is float and not isinstance(value, bool):
            value = float(value)  # YAML reads 1e-2 as text
        elif kind is int and isinstance(value, str):
            value = int(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise TypeError
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {value!r} is not of type {kind.__name__}") from None
    low, high = item.metadata["low"], item.metadata["high"]
    if (low is not None and value < low) or (high is not None and not value <= high):
        raise ConfigError(f"{where}: {value!r} is outside [{low}, {'∞' if high is None else high}]")
    choices = item.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(f"{where}: {value!r} is none of {', '.join(choices)}")
    return value
