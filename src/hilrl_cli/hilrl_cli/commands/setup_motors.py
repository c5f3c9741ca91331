"""hilrl setup-motors: gives every servo of a new arm its id, one after the other, as LeRobot does."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable

from hilrl_cli import environment
from hilrl_cli.arm import IDS, Hand, add_port, open_port
from hilrl_cli.errors import UserError
from hilrl_cli.lines import Lines

BAUDS = (1_000_000, 500_000, 250_000, 128_000, 115_200, 57_600, 38_400)  # as register 6 counts them
LIKELY = range(1, 11)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    add_port(parser)


def run(arguments: argparse.Namespace) -> int:
    """Guide through the six servos; those that have their id already are recognised."""
    environment.enter()
    lines = Lines()
    with open_port(arguments) as (port, hand):
        if hand:
            hand.factory_new()
            hand.plug([])
        done = [id_ for id_ in IDS.values() if id_ != 1 and id_ in look(port, 1_000_000, IDS.values())]
        if done and len(done) == len(IDS) - 1 and 1 in look(port, 1_000_000, [1]):
            done.append(1)
        print(
            "Gives the servos their ids. Plug them in one after the other; those that are done may stay plugged in."
        )
        for name, id_ in reversed(IDS.items()):
            if id_ in done:
                print(f"{name}: servo {id_} is there already, fine")
                continue
            set_up(port, name, id_, done, lines, hand)
            done.append(id_)
    print("All servos have their ids. Put the arm together, then run `hilrl calibrate`.")
    return 0


def look(port: str, baud: int, ids: Iterable[int], timeout: float = 0.02) -> list[int]:
    """Return which of some ids answer within a time (s)."""
    from so101_driver.bus import Bus

    with Bus(port, (), baud=baud, timeout=timeout, retries=0) as bus:
        return [id_ for id_ in ids if bus.ping(id_)]


def search(port: str, without: list[int]) -> tuple[int, list[int]]:
    """Return baud rate and ids of servos that answer, but for some ids; likely ids first, then all.

    Raises:
        UserError: None answers.
    """
    looks = [*((baud, LIKELY, 0.02) for baud in BAUDS), (BAUDS[0], range(11, 253), 0.005)]
    looks.append((BAUDS[0], range(1, 253), 0.02))  # a busy computer hears an answer late
    for baud, ids, timeout in looks:
        found = look(port, baud, [id_ for id_ in ids if id_ not in without], timeout)
        if found:
            return baud, found
    raise UserError(
        f"no new servo answers on {port}: check its plug and the power supply, then run this again"
    )


def set_up(port: str, name: str, id_: int, done: list[int], lines: Lines, hand: Hand | None) -> None:
    """Give the servo of one joint its id.

    Raises:
        UserError: No servo answers, more than one does, or it is not the right kind.
    """
    from so101_driver import registers as reg
    from so101_driver.bus import Bus, NoReply

    lines.ask(f"{name}: plug in its servo, and no other that is not done yet, then press enter:")
    if hand:
        hand.plug([*done, id_])
    baud, found = search(port, done)
    if len(found) > 1:
        raise UserError(
            f"servos {', '.join(map(str, found))} answer: leave only the {name}'s plugged in, then run this again"
        )
    old = found[0]
    if old not in (1, id_) and lines.ask(
        f"  this servo has id {old}, which a new one has not. Give it id {id_}? [y/N]"
    ) not in ("y", "yes"):
        raise UserError(f"servo {old} was left as it is; plug in the {name}'s and run this again")
    with Bus(port, (), baud=baud) as bus:
        model = bus.read_register(old, reg.MODEL)
        if model != reg.MODEL_STS3215:
            raise UserError(f"the {name}'s servo is model {model}, expected an STS3215 ({reg.MODEL_STS3215})")
        if old != id_ or baud != BAUDS[0]:
            bus.write_register(old, reg.TORQUE_ENABLE, 0)
            bus.write_register(old, reg.LOCK, 0)
            for known_as, register, value in ((old, reg.ID, id_), (id_, reg.BAUD, 0)):
                # its answer may come under the new id, or at the new speed
                with contextlib.suppress(NoReply):
                    bus.write_register(known_as, register, value)
    with Bus(port, (), baud=BAUDS[0]) as bus:
        if not bus.ping(id_):
            raise UserError(f"the {name}'s servo does not answer as {id_} after it was set: run this again")
        bus.write_register(id_, reg.LOCK, 1)
    print(f"  {name}: servo {id_}, fine" + ("" if old == id_ else f" (was {old} at {baud} bit/s)"))
