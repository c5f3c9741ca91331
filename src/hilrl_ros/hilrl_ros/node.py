"""What every node does alike: declare parameters from a dataclass, ask for real-time priority, spin, exit."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TypeVar

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions

from hilrl_ros.executor import Executor

P = TypeVar("P")
_SIGNAL_S = 0.2  # how long a signal may wait
_HEARD_S = 0.5  # how long a node's last words may take
_KINDS = {
    int: "a whole number",
    float: "a number (as 1.0)",
    str: "a text",
    bool: "true or false",
    list: "a list",
}


class UserError(Exception):
    """Something the user can put right; the message is one sentence and ends the node without a traceback."""


class SettingsError(UserError):
    """What was asked for is wrong: to start the node again would change nothing."""


def param(
    default: Any, description: str, *, unit: str = "", bounds: tuple | None = None, choices: tuple = ()
) -> Any:
    """Describe one parameter in a parameters dataclass.

    Args:
        default: Default value; its type is the parameter's type.
        description: What it means, one sentence.
        unit: SI unit.
        bounds: Lowest and highest allowed number.
        choices: All allowed values, if they are few.

    A default of [] is a list of texts.
    """
    meta = {"description": description, "unit": unit, "bounds": bounds, "choices": choices}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def declare(node: Node, params: type[P]) -> P:
    """Declare the fields of a parameters dataclass on a node and return their values.

    Raises:
        SettingsError: A value has the wrong type, is out of bounds or not among the choices.
    """
    values = {}
    for field in dataclasses.fields(params):
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        meta = field.metadata
        unit = f" [{meta['unit']}]" if meta["unit"] else ""
        descriptor = ParameterDescriptor(
            description=meta["description"] + unit,
            additional_constraints=f"one of {', '.join(map(str, meta['choices']))}"
            if meta["choices"]
            else "",
            read_only=True,
        )
        if meta["bounds"]:
            low, high = meta["bounds"]
            if isinstance(default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(low), to_value=float(high))
                ]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        # rclpy would take [] for bytes
        declared = Parameter.Type.STRING_ARRAY if default == [] else default
        try:
            value = node.declare_parameter(field.name, declared, descriptor).value
        except (InvalidParameterTypeException, InvalidParameterValueException):
            given = node._parameter_overrides[field.name].value
            kind = _KINDS.get(type(default), type(default).__name__)
            within = f" from {meta['bounds'][0]} to {meta['bounds'][1]}" if meta["bounds"] else ""
            raise SettingsError(
                f"parameter '{field.name}' is {given!r}, expected {kind}{within}: {meta['description']}"
            ) from None
        if meta["choices"] and value not in meta["choices"]:
            raise SettingsError(
                f"parameter '{field.name}' is {value!r}, expected one of {', '.join(map(str, meta['choices']))}"
            )
        values[field.name] = list(value or []) if isinstance(default, list) else value
    return params(**values)


def steady_ns(node: Node) -> int:
    """Return the time (ns) by which a node measures how long something takes, on a clock that nobody sets.

    Where a simulator tells the time (`use_sim_time`) it is the simulator's: on a slow machine that runs slower too.
    """
    clock = node.get_clock()
    return clock.now().nanoseconds if clock.ros_time_is_active else time.monotonic_ns()


def ask_for_realtime(node: Node, wanted: bool, priority: int = 10) -> None:
    """Ask for SCHED_FIFO, so that a busy learner cannot delay the control path; warn once where refused.

    Args:
        node: Whose process asks.
        wanted: False leaves the process as it is: in lockstep nothing is late, and on few cores nodes that wait for
            each other at real-time priority can starve the thread that they wait for.
        priority: Of SCHED_FIFO.
    """
    if not wanted:
        return
    try:
        # threads and processes that this one makes later stay at normal priority
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except (PermissionError, OSError):
        node.get_logger().warning(
            "no real-time priority (SCHED_FIFO is not allowed here): a busy machine may delay the control loop; "
            "allow it with 'rtprio 10' for your user in /etc/security/limits.conf"
        )


def heard(publisher: Publisher) -> None:
    """Wait until all that was published has arrived, a moment at most; what a node says last may else end with it."""
    publisher.wait_for_all_acked(Duration(seconds=_HEARD_S))


def step_back() -> None:
    """Lower the priority of this process (of this thread, if it is not the main one): learning uses what is left."""
    os.nice(10)  # Linux's is a thread's own
    # With autogroups (Linux's default) niceness counts within a session only, and a supervisor gives each process one.
    if threading.current_thread() is threading.main_thread() and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text("10")


def run(node_class: type[Node], args: list[str] | None = None) -> None:
    """Run a node until it is told to stop; the `main` of every executable.

    A node may have `close()` (called once, not disturbed by further signals: ctrl-C under launch comes twice) and
    an `exit_code` attribute. A `UserError`, or a `ValueError` from set-up, is one sentence on the log and exit
    code 1; 2 of a `SettingsError` and of the `ValueError`, with which a launch by `hilrl` ends at once.
    """
    # not rclpy's handlers: they end the context at once, and a node that is just being made would break off half made
    told: list[int] = []  # no Event: its lock could be held when the second signal comes
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: told.append(number))
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node, executor, code = None, None, 0
    try:
        node = node_class()
        # what set-up made stays: the collector need not look through it again in the loop
        gc.collect()
        gc.freeze()
        executor = Executor()
        executor.add_node(node)
        # a time-out, because a signal does not end a wait
        while rclpy.ok() and not told and not getattr(node, "finished", False):
            executor.spin_once(timeout_sec=_SIGNAL_S)
    except ExternalShutdownException:
        pass
    except (UserError, ValueError) as e:
        if node is not None and not isinstance(e, UserError):
            raise
        rclpy.logging.get_logger(node_class.__name__).fatal(str(e))
        code = 2 if isinstance(e, SettingsError | ValueError) else 1
    except rclpy._rclpy_pybind11.RCLError:
        if rclpy.ok():
            raise
    finally:
        if executor is not None:
            executor.shutdown()
        if node is not None:
            if hasattr(node, "close"):
                node.close()
            code = code or getattr(node, "exit_code", 0)
            node.destroy_node()
        rclpy.try_shutdown()
    # while it ends, Python would give its own handlers up and the second ctrl-C would kill it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
