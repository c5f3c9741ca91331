import os
import subprocess
import sys
from pathlib import Path

import pytest
import rclpy
import yaml

from hilrl_cli import launch_file
from hilrl_cli.commands.launch import parse_arguments
from hilrl_cli.errors import LaunchError
from hilrl_cli.main import main

FILES = Path(__file__).parent / "files"


def write(folder, text, name="x.launch.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def load(tmp_path, text, **arguments):
    return launch_file.load(write(tmp_path, text), arguments, tmp_path / "parameters")


def parameters(process):
    """Parameters of a process with one parameter file."""
    path = process.argv[process.argv.index("--params-file") + 1]
    with open(path) as stream:
        (content,) = yaml.safe_load(stream).values()
    return content["ros__parameters"]


def test_a_node_becomes_a_command_line(demo, tmp_path):
    (process,) = load(
        tmp_path,
        """
launch:
- arg: {name: task, default: reach}
- group:
  - push_ros_namespace: {namespace: follower}
  - node:
      pkg: demo
      exec: plain
      name: actor
      output: screen
      args: --fast
      remap: [{from: a, to: b}]
      param: [{name: task, value: $(var task)}, {from: $(find-pkg-share demo)/params.yaml}]
      respawn: 'true'
      respawn_delay: 2.0
      on_exit: shutdown
      env: [{name: THREADS, value: '1'}]
""",
        task="pick_cube",
    )
    executable = str(demo.parents[1] / "lib" / "demo" / "plain")
    file = process.argv[process.argv.index("--params-file") + 1]
    assert process.argv == (
        executable, "--fast", "--ros-args", "-r", "__node:=actor", "-r", "__ns:=/follower",
        "--params-file", file, "--params-file", str(demo / "params.yaml"), "-r", "a:=b",
    )  # fmt: skip
    with open(file) as stream:
        assert yaml.safe_load(stream) == {"/follower/actor": {"ros__parameters": {"task": "pick_cube"}}}
    assert (process.name, process.output, process.env) == ("actor", "screen", {"THREADS": "1"})
    assert (process.respawn, process.respawn_delay, process.shutdown_on_exit) == (True, 2.0, True)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0.5", 0.5),
        ("'0.5'", "0.5"),
        ("true", True),
        ("'true'", "true"),
        ("[1, 2]", [1, 2]),
        ("[$(var text), $(var text)]", [10, 10]),
        ("$(var text)", 10),
        ("$(var text), type: str", "10"),
        ("$(var text), type: float", 10.0),
        ("$(eval '$(var text) / 4')", 2.5),
        ("$(eval '$(var text) > 4')", True),
        ("\"$(eval \\\"'$(var text)' == '10'\\\")\"", True),
        ("a-$(var text)", "a-10"),
    ],
)
def test_types_of_parameters(demo, tmp_path, written, value):
    text = f"""
launch:
- let: {{name: text, value: '10'}}
- node: {{pkg: demo, exec: plain, param: [{{name: p, value: {written}}}]}}
"""
    (process,) = load(tmp_path, text)
    result = parameters(process)["p"]
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize(
    ("on_stderr", "value", "printed"),
    [("ignore", "out", ""), ("capture", "outerr", ""), ("warn", "out", "writes to stderr: err\n")],
)
def test_a_commands_stderr(demo, tmp_path, capsys, on_stderr, value, printed):
    command = f"$(command 'sh -c \\\"printf out; printf err >&2\\\"' {on_stderr})"
    text = f'launch:\n- node: {{pkg: demo, exec: plain, param: [{{name: p, value: "{command}"}}]}}\n'
    (process,) = load(tmp_path, text)
    assert parameters(process) == {"p": value}
    assert capsys.readouterr().err.endswith(printed)


def test_a_set_parameter_reaches_every_node_that_comes_after_it_in_its_group(demo, tmp_path):
    before, inside, after = load(
        tmp_path,
        """
launch:
- group:
  - node: {pkg: demo, exec: plain, name: before}
  - set_parameter: {name: use_sim_time, value: 'true', if: 'true'}
  - set_parameter: {name: rate, value: '2.5', unless: 'true'}
  - node: {pkg: demo, exec: plain, name: inside, param: [{name: a, value: 1}]}
- node: {pkg: demo, exec: plain, name: after}
""",
    )
    assert "use_sim_time:=True" not in before.argv + after.argv
    assert inside.argv[1:6] == ("--ros-args", "-r", "__node:=inside", "-p", "use_sim_time:=True")
    assert not [word for word in inside.argv if word.startswith("rate")]


def test_processes_of_one_name_are_told_apart(demo, tmp_path):
    node = "- node: {pkg: demo, exec: plain}\n"
    assert [p.name for p in load(tmp_path, f"launch:\n{node * 3}")] == ["plain", "plain-2", "plain-3"]


def test_arguments_of_included_files_are_declared(demo):
    arguments = launch_file.declared_arguments(FILES / "rich.launch.yaml")
    assert arguments["task"].choices == ("reach", "pick_cube")
    assert arguments["task"].default == "reach"
    assert arguments["shade"].default == "$(var colour)-light"
    assert arguments["colour"].default is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: {pkg: demo}", r":2: unknown action 'nodes'; did you mean 'node'\? Allowed: arg, executable"),
        ("node: {pkg: demo, exec: plain, nam: x}", r":2: unknown key 'nam' in 'node'; did you mean 'name'\?"),
        ("node: {pkg: demo, exec: plain, param: [{nam: x}]}", r":2: unknown key 'nam' in 'param'; .*'name'"),
        ("node: {pkg: demo, exec: plain, name: x, name: y}", r":2: key 'name' is there twice"),
        ("node: {pkg: demo}", r":2: 'node' lacks its 'exec'"),
        (
            "node: {pkg: demo, exec: plan}",
            r":2: package 'demo' has no executable 'plan'; did you mean 'plain'",
        ),
        (
            "node: {pkg: nowhere, exec: x}",
            r":2: package 'nowhere' is not installed; searched AMENT_PREFIX_PATH",
        ),
        ("node: {pkg: demo, exec: plain, name: no-name}", r":2: 'no-name' is no node name"),
        ("node: {pkg: demo, exec: plain, namespace: 1x}", r":2: '/1x' is no namespace such as /follower"),
        ("node: {pkg: demo, exec: plain, if: maybe}", r":2: 'if' is 'maybe', it must come to true, false"),
        ("node: {pkg: demo, exec: plain, if: true}", r":2: 'if' must be text: write 'true' in quotes"),
        ("node: {pkg: demo, exec: plain, if: '1', unless: '1'}", r":2: 'if' and 'unless' exclude each other"),
        ("node: {pkg: demo, exec: plain, output: scren}", r":2: output 'scren' .* did you mean 'screen'\?"),
        ("node: {pkg: demo, exec: plain, on_exit: restart}", r":2: 'on_exit' can only be 'shutdown'"),
        (
            "node: {pkg: demo, exec: plain, respawn_delay: 2}",
            r":2: 'respawn_delay' must be a number with a point",
        ),
        (
            "node: {pkg: demo, exec: plain, args: it's}",
            r":2: 'it's' is not a command line: no closing quotation",
        ),
        (
            "node: {pkg: demo, exec: plain, param: [{name: x, value: [1, 2.0]}]}",
            r":2: param 'x': value \[1, 2.0\] is neither text, number",
        ),
        (
            "node: {pkg: demo, exec: plain, param: [{name: x, value: 1, type: str}]}",
            r":2: param 'x': value 1 is not of type str",
        ),
        (
            "node: {pkg: demo, exec: plain, param: [{name: x}]}",
            r":2: param 'x' needs either a 'value' or a 'param' list",
        ),
        (
            "node: {pkg: demo, exec: plain, param: [{from: /nowhere.yaml}]}",
            r":2: parameter file '/nowhere.yaml' does not exist",
        ),
        ("arg: {name: seed, default: 0}", r":2: 'default' must be text: write '0' in quotes"),
        (
            "arg: {name: seed, description: Number}",
            r":2: argument 'seed' \(Number\) has no default: give seed:=",
        ),
        (
            "arg: {name: task, default: rech, choice: [{value: reach}, {value: lift}]}",
            r":2: argument 'task' is 'rech'; did you mean 'reach'\? Allowed: lift, reach\.",
        ),
        ("let: {name: x, value: $(var tsk)}", r":2: '\$\(var tsk\)' is not defined here"),
        (
            "let: {name: x, value: $(vra tsk)}",
            r":2: unknown substitution '\$\(vra …\)'; did you mean 'var'\?",
        ),
        ("let: {name: x, value: $(var)}", r":2: '\$\(var …\)' has 0 arguments, it takes 1 or 2"),
        ("let: {name: x, value: $(var a}", r":2: '\$\(var a' is not a substitution"),
        ("let: {name: x, value: $(eval '1 +')}", r":2: '\$\(eval 1 \+\)' is not a Python expression"),
        ("let: {name: x, value: $(eval 'a + 1')}", r":2: '\$\(eval a \+ 1\)' uses the name 'a'"),
        ("let: {name: x, value: $(eval '1 / 0')}", r":2: '\$\(eval 1 / 0\)' fails: division by zero"),
        (
            "let: {name: x, value: \"$(eval '[].sort')\"}",
            r":2: .* uses Attribute; only values and operators may",
        ),
        (
            "let: {name: x, value: $(env HILRL_TEST_NOT_SET)}",
            r":2: the environment has no 'HILRL_TEST_NOT_SET'",
        ),
        (
            "let: {name: x, value: $(command nowhere)}",
            r":2: '\$\(command nowhere\)' cannot run: .*No such file",
        ),
        ("let: {name: x, value: $(command false)}", r":2: '\$\(command false\)' ends with code 1"),
        (
            'let: {name: x, value: "$(command \'sh -c \\"echo so >&2; exit 3\\"\' ignore)"}',
            r":2: '\$\(command .*\)' ends with code 3: so",
        ),
        (
            'let: {name: x, value: "$(command \'sh -c \\"echo so >&2\\"\')"}',
            r":2: '\$\(command .*\)' writes to stderr: so",
        ),
        (
            "let: {name: x, value: $(command true loud)}",
            r":2: .* stderr cannot be 'loud'; Allowed: capture, fail, ignore, warn\.",
        ),
        ("include: {file: $(dirname)/none.yaml}", r":2: launch file '\S+none.yaml' does not exist"),
        (
            f"include: {{file: {FILES}/included.launch.yaml, arg: [{{name: color, value: x}}]}}",
            r":2: 'included.launch.yaml' has no argument 'color'; did you mean 'colour'\?",
        ),
        ("include", r":1: 'include' is no action: one key with its settings, such as '- node: …'"),
        ("node: 3", r":2: 'node' needs settings, such as exec, pkg"),
        ("group: [{nde: {}}]", r":2: unknown action 'nde'"),
        ("group: {scoped: 'no', children: []}", r":2: 'scoped' must be true or false"),
        ("node: {pkg: demo", r":3: not YAML: "),
    ],
)
def test_errors_name_the_place_and_what_would_be_right(demo, tmp_path, text, message):
    with pytest.raises(LaunchError, match=r"x\.launch\.yaml" + message):
        load(tmp_path, f"launch:\n- {text}\n")


def test_an_error_in_an_included_file_names_that_file(demo, tmp_path):
    write(tmp_path, "launch:\n- node:\n    pkg: demo\n    exec: plain\n    colour: x\n", "inner.launch.yaml")
    with pytest.raises(LaunchError, match=r"inner\.launch\.yaml:5: unknown key 'colour' in 'node'"):
        load(tmp_path, "launch:\n- include: {file: $(dirname)/inner.launch.yaml}\n")


def test_an_unknown_argument_is_refused(tmp_path):
    with pytest.raises(LaunchError, match=r"unknown argument 'tsk'; did you mean 'task'\? Allowed: task\."):
        load(tmp_path, "launch:\n- arg: {name: task, default: reach}\n", tsk="reach")


@pytest.mark.parametrize("text", ["", "[]", "lunch: []", "launch: []\nmore: 1"])
def test_a_file_of_another_kind_is_refused(tmp_path, text):
    with pytest.raises(LaunchError, match=r"x\.launch\.yaml: a launch file has one key at the top, 'launch'"):
        load(tmp_path, text)


@pytest.mark.parametrize("word", ["task", "task:=", ":=reach", "task=reach"])
def test_a_malformed_argument_is_refused(word):
    with pytest.raises(LaunchError, match=rf"launch argument '{word}' is malformed; expected name:=value"):
        parse_arguments([word])


def test_a_launch_file_that_is_not_there(demo):
    with pytest.raises(LaunchError, match=r"launch file 'a/b\.launch\.yaml' does not exist"):
        launch_file.find("a/b.launch.yaml")


@pytest.fixture
def sourced(monkeypatch):
    monkeypatch.setattr("hilrl_cli.environment.enter", lambda: None)


def test_the_command_prints_what_it_would_start(demo, tmp_path, sourced, capsys):
    path = write(
        tmp_path, "launch:\n- node: {pkg: demo, exec: plain, name: a, param: [{name: x, value: 1}]}\n"
    )
    assert main(["launch", str(path), "--print-commands"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("[a] /") and "__node:=a" in out and "x: 1" in out


def test_the_command_shows_arguments(demo, sourced, capsys):
    assert main(["launch", str(FILES / "rich.launch.yaml"), "--show-args"]) == 0
    out = capsys.readouterr().out
    assert "task (default: 'reach'; one of reach, pick_cube)\n      What to do" in out
    assert "colour (required)" in out


def test_a_mistake_is_one_sentence_and_exit_code_2(demo, tmp_path, sourced, capsys):
    path = write(tmp_path, "launch:\n- nod: {}\n")
    assert main(["launch", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"hilrl launch: {path}:2: unknown action 'nod'") and err.count("\n") == 1


def test_the_command_runs_a_launch_file(tmp_path, sourced):
    path = write(tmp_path, "launch:\n- executable: {cmd: sh -c 'exit 3'}\n")
    assert main(["launch", str(path), "--log-folder", str(tmp_path / "log")]) == 3


def test_nodes_that_run_already_are_not_started_again(demo, tmp_path, sourced, capsys):
    rclpy.init()
    running = rclpy.create_node("session", namespace="left")
    try:
        code = {}
        for namespace in ("left", "right"):
            node = f"- node: {{pkg: demo, exec: plain, name: session, namespace: {namespace}}}\n"
            path = write(tmp_path, "launch:\n" + node)
            code[namespace] = main(["launch", str(path), "--log-folder", str(tmp_path / namespace)])
    finally:
        running.destroy_node()
        rclpy.shutdown()
    assert code == {"left": 2, "right": 0}
    err = capsys.readouterr().err
    domain = os.environ["ROS_DOMAIN_ID"]
    assert err.startswith(f"hilrl launch: node '/left/session' runs already in ROS domain {domain}: ")
    assert err.count("\n") == 1 and "ROS_DOMAIN_ID=" in err
    assert not (tmp_path / "left").exists()  # nothing of it is left behind


def test_help_imports_no_subcommand():
    code = "import sys; from hilrl_cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    heavy = "print({'yaml', 'hilrl_cli.supervisor', 'torch', 'rclpy'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code + heavy], capture_output=True, text=True, env=os.environ
    )
    assert result.stdout.splitlines()[-1] == "set()"
