import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import rclpy
from builtin_interfaces.msg import Time
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from hilrl_ros.node import UserError, declare, param, steady_ns


@dataclass
class Params:
    """Parameters of a node that is only there for this test."""

    rate: float = param(10.0, "Ticks of the loop", unit="Hz", bounds=(1.0, 100.0))
    depth: int = param(3, "How deep", bounds=(0, 5))
    mode: str = param("calm", "How", choices=("calm", "wild"))
    loud: bool = param(False, "Whether")
    names: list = param(["a", "b"], "Which")


def test_parameters_have_their_defaults_and_descriptions(make_graph):
    graph = make_graph()
    params = declare(graph.probe, Params)
    assert params == Params(10.0, 3, "calm", False, ["a", "b"])
    described = graph.probe.describe_parameter("rate")
    assert described.description == "Ticks of the loop [Hz]"
    assert described.read_only
    assert described.floating_point_range[0].to_value == 100.0
    assert graph.probe.describe_parameter("mode").additional_constraints == "one of calm, wild"


def test_parameters_are_taken_from_the_command_line(make_graph):
    params = declare(make_graph(rate=2.5, depth=5, mode="wild", loud=True, names="[c]").probe, Params)
    assert params == Params(2.5, 5, "wild", True, ["c"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"rate": "fast"},
            r"parameter 'rate' is 'fast', expected a number \(as 1\.0\) from 1\.0 to 100\.0: Ticks",
        ),
        ({"rate": 10}, r"parameter 'rate' is 10, expected a number \(as 1\.0\) from 1\.0 to 100\.0"),
        ({"rate": 200.0}, r"parameter 'rate' is 200\.0, expected a number .* from 1\.0 to 100\.0: Ticks"),
        ({"depth": 6}, r"parameter 'depth' is 6, expected a whole number from 0 to 5: How deep"),
        ({"depth": 1.5}, r"parameter 'depth' is 1\.5, expected a whole number"),
        ({"mode": "mild"}, r"parameter 'mode' is 'mild', expected one of calm, wild"),
        ({"loud": 3}, r"parameter 'loud' is 3, expected true or false: Whether"),
        ({"names": "x"}, r"parameter 'names' is 'x', expected a list: Which"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_one_sentence(make_graph, given, message):
    with pytest.raises(UserError, match=message) as error:
        declare(make_graph(**given).probe, Params)
    assert "\n" not in str(error.value)


NODE = """
    import os
    import sys
    import time
    from rclpy.node import Node
    from hilrl_ros.node import SettingsError, UserError, run

    class SlowEnd:  # is deleted when Python has already given its signal handlers up
        def __del__(self, write=os.write, sleep=time.sleep):
            write(1, b"python ends\\n")
            sleep(1.0)

    class Small(Node):
        def __init__(self):
            super().__init__("small")
            if "settings" in sys.argv:
                raise SettingsError("speed is -1, expected more than 0")
            if "value" in sys.argv:
                raise ValueError("task 'fly' is unknown")
            if "refuse" in sys.argv:
                raise UserError("task 'fly' is unknown")
            if "fail" in sys.argv:
                self.create_timer(0.01, self.fail)
            if "end" in sys.argv:
                self.finished, self.exit_code = True, 3
            if "slow_end" in sys.argv:
                sys.modules["slow_end"] = SlowEnd()
            print("ready", flush=True)

        def fail(self):
            raise ValueError("a mistake in the program")

        def close(self):
            print("closed", flush=True)

    run(Small)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("node") / "small.py"
    path.write_text(textwrap.dedent(NODE))
    return path


def start(program, *args):
    return subprocess.Popen(
        [sys.executable, str(program), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process, timeout=20):
    """Return exit code, output and errors of a process that is about to end."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_a_node_cleanly_each_time(program, signal_name):
    for _ in range(10):
        process = start(program)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, signal_name))
        code, out, err = end(process)
        assert (code, out, err) == (0, "closed\n", "")


def test_ctrl_c_that_comes_twice_does_not_disturb_the_closing(program):
    process = start(program)
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)
    code, out, err = end(process)
    assert (code, out) == (0, "closed\n")
    assert "Traceback" not in err


def test_ctrl_c_that_comes_again_while_python_ends_does_not_kill_it(program):
    process = start(program, "slow_end")
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGINT)
    assert [process.stdout.readline() for _ in range(2)] == ["closed\n", "python ends\n"]
    os.kill(process.pid, signal.SIGINT)
    assert end(process) == (0, "", "")


def test_what_the_user_can_put_right_is_one_sentence_and_code_1(program):
    code, out, err = end(start(program, "refuse"))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1 and "[FATAL]" in err and err.endswith("task 'fly' is unknown\n")


@pytest.mark.parametrize("word", ["settings", "value"])
def test_what_another_start_would_not_mend_is_code_2(program, word):
    code, _, err = end(start(program, word))
    assert code == 2 and err.count("\n") == 1 and "[FATAL]" in err


def test_a_mistake_in_a_callback_is_not_hidden(program):
    code, out, err = end(start(program, "fail"))
    assert code == 1 and "closed" in out
    assert "Traceback" in err and "a mistake in the program" in err


def test_a_node_that_has_finished_ends_with_its_exit_code(program):
    code, out, _ = end(start(program, "end"))
    assert code == 3 and "closed" in out


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel has no autogroups")
def test_stepping_back_counts_also_where_a_supervisor_gives_each_process_a_session():
    """With autogroups niceness alone orders only the processes of one session."""
    code = (
        "from hilrl_ros.node import step_back; step_back(); import os;"
        "print(os.nice(0), open('/proc/self/autogroup').read())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True, check=True
    ).stdout.split()
    assert (out[0], out[-1]) == ("10", "10")


def test_what_lasts_is_measured_on_a_clock_that_nobody_sets_or_by_the_simulators_time(make_graph):
    graph = make_graph()
    assert abs(steady_ns(graph.probe) - time.monotonic_ns()) < 1e9
    simulated = graph.add(
        rclpy.create_node("simulated", parameter_overrides=[Parameter("use_sim_time", value=True)])
    )
    clock = graph.publisher(Clock, "/clock", 10)
    assert steady_ns(simulated) == 0
    graph.until(lambda: clock.publish(Clock(clock=Time(sec=7))) or steady_ns(simulated))
    assert steady_ns(simulated) == 7_000_000_000
