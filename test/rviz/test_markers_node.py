import numpy as np
import pytest
from hilrl_msgs.msg import Action, Box, Episode, Reward
from loop_messages import CONTRACT, HOME, PERIOD, ROBOT, TASK_FILE, action, joint_state
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import Marker, MarkerArray

from hilrl_ros import qos
from hilrl_ros.kinematics import Kinematics
from hilrl_ros.node import UserError
from hilrl_rviz.markers_node import MarkersNode


class Rig:
    """A markers node, driven and heard through its topics."""

    def __init__(self, graph):
        self.graph = graph
        self.node = graph.add(MarkersNode())
        self.heard = graph.listen(MarkerArray, "markers", qos.LATCHED)
        self.joints = graph.publisher(JointState, "joint_states", qos.STEP)
        self.targets = graph.publisher(JointTrajectory, "trajectory_controller/joint_trajectory", qos.STEP)
        self.executed = graph.publisher(Action, "executed_action", qos.STEP)
        self.episodes = graph.publisher(Episode, "episode", qos.LATCHED)
        self.rewards = graph.publisher(Reward, "reward", qos.STEP)
        self.boxes = graph.publisher(Box, "box", qos.LATCHED)
        graph.connect()

    def until(self, condition):
        """Wait for an array of which something holds; return its markers by namespace."""
        self.graph.until(lambda: self.heard and condition(self.newest()))
        return self.newest()

    def newest(self):
        return {m.ns: m for m in self.heard[-1].markers}

    def text(self, wanted, earned=""):
        return self.until(lambda m: (m["control"].text, m["reward"].text) == (wanted, earned))


@pytest.fixture
def rig(make_graph):
    return Rig(make_graph(robot=ROBOT, task=TASK_FILE, rate=30.0, timeout=0.4))


def trajectory(positions, names=CONTRACT.joints):
    return JointTrajectory(joint_names=list(names), points=[JointTrajectoryPoint(positions=positions)])


def at(marker):
    return [marker.pose.position.x, marker.pose.position.y, marker.pose.position.z]


def drawn(*namespaces):
    return lambda markers: all(markers[ns].action == Marker.ADD for ns in namespaces)


def test_the_box_is_there_before_anything_moves(rig):
    markers = rig.until(drawn("box"))
    assert markers["control"].text == "nobody"
    assert {ns for ns, m in markers.items() if m.action == Marker.DELETE} == {
        "tip",
        "target",
        "way",
        "reward",
    }


def test_a_box_that_was_changed_is_shown(rig):
    rig.boxes.publish(Box(min=[0.1, -0.2, 0.0], max=[0.3, 0.2, 0.1]))
    markers = rig.until(lambda m: at(m["box"])[0] == pytest.approx(0.2))
    assert [markers["box"].scale.x, markers["box"].scale.y] == pytest.approx([0.2, 0.4])


def test_tip_and_target_are_where_the_kinematics_say(rig):
    forward = Kinematics(CONTRACT).forward
    goal = HOME + np.array([0.1, 0.1, 0, 0, 0, 0])
    rig.joints.publish(joint_state(PERIOD))
    rig.targets.publish(trajectory(goal[::-1].tolist(), CONTRACT.joints[::-1]))
    markers = rig.until(drawn("tip", "target", "way"))
    assert at(markers["tip"]) == pytest.approx(forward(HOME)[0])
    assert at(markers["target"]) == pytest.approx(forward(goal)[0])
    assert markers["tip"].header.stamp.nanosec == PERIOD


def test_what_is_no_longer_published_is_no_longer_shown(rig):
    rig.joints.publish(joint_state(0))
    rig.targets.publish(trajectory(HOME.tolist()))
    rig.executed.publish(action(1, 0, controller=Action.PERSON, device="keyboard"))
    rig.until(lambda m: drawn("tip", "target")(m) and m["control"].text == "person (keyboard)")
    markers = rig.text("nobody")
    assert rig.until(lambda m: not drawn("tip")(m) and not drawn("target")(m))
    assert drawn("box")(markers)


def test_a_joint_that_nobody_commands_stays(rig):
    rig.joints.publish(joint_state(0))
    rig.targets.publish(trajectory([0.3], ["shoulder_pan"]))
    markers = rig.until(drawn("target"))
    goal = np.array([0.3, *HOME[1:]])
    assert at(markers["target"]) == pytest.approx(Kinematics(CONTRACT).forward(goal)[0])


def test_the_return_is_the_episodes_and_each_step_counts_once(rig):
    rig.episodes.publish(Episode(phase=Episode.TRAIN, status=Episode.RUNNING, episode=5))
    rig.text("nobody\ntrain, episode 5")
    for step, reward in ((0, 0.25), (1, 0.5), (1, 0.5)):
        rig.rewards.publish(Reward(episode=5, step=step, reward=reward, probability=-1.0))
    rig.text("nobody\ntrain, episode 5", "reward 0.50, return 0.75")
    rig.rewards.publish(
        Reward(episode=5, step=2, reward=1.0, probability=-1.0, success=True, terminated=True)
    )
    rig.text("nobody\ntrain, episode 5", "reward 1.00, return 1.75\nsuccess")
    rig.episodes.publish(Episode(phase=Episode.EVALUATE, status=Episode.RUNNING, episode=6))
    rig.text("nobody\nevaluate, episode 6")


def test_joint_states_of_another_arm_are_one_sentence(rig, logged):
    rig.joints.publish(joint_state(0, [0.0], ["elbow"]))
    rig.graph.until(lambda: logged)
    assert logged[0][0] == "ERROR" and "the tip is not shown: joint_states lacks shoulder_pan" in logged[0][1]
    rig.joints.publish(joint_state(0, [np.nan] * 6))
    rig.targets.publish(trajectory([np.nan] * 6))
    rig.heard.clear()
    markers = rig.until(lambda m: len(rig.heard) > 3)
    assert not drawn("tip")(markers) and not drawn("target")(markers)


def test_an_empty_trajectory_is_no_target(rig):
    rig.joints.publish(joint_state(0))
    rig.targets.publish(JointTrajectory(joint_names=list(CONTRACT.joints)))
    assert not drawn("target")(rig.until(drawn("tip")))


def test_wrong_parameters_are_one_sentence(make_graph):
    make_graph(rate=0.0)
    with pytest.raises(UserError, match=r"parameter 'rate' is 0\.0, expected a number .* from 1\.0 to 60\.0"):
        MarkersNode()
