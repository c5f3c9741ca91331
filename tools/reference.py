#!/usr/bin/env python3
"""Writes docs/reference from the code: parameters, topics, messages, launch arguments, agents, rewards, CLI.

`make docs` runs it; with `--check` it writes nothing and names the pages that differ from the code.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
OUT = ROOT / "docs" / "reference"
NOTE = "<!-- Written by tools/reference.py from the code: change it there, then run `make docs`. -->"
SHARE = "$(find-pkg-share hilrl)"

MESSAGE_LINE = re.compile(
    r"(?P<type>\S+)\s+(?P<name>\w+)(?:\s*=\s*(?P<value>\S+))?\s*(?:#\s*(?P<comment>.*))?$"
)


def page(title: str, intro: str, body: list[str]) -> str:
    """Text of a page."""
    return "\n".join([NOTE, "", f"# {title}", "", intro, "", *body]).rstrip() + "\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table, with an empty line behind it."""
    cells = [tuple(str(c).replace("|", "\\|").replace("\n", " ") for c in row) for row in rows]
    lines = [head, tuple("---" for _ in head), *cells]
    return [f"| {' | '.join(row)} |" for row in lines] + [""]


def code(value: Any) -> str:
    """A value as inline code; nothing for nothing."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, list | tuple):
        value = f"[{', '.join(map(str, value))}]"
    return f"`{value}`"


def first_paragraph(text: str | None) -> str:
    """First paragraph of a docstring in one line."""
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


# --- nodes: parameters and topics ---------------------------------------------------------------


@dataclasses.dataclass
class NodeSource:
    """What the source of a node says.

    Attributes:
        package: Its package.
        executable: Name for `ros2 run`.
        module: Module that defines it.
        params: Name of its parameters dataclass.
        docstring: Docstring of the node's class.
        endpoints: (kind, name, type, QoS) of each publisher, subscription, service and client.
    """

    package: str
    executable: str
    module: str
    params: str
    docstring: str
    endpoints: list[tuple[str, str, str, str]]


CREATES = {
    "create_publisher": ("publishes", 0, 1, 2),
    "create_subscription": ("subscribes", 0, 1, 3),
    "create_service": ("serves", 0, 1, None),
    "create_client": ("calls", 0, 1, None),
}


def executables() -> Iterator[tuple[str, str, str]]:
    """Package, executable and module of all that `ros2 run` knows, from the packages' setup.py."""
    for setup in sorted(SRC.glob("*/setup.py")):
        recorded: dict[str, Any] = {}
        with mock.patch("setuptools.setup", lambda _to=recorded, **arguments: _to.update(arguments)):
            runpy.run_path(str(setup))
        for script in (recorded.get("entry_points") or {}).get("console_scripts", []):
            name, target = (part.strip() for part in script.split("="))
            yield setup.parent.name, name, target.split(":")[0]


def nodes() -> list[NodeSource]:
    """Every node of the suite."""
    return [read_node(*item) for item in executables() if item[2].endswith("_node")]


def read_node(package: str, executable: str, module: str) -> NodeSource:
    """Read a node's source without running it."""
    tree = ast.parse((SRC / package / Path(*module.split("."))).with_suffix(".py").read_text())
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
    params = next(c.name for c in classes if c.name.endswith("Params"))
    node = next(c for c in classes if c.name.endswith("Node"))
    endpoints = []
    for call in [c for part in (*own_bases(tree, node), node) for c in ast.walk(part)]:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in CREATES:
            kind, type_at, name_at, qos_at = CREATES[call.func.attr]
            quality = "" if qos_at is None else qos_name(call.args[qos_at])
            endpoints.append((kind, topic(call.args[name_at]), type_name(call.args[type_at]), quality))
    return NodeSource(package, executable, module, params, ast.get_docstring(node) or "", endpoints)


def own_bases(tree: ast.Module, node: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """Base classes of a node that this suite defines in another module."""
    names = {base.id for base in node.bases if isinstance(base, ast.Name)}
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and names & {alias.name for alias in statement.names}:
            package, *inner = statement.module.split(".")
            file = (SRC / package / package / Path(*inner)).with_suffix(".py")
            if file.is_file():
                body = ast.parse(file.read_text()).body
                yield from (c for c in body if isinstance(c, ast.ClassDef) and c.name in names)


def topic(name: ast.expr) -> str:
    """A topic as written; what is only known at run time in angle brackets."""
    if isinstance(name, ast.Constant):
        return name.value
    if isinstance(name, ast.BoolOp):  # a parameter, or what it is where that is empty
        return topic(name.values[-1])
    if isinstance(name, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.Constant) else f"<{last_name(p.value)}>" for p in name.values]
        return "".join(parts)
    if last_name(name).endswith("_topic"):
        return f"<{last_name(name)}>"
    return "<topics of the contract>"


def type_name(kind: ast.expr) -> str:
    """A message type; empty where it follows from the contract."""
    return kind.id if isinstance(kind, ast.Name) and kind.id[0].isupper() else ""


def qos_name(profile: ast.expr) -> str:
    """Name of a profile of hilrl_ros.qos."""
    return (
        profile.attr if isinstance(profile, ast.Attribute) else "STEP"
    )  # the recorder's, for a step's topics


def last_name(expression: ast.expr) -> str:
    """`camera` of `self.params.camera`."""
    return expression.attr if isinstance(expression, ast.Attribute) else ast.unparse(expression)


def parameters_page() -> str:
    """All parameters of all nodes."""
    body = []
    for node in nodes():
        params = getattr(importlib.import_module(node.module), node.params)
        body += [f"## {node.executable}", "", first_paragraph(node.docstring), ""]
        body += [f"`ros2 run {node.package} {node.executable}`", ""]
        rows = []
        for field in dataclasses.fields(params):
            default = field.default_factory() if field.default is dataclasses.MISSING else field.default
            meta = field.metadata
            allowed = ""
            if meta["bounds"]:
                allowed = f"{meta['bounds'][0]} to {meta['bounds'][1]}"
            if meta["choices"]:
                allowed = ", ".join(map(code, meta["choices"]))
            kind = type(default).__name__
            rows.append((f"`{field.name}`", kind, code(default), meta["unit"], allowed, meta["description"]))
        body += table(("parameter", "type", "default", "unit", "allowed", "meaning"), rows)
    intro = (
        "Parameters are read once, when a node starts; a value outside what is allowed ends the node with one "
        "sentence."
    )
    return page("Parameters", intro, body)


def topics_page() -> str:
    """Who publishes and who subscribes, by topic; services; QoS profiles."""
    topics: dict[str, dict[str, list]] = {}
    services: dict[str, dict[str, list]] = {}
    for node in nodes():
        for kind, name, message, quality in node.endpoints:
            place = services if kind in ("serves", "calls") else topics
            entry = place.setdefault(name, {"type": [], "qos": [], "from": [], "to": []})
            for key, value in (("type", message), ("qos", quality)):
                if value and value not in entry[key]:
                    entry[key].append(value)
            side = entry["from" if kind in ("publishes", "serves") else "to"]
            if node.executable not in side:
                side.append(node.executable)
    rows = [
        (f"`{n}`", ", ".join(e["type"]), ", ".join(e["from"]), ", ".join(e["to"]), ", ".join(e["qos"]))
        for n, e in sorted(topics.items(), key=lambda item: item[0].lstrip("/<"))
    ]
    body = table(("topic", "type", "published by", "subscribed by", "QoS"), rows)
    body += [
        "`<topics of the contract>` are those that `state` and `cameras` of the robot contract and of the task "
        "name, such as `joint_states` and `cube/pose`; `<name>` and `<camera>` are names of objects and cameras.",
        "",
        "## Services",
        "",
    ]
    rows = [
        (f"`{n}`", ", ".join(e["type"]), ", ".join(e["from"]), ", ".join(e["to"]))
        for n, e in sorted(services.items())
    ]
    body += table(("service", "type", "served by", "called by"), rows)
    body += ["## QoS profiles", "", "From `src/hilrl_ros/hilrl_ros/qos.py`.", ""]
    body += table(("name", "history", "reliability", "durability", "why"), qos_rows())
    intro = "Relative names: a namespace moves all of them but `/clock` and `/diagnostics`."
    return page("Topics", intro, body)


def qos_rows() -> list[tuple[str, ...]]:
    """Profiles with the comment that stands above each."""
    from rclpy.qos import QoSProfile

    from hilrl_ros import qos

    source = (SRC / "hilrl_ros" / "hilrl_ros" / "qos.py").read_text()
    rows = []
    for name, profile in vars(qos).items():
        if isinstance(profile, QoSProfile):
            above = re.search(rf"((?:^# .*\n)+)(?:^\w+ = .*\n)*?^{name} = QoSProfile", source, re.M)[1]
            why = " ".join(line.removeprefix("# ") for line in above.splitlines())
            reliability = profile.reliability.name.lower().replace("_", " ")
            durability = profile.durability.name.lower().replace("_", " ")
            rows.append((f"`{name}`", f"last {profile.depth}", reliability, durability, why))
    return rows


# --- messages -----------------------------------------------------------------------------------


def read_interface(text: str) -> tuple[str, list[list[tuple[str, str, str, str]]]]:
    """Introduction of an interface file, and its parts (a service has two) as (type, name, value, comment)."""
    intro, parts = [], [[]]
    for line in text.splitlines():
        if line.startswith("#"):
            if not any(parts):
                intro.append(line.lstrip("# "))
        elif line.strip() == "---":
            parts.append([])
        elif line.strip():
            match = MESSAGE_LINE.match(line)
            parts[-1].append(tuple(match[key] or "" for key in ("type", "name", "value", "comment")))
    return " ".join(intro), parts


def messages_page() -> str:
    """Messages and services with the comments of their fields."""
    body = []
    for file in sorted((SRC / "hilrl_msgs").glob("*/*.[ms][sr][gv]")):
        intro, parts = read_interface(file.read_text())
        body += [f"## {file.stem}", "", f"`hilrl_msgs/{file.parent.name}/{file.stem}`. {intro}", ""]
        titles = ["request", "response"] if len(parts) > 1 else [""]
        for title, part in zip(titles, parts, strict=True):
            constants = [(f"`{n}`", v, c) for _, n, v, c in part if v]
            fields = [(f"`{n}`", f"`{t}`", c) for t, n, v, c in part if not v]
            if constants:
                body += table(("constant", "value", "meaning"), constants)
            if fields:
                body += table((f"{title} field".strip(), "type", "meaning"), fields)
    return page("Messages and services", "SI units, radians; actions are normalised to [-1, 1].", body)


# --- launch files -------------------------------------------------------------------------------


def launch_arguments(path: Path) -> dict[str, dict[str, Any]]:
    """Arguments that a launch file and those that it includes declare; `from` names the declaring file."""
    found: dict[str, dict[str, Any]] = {}

    def collect(actions: list[dict[str, Any]], file: Path) -> None:
        for action in actions:
            ((kind, body),) = action.items()
            if kind == "arg":
                choices = [str(c["value"]) for c in body.get("choice", [])]
                entry = {"default": body.get("default"), "description": body.get("description", "")}
                found.setdefault(body["name"], entry | {"choices": choices, "from": file.name})
            elif kind == "group":
                collect(body if isinstance(body, list) else body["children"], file)
            elif kind == "include":
                inner = Path(body["file"].replace(SHARE, str(ROOT)))
                collect(yaml.safe_load(inner.read_text())["launch"], inner)

    collect(yaml.safe_load(path.read_text())["launch"], path)
    return found


def launch_files() -> dict[str, Path]:
    """Launch files by the name that `hilrl launch` takes."""
    return {p.name.removesuffix(".launch.yaml"): p for p in sorted((ROOT / "launch").glob("*.launch.yaml"))}


def launch_page() -> str:
    """Arguments of all launch files."""
    body = []
    for name, path in launch_files().items():
        lines = path.read_text().splitlines()
        comments = [line.lstrip("# ") for line in lines[: lines.index("launch:")]]
        body += [f"## {name}", "", " ".join(comments), ""]
        if path.with_name(f"{name}.launch.py").exists():
            body += [f"`hilrl launch {name}`, or `ros2 launch hilrl {name}.launch.py`", ""]
        else:
            body += ["Included by the others.", ""]
        rows = []
        for argument, entry in launch_arguments(path).items():
            default = "required" if entry["default"] is None else code(entry["default"])
            rows.append(
                (f"`{argument}`", default, ", ".join(map(code, entry["choices"])), entry["description"])
            )
        body += table(("argument", "default", "choices", "meaning"), rows)
    intro = "Arguments are given as `name:=value`. `hilrl launch sim --show-args` prints the same."
    return page("Launch files", intro, body)


# --- learning, rewards, command -----------------------------------------------------------------


def agents_page() -> str:
    """Options of every algorithm."""
    from hilrl_agents.registry import AGENTS

    body = []
    for name, agent in AGENTS.items():
        module = inspect.getmodule(agent)
        file = Path(inspect.getfile(agent)).name
        body += [f"## {name}", "", first_paragraph(module.__doc__), ""]
        body += [f"`src/hilrl_agents/hilrl_agents/{file}`", ""]
        rows = []
        for field in dataclasses.fields(agent.Config):
            meta = field.metadata
            allowed = ", ".join(map(code, meta["choices"]))
            if meta["low"] is not None:
                allowed = f"≥ {meta['low']}" if meta["high"] is None else f"{meta['low']} to {meta['high']}"
            rows.append((f"`{field.name}`", code(field.default), meta["unit"], allowed, meta["reason"]))
        body += table(("option", "default", "unit", "allowed", "what it does, and why this default"), rows)
    intro = (
        "Defaults stand in the algorithm's own file; a YAML file in `config/agents` overrides them by name and "
        "also sets `chunk_size`, the actions in one chunk, and `warm_start`, the policy that the agent starts from. An "
        "unknown option is an error."
    )
    body = [*warm_start_lines(), *body]
    return page("Agents", intro, body)


def warm_start_lines() -> list[str]:
    """What `warm_start` in an agent's file says, and who starts from whom."""
    from hilrl_agents.registry import AGENTS
    from hilrl_ros.settings import WarmStartSettings

    described = inspect.cleandoc(WarmStartSettings.__doc__).partition("Attributes:\n")[2]
    rows = [tuple(part.strip() for part in line.split(":", 1)) for line in described.splitlines()]
    pairs = [
        (f"`{name}`", ", ".join(code(prior) for prior in AGENTS if agent.starts_from(prior)) or "none")
        for name, agent in AGENTS.items()
    ]
    return [
        "## warm_start",
        "",
        "`warm_start: {checkpoint: runs/my_policy, policy_type: bc, freeze: ['encoder.*']}`; the launch argument "
        "`warm_start` counts instead of `checkpoint`. What fits is copied; the learner's log lists what does not, and "
        "why. How chunks are executed, and their length, is as in that policy where the agent's file does not say.",
        "",
        *table(("key", "meaning"), [(f"`{key}`", meaning) for key, meaning in rows]),
        *table(("agent", "starts from a policy of"), pairs),
    ]


def rewards_page() -> str:
    """Reward terms and their settings."""
    from hilrl_reward.terms import CONDITIONS, SUCCESS_CONDITIONS, TERMS, StateTerm, SuccessCondition

    body = [
        "## A task's success",
        "",
        inspect.cleandoc(SuccessCondition.__doc__).partition("\n\nAttributes")[0],
        "",
    ]
    for name, term in (TERMS | SUCCESS_CONDITIONS).items():
        body += [f"## {name}", "", inspect.cleandoc(term.__doc__), ""]
        if name in CONDITIONS:
            body += ["Also usable as a task's `success`, and in another term's `while`.", ""]
        if name in TERMS and issubclass(term, StateTerm):
            body += ["Fits `change: true`.", ""]
        rows = []
        for field in dataclasses.fields(term):
            default = "required" if field.default is dataclasses.MISSING else code(field.default)
            rows.append((f"`{field.name}`", str(field.type), default))
        if rows:
            body += table(("setting", "type", "default"), rows)
    intro = (
        "A task's `reward` is a sum of named terms, each with a `weight`, scaled such that no episode earns more than "
        "1; [own reward](../how-to/own_reward.md) shows how to compose and add them."
    )
    return page("Reward terms", intro, body)


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Parser of each subcommand of `hilrl`."""
    from hilrl_cli.main import COMMANDS

    parsers = {}
    for name, description in COMMANDS.items():
        parsers[name] = argparse.ArgumentParser(prog=f"hilrl {name}", description=description)
        importlib.import_module(f"hilrl_cli.commands.{name.replace('-', '_')}").add_arguments(parsers[name])
    return parsers


def with_actions(
    parsers: dict[str, argparse.ArgumentParser],
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Parsers by the words that choose them; in place of one with actions, those of its actions."""
    for name, parser in parsers.items():
        actions = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if actions:
            yield from ((f"{name} {action}", inner) for action, inner in actions[0].items())
        else:
            yield name, parser


def cli_page() -> str:
    """Subcommands of hilrl."""
    body = []
    for name, parser in with_actions(command_parsers()):
        rows = []
        for action in parser._actions:
            if action.dest == "help":
                continue
            shown = ", ".join(action.option_strings) or action.metavar or action.dest
            if action.option_strings and action.nargs != 0:
                shown += f" {action.metavar or action.dest.upper()}"
            if action.nargs in ("?", "*"):
                shown = f"[{shown}]"
            rows.append((f"`{shown}`", action.help or ""))
        body += [f"## hilrl {name}", "", f"{parser.description.capitalize()}.", ""]
        body += table(("argument", "meaning"), rows)
    intro = (
        "`.venv/bin/hilrl` works from any folder without sourcing anything. Exit code 0: done; 2: something that you "
        "can mend, said in one sentence; anything else: a process of the graph failed."
    )
    return page("The hilrl command", intro, body)


PAGES = {
    "parameters.md": parameters_page,
    "topics.md": topics_page,
    "messages.md": messages_page,
    "launch.md": launch_page,
    "agents.md": agents_page,
    "rewards.md": rewards_page,
    "cli.md": cli_page,
}


def main() -> int:
    """Write the pages, or name those that differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page differs")
    arguments = parser.parse_args()
    from hilrl_cli import environment

    environment.enter()
    OUT.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, make in PAGES.items():
        file, text = OUT / name, make()
        if not file.is_file() or file.read_text() != text:
            stale.append(name)
            if not arguments.check:
                file.write_text(text)
    for name in stale:
        print(
            f"docs/reference/{name} {'differs from the code: run `make docs`' if arguments.check else 'written'}"
        )
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
