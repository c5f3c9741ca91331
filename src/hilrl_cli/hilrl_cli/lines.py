"""What the person types: lines that are waited for, or looked for while something else goes on."""

from __future__ import annotations

import os
import select
import sys

from .errors import UserError


class Lines:
    """Lines of standard input, read past Python's buffer, so that waiting and looking see the same lines."""

    def __init__(self, fd: int = 0):
        self._fd, self._buffer = fd, b""

    def ask(self, question: str) -> str:
        """Print a question and wait for the answer, in small letters and without spaces around it.

        Raises:
            UserError: The input has ended.
        """
        print(question, end=" ", flush=True)
        while b"\n" not in self._buffer:
            self._read()
        if not sys.stdin.isatty():
            print()
        return self._line()

    def entered(self) -> bool:
        """Whether enter was pressed; never waits. UserError if the input has ended."""
        if b"\n" not in self._buffer and select.select([self._fd], [], [], 0)[0]:
            self._read()
        if b"\n" not in self._buffer:
            return False
        self._line()
        return True

    def _read(self) -> None:
        data = os.read(self._fd, 1024)
        if not data:
            raise UserError("the input has ended: run this in a terminal, it asks for things")
        self._buffer += data

    def _line(self) -> str:
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="ignore").strip().lower()
