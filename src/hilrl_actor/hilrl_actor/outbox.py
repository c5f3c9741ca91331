"""Transitions that were sent and are not acknowledged yet, in a file: a killed actor loses none."""

from __future__ import annotations

import os
import struct
from collections import deque
from pathlib import Path

_HEADER = struct.Struct("<8sQ")  # magic, newest sequence number that is no longer in the file
_RECORD = struct.Struct("<QI")  # sequence number, length
_MAGIC = b"hilrlbox"


class OutboxError(ValueError):
    """A file that is no outbox; the message names it and says what to do."""


class Outbox:
    """Keeps serialised transitions until the learner says that they are safe.

    A record reaches the file before the message reaches the network, so what was counted as sent can be sent
    again after a crash of either side. No fsync: a killed process loses nothing that it wrote, only a power cut does.

    Attributes:
        sent: Newest sequence number, 0 before the first.
        acknowledged: Newest sequence number that the learner has.
    """

    def __init__(self, path: Path, compact_bytes: int = 64 << 20):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.compact_bytes = path, compact_bytes
        self.waiting: deque[tuple[int, bytes]] = deque()
        base = self._read() if path.exists() else 0
        self.sent = self.waiting[-1][0] if self.waiting else base
        self.acknowledged = base
        self._rewrite()

    def add(self, data: bytes) -> int:
        """Keep a serialised transition whose sequence number is `sent` + 1; return that number."""
        self.sent += 1
        os.write(self.file, _RECORD.pack(self.sent, len(data)) + data)
        self.size += _RECORD.size + len(data)
        self.waiting.append((self.sent, data))
        return self.sent

    def acknowledge(self, seq: int) -> None:
        """Forget all up to `seq`."""
        self.acknowledged = max(self.acknowledged, min(seq, self.sent))
        while self.waiting and self.waiting[0][0] <= self.acknowledged:
            self.waiting.popleft()
        if self.size > self.compact_bytes and not self.waiting:
            os.close(self.file)
            self._rewrite()

    def close(self) -> None:
        """Close the file."""
        os.close(self.file)

    def _read(self) -> int:
        data = self.path.read_bytes()
        if len(data) < _HEADER.size or data[:8] != _MAGIC:
            # to begin anew would count from 1 again, and the learner would take it all for repeats
            raise OutboxError(
                f"{self.path}: damaged, its numbering is lost; begin a new run, or remove the file "
                "and the run's replay folder"
            )
        base, at = _HEADER.unpack_from(data)[1], _HEADER.size
        while at + _RECORD.size <= len(data):
            seq, length = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            if at + length > len(data):
                break  # cut off by a kill in the middle of a write: it was never sent
            self.waiting.append((seq, data[at : at + length]))
            at += length
        return base

    def _rewrite(self) -> None:
        new = self.path.with_suffix(".new")
        records = b"".join(_RECORD.pack(seq, len(data)) + data for seq, data in self.waiting)
        base = self.waiting[0][0] - 1 if self.waiting else self.sent
        new.write_bytes(_HEADER.pack(_MAGIC, base) + records)
        os.replace(new, self.path)
        self.file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self.size = _HEADER.size + len(records)
