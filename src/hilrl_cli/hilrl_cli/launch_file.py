"""Reads ROS 2's YAML launch files where ROS 2's own `launch` is not installed.

A strict interpreter of the subset that this suite uses. The processes that come out are those of
`ros2 launch`: same command lines, same parameters, same environment. What the real tool accepts
silently, such as an argument that no file declares, is an error here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

from .errors import LaunchError, suggest
from .substitutions import Call, Scope, parameter_value, parse, plain_value, split_command

OUTPUTS = ("screen", "log", "both", "own_log", "full")


@dataclass(frozen=True)
class Argument:
    """An argument that a launch file declares; `default` as written, None where one must be given."""

    name: str
    default: str | None = None
    description: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Process:
    """A process to run and how to look after it."""

    name: str  # unique in a launch, prefix of its output
    argv: tuple[str, ...]
    node: str = ""  # its node's name with its namespace, where it has one
    env: Mapping[str, str] = field(default_factory=dict)  # what differs from the launching environment
    output: str = "log"  # as in ROS 2: "log" shows stderr only
    respawn: bool = False
    respawn_delay: float = 0.0  # s
    respawn_max_retries: int = -1  # -1: no limit
    shutdown_on_exit: bool = False
    sigterm_timeout: float = 5.0  # s from SIGINT to SIGTERM
    sigkill_timeout: float = 5.0  # s from SIGTERM to SIGKILL
    cwd: str | None = None


def find(name: str) -> Path:
    """Path of a launch file: a path as it is, a bare name among package hilrl's launch files."""
    if os.sep in name or name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise LaunchError(f"launch file '{name}' does not exist")
        return Path(name)
    try:
        folder = Path(get_package_share_directory("hilrl"), "launch")
    except (PackageNotFoundError, LookupError):
        raise LaunchError(
            "package 'hilrl' is not installed: build the workspace and source its setup.bash"
        ) from None
    path = folder / f"{name}.launch.yaml"
    if not path.is_file():
        there = [p.name.removesuffix(".launch.yaml") for p in folder.glob("*.launch.yaml")]
        raise LaunchError(f"unknown launch file '{name}'; {suggest(name, there)}")
    return path


def declared_arguments(path: str | Path) -> dict[str, Argument]:
    """Arguments that a file and those that it includes declare, the first declaration of each name.

    Included files whose name depends on a variable are looked up with the variables' defaults.
    """
    scope = Scope({}, os.environ, os.path.dirname(os.path.abspath(path)))
    declared: dict[str, Argument] = {}
    _collect_arguments(_read(path), scope, declared)
    return declared


def load(path: str | Path, arguments: Mapping[str, str], parameter_folder: str | Path) -> list[Process]:
    """Processes that a launch file starts with the given arguments.

    Args:
        path: The launch file.
        arguments: Values for the arguments that it declares.
        parameter_folder: Where the nodes' parameter files are written.

    Raises:
        LaunchError: With file and line, where the file or an argument is wrong.
    """
    declared = declared_arguments(path)
    for name in arguments:
        if name not in declared:
            raise LaunchError(f"{path}: unknown argument '{name}'; {suggest(name, declared)}")
    interpreter = _Interpreter(Path(parameter_folder))
    interpreter.scope.variables.update(arguments)
    interpreter.run_file(os.path.abspath(path))
    return interpreter.processes


# --- the file -----------------------------------------------------------------------------------


class _Map(dict):
    """A mapping of the file that knows where it and its keys stand."""

    place = ""
    places: Mapping[str, str]


class _Loader(yaml.SafeLoader):
    def construct_map(self, node: yaml.MappingNode) -> _Map:
        result = _Map()
        result.place = f"{self.name}:{node.start_mark.line + 1}"
        result.places = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node)
            place = f"{self.name}:{key_node.start_mark.line + 1}"
            if key in result:
                raise LaunchError(f"{place}: key '{key}' is there twice")
            result[key] = self.construct_object(value_node, deep=True)
            result.places[key] = place
        return result


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_map)

_CONDITION = {"if", "unless"}
_PROCESS = _CONDITION | {
    "name", "output", "env", "cwd", "respawn", "respawn_delay", "respawn_max_retries", "on_exit",
    "sigterm_timeout", "sigkill_timeout",
}  # fmt: skip
_KEYS = {
    "arg": {"name", "default", "description", "choice"},
    "let": {"name", "value"} | _CONDITION,
    "set_env": {"name", "value"} | _CONDITION,
    "include": {"file", "arg"} | _CONDITION,
    "group": {"children", "scoped"} | _CONDITION,
    "push_ros_namespace": {"namespace"} | _CONDITION,
    "set_parameter": {"name", "value"} | _CONDITION,
    "node": {"pkg", "exec", "namespace", "param", "remap", "args", "ros_args"} | _PROCESS,
    "executable": {"cmd"} | _PROCESS,
}
_REQUIRED = {
    "arg": {"name"},
    "let": {"name", "value"},
    "set_env": {"name", "value"},
    "include": {"file"},
    "group": {"children"},
    "push_ros_namespace": {"namespace"},
    "set_parameter": {"name", "value"},
    "node": {"pkg", "exec"},
    "executable": {"cmd"},
}


def _read(path: str | Path) -> list[tuple[str, _Map]]:
    """The actions of a file, keys checked."""
    try:
        with open(path) as stream:
            tree = yaml.load(stream, Loader=_Loader)
    except OSError as error:
        raise LaunchError(f"launch file '{path}' cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        raise LaunchError(f"{where}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(tree, dict) or list(tree) != ["launch"]:
        raise LaunchError(f"{path}: a launch file has one key at the top, 'launch', with a list below it")
    return _actions(tree["launch"], tree.place)


def _actions(entries: Any, place: str) -> list[tuple[str, _Map]]:
    if not isinstance(entries, list):
        raise LaunchError(f"{place}: expected a list of actions")
    actions = []
    for entry in entries:
        if not isinstance(entry, _Map) or len(entry) != 1:
            where = getattr(entry, "place", place)
            raise LaunchError(
                f"{where}: {entry!r} is no action: one key with its settings, such as '- node: …'"
            )
        ((kind, body),) = entry.items()
        if kind not in _KEYS:
            raise LaunchError(f"{entry.place}: unknown action '{kind}'; {suggest(str(kind), _KEYS)}")
        if kind == "group" and isinstance(body, list):
            body = _Map(children=body)
            body.place, body.places = entry.place, {"children": entry.place}
        if not isinstance(body, _Map):
            raise LaunchError(
                f"{entry.place}: '{kind}' needs settings, such as {', '.join(sorted(_REQUIRED[kind]))}"
            )
        _check_keys(body, kind, _KEYS[kind], _REQUIRED[kind])
        if kind == "group":
            body["children"] = _actions(body["children"], body.place)
        actions.append((kind, body))
    return actions


def _check_keys(body: _Map, what: str, allowed: Iterable[str], required: Iterable[str] = ()) -> None:
    for key in body:
        if key not in allowed:
            raise LaunchError(
                f"{body.places[key]}: unknown key '{key}' in '{what}'; {suggest(str(key), allowed)}"
            )
    for key in required:
        if key not in body:
            raise LaunchError(f"{body.place}: '{what}' lacks its '{key}'")


def _text(body: _Map, key: str) -> str | None:
    """A setting that ROS 2 wants to be text."""
    value = body.get(key)
    if key in body and not isinstance(value, str):
        shown = str(value).lower() if isinstance(value, bool) else value
        raise LaunchError(f"{body.places[key]}: '{key}' must be text: write '{shown}' in quotes")
    return value


def _entries(body: _Map, key: str, allowed: Iterable[str], required: Iterable[str]) -> list[_Map]:
    """A setting that is a list of mappings."""
    entries = body.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, _Map) for entry in entries):
        raise LaunchError(
            f"{body.places[key]}: '{key}' must be a list of mappings with {', '.join(sorted(allowed))}"
        )
    for entry in entries:
        _check_keys(entry, key, allowed, required)
    return entries


def _argument(body: _Map) -> Argument:
    choices = [_text(c, "value") for c in _entries(body, "choice", {"value"}, {"value"})]
    return Argument(
        _text(body, "name"), _text(body, "default"), _text(body, "description") or "", tuple(choices)
    )


def _collect_arguments(actions: list[tuple[str, _Map]], scope: Scope, declared: dict[str, Argument]) -> None:
    for kind, body in actions:
        if kind == "arg":
            argument = _argument(body)
            declared.setdefault(argument.name, argument)
            if argument.default is not None:
                try:
                    scope.variables.setdefault(argument.name, scope.perform(parse(argument.default)))
                except LaunchError:
                    continue  # depends on what only the launch knows
        elif kind == "group":
            _collect_arguments(body["children"], scope, declared)
        elif kind == "include":
            try:
                path = scope.perform(parse(_text(body, "file")))
            except LaunchError:
                continue
            if os.path.isfile(path):
                inner = Scope(
                    dict(scope.variables), scope.environment, os.path.dirname(os.path.abspath(path))
                )
                _collect_arguments(_read(path), inner, declared)


# --- running it ---------------------------------------------------------------------------------


class _Interpreter:
    """Runs the actions in order, as ROS 2 does: what a file sets stays set for what comes after it.

    An `include` opens no scope of its own, neither for variables nor for $(dirname); a `group` does
    for variables and environment.
    """

    def __init__(self, parameter_folder: Path) -> None:
        self.parameter_folder = parameter_folder
        self.processes: list[Process] = []
        self.scope = Scope({}, dict(os.environ), "")
        self.parameter_files = 0

    def run_file(self, path: str) -> None:
        self.scope.folder = os.path.dirname(path)
        self.run(_read(path))

    def run(self, actions: list[tuple[str, _Map]]) -> None:
        for kind, body in actions:
            if self.condition(body):
                getattr(self, kind)(body)

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Names the place in errors that do not yet name one."""
        try:
            yield
        except LaunchError as error:
            raise error if re.match(r"\S+:\d+: ", str(error)) else LaunchError(f"{place}: {error}") from None

    def perform(self, body: _Map, key: str) -> str | None:
        """Text of a setting, substitutions performed; None where it is not there."""
        text = _text(body, key)
        with self.at(body.places.get(key, body.place)):
            return None if text is None else self.scope.perform(parse(text))

    def boolean(self, body: _Map, key: str) -> bool:
        text = self.perform(body, key).strip().lower()
        if text not in ("true", "1", "false", "0"):
            raise LaunchError(f"{body.places[key]}: '{key}' is '{text}', it must come to true, false, 1 or 0")
        return text in ("true", "1")

    def condition(self, body: _Map) -> bool:
        if "if" in body and "unless" in body:
            raise LaunchError(f"{body.place}: 'if' and 'unless' exclude each other")
        if "unless" in body:
            return not self.boolean(body, "unless")
        return "if" not in body or self.boolean(body, "if")

    # one method an action, named after it

    def arg(self, body: _Map) -> None:
        argument = _argument(body)
        variables = self.scope.variables
        if argument.name not in variables:
            if argument.default is None:
                about = f" ({argument.description})" if argument.description else ""
                wanted = f"give {argument.name}:=value"
                raise LaunchError(f"{body.place}: argument '{argument.name}'{about} has no default: {wanted}")
            variables[argument.name] = self.perform(body, "default")
        value = variables[argument.name]
        if argument.choices and value not in argument.choices:
            raise LaunchError(
                f"{body.place}: argument '{argument.name}' is '{value}'; {suggest(value, argument.choices)}"
            )

    def let(self, body: _Map) -> None:
        self.scope.variables[self.perform(body, "name")] = self.perform(body, "value")

    def set_env(self, body: _Map) -> None:
        self.scope.environment[self.perform(body, "name")] = self.perform(body, "value")

    def include(self, body: _Map) -> None:
        path = os.path.abspath(self.perform(body, "file"))
        if not os.path.isfile(path):
            raise LaunchError(f"{body.places['file']}: launch file '{path}' does not exist")
        declared = declared_arguments(path)
        self.scope.folder = os.path.dirname(path)  # before its arguments, as in ROS 2
        for entry in _entries(body, "arg", {"name", "value"}, {"name", "value"}):
            name = self.perform(entry, "name")
            if name not in declared:
                file = os.path.basename(path)
                raise LaunchError(
                    f"{entry.place}: '{file}' has no argument '{name}'; {suggest(name, declared)}"
                )
            self.scope.variables[name] = self.perform(entry, "value")
        self.run_file(path)

    def group(self, body: _Map) -> None:
        scoped = body.get("scoped", True)
        if not isinstance(scoped, bool):
            raise LaunchError(f"{body.places['scoped']}: 'scoped' must be true or false")
        variables, environment = dict(self.scope.variables), dict(self.scope.environment)
        self.run(body["children"])
        if scoped:
            self.scope.variables, self.scope.environment = variables, environment

    def push_ros_namespace(self, body: _Map) -> None:
        self.scope.variables["ros_namespace"] = self.namespace(body)

    def set_parameter(self, body: _Map) -> None:
        value = plain_value(self.perform(body, "value"))
        self.scope.variables["ros_parameters"] = (
            *self.scope.variables.get("ros_parameters", ()),
            (self.perform(body, "name"), value),
        )

    def executable(self, body: _Map) -> None:
        command = self.command(body, "cmd")
        if not command:
            raise LaunchError(f"{body.places['cmd']}: 'cmd' is empty")
        self.add_process(body, command, self.perform(body, "name") or os.path.basename(command[0]))

    def node(self, body: _Map) -> None:
        package, executable = self.perform(body, "pkg"), self.perform(body, "exec")
        name = self.perform(body, "name")
        if name is not None and not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise LaunchError(f"{body.places['name']}: '{name}' is no node name: letters, digits and _ only")
        namespace = self.namespace(body)

        command = [self.find_executable(body, package, executable), *self.command(body, "args")]
        if "ros_args" in body:
            command += ["--ros-args", *self.command(body, "ros_args")]
        command.append("--ros-args")
        if name is not None:
            command += ["-r", f"__node:={name}"]
        if namespace is not None:
            command += ["-r", f"__ns:={namespace}"]
        for parameter, value in self.scope.variables.get("ros_parameters", ()):
            command += ["-p", f"{parameter}:={value}"]
        full = f"{(namespace or '').rstrip('/')}/{name}" if name is not None else ""
        target = full if full and namespace is not None else "/**"
        for entry in _entries(body, "param", {"name", "value", "type", "param", "from"}, ()):
            command += ["--params-file", self.parameter_file(entry, target, name or executable)]
        for entry in _entries(body, "remap", {"from", "to"}, {"from", "to"}):
            command += ["-r", f"{self.perform(entry, 'from')}:={self.perform(entry, 'to')}"]
        self.add_process(body, command, name or executable, full)

    # parts of the actions

    def command(self, body: _Map, key: str) -> list[str]:
        text = _text(body, key)
        with self.at(body.places.get(key, body.place)):
            return [] if text is None else [self.scope.perform(part) for part in split_command(parse(text))]

    def namespace(self, body: _Map) -> str | None:
        """Absolute namespace of a node or push, below the pushed ones; None where neither is there."""
        own, base = self.perform(body, "namespace"), self.scope.variables.get("ros_namespace")
        if own is None:
            return base
        joined = own if own.startswith("/") or not base else f"{base.rstrip('/')}/{own}"
        joined = joined if joined == "/" else joined.rstrip("/")
        absolute = joined if joined.startswith("/") else f"/{joined}"
        if not re.fullmatch(r"/|(/[A-Za-z_]\w*)+", absolute):
            raise LaunchError(f"{body.places['namespace']}: '{absolute}' is no namespace such as /follower")
        return absolute

    def find_executable(self, body: _Map, package: str, executable: str) -> str:
        with self.at(body.places["pkg"]):
            prefix = self.scope.perform((Call("find-pkg-prefix", ((package,),)),))
        folder = Path(prefix, "lib", package)
        path = folder / executable
        if not (path.is_file() and os.access(path, os.X_OK)):
            there = [p.name for p in folder.glob("*") if os.access(p, os.X_OK) and p.is_file()]
            raise LaunchError(
                f"{body.places['exec']}: package '{package}' has no executable '{executable}'; "
                f"{suggest(executable, there)}"
            )
        return str(path)

    def parameter_file(self, entry: _Map, target: str, owner: str) -> str:
        """Path of the file that hands one `param` to a node."""
        if "from" in entry:
            _check_keys(entry, "param", {"from"})
            path = self.perform(entry, "from")
            if not os.path.isfile(path):
                raise LaunchError(f"{entry.places['from']}: parameter file '{path}' does not exist")
            return path
        content = {target: {"ros__parameters": self.parameters(entry)}}
        self.parameter_files += 1
        self.parameter_folder.mkdir(parents=True, exist_ok=True)
        path = self.parameter_folder / f"{owner}-{self.parameter_files}.yaml"
        path.write_text(yaml.safe_dump(content, default_flow_style=False))
        return str(path)

    def parameters(self, entry: _Map, prefix: str = "") -> dict[str, Any]:
        """One named `param`, or the tree below it, as flat names and values."""
        _check_keys(entry, "param", {"name", "value", "type", "param"}, {"name"})
        name = prefix + self.perform(entry, "name")
        if ("value" in entry) == ("param" in entry):
            raise LaunchError(f"{entry.place}: param '{name}' needs either a 'value' or a 'param' list")
        if "param" in entry:
            nested = _entries(entry, "param", {"name", "value", "type", "param"}, {"name"})
            return {k: v for inner in nested for k, v in self.parameters(inner, f"{name}.").items()}
        with self.at(entry.places["value"]):
            try:
                return {name: parameter_value(self.scope, entry["value"], _text(entry, "type") or "yaml")}
            except LaunchError as error:
                raise LaunchError(f"param '{name}': {error}") from None

    def number(self, body: _Map, key: str, default: float, kind: type = float) -> Any:
        value = body.get(key, default)
        if type(value) is not kind or (kind is float and value < 0):
            example = "a number with a point, such as 1.0" if kind is float else "a whole number"
            raise LaunchError(f"{body.places[key]}: '{key}' must be {example}")
        return value

    def add_process(self, body: _Map, command: list[str], name: str, node: str = "") -> None:
        output = self.perform(body, "output") or "log"
        if output not in OUTPUTS:
            raise LaunchError(
                f"{body.places['output']}: output '{output}' does not exist; {suggest(output, OUTPUTS)}"
            )
        if body.get("on_exit", "shutdown") != "shutdown":
            raise LaunchError(f"{body.places['on_exit']}: 'on_exit' can only be 'shutdown'")
        extra = {
            self.perform(entry, "name"): self.perform(entry, "value")
            for entry in _entries(body, "env", {"name", "value"}, {"name", "value"})
        }
        env = {**self.scope.environment, **extra}
        names = [process.name for process in self.processes]
        same = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in names)
        self.processes.append(
            Process(
                name=f"{name}-{same + 1}" if same else name,
                argv=tuple(command),
                node=node,
                env={key: value for key, value in env.items() if os.environ.get(key) != value},
                output=output,
                respawn="respawn" in body and self.boolean(body, "respawn"),
                respawn_delay=self.number(body, "respawn_delay", 0.0),
                respawn_max_retries=self.number(body, "respawn_max_retries", -1, int),
                shutdown_on_exit="on_exit" in body,
                sigterm_timeout=self.number(body, "sigterm_timeout", 5.0),
                sigkill_timeout=self.number(body, "sigkill_timeout", 5.0),
                cwd=self.perform(body, "cwd"),
            )
        )
