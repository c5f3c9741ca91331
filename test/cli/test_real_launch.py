"""Command lines, parameters and environment equal those of ROS 2's own launch, where it is installed."""

import os
from pathlib import Path

import pytest
import yaml

from hilrl_cli import launch_file
from hilrl_cli.errors import UserError

launch_ros = pytest.importorskip(
    "launch_ros", reason="ROS 2's own launch is not installed here: nothing to compare with"
)
ROOT = Path(__file__).parents[2]
PROJECT = sorted((ROOT / "launch").glob("*.launch.yaml"))
PYTHON = sorted((ROOT / "launch").glob("*.launch.py"))

FILES = Path(__file__).parent / "files"


def parameters_in_place(command):
    """The command with the content of each parameter file in place of the file's name."""
    return [
        (yaml.safe_load(Path(word).read_text()) if before == "--params-file" else word)
        for before, word in zip(["", *command], command, strict=False)
    ]


def ours(path, arguments, folder):
    return [
        {
            "cmd": parameters_in_place(process.argv),
            "env": {**os.environ, **process.env},
            "cwd": process.cwd,
            "respawn": process.respawn,
            "respawn_delay": process.respawn_delay or None,
        }
        for process in launch_file.load(path, arguments, folder)
    ]


def real(path, arguments, monkeypatch):
    """What ROS 2's launch would start; its processes are recorded in place of being started."""
    import launch
    from launch.actions import ExecuteLocal, IncludeLaunchDescription
    from launch.launch_description_sources import AnyLaunchDescriptionSource

    started = []

    def record(self, context):
        self.prepare(context)
        started.append(
            {
                "cmd": parameters_in_place(self.cmd),
                "env": dict(self.env),
                "cwd": self.cwd,
                "respawn": self._ExecuteLocal__respawn,
                "respawn_delay": self._ExecuteLocal__respawn_delay,
            }
        )

    monkeypatch.setattr(ExecuteLocal, "execute", record)
    before = dict(os.environ)
    service = launch.LaunchService(noninteractive=True)
    service.include_launch_description(
        launch.LaunchDescription(
            [
                IncludeLaunchDescription(
                    AnyLaunchDescriptionSource(str(path)), launch_arguments=arguments.items()
                )
            ]
        )
    )
    try:
        assert service.run() == 0
    finally:  # set_env sets the launching process's own environment
        os.environ.clear()
        os.environ.update(before)
    return started


def compare(path, arguments, folder, monkeypatch):
    expected = real(path, arguments, monkeypatch)
    actual = ours(path, arguments, folder)
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine == theirs
    return expected


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"task": "pick_cube", "seed": "7", "joy": "false"},
        {"rate": "20.5", "title": 'it\'s "quoted"', "derived": "x"},
        {"seed": "-3", "joy": "False", "rate": ".5"},
    ],
)
def test_the_rich_example(demo, tmp_path, monkeypatch, arguments):
    assert compare(FILES / "rich.launch.yaml", arguments, tmp_path / "parameters", monkeypatch)


@pytest.mark.parametrize(
    "text",
    [
        "arg: {name: seed, default: 0}",
        "arg: {name: seed, default: a, choice: [{value: b}]}",
        "arg: {name: seed}",
        "let: {name: x, value: $(var nowhere)}",
        "let: {name: x, value: $(nonsense 1)}",
        "let: {name: x, value: $(var }",
        "let: {name: x, value: $(env HILRL_TEST_NOT_SET)}",
        "let: {name: x, value: $(eval '1 +')}",
        "let: {name: x, value: $(find-pkg-share nowhere)}",
        "let: {name: x, value: $(command nowhere)}",
        "let: {name: x, value: $(command false)}",
        "let: {name: x, value: $(command 'ls nowhere' 'ignore')}",
        "let: {name: x, value: $(command 'sh -c \"echo err >&2\"')}",
        "let: {name: x, value: $(command true loud)}",
        "node: {pkg: demo, exec: nothing}",
        "node: {pkg: demo, exec: plain, nam: x}",
        "node: {pkg: demo, exec: plain, name: not-valid}",
        "node: {pkg: demo, exec: plain, namespace: not-valid}",
        "node: {pkg: demo, exec: plain, if: maybe}",
        "node: {pkg: demo, exec: plain, if: true}",
        "node: {pkg: demo, exec: plain, if: 'true', unless: 'true'}",
        "node: {pkg: demo, exec: plain, respawn: 'true', respawn_delay: '1.0'}",
        "node: {pkg: demo, exec: plain, on_exit: restart}",
        "node: {pkg: demo, exec: plain, param: [{name: x, value: [1, 2.0]}]}",
        "node: {pkg: demo, exec: plain, param: [{name: x, value: 1, type: str}]}",
        "node: {pkg: demo, exec: plain, param: [{name: x, value: '1', type: int}]}",
        "node: {pkg: demo, exec: plain, param: [{name: x, value: \"$(eval '[1, 2.0]')\"}]}",
        "node: {pkg: demo, exec: plain, param: [{name: x, value: null}]}",
        "node: {pkg: demo, exec: plain, param: [{name: x, value: [a, $(eval '1')]}]}",
        "node: {pkg: demo, exec: plain, args: it's}",
        "node: {pkg: demo, exec: plain, param: [{value: 1}]}",
        "node: {pkg: demo, exec: plain, param: [{name: x}]}",
        "nodes: {pkg: demo, exec: plain}",
    ],
)
def test_what_the_real_tool_refuses_is_refused(demo, tmp_path, monkeypatch, text):
    path = tmp_path / "bad.launch.yaml"
    path.write_text(f"launch:\n- {text}\n")
    with pytest.raises(AssertionError):
        real(path, {}, monkeypatch)
    with pytest.raises(UserError, match=r"bad\.launch\.yaml:2: "):
        ours(path, {}, tmp_path / "parameters")


@pytest.mark.parametrize("path", PROJECT, ids=[path.name for path in PROJECT])
def test_the_launch_files_of_the_suite(path, tmp_path, monkeypatch, pretend):
    pretend("robot_state_publisher", "robot_state_publisher")
    pretend("controller_manager", "ros2_control_node", "spawner")
    pretend("ros_gz_bridge", "parameter_bridge")
    arguments = launch_file.declared_arguments(path).values()
    given = {a.name: "1" for a in arguments if a.default is None}
    compare(path, given, tmp_path / "parameters", monkeypatch)


def test_another_bag_of_a_recording(tmp_path, monkeypatch):
    compare(ROOT / "launch/record_demos.launch.yaml", {"bag": "/tmp/whole"}, tmp_path / "p", monkeypatch)


@pytest.mark.parametrize("path", PYTHON, ids=[path.name for path in PYTHON])
def test_python_launch_files_declare_the_arguments_of_the_yaml(path):
    from launch.launch_description_sources import get_launch_description_from_any_launch_file

    arguments = get_launch_description_from_any_launch_file(str(path)).get_launch_arguments()
    assert {a.name for a in arguments} == set(launch_file.declared_arguments(path.with_suffix(".yaml")))
