"""hilrl calibrate: tells an arm where its joints' middles and ends are, and keeps it where LeRobot does."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from hilrl_cli import environment
from hilrl_cli.arm import EMULATED, IDS, PATIENCE, Hand, add_port, open_port
from hilrl_cli.errors import UserError
from hilrl_cli.lines import Lines

FULL_TURN = "wrist_roll"  # has no stops to find
# Degrees that a joint must have been moved by: more than from its middle to one end.
LEAST = {"gripper": 70.0}
LEAST_ARM = 150.0
PAUSE = 0.02  # s between two readings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument(
        "--name",
        required=True,
        help="name of the arm; LeRobot's robot.id or teleop.id, and its calibration's",
    )
    add_port(parser)
    parser.add_argument("--again", action="store_true", help="calibrate anew although there is a calibration")


def run(arguments: argparse.Namespace) -> int:
    """Guide through the calibration; ctrl-C or an unplugged arm keeps what was recorded."""
    environment.enter()
    from so101_driver.calibration import Calibration

    place = Calibration.places(arguments.name, arguments.role)[0]
    if arguments.port == EMULATED:  # not among the calibrations of real arms
        place = Path(f"{arguments.name}.emulated.json").absolute()
    elif place.is_file() and not arguments.again:
        raise UserError(
            f"'{arguments.name}' is calibrated already ({place}); with --again it is calibrated anew"
        )
    progress = Progress(place.with_suffix(".partial"))
    lines = Lines()
    try:
        with open_port(arguments) as (port, hand):
            calibrate(port, hand, progress, lines, place)
    except (KeyboardInterrupt, UserError) as error:
        if progress.homing:
            progress.save()
        reason = "stopped" if isinstance(error, KeyboardInterrupt) else str(error)
        kept = f"; {progress.kept()}, the same command goes on from there" if progress.homing else ""
        raise UserError(f"{reason}{kept}") from None
    return 0


class Progress:
    """What was found out so far, in a file next to the calibration.

    Attributes:
        homing: Homing offset of each servo, ticks; empty until the middle pose was taken.
        ranges: Lowest and highest position of each joint that was moved, ticks.
    """

    def __init__(self, path: Path):
        self.path = path
        self.homing: dict[str, int] = {}
        self.ranges: dict[str, list[int]] = {}

    def load(self) -> bool:
        """Take up what an earlier try has left; False if there is nothing that can be read."""
        try:
            data = json.loads(self.path.read_text())
            self.homing, self.ranges = dict(data["homing"]), dict(data["ranges"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return set(self.homing) == set(IDS)

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"homing": self.homing, "ranges": self.ranges}))

    def add(self, name: str, position: int) -> None:
        """Widen a joint's range to a position."""
        low, high = self.ranges.get(name, (position, position))
        self.ranges[name] = [min(low, position), max(high, position)]

    def degrees(self, name: str) -> float:
        """How far a joint was moved."""
        low, high = self.ranges.get(name, (0, 0))
        return (high - low) * 360 / 4096

    def missing(self) -> list[str]:
        """Joints that were not moved far enough."""
        return [n for n in IDS if n != FULL_TURN and self.degrees(n) < LEAST.get(n, LEAST_ARM)]

    def kept(self) -> str:
        """What an interrupted calibration keeps, in words."""
        done = [name for name in IDS if name != FULL_TURN and name not in self.missing()]
        return f"the middle pose and the ranges of {', '.join(done) or 'no joint yet'} are kept"


def calibrate(port: str, hand: Hand | None, progress: Progress, lines: Lines, place: Path) -> None:
    """Calibrate the arm on a port and save the file."""
    from so101_driver import registers as reg
    from so101_driver.arm import Arm
    from so101_driver.bus import Bus
    from so101_driver.calibration import Calibration, JointCalibration

    with Bus(port, IDS.values(), timeout=PATIENCE) as bus:
        silent = [f"{id_} ({name})" for name, id_ in IDS.items() if not bus.ping(id_)]
        if silent:
            raise UserError(
                f"servo {', '.join(silent)} does not answer on {port}: check cable and power; for a new arm run "
                "`hilrl setup-motors` first"
            )
        for id_ in IDS.values():
            bus.write_register(id_, reg.TORQUE_ENABLE, 0)
            bus.write_register(id_, reg.LOCK, 0)
            bus.write_register(id_, reg.MODE, 0)
        offsets = {name: bus.read_register(id_, reg.HOMING_OFFSET) for name, id_ in IDS.items()}
        if progress.load() and progress.homing == offsets:
            print(f"Going on with an earlier calibration: {progress.kept()}.")
        else:
            take_middle(bus, progress, lines, hand)
        print(
            f"Now move every joint but {FULL_TURN} from stop to stop, in any order, and press enter when all are fine."
        )
        if hand:
            hand.sweep()
        record(bus, progress, lines)
        joints = {}
        for name, id_ in IDS.items():
            low, high = (0, reg.TICKS - 1) if name == FULL_TURN else progress.ranges[name]
            joints[name] = JointCalibration(id_, 0, progress.homing[name], low, high)
        calibration = Calibration(joints, str(place))
        Arm(bus, calibration).write_calibration()
        calibration.save(place)
    progress.path.unlink(missing_ok=True)
    print(f"Calibrated. Written to the servos and to {place}.")


def take_middle(bus, progress: Progress, lines: Lines, hand: Hand | None) -> None:
    """Make the middle pose the middle of every servo's turn."""
    from so101_driver import registers as reg

    lines.ask("Torque is off. Move every joint to the middle of its range, then press enter:")
    if hand:
        hand.to_middle()
    progress.homing, progress.ranges = {}, {}
    for name, id_ in IDS.items():
        bus.write_register(id_, reg.HOMING_OFFSET, 0)
        bus.write_register(id_, reg.MIN_POSITION, 0)
        bus.write_register(id_, reg.MAX_POSITION, reg.TICKS - 1)
        offset = bus.read_register(id_, reg.PRESENT_POSITION) - reg.MIDDLE
        progress.homing[name] = min(max(offset, -reg.MIDDLE), reg.MIDDLE)
        bus.write_register(id_, reg.HOMING_OFFSET, progress.homing[name])
    progress.save()


def record(bus, progress: Progress, lines: Lines) -> None:
    """Follow the joints until enter is pressed and every range is large enough."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            reading = bus.sync_read_state()
            positions = {n: reading.states[i].position for n, i in IDS.items() if i in reading.states}
            for name, position in positions.items():
                if 0 <= position <= 4095:
                    progress.add(name, position)
            live.update(table(positions, progress), refresh=console.is_terminal)
            if lines.entered():
                missing = progress.missing()
                if not missing:
                    break
                worst = missing[0]
                console.print(
                    f"{worst} was moved by {progress.degrees(worst):.0f}° only, expected at least "
                    f"{LEAST.get(worst, LEAST_ARM):.0f}°: move it from stop to stop, then press enter"
                )
            time.sleep(PAUSE)


def table(positions: dict[str, int], progress: Progress):
    """Live picture of the ranges: lowest, present and highest position (ticks), and degrees."""
    from rich.table import Table

    out = Table(box=None, header_style="bold")
    for column in ("joint", "lowest", "now", "highest", "range", ""):
        out.add_column(column, justify="left" if column in ("joint", "") else "right")
    missing = progress.missing()
    for name in IDS:
        if name == FULL_TURN:
            out.add_row(name, "0", str(positions.get(name, "?")), "4095", "360°", "[dim]turns round[/]")
            continue
        low, high = progress.ranges.get(name, ("?", "?"))
        state = "[yellow]go on[/]" if name in missing else "[green]fine[/]"
        now = str(positions.get(name, "?"))
        out.add_row(name, str(low), now, str(high), f"{progress.degrees(name):.0f}°", state)
    return out
