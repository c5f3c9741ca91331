"""Finds and reads configuration files; what is wrong in one is a sentence."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from hilrl_ros.contract import ContractError


def find_config(kind: str, name: str | Path) -> Path:
    """Return the path of a config file given by name or path; `kind` is its folder under config/.

    Raises:
        ContractError: No such file; lists what exists.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ContractError(f"{path}: no such file; give a path to a YAML file or a name from config/{kind}")
    folder = config_folder() / kind
    found = folder / f"{name}.yaml"
    if found.is_file():
        return found
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    raise ContractError(
        f"{kind[:-1]} '{name}' is unknown{_nearest(str(name), known)}; there are: {', '.join(known)}"
    )


def absolute(name: str) -> str:
    """Return a name as it is, a path such that it means the same file from any folder."""
    return str(Path(name).absolute()) if Path(name).suffix in (".yaml", ".yml") else name


def config_folder() -> Path:
    """Return the installed config folder of package `hilrl`."""
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("hilrl")) / "config"


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ContractError: It is not YAML, or no mapping; names the file and, where known, the line.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        raise ContractError(
            f"{path.name}{f' line {mark.line + 1}' if mark else ''}: not valid YAML: {getattr(e, 'problem', e)}"
        ) from None
    if not isinstance(data, dict):
        raise ContractError(f"{path.name}: holds {type(data).__name__}, expected a mapping of keys to values")
    return data


def _nearest(name: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(name, allowed, 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def check_keys(
    where: str,
    data: Any,
    required: tuple[str, ...],
    optional: tuple[str, ...] = (),
    error: type = ContractError,
) -> None:
    """Raise `error` unless `data` is a mapping with all required and no unknown keys."""
    if not isinstance(data, dict):
        raise error(f"{where}: is {data!r}, expected a mapping with {', '.join(required + optional)}")
    allowed = sorted(required + optional)
    for key in data:
        if key not in allowed:
            raise error(
                f"{where}.{key}: unknown key{_nearest(str(key), allowed)}; allowed: {', '.join(allowed)}"
            )
    for key in required:
        if key not in data:
            raise error(f"{where}: key '{key}' is missing; required: {', '.join(required)}")


def number(where: str, value: Any, low: float, high: float) -> float:
    """Return a number of a configuration file; raises `ContractError` for anything else or beyond low and high."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ContractError(f"{where}: is {value!r}, expected a number from {low:g} to {high:g}")
    return float(value)


def mapping(where: str, value: Any) -> dict[str, Any]:
    """Return a mapping of a configuration file; raises `ContractError` for anything else."""
    if not isinstance(value, dict):
        raise ContractError(f"{where}: is {value!r}, expected a mapping of keys to values")
    return value
