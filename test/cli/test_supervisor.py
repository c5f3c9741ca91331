import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from hilrl_cli import supervisor as supervisor_module
from hilrl_cli.launch_file import Process
from hilrl_cli.supervisor import Supervisor


class Lines:
    """A view that keeps the lines, and acts when one matches."""

    def __init__(self, on=None, action=None):
        self.lines, self.on, self.action = [], on, action

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def update(self, lines):
        for line in lines:
            self.lines.append(line)
            if self.on and re.search(self.on, line):
                self.action(line)

    @property
    def text(self):
        return "\n".join(self.lines)


def shell(name, script, **settings):
    return Process(name, ("sh", "-c", script), output="screen", **settings)


def supervise(tmp_path, *processes, view=None):
    view = view or Lines()
    started = time.monotonic()
    code = Supervisor(processes, tmp_path / "log", view).run()
    return code, view, time.monotonic() - started


def interrupt(line=None):
    os.kill(os.getpid(), signal.SIGINT)


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_lines_carry_their_process_and_go_to_its_log(tmp_path):
    code, view, _ = supervise(tmp_path, shell("one", "echo out; echo err >&2; printf unfinished"))
    assert code == 0
    assert {"[one] out", "[one] err", "[one] unfinished"} <= set(view.lines)
    log = (tmp_path / "log" / "one.log").read_text()
    assert {"out", "err", "unfinished"} <= set(re.findall(r"out|err|unfinished", log))


def test_output_log_shows_errors_only_and_keeps_both(tmp_path):
    quiet = Process("quiet", ("sh", "-c", "echo out; echo err >&2"), output="log")
    _, view, _ = supervise(tmp_path, quiet)
    assert view.lines == ["[quiet] err"]
    assert "out" in (tmp_path / "log" / "quiet.log").read_text()


def test_a_flood_of_output_arrives_whole(tmp_path):
    _, view, _ = supervise(tmp_path, shell("flood", "seq 20000"))
    assert view.lines == [f"[flood] {i}" for i in range(1, 20001)]


def test_the_environment_of_a_process_is_its_own(tmp_path):
    _, view, _ = supervise(tmp_path, shell("a", "echo $WHO", env={"WHO": "a"}), shell("b", "echo x$WHO"))
    assert {"[a] a", "[b] x"} <= set(view.lines)


def test_a_respawning_process_comes_back_after_kill_9(tmp_path):
    pids = []

    def kill_or_stop(line):
        pids.append(int(line.split()[-1]))
        if len(pids) == 1:
            os.kill(pids[0], signal.SIGKILL)
        else:
            interrupt()

    view = Lines(r"pid \d+", kill_or_stop)
    process = shell("learner", "echo pid $$; exec sleep 60", respawn=True, respawn_delay=0.3)
    code, view, wall = supervise(tmp_path, process, view=view)
    assert code == 0
    assert len(set(pids)) == 2
    assert 0.3 < wall < 5
    assert "[launch] learner killed by SIGKILL; restarting it in 0.3 s" in view.lines


def test_a_crash_loop_ends_with_one_sentence(tmp_path):
    other = shell("other", "exec sleep 60")
    code, view, wall = supervise(tmp_path, shell("bad", "exit 7", respawn=True), other)
    assert code == 7
    assert wall < 5
    assert re.search(
        r"bad ended 5 times within 60 s \(ended with exit code 7\): stopping; see \S+bad\.log", view.text
    )


def test_what_another_start_would_not_mend_ends_the_launch_at_once(tmp_path):
    other = shell("other", "exec sleep 60")
    code, view, wall = supervise(tmp_path, shell("bad", "echo go; exit 2", respawn=True), other)
    assert code == 2 and wall < 5
    assert view.lines.count("[bad] go") == 1
    assert re.search(r"bad cannot work with what it was given: stopping; see \S+bad\.log", view.text)


def test_respawn_max_retries_is_kept(tmp_path):
    code, view, _ = supervise(tmp_path, shell("bad", "echo go; exit 4", respawn=True, respawn_max_retries=2))
    assert view.lines.count("[bad] go") == 3
    assert code == 4


def test_on_exit_shutdown_ends_the_others_and_gives_the_exit_code(tmp_path):
    code, view, wall = supervise(
        tmp_path, shell("run", "sleep 0.2; exit 5", shutdown_on_exit=True), shell("other", "exec sleep 60")
    )
    assert code == 5
    assert wall < 3
    assert "[launch] run has ended: stopping" in view.lines


def test_the_code_is_that_of_the_first_failure(tmp_path):
    late = shell("late", "sleep 0.5; exit 6")
    assert supervise(tmp_path, shell("early", "exit 3"), late, shell("well", "true"))[0] == 3


def test_a_program_that_does_not_exist_is_named(tmp_path):
    code, view, _ = supervise(
        tmp_path, Process("ghost", ("/nowhere/ghost",)), shell("other", "exec sleep 60")
    )
    assert code == 1
    assert "[launch] ghost cannot be started: No such file or directory: /nowhere/ghost" in view.lines


STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
if "term" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("ignores", "last"), [("int", "SIGTERM"), ("term", "SIGKILL")])
def test_who_ignores_signals_gets_stronger_ones(tmp_path, monkeypatch, ignores, last):
    monkeypatch.setattr(supervisor_module, "STARTING", 0.0)
    argv = (sys.executable, "-c", STUBBORN, ignores)
    process = Process("deaf", argv, output="screen", sigterm_timeout=0.3, sigkill_timeout=0.3)
    code, view, wall = supervise(tmp_path, process, view=Lines("ready", interrupt))
    assert code == 0
    assert 0.3 < wall < 5
    assert re.findall(r"sending (\w+)", view.text)[-1] == last


# Python answers SIGINT from its first moment on, SIGTERM only when the program says how
IMPORTING = """
import signal, sys, time
if sys.argv[1] == "up": signal.signal(signal.SIGTERM, lambda *_: sys.exit("got SIGTERM"))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("state", "starting", "traceback"),
    [("importing", 60.0, False), ("up", 60.0, True), ("importing", 0.0, True)],
)
def test_who_is_still_importing_gets_sigterm_at_once(tmp_path, monkeypatch, state, starting, traceback):
    monkeypatch.setattr(supervisor_module, "STARTING", starting)
    child = Process("child", (sys.executable, "-c", IMPORTING, state), output="screen")
    code, view, wall = supervise(tmp_path, child, view=Lines("ready", interrupt))
    assert code == 0 and wall < 4
    assert ("KeyboardInterrupt" in view.text) == traceback
    assert "got SIGTERM" not in view.text and "sending" not in view.text  # nothing had to be repeated


def test_a_second_signal_kills_at_once(tmp_path):
    argv = (sys.executable, "-c", STUBBORN, "term")

    def twice(line):
        interrupt()
        threading.Timer(0.5, interrupt).start()

    code, _, wall = supervise(tmp_path, Process("deaf", argv, output="screen"), view=Lines("ready", twice))
    assert code == 0
    assert wall < 4


def test_nothing_that_a_process_started_is_left(tmp_path):
    pids = []
    view = Lines(r"pid \d+", lambda line: pids.append(int(line.split()[-1])))
    supervise(tmp_path, shell("parent", "sleep 60 & echo pid $!"), view=view)
    wait_until(lambda: not alive(pids[0]))


SUPERVISED = """
import sys
from hilrl_cli import supervisor as supervisor_module
from hilrl_cli.launch_file import Process
from hilrl_cli.supervisor import Supervisor
argv = (sys.executable, "-c", "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)")
Supervisor([Process("a", argv, output="screen"), Process("b", argv, output="screen")], sys.argv[1]).run()
"""


def test_kill_9_of_the_supervisor_leaves_no_orphan(tmp_path):
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    pids = [int(re.search(r"pid (\d+)", supervisor.stdout.readline())[1]) for _ in range(2)]
    assert all(alive(pid) for pid in pids)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    wait_until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_supervisor_ends_it_cleanly(tmp_path, number):
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    pids = [int(re.search(r"pid (\d+)", supervisor.stdout.readline())[1]) for _ in range(2)]
    supervisor.send_signal(number)
    rest, _ = supervisor.communicate(timeout=10)
    assert supervisor.returncode == 0
    assert "[launch] stopping" in rest
    assert not any(alive(pid) for pid in pids)
    assert (Path(tmp_path) / "a.log").is_file()
