import os
import threading
from pathlib import Path

import numpy as np
import pytest
from emulated_arm import registers
from geometry_msgs.msg import PoseStamped
from hilrl_msgs.srv import Reset
from loop_messages import CONTRACT, HOME, ROBOT, TASK, TASK_FILE
from sensor_msgs.msg import CameraInfo, Image, JointState
from simulated_loop import Loop
from std_msgs.msg import Float64MultiArray

from hilrl_ros import qos
from hilrl_ros.images import to_rgb
from hilrl_ros.node import UserError
from hilrl_sim.expert import make_expert
from hilrl_sim.simulation import Simulation
from hilrl_sim.twin_node import EmulatedArmNode, Twin
from so101_driver import registers as reg
from so101_driver.arm import Arm, ArmError
from so101_driver.bus import Bus
from so101_driver.calibration import Calibration
from so101_driver.driver_node import DriverNode

STEPS = 5  # physics steps in a driver's cycle of 10 ms


class Driven:
    """A driver's arm on a twin, in simulated time."""

    def __init__(self, simulation, link, torque=True, **options):
        self.twin = Twin(simulation, str(link), **options)
        self.now = 0.0
        bus = Bus(self.twin.bus.port, self.twin.calibration.ids)
        self.arm = Arm(bus, self.twin.calibration, simulation.kinematics.joint_limits, clock=lambda: self.now)
        if torque:
            self.start()

    def start(self):
        self.arm.connect()
        self.arm.guard.torque(True)
        self.cycle()
        assert self.arm.torque_on

    def cycle(self, count=1):
        for _ in range(count):
            self.now += 0.01
            self.state = self.arm.cycle()
            self.arm.bus.ping(1)  # the goals before it have arrived
            self.twin.advance(STEPS)

    def close(self):
        self.arm.close()
        self.twin.close()


@pytest.fixture
def driven(tmp_path):
    driven = Driven(Simulation(CONTRACT, TASK), tmp_path / "follower")
    yield driven
    driven.close()


def test_the_arm_holds_itself_up_and_goes_where_the_bus_says(driven):
    sim = driven.twin.simulation
    start = sim.joint_position
    driven.cycle(100)
    assert sim.joint_position == pytest.approx(start, abs=0.005)
    assert driven.arm.read().position == pytest.approx(sim.joint_position, abs=0.002)
    target = np.add(start, [0.3, 0.1, 0.1, -0.1, 0.5, -0.3])
    driven.arm.guard.command(target, [0.5])
    driven.cycle(80)
    assert sim.joint_position == pytest.approx(target, abs=0.01)
    assert driven.arm.guard.status == "follows commands"
    assert 0 < abs(driven.state.load[1]) < 0.5 and driven.state.servos["shoulder_lift"].current > 0


def test_velocity_is_that_of_the_joints(driven):
    start = driven.twin.simulation.joint_position
    driven.arm.guard.command(np.add(start, [0.5, 0, 0, 0, 0, 0]), [0.5])
    driven.cycle(25)
    assert driven.state.velocity[0] == pytest.approx(1.0, abs=0.15)


def test_without_torque_the_arm_falls_and_a_hand_may_lead_it(driven):
    sim = driven.twin.simulation
    driven.cycle(20)
    height = sim.kinematics.forward(sim.joint_position)[0][2]
    driven.arm.release()
    driven.cycle(100)
    assert sim.kinematics.forward(sim.joint_position)[0][2] < height - 0.02
    driven.twin.hand = np.add(HOME, [0.4, 0, 0, 0, 0, 0.3])
    driven.cycle(200)
    assert driven.arm.read().position == pytest.approx(driven.twin.hand, abs=0.02)
    driven.start()  # where the hand has led it
    driven.twin.hand = None
    driven.cycle(50)
    assert sim.joint_position == pytest.approx(np.add(HOME, [0.4, 0, 0, 0, 0, 0.3]), abs=0.02)


def test_another_homing_offset_changes_what_a_servo_reads(driven):
    servo = driven.twin.bus.servos[1]
    servo.write(reg.HOMING_OFFSET.address, reg.HOMING_OFFSET.encode(servo.get(reg.HOMING_OFFSET) - 100))
    driven.twin.advance(STEPS)
    ticks = driven.arm.bus.sync_read_state().states[1].position
    pan = driven.twin.simulation.joint_position[0]
    assert ticks == pytest.approx(2047.5 + pan * 4095 / 2 / np.pi + 100, abs=2)


def test_servos_as_delivered_are_limp_and_belong_to_no_calibration(tmp_path):
    driven = Driven(Simulation(CONTRACT, TASK), tmp_path / "follower", torque=False, factory=True)
    assert registers(driven.twin.bus, reg.TORQUE_ENABLE) == [0] * 6
    assert registers(driven.twin.bus, reg.MAX_POSITION) == [4095] * 6
    with pytest.raises(ArmError, match="another arm"):
        driven.arm.connect()
    driven.arm.write_calibration()
    driven.start()
    driven.close()


class WiredLoop(Loop):
    """The loop with the servo bus between controller and simulator."""

    def __init__(self, task, link):
        super().__init__(task)
        self.driven = Driven(self.sim, link)

    def reset(self, seed):
        self.driven.arm.guard.torque(False)
        self.driven.cycle()
        state = super().reset(seed)
        self.driven.twin.advance(0)
        self.driven.start()
        return state

    def joints(self):
        state = self.driven.arm.read()
        return state.position.tolist(), state.velocity.tolist(), state.load.tolist()

    def move(self, action):
        target = self.arm.step(self.driven.arm.read().position, action).target
        self.driven.arm.guard.command(target, [self.contract.period])
        self.driven.cycle(10)


def test_the_expert_solves_the_task_through_the_servo_bus(tmp_path):
    loop = WiredLoop("pick_cube", tmp_path / "follower")
    expert = make_expert(loop.contract, loop.task, np.random.default_rng(0), 0.0)

    def act(step, state):
        if step == 0:
            expert.reset()
        return expert.act(state)

    results = [loop.episode(seed, act) for seed in range(10)]
    loop.driven.close()
    assert sum(success for success, _ in results) >= 9, results


class Rig:
    """The emulated arm and the driver, as nodes."""

    def __init__(self, graph, link):
        self.graph = graph
        self.twin = EmulatedArmNode()
        self.driver = DriverNode()
        graph.add(self.driver)  # first, so that it is closed first
        graph.add(self.twin)
        self.joints = graph.listen(JointState, "joint_states", qos.STEP)
        self.cubes = graph.listen(PoseStamped, "cube/pose", qos.STEP)
        self.vectors = graph.publisher(Float64MultiArray, "forward_controller/commands", qos.STEP)
        self.client = graph.probe.create_client(Reset, "reset_scene")
        graph.connect()
        graph.until(self.client.service_is_ready)
        graph.until(lambda: self.joints and self.cubes)


@pytest.fixture
def link(tmp_path):
    return str(tmp_path / "follower")


@pytest.fixture
def graph(make_graph, link):
    return make_graph(
        robot=ROBOT, task=TASK_FILE, link=link, port=link, calibration=f"{link}.json", release_time=0.1
    )


def test_a_driver_starts_on_the_emulated_arm_without_questions(graph, link):
    rig = Rig(graph, link)
    assert os.readlink(link).startswith("/dev/pts/")
    assert Calibration.load(f"{link}.json") == rig.twin.twin.calibration
    target = np.add(HOME, [0.1, 0, 0, 0, 0, 0])
    rig.vectors.publish(Float64MultiArray(data=target.tolist()))
    graph.until(lambda: abs(rig.joints[-1].position[0] - target[0]) < 0.01)
    z = [c.pose.position.z for c in rig.cubes]
    assert max(z) - min(z) < 0.01  # the cube lies still


def test_the_arm_stays_until_the_driver_has_released_it(graph, link):
    rig = Rig(graph, link)
    stopped = threading.Thread(target=rig.twin.close)  # both are told at once
    stopped.start()
    stopped.join(0.2)
    rig.driver.close()
    stopped.join()
    assert registers(rig.twin.twin.bus, reg.TORQUE_ENABLE) == [0] * 6
    assert not os.path.lexists(link)


def test_a_reset_places_the_objects_as_the_seed_draws_and_leaves_the_arm(graph, link):
    rig = Rig(graph, link)

    def reset(seed):
        future = rig.client.call_async(Reset.Request(seed=seed))
        graph.until(future.done)
        assert future.result().success
        stamp = future.result().stamp
        graph.until(lambda: (rig.cubes[-1].header.stamp.sec, rig.cubes[-1].header.stamp.nanosec)
                    > (stamp.sec, stamp.nanosec))  # fmt: skip
        return [rig.cubes[-1].pose.position.x, rig.cubes[-1].pose.position.y]

    before = list(rig.joints[-1].position)
    first, other = reset(5), reset(6)
    expected = Simulation(CONTRACT, TASK, seed=5).object_poses()["cube"][0]
    assert reset(5) == pytest.approx(first, abs=1e-3)
    assert first == pytest.approx(expected[:2].tolist(), abs=1e-3)
    assert np.linalg.norm(np.subtract(first, other)) > 0.01
    assert list(rig.joints[-1].position) == pytest.approx(before, abs=0.02)


def test_cameras_show_the_table(make_graph, link):
    graph = make_graph(
        robot=ROBOT, task=TASK_FILE, link=link, image_width=160, image_height=120, cameras="[front]"
    )
    graph.add(EmulatedArmNode())
    images = graph.listen(Image, "front/image_raw", qos.SENSOR)
    infos = graph.listen(CameraInfo, "front/camera_info", qos.SENSOR)
    graph.until(lambda: len(images) > 2 and infos)
    picture = to_rgb(images[-1])
    assert picture.shape == (120, 160, 3) and picture.std() > 10
    assert (infos[-1].width, infos[-1].header.frame_id) == (160, "front_optical_frame")


def test_a_link_that_is_something_else_is_left_alone(make_graph, link):
    make_graph(robot=ROBOT, task=TASK_FILE, link=link)
    Path(link).write_text("precious")
    with pytest.raises(UserError, match=f"parameter 'link' is '{link}': File exists"):
        EmulatedArmNode()
    assert Path(link).read_text() == "precious"


def test_a_link_that_a_killed_one_left_is_replaced(make_graph, link):
    os.symlink("/dev/pts/9999", link)
    make_graph(robot=ROBOT, task=TASK_FILE, link=link)
    node = EmulatedArmNode()
    assert os.readlink(link) != "/dev/pts/9999"
    node.close()
    assert not os.path.lexists(link)
