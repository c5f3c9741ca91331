"""Commands in the documentation exist: verbs, options, launch arguments, make targets, executables, topics."""

import re
import shlex

import pytest
from documentation import ROOT, pages, reference

BLOCK = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)
# Programs of others; what is given to them is not ours to check.
OTHERS = {"apt", "bash", "cd", "cp", "export", "find", "git", "ls", "mkdir", "mv", "pip", "rm", "rosdep", "rsync",
          "source", "sudo", "tensorboard", "uv", "ip", "."}  # fmt: skip
MAKEFILE = (ROOT / "Makefile").read_text()
# Which test runs a command that the pages show; what needs an arm there runs on the emulated one.
RUN_BY = {
    "bc": "cli/test_bc.py",
    "calibrate": "cli/test_calibrate.py",
    "crop": "cli/test_crop.py",
    "data": "cli/test_data.py",
    "doctor": "cli/test_doctor.py",
    "eval": "graph/test_commands.py",
    "find-bounds": "cli/test_find_bounds.py",
    "improve": "graph/test_improve.py",
    "keyboard": "teleop/test_keyboard_node.py",
    "launch": "graph/test_commands.py",
    "plot": "graph/test_commands.py",
    "record": "graph/test_record.py",
    "reward": "cli/test_reward.py",
    "run": "graph/test_commands.py",
    "runs": "graph/test_commands.py",
    "setup-motors": "cli/test_setup_motors.py",
    "teleop": "graph/test_commands.py",
    "train": "graph/conftest.py",
}
# Which test starts a launch file that the pages start by `hilrl launch`.
LAUNCHED_BY = {
    "actor": "graph/test_two_machines.py",
    "learner": "graph/test_two_machines.py",
    "record_demos": "graph/test_watchdog.py",
    "rviz": "graph/test_commands.py",
    "sim": "graph/test_bad_input.py",
}
LAUNCH_FILES = reference.launch_files()
PARSERS = reference.command_parsers()
EXECUTABLES = {(package, name): module for package, name, module in reference.executables()}


def commands(page):
    """The commands of a page's bash blocks: words, without assignments, prompts and comments."""
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.split(" # ")[0]):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words:
                    yield words


def check_launch_words(name, words):
    """Arguments `name:=value` of a launch file."""
    arguments = reference.launch_arguments(LAUNCH_FILES[name])
    for word in words:
        argument, separator, value = word.partition(":=")
        assert separator, f"'{word}' is no name:=value"
        assert argument in arguments, f"{name} has no argument '{argument}'"
        choices = arguments[argument]["choices"]
        assert not choices or value in choices, f"{argument}:={value} is none of {choices}"


def check_hilrl(words):
    if words in (["--help"], ["--version"]):
        return
    assert words[0] in PARSERS, f"hilrl has no command '{words[0]}'"
    if "--help" in words:
        return
    given = PARSERS[words[0]].parse_args(words[1:])
    if words[0] == "launch" and not given.file.endswith(".yaml"):
        assert given.file in LAUNCH_FILES, f"there is no launch file '{given.file}'"
        check_launch_words(given.file, given.arguments)
    files = {"train": "sim", "record": "record_demos", "teleop": "teleop", "eval": "eval", "run": "eval"}
    if words[0] in files:
        check_launch_words(files[words[0]], given.arguments)
        for kind in ("task", "agent", "robot"):
            check_name(kind, getattr(given, kind, None))


def check_name(kind, name):
    """A task, agent or robot that a command names exists, or is a path."""
    if name and not name.endswith(".yaml"):
        assert (ROOT / "config" / f"{kind}s" / f"{name}.yaml").is_file(), f"there is no {kind} '{name}'"


def check_make(words):
    for word in words:
        variable, assigned, value = word.partition("=")
        if assigned:
            assert f"$({variable})" in MAKEFILE, f"the Makefile does not read {variable}"
            check_name(variable.lower(), value) if variable in ("TASK", "AGENT") else None
            if variable == "ARGS":
                check_launch_words("sim", value.split())
        else:
            assert re.search(rf"^{word}:", MAKEFILE, re.M), f"make has no target '{word}'"


def check_ros2(words):
    verb, *rest = words
    if verb == "launch" and rest[0] == "hilrl":
        file, *arguments = rest[1:]
        assert (ROOT / "launch" / file).is_file(), f"there is no launch file {file}"
        arguments = [a for a in arguments if a != "--show-args"]
        check_launch_words(file.removesuffix(".launch.py"), arguments)
    elif verb == "run" and rest[0].startswith("hilrl"):
        assert tuple(rest[:2]) in EXECUTABLES, f"package {rest[0]} has no executable '{rest[1]}'"
        text = (reference.SRC / rest[0] / EXECUTABLES[tuple(rest[:2])].replace(".", "/")).with_suffix(".py")
        for word in rest[2:]:
            name, assigned, _ = word.partition(":=")
            if assigned and "__" not in name and "/" not in name:
                known = name in text.read_text() or any(f"`{name}`" in line for line in topics())
                assert known, f"{rest[1]} has neither parameter nor topic '{name}'"
    elif verb == "topic" and rest[0] in ("echo", "hz", "delay", "info", "bw"):
        name = next(word for word in rest[1:] if not word.startswith("-")).lstrip("/")
        assert any(f"`{name}`" in line or f"`/{name}`" in line for line in topics()), f"no topic '{name}'"


def topics():
    return (reference.OUT / "topics.md").read_text().splitlines()


@pytest.mark.parametrize("page", pages(), ids=[str(p.relative_to(ROOT)) for p in pages()])
def test_commands_exist(page):
    for program, *words in commands(page):
        program = program.removeprefix(".venv/bin/").removeprefix("hilrl/.venv/bin/")
        if program == "hilrl":
            check_hilrl(words)
        elif program == "make":
            check_make(words)
        elif program == "ros2":
            check_ros2(words)
        elif program == "colcon":
            assert words[0] in ("build", "test", "list"), words
        elif program in ("python", "python3"):
            assert words[0].startswith("-") or (ROOT / words[0]).is_file(), f"there is no {words[0]}"
        else:
            assert program in OTHERS, f"'{program}' is neither the suite's nor among the programs known here"


def test_each_command_is_run_by_a_test():
    """Those of ROS 2's own tools and of make are not among them: docs/index.md says what they need."""
    shown, launched = set(), set()
    for page in pages():
        for program, *words in commands(page):
            if program.endswith("hilrl") and words[0] in PARSERS and "--help" not in words:
                shown.add(words[0])
                if words[0] == "launch" and not words[1].endswith(".yaml"):
                    launched.add(words[1])
    assert shown == set(RUN_BY) and launched == set(LAUNCHED_BY)
    for name, file in [*RUN_BY.items(), *LAUNCHED_BY.items()]:
        calls = re.search(rf"""["']{name}["']""", (ROOT / "test" / file).read_text())
        assert calls, f"test/{file} does not run {name}"


def test_a_wrong_command_is_found():
    for words in (["sim"], ["eval", "runs/x", "--epsodes", "3"], ["launch", "sim", "seeed:=1"]):
        with pytest.raises((AssertionError, SystemExit)):
            check_hilrl(words)
    for words in (["simm"], ["sim", "SEEED=1"], ["sim", "TASK=nothing"]):
        with pytest.raises(AssertionError):
            check_make(words)
    with pytest.raises(AssertionError):
        check_ros2(["launch", "hilrl", "sim.launch.py", "lockstep:=maybe"])
