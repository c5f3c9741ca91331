"""Runs the processes of a launch: output, restarts, an orderly end, no orphans."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from .launch_file import Process

STARTING = 60.0  # s, how long a process may be busy with imports on a machine that has much to do
SETTINGS = 2  # exit code of what another start would not mend (hilrl_ros.node.run)
CRASHES, CRASH_WINDOW = 5, 60.0  # as many ends within so many seconds are a crash loop
_TICK = 0.05  # s, how late an end or a due restart is noticed
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class View(Protocol):
    """Where the supervisor's lines go: the terminal, or a live display instead of it."""

    def __enter__(self) -> View: ...

    def __exit__(self, *exception: object) -> None: ...

    def update(self, lines: list[str]) -> None:
        """Take new lines, each with its `[process]` in front."""


class Terminal:
    """Prints the lines as they are."""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, lines: list[str]) -> None:
        """Print new lines."""
        print("\n".join(lines), flush=True)


class Supervisor:
    """Runs processes until they have ended, one marked `on_exit: shutdown` ends, or a signal comes.

    Each process leads a session of its own, so that a Ctrl-C in the terminal reaches the supervisor
    alone and each child exactly once, through it. A child that outlives its supervisor is killed by
    the kernel.
    """

    def __init__(
        self, processes: Sequence[Process], log_folder: str | Path, view: View | None = None
    ) -> None:
        self.log_folder = Path(log_folder)
        self.view = view or Terminal()
        self.children = [_Child(process) for process in processes]
        self.selector = selectors.DefaultSelector()
        self.signals = 0
        self.stopped_at: float | None = None
        self.exit_code = 0

    def run(self) -> int:
        """Run to the end; 0, or the code of the first process that failed without being restarted."""
        self.log_folder.mkdir(parents=True, exist_ok=True)
        ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        handlers = {number: signal.signal(number, self._on_signal) for number in ends}
        try:
            with self.view:
                for child in self.children:
                    if self.stopped_at is None:
                        self._start(child)
                while any(child.popen or child.restart_at for child in self.children):
                    self._tick()
        finally:
            for child in self.children:
                child.kill()  # none is left, but after an error in here
            self.selector.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.exit_code

    def say(self, text: str) -> None:
        """Show a line of the supervisor's own."""
        self.view.update([f"[launch] {text}"])

    def stop(self, reason: str) -> None:
        """Begin the end: SIGINT now, SIGTERM and SIGKILL to those that do not heed it."""
        if self.stopped_at is None:
            self.say(reason)
            self.stopped_at = time.monotonic()
            for child in self.children:
                child.restart_at = None
                # while it imports, Python would answer SIGINT with a traceback
                child.signal(signal.SIGTERM if child.is_starting() else signal.SIGINT)

    def _on_signal(self, number: int, frame: object) -> None:
        self.signals += 1

    def _tick(self) -> None:
        for key, _ in self.selector.select(_TICK):
            if not self._read(*key.data):
                self._release(*key.data)
        if self.signals:
            self.stop("stopping")
        if self.signals > 1:
            for child in self.children:
                child.kill()
        for child in self.children:
            if child.popen and child.popen.poll() is not None:
                self._ended(child)
            elif child.restart_at and time.monotonic() >= child.restart_at:
                self._start(child)
            elif self.stopped_at is not None:
                self._escalate(child)

    def _start(self, child: _Child) -> None:
        child.restart_at, child.started_at = None, time.monotonic()
        process = child.process
        try:
            child.popen = subprocess.Popen(
                process.argv,
                # Unbuffered: a line shall appear when it is printed, also through a pipe.
                env={**os.environ, "PYTHONUNBUFFERED": "1", **process.env},
                cwd=process.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        except OSError as error:
            self.exit_code = self.exit_code or 1
            self.stop(f"{process.name} cannot be started: {error.strerror}: {process.argv[0]}")
            return
        child.log = open(self.log_folder / f"{process.name}.log", "ab", buffering=0)  # noqa: SIM115
        shown = process.output in ("screen", "both", "full")
        for stream, on_screen in ((child.popen.stdout, shown), (child.popen.stderr, True)):
            os.set_blocking(stream.fileno(), False)
            self.selector.register(stream, selectors.EVENT_READ, (child, stream, on_screen))

    def _read(self, child: _Child, stream: IO[bytes], on_screen: bool) -> bool:
        """Take what a stream holds, all into the log and whole lines to the view; whether there was any."""
        try:
            data = os.read(stream.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        child.log.write(data)
        *lines, child.partial[stream] = (child.partial.get(stream, b"") + data).split(b"\n")
        self._show(child, lines if on_screen else [])
        return bool(data)

    def _release(self, child: _Child, stream: IO[bytes], on_screen: bool) -> None:
        """Let go of a stream that has ended, or that nobody who matters writes to any more."""
        self.selector.unregister(stream)
        rest = child.partial.pop(stream, b"")
        self._show(child, [rest] if rest and on_screen else [])

    def _show(self, child: _Child, lines: list[bytes]) -> None:
        if lines:
            self.view.update([f"[{child.process.name}] {line.decode(errors='replace')}" for line in lines])

    def _ended(self, child: _Child) -> None:
        """Deal with the end of a process: report, restart it, or end all."""
        child.signal_group(signal.SIGKILL)  # what it started and left behind
        for key in [k for k in self.selector.get_map().values() if k.data[0] is child]:
            while self._read(*key.data):
                pass
            self._release(*key.data)
        code, process = child.popen.returncode, child.process
        child.close()
        if self.stopped_at is not None:
            return
        now = time.monotonic()
        child.ends.append(now)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        exit_code = 128 - code if code < 0 else code
        log = self.log_folder / f"{process.name}.log"
        if process.respawn and code == SETTINGS:
            self.exit_code = self.exit_code or code
            self.stop(f"{process.name} cannot work with what it was given: stopping; see {log}")
            return
        if process.respawn and not 0 <= process.respawn_max_retries < len(child.ends):
            recent = [end for end in child.ends if now - end < CRASH_WINDOW]
            if len(recent) < CRASHES:
                child.restart_at = now + process.respawn_delay
                self.say(f"{process.name} {how}; restarting it in {process.respawn_delay:g} s")
                return
            self.exit_code = self.exit_code or exit_code or 1
            self.stop(
                f"{process.name} ended {CRASHES} times within {CRASH_WINDOW:g} s ({how}): stopping; see {log}"
            )
            return
        self.exit_code = self.exit_code or exit_code
        if code:
            self.say(f"{process.name} {how}; see {log}")
        if process.shutdown_on_exit:
            self.stop(f"{process.name} has ended: stopping")

    def _escalate(self, child: _Child) -> None:
        waited = time.monotonic() - self.stopped_at
        process = child.process
        for number, after in (
            (signal.SIGTERM, process.sigterm_timeout),
            (signal.SIGKILL, process.sigterm_timeout + process.sigkill_timeout),
        ):
            if child.popen and waited >= after and number not in child.sent:
                self.say(f"{process.name} did not stop within {after:g} s: sending {number.name}")
                child.signal(number)


class _Child:
    """A process of the launch and its present incarnation."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.popen: subprocess.Popen | None = None
        self.log: IO[bytes] | None = None
        self.partial: dict[IO[bytes], bytes] = {}
        self.restart_at: float | None = None
        self.started_at = 0.0
        self.ends: deque[float] = deque(maxlen=1000)
        self.sent: set[int] = set()

    def is_starting(self) -> bool:
        """Whether the process is young and has not yet said what SIGTERM shall do, as a node does when it is up."""
        if self.popen is None or time.monotonic() - self.started_at > STARTING:
            return False
        try:
            status = Path(f"/proc/{self.popen.pid}/status").read_text()
        except OSError:  # it has just ended
            return False
        handled = re.findall(r"^Sig(?:Ign|Cgt):\s*(\w+)", status, re.M)
        return not any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in handled)

    def signal(self, number: int) -> None:
        """Send a signal to the process, as ROS 2's launch does; SIGKILL to all that it started too."""
        if self.popen and self.popen.poll() is None:
            self.sent.add(number)
            if number == signal.SIGKILL:
                self.signal_group(number)
            else:
                self.popen.send_signal(number)

    def signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        self.popen.stdout.close()
        self.popen.stderr.close()
        self.log.close()
        self.popen, self.log, self.partial = None, None, {}


def _die_with(parent: int):
    """What a new process does first: have the kernel kill it when the supervisor dies."""

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the supervisor died before that call
            os._exit(1)

    return prepare
