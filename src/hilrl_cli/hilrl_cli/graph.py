"""The ROS graph that a launch is about to join."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from .errors import UserError
from .launch_file import Process

_LOOK_S = 1.0  # the first node of a busy graph was found within 0.3 s


def refuse_running(processes: Sequence[Process]) -> None:
    """Refuse to start nodes that run already: two graphs would drive each other's arms.

    Raises:
        UserError: Names a node, and what to do.
    """
    nodes = {process.node for process in processes if process.node}
    if not nodes:
        return
    environment = {key: value for process in processes for key, value in process.env.items()}
    with _within(environment), _joined() as node:
        end = time.monotonic() + _LOOK_S
        while time.monotonic() < end:
            names = node.get_node_names_and_namespaces()
            running = sorted(nodes & {f"{namespace.rstrip('/')}/{name}" for name, namespace in names})
            if running:
                domain = node.context.get_domain_id()
                raise UserError(
                    f"node '{running[0]}' runs already in ROS domain {domain}: end that launch first, or give this "
                    f"one a domain of its own, as in ROS_DOMAIN_ID={(domain + 1) % 100} hilrl …"
                )
            time.sleep(0.05)


@contextlib.contextmanager
def _within(environment: Mapping[str, str]) -> Iterator[None]:
    """Have these variables set, as the launch's nodes will."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _joined() -> Iterator[Node]:
    """A node that others do not list, in a context of its own."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    name = f"_hilrl_launch_{os.getpid()}"
    node = Node(name, context=context, enable_rosout=False, start_parameter_services=False)
    try:
        yield node
    finally:
        node.destroy_node()
        context.shutdown()
