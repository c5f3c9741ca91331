"""The controlling terminal: keys as they are pressed, and one line that changes in place."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty

from hilrl_ros.node import UserError


class Terminal:
    """Reads keys without waiting for enter and without echo; ctrl-C still interrupts.

    Raises:
        UserError: The process has no terminal, or runs in its background.
    """

    def __init__(self):
        try:
            # its own open file: whoever shares stdin is not affected by O_NONBLOCK
            self._fd = os.open("/dev/tty", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            raise UserError(
                "keys are read from a terminal and this process has none (a launch file gives none): "
                "start it in a terminal of its own, with `hilrl keyboard` or `ros2 run hilrl_teleop keyboard`"
            ) from None
        if os.tcgetpgrp(self._fd) != os.getpgrp():
            os.close(self._fd)
            raise UserError("keys are read in the foreground of a terminal: start this without '&'")
        self._before = termios.tcgetattr(self._fd)
        self._line = ""
        self.open = True
        self._enter()
        # a shell that had stopped the process (ctrl-Z) hands the terminal back in its own mode
        signal.signal(signal.SIGCONT, lambda *_: self._enter())

    def _enter(self) -> None:
        tty.setcbreak(self._fd)

    def read(self) -> bytes:
        """Return the bytes typed since the last call; `open` is False once the terminal is gone."""
        try:
            data = os.read(self._fd, 1024)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        self.open = bool(data)
        return data

    def print(self, text: str) -> None:
        """Write lines that stay."""
        self._write(f"\r\033[K{text}\n{self._line}")

    def status(self, line: str) -> None:
        """Show a line in place of the last one."""
        if line != self._line:
            self._line = line
            self._write(f"\r\033[K{line}")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone, or nobody reads it
            os.write(self._fd, text.encode())

    def close(self) -> None:
        """Give the terminal back as it was."""
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        if self._line:
            self._write("\n")
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
        os.close(self._fd)
