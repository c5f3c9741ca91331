"""Commands that meet a finished run, or a person's hand: they do what they say, and ctrl-C ends them."""

import json
import re
import subprocess

import pytest

from .conftest import HILRL, Launched

pytestmark = pytest.mark.graph


def hilrl(*words, timeout=120):
    return subprocess.run(
        [HILRL, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False
    )


def test_runs_and_plot(run, tmp_path):
    listed = hilrl("runs", run.folder.parent)
    assert listed.returncode == 0 and re.search(r"killed .*reach", listed.stdout), listed.stdout
    picture = tmp_path / "curves.png"
    drawn = hilrl("plot", run.folder, "-o", picture)
    assert drawn.returncode == 0 and picture.stat().st_size > 10_000, drawn.stderr


def test_eval(run):
    measured = hilrl("eval", run.folder, "--episodes", "2", "--json")
    assert measured.returncode == 0, measured.stderr
    result = json.loads(measured.stdout)
    assert result["episodes"] == 2 and result["success_rate"] in (0.0, 0.5, 1.0)


def ended(graph):
    """Press ctrl-C in a graph; return what it showed, which is no error."""
    graph.stop()
    text = graph.text()
    assert graph.process.returncode == 0 and not re.search(
        r"\[ERROR\]|\[FATAL\]|Traceback|sending SIG", text
    ), text
    return text


@pytest.fixture
def start(tmp_path, own_domain):
    """Start a command, as `start("teleop", …)`; it is stopped at the end."""
    made = []

    def make(*words):
        made.append(Launched(tmp_path / words[0], list(map(str, words))))
        return made[-1]

    yield make
    for graph in made:
        graph.stop()


def test_run_lets_the_policy_work_until_ctrl_c(run, start):
    graph = start("run", run.folder, "--port", "sim", "--operator", "scripted")
    graph.wait_for(lambda: list(run.folder.glob("run_*/episodes.csv")))
    assert re.search(r"episodes?: .* solved by the policy alone", ended(graph))


def test_teleop_moves_the_emulated_arm_until_ctrl_c(start):
    graph = start("teleop", "--task", "reach", "--port", "emulated", "--operator", "scripted")
    graph.wait_for(lambda: "you, with joy_teleop" in graph.text())
    ended(graph)


def test_launch_of_what_rviz_shows_until_ctrl_c(start):
    graph = start("launch", "rviz", "rviz:=false")
    graph.wait_for(lambda: graph.node("box_handles"))
    ended(graph)
