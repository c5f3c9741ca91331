"""Keeps the tests' ROS graph to itself: own domain, this machine only, logs in a temporary folder."""

import gc
import os
import random
import tempfile
import time

import pytest

# At import, before anything creates a ROS context; processes started by tests inherit it. Each of pytest-xdist's
# processes has a domain of its own.
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
os.environ["ROS_DOMAIN_ID"] = str(1 + (random.Random(RUN).randrange(100) + WORKER) % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="hilrl-test-log-")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items):
    """Let one process of pytest-xdist run the graphs, one after the other, and share out the other files."""
    items.sort(key=lambda item: not item.get_closest_marker("graph"))  # the longest part first
    for item in items:
        group = "graph" if item.get_closest_marker("graph") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


class Graph:
    """The nodes of one test in one process, and a probe that publishes to them and hears them."""

    def __init__(self, **parameters):
        import rclpy

        from hilrl_ros.executor import Executor

        args = ["--ros-args"]
        for name, value in parameters.items():
            args += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        rclpy.init(args=args)
        self.executor = Executor()
        self.nodes = []
        self.probe = self.add(rclpy.create_node("probe"))

    def add(self, node):
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def listen(self, kind, topic, profile):
        """Return a list that grows with the messages of a topic."""
        heard = []
        self.probe.create_subscription(kind, topic, heard.append, profile)
        return heard

    def publisher(self, kind, topic, profile):
        return self.probe.create_publisher(kind, topic, profile)

    def connect(self):
        """Wait until all that the probe made has found the other side, and that knows it.

        A process of its own may know the probe a moment later: a test that needs its next message waits for one first.
        """
        mine = [*self.probe.publishers, *self.probe.subscriptions]
        own = {"/rosout", "/parameter_events"}

        def found():
            return all(
                self.probe.count_subscribers(p.topic_name) and p.get_subscription_count()
                for p in self.probe.publishers
                if p.topic_name not in own
            ) and all(self.probe.count_publishers(s.topic_name) for s in self.probe.subscriptions)

        heard = {s.topic_name for s in self.probe.subscriptions} - own
        theirs = [p for node in self.nodes for p in node.publishers if p.topic_name in heard]
        assert mine
        self.until(lambda: found() and all(p.get_subscription_count() for p in theirs))

    def until(self, condition, timeout=10.0):
        """Spin until something holds; fail after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, "timed out"
            self.executor.spin_once(timeout_sec=0.05)

    def close(self):
        import rclpy

        for node in self.nodes:
            if hasattr(node, "close"):
                node.close()
            node.destroy_node()
        self.executor.shutdown()
        rclpy.try_shutdown()
        # A lifecycle node keeps its services until it is collected. If a later graph of this process is there by then,
        # Fast DDS may stand still: its threads wait for each other.
        self.nodes.clear()
        gc.collect()


@pytest.fixture
def make_graph():
    """Make a graph whose nodes get these parameters."""
    made = []

    def make(**parameters):
        made.append(Graph(**parameters))
        return made[-1]

    yield make
    for graph in made:
        graph.close()


@pytest.fixture
def logged(monkeypatch):
    """What nodes log in this test, as (level, text)."""
    from rclpy.impl.rcutils_logger import RcutilsLogger

    lines = []

    def log(self, message, severity, **kwargs):
        lines.append((severity.name, str(message)))
        return True

    monkeypatch.setattr(RcutilsLogger, "log", log)
    return lines


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Make a ROS package look installed, with executables that do nothing."""
    prefix = tmp_path / "pretended"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}")

    def install(package, *executables):
        (index / package).touch()
        (prefix / "lib" / package).mkdir(parents=True)
        for name in executables:
            (prefix / "lib" / package / name).write_text("#!/bin/sh\n")
            (prefix / "lib" / package / name).chmod(0o755)

    return install
