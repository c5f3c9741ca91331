"""Substitutions of ROS 2 launch files, `$(var x)` and the like, with the results of the real tool.

The grammar is that of the `launch` package: arguments are separated by one space, an argument in
quotes may hold spaces and substitutions, a backslash takes the meaning from the next character.
"""

from __future__ import annotations

import ast
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory

from .errors import LaunchError, suggest


@dataclass(frozen=True)
class Call:
    """`$(name argument …)`; each argument is a template."""

    name: str
    arguments: tuple[Template, ...]


Template = tuple  # of str (literal text) and Call


# --- parsing ------------------------------------------------------------------------------------


def parse(text: str) -> Template:
    """Literal text and substitutions of a text; LaunchError where it is malformed."""
    if not text:
        return ("",)
    parts, end = _parts(text, 0, stop="")
    assert end == len(text)
    return parts


def _parts(text: str, at: int, stop: str, quote: str = "") -> tuple[Template, int]:
    """Parts from `at` up to one of the unescaped characters in `stop`, and where that is."""
    parts: list[str | Call] = []
    literal = ""
    while at < len(text) and text[at] not in stop:
        if text.startswith("$(", at):
            if literal:
                parts.append(_unescape(literal))
                literal = ""
            call, at = _call(text, at, quote)
            parts.append(call)
        else:
            width = 2 if text[at] == "\\" else 1
            literal += text[at : at + width]
            at += width
    if literal:
        parts.append(_unescape(literal))
    return tuple(parts), at


def _call(text: str, start: int, quote: str) -> tuple[Call, int]:
    """The substitution that begins at `start`, inside quotes of the given kind, and its end."""
    malformed = LaunchError(f"'{text[start:]}' is not a substitution; expected $(name argument …)")
    name = re.compile(r"\$\(([A-Za-z][\w-]*)").match(text, start)
    if not name:
        raise malformed
    at = name.end()
    arguments = []
    while text[at : at + 1] == " ":
        at += 1
        opening = text[at : at + 1]
        if not quote and opening in ("'", '"'):
            argument, at = _parts(text, at + 1, stop=opening, quote=opening)
            if at == len(text):
                raise LaunchError(f"'{text[start:]}' lacks the closing {opening}")
            at += 1
        else:
            argument, at = _parts(text, at, stop=f" (){quote}" if quote else " ()'\"", quote=quote)
            if not argument:
                raise malformed
        arguments.append(argument)
    if text[at : at + 1] != ")":
        raise malformed
    return Call(name[1], tuple(arguments)), at + 1


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def split_command(template: Template) -> list[Template]:
    """Arguments of a command line: literal text is split as a shell does, a substitution never is."""
    arguments: list[Template] = []
    current: list[str | Call] = []

    def finish() -> None:
        arguments.append(tuple(current))
        current.clear()

    for part in template:
        if isinstance(part, Call):
            current.append(part)
            continue
        try:
            words = shlex.split(part)
        except ValueError as error:
            raise LaunchError(f"'{part}' is not a command line: {str(error).lower()}") from None
        if not words:  # only spaces: they part two substitutions
            finish()
            continue
        if part[0].isspace() and current:
            finish()
        for word in words[:-1]:
            current.append(word)
            finish()
        current.append(words[-1])
        if part[-1].isspace():
            finish()
    if current:
        finish()
    return arguments


# --- evaluating ---------------------------------------------------------------------------------


@dataclass
class Scope:
    """What substitutions see: launch variables, the environment, the folder of the current file."""

    variables: dict[str, str]
    environment: Mapping[str, str]
    folder: str

    def perform(self, template: Template) -> str:
        """Text of a template; LaunchError where something that it names does not exist."""
        return "".join(part if isinstance(part, str) else self._perform_call(part) for part in template)

    def _perform_call(self, call: Call) -> str:
        if call.name not in _SUBSTITUTIONS:
            raise LaunchError(
                f"unknown substitution '$({call.name} …)'; {suggest(call.name, _SUBSTITUTIONS)}"
            )
        function, least, most = _SUBSTITUTIONS[call.name]
        if not least <= len(call.arguments) <= most:
            count = str(least) if least == most else f"{least} or {most}"
            raise LaunchError(f"'$({call.name} …)' has {len(call.arguments)} arguments, it takes {count}")
        return function(self, *(self.perform(argument) for argument in call.arguments))


def _variable(scope: Scope, name: str, default: str | None = None) -> str:
    value = scope.variables.get(name, default)
    if value is None:
        raise LaunchError(f"'$(var {name})' is not defined here; {suggest(name, scope.variables)}")
    return value


def _environment(scope: Scope, name: str, default: str | None = None) -> str:
    value = scope.environment.get(name, default)
    if value is None:
        raise LaunchError(f"the environment has no '{name}', and '$(env {name})' names no default")
    return value


def _find_package(find: Callable[[str], str]) -> Callable[[Scope, str], str]:
    def perform(scope: Scope, package: str) -> str:
        try:
            return find(package)
        except (PackageNotFoundError, ValueError):
            prefixes = os.environ.get("AMENT_PREFIX_PATH") or "nothing"
            raise LaunchError(
                f"package '{package}' is not installed; searched AMENT_PREFIX_PATH = {prefixes}"
            ) from None

    return perform


_ON_STDERR = ("fail", "ignore", "warn", "capture")


def _command(scope: Scope, command: str, on_stderr: str = "fail") -> str:
    """Standard output of a command, as it is; by default a command that writes to stderr fails, as in ROS 2."""
    if on_stderr not in _ON_STDERR:
        raise LaunchError(
            f"'$(command {command} {on_stderr})': stderr cannot be '{on_stderr}'; {suggest(on_stderr, _ON_STDERR)}"
        )
    stderr = subprocess.STDOUT if on_stderr == "capture" else subprocess.PIPE
    try:
        done = subprocess.run(
            shlex.split(command), stdout=subprocess.PIPE, stderr=stderr, text=True, env=scope.environment
        )
    except (OSError, ValueError, IndexError) as error:
        raise LaunchError(f"'$(command {command})' cannot run: {error}") from None
    said = " ".join((done.stderr or "").split())
    if done.returncode or (said and on_stderr == "fail"):
        how = f"ends with code {done.returncode}" if done.returncode else "writes to stderr"
        raise LaunchError(f"'$(command {command})' {how}{f': {said}' if said else ''}")
    if said and on_stderr == "warn":
        print(f"'$(command {command})' writes to stderr: {said}", file=sys.stderr)
    return done.stdout


_FUNCTIONS = {f.__name__: f for f in (abs, bool, float, int, len, max, min, round, str, sum)}
_NAMES = {**{k: v for k, v in vars(math).items() if not k.startswith("_")}, **_FUNCTIONS}
_SYNTAX = (
    ast.Expression, ast.BoolOp, ast.boolop, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.Compare,
    ast.cmpop, ast.IfExp, ast.Constant, ast.Name, ast.Load, ast.Call, ast.List, ast.Tuple, ast.Subscript,
    ast.Slice, ast.keyword,
)  # fmt: skip


def _evaluate(scope: Scope, expression: str) -> str:
    """A Python expression of values, operators and a few functions: what a launch file may compute."""
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise LaunchError(f"'$(eval {expression})' is not a Python expression: {error.msg}") from None
    for node in ast.walk(tree):
        if not isinstance(node, _SYNTAX):
            raise LaunchError(
                f"'$(eval {expression})' uses {type(node).__name__}; only values and operators may"
            )
        if isinstance(node, ast.Name) and node.id not in _NAMES:
            raise LaunchError(
                f"'$(eval {expression})' uses the name '{node.id}'; {suggest(node.id, _FUNCTIONS)}"
            )
    try:
        return str(eval(compile(tree, "eval", "eval"), {"__builtins__": {}}, _NAMES))
    except Exception as error:
        raise LaunchError(f"'$(eval {expression})' fails: {error}") from None


_SUBSTITUTIONS: dict[str, tuple[Callable[..., str], int, int]] = {
    "var": (_variable, 1, 2),
    "env": (_environment, 1, 2),
    "eval": (_evaluate, 1, 1),
    "command": (_command, 1, 2),
    "dirname": (lambda scope: scope.folder, 0, 0),
    "find-pkg-share": (_find_package(get_package_share_directory), 1, 1),
    "find-pkg-prefix": (_find_package(get_package_prefix), 1, 1),
}


# --- types of parameters ------------------------------------------------------------------------

_SCALARS = (str, int, float, bool)
_TYPES: dict[str, tuple[type, bool]] = {
    **{t.__name__: (t, False) for t in _SCALARS},
    **{f"list_of_{t.__name__}": (t, True) for t in _SCALARS},
}


def parameter_value(scope: Scope, value: Any, type_name: str = "yaml") -> Any:
    """Typed value of a `param`.

    Plain YAML values and plain text keep their type; the result of a substitution is read as YAML,
    or as the given type.
    """
    if type_name not in (*_TYPES, "yaml"):
        raise LaunchError(f"unknown type '{type_name}'; {suggest(type_name, (*_TYPES, 'yaml'))}")
    kind, is_list = _TYPES.get(type_name, (None, False))
    wrong = LaunchError(f"value {value!r} is not of type {type_name}")

    def perform(item: Any, kind: type | None, is_list: bool) -> Any:
        template = parse(item) if isinstance(item, str) else (item,)
        if len(template) == 1 and not isinstance(template[0], Call):
            return template[0]
        return _coerce(scope.perform(template), kind, is_list)

    result = (
        [perform(x, kind, False) for x in value] if isinstance(value, list) else perform(value, kind, is_list)
    )
    if not _is_uniform(result):
        raise LaunchError(
            f"value {result!r} is neither text, number, true, false nor a list of one such type"
        )
    if kind and is_list != isinstance(result, list):
        raise wrong
    if kind and not all(isinstance(x, kind) for x in (result if is_list else [result])):
        raise wrong
    return result


def plain_value(text: str) -> Any:
    """Value of a text as YAML reads it, as `set_parameter` takes it even where no substitution made it."""
    return _coerce(text, None, False)


def _coerce(text: str, kind: type | None, is_list: bool) -> Any:
    """Text as the given type, by the rules of YAML; without a type as YAML reads it."""
    if kind is str and not is_list:
        return text
    if kind is bool and not is_list:
        text = {"1": "true", "0": "false"}.get(text, text)
    try:
        if kind in (int, float) and not is_list:
            return kind(text)
        return yaml.safe_load(text) if text else text
    except (yaml.YAMLError, ValueError):
        raise LaunchError(f"'{text}' cannot be read as {kind.__name__ if kind else 'a YAML value'}") from None


def _is_uniform(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, _SCALARS)
    return not value or (type(value[0]) in _SCALARS and all(type(x) is type(value[0]) for x in value))
