"""The keyboard node as a person runs it: a process on a terminal of its own."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios

import pytest
from hilrl_msgs.msg import Action, OperatorEvent
from std_msgs.msg import Bool

from hilrl_ros import qos

NODE = [sys.executable, "-c", "from hilrl_teleop.keyboard_node import main; main()"]
HILRL = [sys.executable, "-c", "from hilrl_cli.main import main; main(['keyboard'])"]


class KeyboardProcess:
    """The node on a pseudo-terminal."""

    def __init__(self, command):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)
        os.set_blocking(self.master, False)
        self.output, self.status = "", None

    def type(self, text):
        os.write(self.master, text.encode())

    def shows(self, text):
        """Whether the terminal has shown a text by now."""
        with contextlib.suppress(BlockingIOError, OSError):
            self.output += os.read(self.master, 65536).decode()
        return text in self.output

    def ended(self):
        if self.status is None and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.status = True
        return self.status is not None

    def close(self):
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


@pytest.fixture
def keyboard():
    made = []

    def make(command=NODE):
        made.append(KeyboardProcess(command))
        return made[-1]

    yield make
    for process in made:
        process.close()


@pytest.mark.graph
def test_a_person_drives_with_the_keys_of_a_terminal(make_graph, keyboard):
    graph = make_graph()
    actions = graph.listen(Action, "teleop/action", qos.STEP)
    events = graph.listen(OperatorEvent, "operator_event", qos.STEP)
    process = keyboard()
    graph.connect()
    graph.until(lambda: actions and process.shows("space: take control") and process.shows("you have let go"))
    before = termios.tcgetattr(process.master)[3]
    assert not before & termios.ECHO  # keys do not clutter the screen

    # a press shows for a moment only: it may be over when this process looks
    process.type("w")  # not in control yet
    graph.until(lambda: any(a.action[2] == 0.5 for a in actions))
    assert {a.controller for a in actions} == {Action.NOBODY}
    assert {a.device for a in actions} == {"keyboard"}

    process.type(" \x1b[Ao")
    driven = []
    graph.until(lambda: driven.extend(a for a in actions if a.action[0] == 0.5) or driven)
    assert driven[-1].controller == Action.PERSON and driven[-1].space == Action.EE_DELTA
    assert driven[-1].action[6] == 0.5
    graph.until(lambda: not any(actions[-1].action))  # nothing repeats: the motion ends by itself
    assert actions[-1].controller == Action.PERSON
    graph.until(lambda: process.shows("you drive"))

    process.type("\n\x7fxp")
    graph.until(lambda: len(events) == 4)
    assert [e.event for e in events] == [
        OperatorEvent.SUCCESS, OperatorEvent.FAILURE, OperatorEvent.DISCARD, OperatorEvent.PAUSE,
    ]  # fmt: skip

    process.type("\x03")  # ctrl-C, while in control
    graph.until(lambda: process.ended() and actions[-1].controller == Action.NOBODY)
    assert termios.tcgetattr(process.master)[3] & termios.ECHO  # the terminal is as it was


@pytest.mark.graph
def test_with_a_leader_arm_the_keyboard_is_its_dead_man(make_graph, keyboard):
    graph = make_graph()
    held = graph.listen(Bool, "teleop/deadman", qos.STEP)
    process = keyboard([*NODE, "--ros-args", "-p", "drives:=leader"])
    graph.connect()
    graph.until(lambda: held and not held[-1].data)
    process.type(" ")
    graph.until(lambda: held[-1].data)
    process.type(" ")
    graph.until(lambda: not held[-1].data)
    assert graph.probe.count_publishers("teleop/action") == 0


def test_without_a_terminal_it_says_how_to_start_it():
    result = subprocess.run(NODE, start_new_session=True, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "start it in a terminal of its own, with `hilrl keyboard` or `ros2 run hilrl" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.graph
def test_hilrl_keyboard_is_the_same_node(make_graph, keyboard):
    graph = make_graph()
    actions = graph.listen(Action, "teleop/action", qos.STEP)
    process = keyboard(HILRL)
    graph.connect()
    process.type(" ")
    graph.until(lambda: actions and actions[-1].controller == Action.PERSON)
    process.type("\x03")
    graph.until(process.ended)
