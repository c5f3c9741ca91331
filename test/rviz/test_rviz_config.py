"""What rviz2 is told to open exists: plugins, topics, message types, QoS; and what launch starts."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from builtin_interfaces.msg import Time
from loop_messages import ROBOT, TASK_FILE
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)

from hilrl_cli import launch_file
from hilrl_cli.errors import LaunchError
from hilrl_control.arm_controller_node import ArmControllerNode
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_rviz import installed
from hilrl_rviz.box_handles_node import BoxHandlesNode
from hilrl_rviz.markers import Shown, marker_array
from hilrl_rviz.markers_node import MarkersNode
from hilrl_sim.simulator_node import SimulatorNode

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import reference  # noqa: E402 - from the line above

CONFIG = yaml.safe_load((ROOT / "rviz" / "so101.rviz").read_text())
MANAGER = CONFIG["Visualization Manager"]
# Names in rviz_default_plugins/plugins_description.xml and rviz_common of Jazzy (rviz 14.1), with what a display takes.
DISPLAYS = {
    "AccelStamped": "AccelStamped", "Axes": "", "Camera": "Image", "CameraInfo": "CameraInfo", "DepthCloud": "Image",
    "Effort": "JointState", "FluidPressure": "FluidPressure", "Grid": "", "GridCells": "GridCells",
    "Illuminance": "Illuminance", "Image": "Image", "InteractiveMarkers": "InteractiveMarkerUpdate",
    "LaserScan": "LaserScan", "Map": "OccupancyGrid", "Marker": "Marker", "MarkerArray": "MarkerArray",
    "Odometry": "Odometry", "Path": "Path", "PointCloud": "PointCloud", "PointCloud2": "PointCloud2",
    "PointStamped": "PointStamped", "Polygon": "PolygonStamped", "Pose": "PoseStamped", "PoseArray": "PoseArray",
    "PoseWithCovariance": "PoseWithCovarianceStamped", "Range": "Range", "RelativeHumidity": "RelativeHumidity",
    "RobotModel": "String", "TF": "", "Temperature": "Temperature", "TwistStamped": "TwistStamped",
    "Wrench": "WrenchStamped",
}  # fmt: skip
TOOLS = {
    "FocusCamera",
    "Interact",
    "Measure",
    "MoveCamera",
    "PublishPoint",
    "Select",
    "SetGoal",
    "SetInitialPose",
}
VIEWS = {"FPS", "Orbit", "ThirdPersonFollower", "TopDownOrtho", "XYOrbit"}
PANELS = {"Displays", "Help", "Selection", "Time", "Tool Properties", "Transformation", "Views"}
# (topic, type, QoS) of what the suite's nodes publish, and of robot_state_publisher's description
PUBLISHED = [
    (topic, kind, getattr(qos, quality))
    for node in reference.nodes()
    for what, topic, kind, quality in node.endpoints
    if what == "publishes"
] + [("robot_description", "String", qos.LATCHED)]
# What an InteractiveMarkers display, which names no topic but what they begin with, shares with its server.
HANDLES = {"update", "feedback", "get_interactive_markers"}


def plugin(entry, package="rviz_default_plugins"):
    prefix, name = entry["Class"].split("/")
    assert prefix == package
    return name


def topics():
    """Display, its plugin and its topic's settings, of each display with a topic."""
    for display in MANAGER["Displays"]:
        for key in ("Topic", "Description Topic"):
            if key in display:
                yield display, plugin(display), display[key]


def handles():
    """Beginning of the names that the display of handles uses."""
    (display,) = (d for d in MANAGER["Displays"] if plugin(d) == "InteractiveMarkers")
    return display["Interactive Markers Namespace"]


def test_every_plugin_exists():
    assert {plugin(d) for d in MANAGER["Displays"]} <= DISPLAYS.keys()
    assert {plugin(t) for t in MANAGER["Tools"]} <= TOOLS
    assert plugin(MANAGER["Views"]["Current"]) in VIEWS
    assert {plugin(p, "rviz_common") for p in CONFIG["Panels"]} <= PANELS


def test_every_display_with_a_topic_has_one():
    with_topic = {d["Name"] for d in MANAGER["Displays"] if DISPLAYS[plugin(d)]}
    assert with_topic == {display["Name"] for display, _, _ in topics()} | {"Box handles"}


@pytest.mark.parametrize(("display", "name", "topic"), topics(), ids=[t["Value"] for _, _, t in topics()])
def test_each_topic_is_published_with_that_type_and_reaches_rviz2(display, name, topic):
    def policy(kind, key):
        return kind[topic[f"{key} Policy"].upper().replace(" ", "_")]

    wanted = QoSProfile(
        depth=topic["Depth"],
        history=policy(HistoryPolicy, "History"),
        reliability=policy(ReliabilityPolicy, "Reliability"),
        durability=policy(DurabilityPolicy, "Durability"),
    )
    matching = [
        profile
        for published, kind, profile in PUBLISHED
        if kind == DISPLAYS[name]
        and re.fullmatch(re.sub(r"<\w+>", "[a-z]+", "/" + published.lstrip("/")), topic["Value"])
    ]
    assert matching, f"nobody publishes {topic['Value']} as {DISPLAYS[name]}"
    for profile in matching:
        compatible, reason = qos_check_compatible(profile, wanted)
        assert compatible != QoSCompatibility.ERROR, reason


def test_the_handles_node_offers_what_the_display_asks_for():
    (node,) = (n for n in reference.nodes() if n.executable == "box_handles")
    offered = {(kind, "/" + name, of) for kind, name, of, _ in node.endpoints}
    assert {
        ("publishes", f"{handles()}/update", "InteractiveMarkerUpdate"),
        ("subscribes", f"{handles()}/feedback", "InteractiveMarkerFeedback"),
        ("serves", f"{handles()}/get_interactive_markers", "GetInteractiveMarkers"),
    } <= offered


def test_a_running_graph_publishes_what_each_display_shows(make_graph):
    graph = make_graph(robot=ROBOT, task=TASK_FILE)
    for node in (SimulatorNode, ArmControllerNode, MarkersNode, BoxHandlesNode):
        graph.add(node())
    shown = {  # robot_description is robot_state_publisher's
        topic["Value"]: (DISPLAYS[name], topic["Reliability Policy"], topic["Durability Policy"])
        for _, name, topic in topics()
        if topic["Value"] != "/robot_description"
    }
    shown[f"{handles()}/update"] = DISPLAYS["InteractiveMarkers"], "Reliable", "Volatile"
    find = graph.probe.get_publishers_info_by_topic
    graph.until(lambda: all(find(topic) for topic in shown))
    for topic, (kind, reliability, durability) in shown.items():
        (publisher,) = find(topic)
        assert publisher.topic_type.endswith(f"_msgs/msg/{kind}")
        offered = publisher.qos_profile
        assert reliability == "Best Effort" or offered.reliability == ReliabilityPolicy.RELIABLE
        assert durability == "Volatile" or offered.durability == DurabilityPolicy.TRANSIENT_LOCAL
    services = dict(graph.probe.get_service_names_and_types())
    assert services[f"{handles()}/get_interactive_markers"] == [
        "visualization_msgs/srv/GetInteractiveMarkers"
    ]


def test_everything_is_on_but_the_frames():
    enabled = {d["Name"]: d["Enabled"] for d in MANAGER["Displays"]}
    assert [name for name, on in enabled.items() if not on] == ["TF"]
    assert {"RobotModel", "Markers", "Box handles", "Front camera", "Wrist camera"} <= enabled.keys()
    # a pane of its own for each camera, and the tool that drags
    assert {"Front camera", "Wrist camera"} <= CONFIG["Window Geometry"].keys()
    assert plugin(MANAGER["Tools"][0]) == "Interact"
    assert all(d["Enabled"] == d["Value"] for d in MANAGER["Displays"])


def test_frame_and_namespaces_are_those_of_the_markers():
    contract, _ = load_contract("so101")
    array = marker_array(
        contract, Shown(Time(), np.array([contract.box_min, contract.box_max]), None, None, 0, "")
    )
    assert MANAGER["Global Options"]["Fixed Frame"] == array.markers[0].header.frame_id
    (markers,) = (d for d in MANAGER["Displays"] if d["Name"] == "Markers")
    assert set(markers["Namespaces"]) == {m.ns for m in array.markers}


@pytest.fixture
def ros_desktop(pretend):
    """rviz2 and robot_state_publisher that do nothing."""
    for name in ("rviz2", "robot_state_publisher"):
        pretend(name, name)


def launched(tmp_path, **arguments):
    """The processes that launch would start, by name."""
    path = ROOT / "launch" / "rviz.launch.yaml"
    return {p.name: p.argv for p in launch_file.load(path, arguments, tmp_path / "parameters")}


def test_model_and_window_can_be_left_out(tmp_path, ros_desktop):
    assert list(launched(tmp_path, model="false", rviz="false")) == ["markers", "box_handles"]


@pytest.mark.skipif(installed.is_installed("rviz2"), reason="rviz2 is installed here")
def test_without_rviz2_it_is_not_started_unless_asked_for(tmp_path):
    assert list(launched(tmp_path, model="false")) == ["markers", "box_handles"]
    with pytest.raises(LaunchError, match=r"rviz\.launch\.yaml:\d+: package 'rviz2' is not installed"):
        launched(tmp_path, model="false", rviz="true")


def test_with_rviz2_the_model_and_the_window_start_too(tmp_path, ros_desktop):
    processes = launched(tmp_path, namespace="follower")
    assert list(processes) == ["markers", "box_handles", "robot_state_publisher", "rviz"]
    model, window = processes["robot_state_publisher"], processes["rviz"]
    parameters = yaml.safe_load(Path(model[model.index("--params-file") + 1]).read_text())
    urdf = parameters["/follower/robot_state_publisher"]["ros__parameters"]["robot_description"]
    assert urdf.startswith("<robot") and 'filename="file:///' in urdf
    config = Path(window[window.index("-d") + 1])
    assert yaml.safe_load(config.read_text()) == CONFIG
    # every topic of the configuration follows the namespace
    remapped = {word.split(":=")[0] for word in window if ":=" in word and not word.startswith("__")}
    assert remapped == {topic["Value"] for _, _, topic in topics()} | {
        f"{handles()}/{name}" for name in HANDLES
    }


@pytest.mark.parametrize(("package", "answer"), [("hilrl_rviz", "true"), ("no_such_package", "false")])
def test_what_is_installed(capsys, package, answer):
    assert installed.main([package]) == 0
    assert capsys.readouterr().out == answer
