"""The nodes' executor runs every kind of callback; messages are its short way."""

import time

import pytest
import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Int32
from std_srvs.srv import Trigger

from hilrl_ros import qos


def test_messages_come_once_each_and_in_order(make_graph):
    graph = make_graph()
    heard = graph.listen(Int32, "numbers", QoSProfile(depth=100))
    publisher = graph.publisher(Int32, "numbers", QoSProfile(depth=100))
    graph.connect()
    for n in range(50):
        publisher.publish(Int32(data=n))
    graph.until(lambda: len(heard) >= 50)
    graph.executor.spin_once(timeout_sec=0.1)
    assert [m.data for m in heard] == list(range(50))


def test_no_subscription_waits_for_another_that_is_busy(make_graph):
    graph = make_graph()
    publisher = graph.publisher(Int32, "busy", qos.STEP)
    quiet = graph.publisher(Int32, "quiet", qos.STEP)
    counts = {"busy": 0, "quiet": 0}

    def again(msg):
        counts["busy"] += 1
        publisher.publish(msg)

    graph.probe.create_subscription(Int32, "busy", again, qos.STEP)
    graph.probe.create_subscription(
        Int32, "quiet", lambda _: counts.update(quiet=counts["quiet"] + 1), qos.STEP
    )
    graph.connect()
    publisher.publish(Int32())
    graph.until(lambda: counts["busy"] > 20)
    quiet.publish(Int32())
    graph.until(lambda: counts["quiet"] == 1)


def test_timers_services_and_clients_run_beside_a_busy_subscription(make_graph):
    graph = make_graph()
    publisher = graph.publisher(Int32, "busy", qos.STEP)
    graph.probe.create_subscription(Int32, "busy", publisher.publish, qos.STEP)
    ticks = []
    graph.probe.create_timer(0.02, lambda: ticks.append(time.monotonic()))
    graph.probe.create_service(
        Trigger, "ask", lambda _, answer: Trigger.Response(success=True, message="yes")
    )
    client = graph.probe.create_client(Trigger, "ask")
    parameters = graph.probe.create_client(
        __import__("rcl_interfaces.srv", fromlist=["ListParameters"]).ListParameters, "probe/list_parameters"
    )
    graph.connect()
    publisher.publish(Int32())
    graph.until(lambda: client.service_is_ready() and parameters.service_is_ready())
    answer, listed = (
        client.call_async(Trigger.Request()),
        parameters.call_async(parameters.srv_type.Request()),
    )
    graph.until(lambda: answer.done() and listed.done())
    assert answer.result().message == "yes"
    assert "use_sim_time" in listed.result().result.names
    graph.until(lambda: len(ticks) >= 5)


def test_coroutines_and_callbacks_with_message_info_are_run(make_graph):
    graph = make_graph()
    heard = []

    async def later(msg):
        heard.append(("later", msg.data))

    def informed(msg, info):
        heard.append(("informed", msg.data, bool(info)))

    graph.probe.create_subscription(Int32, "a", later, qos.STEP)
    graph.probe.create_subscription(Int32, "b", informed, qos.STEP)
    publishers = [graph.publisher(Int32, topic, qos.STEP) for topic in "ab"]
    graph.connect()
    for publisher in publishers:
        publisher.publish(Int32(data=7))
    graph.until(lambda: len(heard) == 2)
    assert sorted(heard) == [("informed", 7, True), ("later", 7)]


def test_what_a_callback_makes_or_destroys_counts_from_then_on(make_graph):
    graph = make_graph()
    publishers = {topic: graph.publisher(Int32, topic, qos.STEP) for topic in ("first", "second")}
    heard, made = [], []

    def first(msg):
        heard.append("first")
        made.append(
            graph.probe.create_subscription(Int32, "second", lambda _: heard.append("second"), qos.STEP)
        )
        graph.probe.destroy_subscription(subscription)

    subscription = graph.probe.create_subscription(Int32, "first", first, qos.STEP)
    graph.until(lambda: publishers["first"].get_subscription_count() == 1)
    publishers["first"].publish(Int32())
    graph.until(lambda: publishers["second"].get_subscription_count() == 1)
    publishers["second"].publish(Int32())
    graph.until(lambda: "second" in heard)
    graph.until(lambda: publishers["first"].get_subscription_count() == 0)
    for _ in range(3):
        graph.executor.spin_once(timeout_sec=0.06)  # QoS events are looked at again
    assert heard == ["first", "second"]


def test_qos_that_does_not_fit_is_reported(make_graph):
    graph = make_graph()
    reports = []
    events = rclpy.event_handler.SubscriptionEventCallbacks(incompatible_qos=reports.append)
    graph.probe.create_subscription(
        Int32, "t", lambda _: None, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        event_callbacks=events, callback_group=ReentrantCallbackGroup(),
    )  # fmt: skip
    graph.publisher(Int32, "t", qos.STEP)
    graph.until(lambda: reports)


def test_an_error_in_a_callback_ends_the_spin(make_graph):
    graph = make_graph()

    def fail(_):
        raise RuntimeError("broken callback")

    graph.probe.create_subscription(Int32, "t", fail, qos.STEP)
    publisher = graph.publisher(Int32, "t", qos.STEP)
    graph.connect()
    publisher.publish(Int32())
    with pytest.raises(RuntimeError, match="broken callback"):
        graph.until(lambda: False, timeout=5.0)


def test_it_waits_no_longer_than_it_was_told(make_graph):
    graph = make_graph()
    for _ in range(5):
        graph.executor.spin_once(timeout_sec=0.0)
    began = time.monotonic()
    graph.executor.spin_once(timeout_sec=0.2)
    assert time.monotonic() - began < 2.0


def test_a_node_may_destroy_what_is_waited_for_at_any_moment(make_graph):
    graph = make_graph()
    publisher = graph.publisher(Int32, "t", qos.STEP)
    for _ in range(5):
        heard = []
        subscription = graph.probe.create_subscription(Int32, "t", heard.append, qos.STEP)
        graph.until(lambda: publisher.get_subscription_count() == 1)
        graph.probe.destroy_subscription(subscription)
        time.sleep(0.06)  # until QoS events are due
        publisher.publish(Int32())
        graph.until(lambda: publisher.get_subscription_count() == 0)
        assert heard == []


def test_everything_that_waits_for_an_answer_is_called_though_nothing_else_happens(make_graph):
    graph = make_graph()
    graph.probe.create_service(Trigger, "ask", lambda _, answer: answer)
    client = graph.probe.create_client(Trigger, "ask")
    graph.until(client.service_is_ready)
    called = []
    answer = client.call_async(Trigger.Request())
    for name in "abc":
        answer.add_done_callback(lambda _, name=name: called.append(name))
    graph.until(lambda: len(called) == 3)
