"""hilrl doctor: looks at arm, cameras, gamepad and machine; each line says fine, or what to do."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import glob
import importlib.metadata
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hilrl_cli import environment
from hilrl_cli.arm import EMULATED, IDS, Hand, add_port, permission_advice, serial_ports

FINE, MISSING, WRONG = "fine", "missing", "wrong"  # missing: not needed for everything
_MARKS = {FINE: "[green]✓[/]", MISSING: "[yellow]–[/]", WRONG: "[red]✗[/]"}
LEAST_VOLTAGE, MOST_VOLTAGE = 4.5, 13.0  # V; SO-101s run on 5, 7.4 or 12 V
LEAST_DISK, SMALL_DISK = 1.0, 10.0  # GB


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        what: What was looked at.
        state: FINE, MISSING (something works without it) or WRONG.
        text: What was found, or what to do.
    """

    what: str
    state: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    add_port(parser)
    parser.add_argument("--name", help="name of the arm's calibration")
    parser.add_argument("--json", action="store_true", help="print a list of findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Look and tell; 1 if something is wrong."""
    environment.enter()
    findings = list(look(arguments))
    if arguments.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for finding in findings:
            table.add_row(_MARKS[finding.state], finding.what, escape(finding.text))
        Console().print(table)
    return int(any(finding.state == WRONG for finding in findings))


def look(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield what is found, machine first."""
    yield from ros()
    yield gpu()
    yield realtime()
    yield disk(Path.cwd())
    yield from arm(arguments)
    yield from cameras()
    yield gamepad()


def ros() -> Iterator[Finding]:
    """The middleware, and the messages of this workspace."""
    try:
        import hilrl_msgs.msg  # noqa: F401
        import rclpy

        name = rclpy.get_rmw_implementation_identifier()
    except (ImportError, RuntimeError) as error:
        yield Finding("ROS 2", WRONG, f"{error}: run `make setup`")
        return
    distro = os.environ.get("ROS_DISTRO", "jazzy").capitalize()
    yield Finding("ROS 2", FINE, f"{distro} with {name}, domain {os.environ.get('ROS_DOMAIN_ID', '0')}")
    try:
        from hilrl_ros.contract_reader import load_contract
        from hilrl_ros.kinematics import find_model

        find_model(load_contract("so101")[0].model)
    except ValueError as error:
        yield Finding("robot model", WRONG, str(error))
    else:
        yield Finding("robot model", FINE, "so101")


def gpu() -> Finding:
    """PyTorch and what it can compute on; it is not imported, that takes seconds."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Finding("PyTorch", WRONG, "not installed: run `make setup`")
    if not Path("/dev/nvidiactl").exists():
        return Finding(
            "PyTorch", FINE, f"{version}, on the CPU: no NVIDIA GPU, and none is needed for states"
        )
    names = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    if "+cpu" in version:
        return Finding(
            "PyTorch", MISSING, f"{version} cannot use the GPU {names}: remove .venv, `make setup`"
        )
    return Finding("PyTorch", FINE, f"{version}, GPU {names.splitlines()[0] if names else 'of NVIDIA'}")


def realtime() -> Finding:
    """Whether the control path may ask for real-time priority."""
    import resource

    if os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_RTPRIO)[0] >= 10:
        return Finding("real-time priority", FINE, "allowed")
    advice = (
        "not allowed: a busy machine may delay the arm; add '{user} - rtprio 10' to /etc/security/limits.conf"
    )
    return Finding("real-time priority", MISSING, advice.format(user=os.environ.get("USER", "you")))


def disk(folder: Path) -> Finding:
    """Room for recordings and runs."""
    free = shutil.disk_usage(folder).free / 1e9
    text = f"{free:.0f} GB free in {folder}"
    if free >= SMALL_DISK:
        return Finding("disk", FINE, text)
    return Finding(
        "disk", WRONG if free < LEAST_DISK else MISSING, f"{text}: recordings with images fill it soon"
    )


def arm(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Port, servos and calibration. Nothing is wrong where no arm is asked for and none is plugged in."""
    from so101_driver.bus import BusError

    if arguments.port == EMULATED:
        with Hand() as hand:
            yield Finding("port", FINE, "emulated servos")
            yield from servos(hand.emulated.port)
        return
    port = arguments.port or f"/dev/so101_{arguments.role}"
    if not os.path.exists(port):
        there = serial_ports()
        if there:
            names = ", ".join(there)
            yield Finding("port", WRONG, f"there is no {port}, but {names}: name the arm's with --port")
        elif arguments.port:
            yield Finding("port", WRONG, f"there is no {port}, nor any other: plug the arm's USB cable in")
        else:
            yield Finding("port", MISSING, "no arm is plugged in: simulation needs none")
        return
    advice = permission_advice(port)
    if advice:
        yield Finding("port", WRONG, advice)
        return
    try:
        answers = list(servos(port))
    except BusError as error:
        yield Finding("port", WRONG, f"{error}: is a driver running, or another program on the port?")
        return
    yield Finding("port", FINE, port)
    yield from answers
    yield from calibration(port, arguments)


def servos(port: str) -> Iterator[Finding]:
    """Each servo: model, firmware, voltage, temperature. BusError if the port fails."""
    from so101_driver import registers as reg
    from so101_driver.bus import Bus, NoReply

    major, minor = reg.Register(0), reg.Register(1)
    with Bus(port, IDS.values()) as bus:
        silent = [id_ for id_ in IDS.values() if not bus.ping(id_)]
        if len(silent) == len(IDS):
            yield Finding(
                "servos", WRONG, "none answers: switch the arm's power on, or run `hilrl setup-motors`"
            )
            return
        for name, id_ in IDS.items():
            what = f"servo {id_} {name}"
            if id_ in silent:
                yield Finding(what, WRONG, "does not answer: check its cable, or run `hilrl setup-motors`")
                continue
            try:
                model = bus.read_register(id_, reg.MODEL)
                firmware = ".".join(str(bus.read_register(id_, register)) for register in (major, minor))
                voltage = bus.read_register(id_, reg.PRESENT_VOLTAGE) / 10
                heat = bus.read_register(id_, reg.PRESENT_TEMPERATURE)
                faults = reg.faults(bus.read_register(id_, reg.STATUS))
            except NoReply as error:
                yield Finding(what, WRONG, f"answers badly, check its cable: {error}")
                continue
            text = f"firmware {firmware}, {voltage:.1f} V, {heat} °C"
            if model != reg.MODEL_STS3215:
                yield Finding(what, WRONG, f"is model {model}, expected an STS3215 ({reg.MODEL_STS3215})")
            elif not LEAST_VOLTAGE <= voltage <= MOST_VOLTAGE:
                yield Finding(what, WRONG, f"{text}: check the power supply")
            elif faults:
                yield Finding(
                    what, WRONG, f"{text}, reports {', '.join(faults)}: switch the power off and on"
                )
            else:
                yield Finding(what, FINE, text)


def calibration(port: str, arguments: argparse.Namespace) -> Iterator[Finding]:
    """Whether the arm's calibration is there, and is this arm's."""
    from so101_driver.bus import Bus, BusError
    from so101_driver.calibration import Calibration, CalibrationError
    from so101_driver.identity import strangers

    what = "calibration"
    if not arguments.name:
        folders = {path.parent for path in Calibration.places("x", arguments.role)}
        names = sorted({file.stem for folder in folders for file in folder.glob("*.json")})
        if names:
            yield Finding(what, MISSING, f"there are {', '.join(names)}: name this arm's with --name")
        else:
            yield Finding(
                what, WRONG, f"there is none of a {arguments.role}: run `hilrl calibrate --name NAME`"
            )
        return
    try:
        found = Calibration.find(arguments.name, arguments.role)
        with Bus(port, found.ids) as bus:
            other = strangers(bus, found)
    except (CalibrationError, BusError) as error:
        yield Finding(what, WRONG, str(error))
        return
    if other:
        yield Finding(
            what, WRONG, f"'{arguments.name}' is another arm's: {', '.join(other)} hold other offsets"
        )
    else:
        yield Finding(what, FINE, f"'{arguments.name}' is this arm's")


def cameras() -> Iterator[Finding]:
    """Each V4L2 camera: does it give an image."""
    devices = sorted(glob.glob("/dev/video*"))
    if not devices:
        yield Finding("cameras", MISSING, "none is plugged in: tasks with images need one")
    for device in devices:
        name_file = Path("/sys/class/video4linux", Path(device).name, "name")
        name = name_file.read_text().strip() if name_file.is_file() else "camera"
        advice = permission_advice(device)
        if advice:
            yield Finding(device, WRONG, advice)
            continue
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        import cv2

        video = cv2.VideoCapture(device, cv2.CAP_V4L2)
        ok, frame = video.read() if video.isOpened() else (False, None)
        video.release()
        if ok:
            yield Finding(device, FINE, f"{name}, {frame.shape[1]}x{frame.shape[0]}")
        else:  # most cameras have a second device that only carries metadata
            yield Finding(device, MISSING, f"{name} gives no image: busy, or not a picture's device")


def gamepad() -> Finding:
    """Whether SDL sees a pad."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
        from pygame._sdl2 import controller

        pygame.display.init()
        controller.init()
        names = [controller.name_forindex(i) or "unknown" for i in range(controller.get_count())]
        controller.quit()
        pygame.quit()
    except (ImportError, RuntimeError) as error:
        return Finding("gamepad", WRONG, f"cannot be looked for: {error}")
    if not names:
        return Finding("gamepad", MISSING, "none is plugged in: `hilrl keyboard` or a leader arm serve too")
    return Finding("gamepad", FINE, ", ".join(names))
