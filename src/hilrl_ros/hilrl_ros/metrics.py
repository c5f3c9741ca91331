"""Scalars over time as TensorBoard events, without importing a learning framework."""

from __future__ import annotations

import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class EventLog:
    """Writes scalars that `tensorboard --logdir` shows.

    Args:
        folder: Folder of the event file; made if missing.
    """

    def __init__(self, folder: Path):
        self.writer = EventFileWriter(str(folder))

    def add(self, step: int, **scalars: float) -> None:
        """Add scalars by name at a step."""
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in scalars.items()]
        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Write what is pending."""
        self.writer.close()
