"""When the session lets an episode begin."""

import time

import pytest
from hilrl_msgs.msg import Recording
from hilrl_msgs.srv import Reset
from loop_messages import ROBOT, TASK_FILE

from hilrl_actor import session_node
from hilrl_actor.session_node import SessionNode
from hilrl_data.bags import STEP_TOPICS
from hilrl_ros import qos


@pytest.mark.parametrize("late", STEP_TOPICS)
def test_no_episode_begins_before_all_that_makes_a_step_is_there(make_graph, tmp_path, monkeypatch, late):
    monkeypatch.setattr(session_node, "_SETTLE_S", 0.1)
    graph = make_graph(robot=ROBOT, task=TASK_FILE, plan="record", demos=1, runs_dir=tmp_path, run="r")
    session = graph.add(SessionNode())
    asked = []

    def answer(request, response):
        asked.append(request.episode)
        return response

    graph.probe.create_service(Reset, "reset_episode", answer)
    graph.publisher(Recording, "recording", qos.STEP)
    for topic, kind in STEP_TOPICS.items():
        if topic != late:
            graph.publisher(kind, topic, qos.STEP)
    graph.until(session.reset.service_is_ready)
    graph.until(lambda: session.count_publishers("recording"))
    later = time.monotonic() + 0.5
    graph.until(lambda: time.monotonic() > later)
    assert not asked
    graph.publisher(STEP_TOPICS[late], late, qos.STEP)
    graph.until(lambda: asked == [1])
