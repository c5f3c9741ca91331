"""The calm live view of a run: one panel that changes in place, log lines scroll above it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_CONTROL = {"policy": "[cyan]policy[/]", "person": "[bold yellow]person[/]", "nobody": "[dim]nobody[/]"}
# a line of a node that a person should see while the panel tells the rest
_SHOWN = ("[WARN]", "[ERROR]", "[FATAL]", "Traceback")


def for_people(line: str) -> str | None:
    """Return what a person should see of a process's line while a view tells the rest; None for nothing."""
    if line.startswith("[reset]") and "]: " in line and not any(mark in line for mark in _SHOWN):
        return line.split("]: ", 1)[1]  # it asks the person for something
    return line if line.startswith("[launch]") or any(mark in line for mark in _SHOWN) else None


class RunView:
    """Shows `status.json` of a run while it goes on.

    Nodes' lines go to their log files; only warnings, errors and the supervisor's own lines are printed.

    Args:
        folder: The run's folder; it may not exist yet.
        console: Where to draw.
    """

    def __init__(self, folder: Path, console: Console | None = None):
        self.folder, self.console = folder, console or Console()
        self.speed: tuple[float, int, float] | None = None  # wall time, robot steps, steps/s
        self.live = Live(
            get_renderable=self.panel, console=self.console, refresh_per_second=4, transient=False
        )

    def __enter__(self) -> RunView:
        self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def update(self, lines: list[str]) -> None:
        """Take new lines of the processes."""
        for line in lines:
            if text := for_people(line):
                self.console.print(Text(text))

    def status(self) -> dict[str, Any] | None:
        """Return the run's newest status, None before there is one."""
        try:
            return json.loads((self.folder / "status.json").read_text())
        except (OSError, ValueError):
            return None

    def panel(self) -> Panel:
        """Return what is drawn now."""
        status = self.status()
        if status is None:
            return Panel(Text("starting the graph …"), title="hilrl", title_align="left")
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        table.add_row("phase", self._phases(status["plan"], status["phase"]))
        wanted = f" of {status['wanted']}" if status["wanted"] else ""
        table.add_row("episode", f"{status['in_phase']}{wanted}   in control: {_CONTROL[status['control']]}")
        if status["baseline"]:
            table.add_row("imitation", self._marks([[s, True] for s in status["baseline"]]))
        if status["recent"]:
            trains = "train" in status["plan"]
            target = status["target_success"] if trains else None
            table.add_row("training" if trains else "newest", self._marks(status["recent"]))
            table.add_row("autonomous", self._bar(status["autonomous_success"], target))
            table.add_row("person", self._bar(status["person_share"], None))
        if len(status["eval_curve"]) > 1:
            table.add_row("measured", "  ".join(f"{rate:.0%}" for _, rate in status["eval_curve"]))
        if status["evaluation"] is not None:
            table.add_row("evaluation", self._bar(status["evaluation"], status["target_success"]))
        speed = self._speed(status)
        table.add_row(
            "speed",
            f"{speed:.0f} steps/s   {status['updates_per_s']:.0f} updates/s   policy v{status['policy_version']}",
        )
        table.add_row(
            "so far",
            f"{status['robot_steps']} robot steps   {status['updates']} updates   {status['wall_s']:.0f} s"
            f"   {self._eta(status, speed)}",
        )
        title = f"hilrl  {status['task']}  {status['agent']}  seed {status['seed']}"
        return Panel(
            Group(table), title=title, title_align="left", subtitle=str(self.folder), subtitle_align="left"
        )

    def _phases(self, plan: list[str], phase: str) -> Text:
        text = Text()
        for name in plan:
            text.append(name + "  ", style="bold green" if name == phase else "dim")
        if phase == "done":
            text.append("done", style="bold green")
        return text

    def _marks(self, episodes: list) -> Text:
        text = Text()
        for success, autonomous in episodes:
            style = "green" if success and autonomous else "yellow" if success else "red"
            text.append("●" if success else "○", style=style)
        return text

    def _bar(self, share: float, target: float | None) -> Table:
        row = Table.grid(padding=(0, 1))
        done = target is not None and share >= target
        bar = ProgressBar(total=1.0, completed=share, width=30, complete_style="green" if done else "cyan")
        row.add_row(bar, f"{share:.0%}" + (f" (target {target:.0%})" if target is not None else ""))
        return row

    def _speed(self, status: dict[str, Any]) -> float:
        now, steps = status["wall_s"], status["robot_steps"]
        if self.speed is None or steps < self.speed[1]:
            self.speed = (now, steps, 0.0)
        before, old, speed = self.speed
        if now - before >= 2.0:
            speed = (steps - old) / (now - before)
            self.speed = (now, steps, speed)
        return speed

    def _eta(self, status: dict[str, Any], speed: float) -> str:
        if status["phase"] != "train" or speed < 1:
            return ""
        left = (status["max_steps"] - status["robot_steps"]) / speed
        return f"at most {time.strftime('%H:%M:%S', time.gmtime(left))} more"
