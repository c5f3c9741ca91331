"""What a task may put into the scene besides loose things: fixed ones, parts on joints, what the gripper holds."""

import dataclasses

import mujoco
import numpy as np
import pytest
from loop_messages import CONTRACT, HOME, TASK
from simulated_loop import CONFIG, Loop

from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract
from hilrl_sim.objects import scene_objects
from hilrl_sim.simulation import Simulation

BOX = {"shape": "box", "size": [0.03, 0.03, 0.03], "spawn": {"x": [0.2, 0.2], "y": [0.0, 0.0]}}
DOOR = {
    "part_of": "frame",
    "position": [0.0, 0.0, 0.02],
    "joint": {"type": "hinge", "axis": [0, 0, 1], "range": [-1.0, 1.0], "damping": 0.001, "spring": 0.01},
    "parts": [{"shape": "box", "size": [0.06, 0.004, 0.04], "position": [0.03, 0.0, 0.0]}],
    "mass": 0.02,
}


def scene(**objects):
    return dataclasses.replace(TASK, scene={"objects": objects})


@pytest.fixture(scope="module")
def peg():
    return Loop("insert_peg")


@pytest.fixture(scope="module")
def drawer():
    return Simulation(*load_contract(CONFIG / "robots/so101.yaml", CONFIG / "tasks/open_drawer.yaml"))


def test_what_is_fixed_stays_where_it_is_and_what_is_not_falls():
    high = {"x": [0.2, 0.2], "y": [0.0, 0.0], "z": [0.2, 0.2], "yaw": [0.3, 0.3]}
    beside = high | {"y": [0.1, 0.1]}
    sim = Simulation(CONTRACT, scene(shelf=BOX | {"fixed": True, "spawn": high}, box=BOX | {"spawn": beside}))
    place, turn = sim.object_poses()["shelf"]
    assert place == pytest.approx([0.2, 0.0, 0.2]) and turn[2] == pytest.approx(np.sin(0.15))
    for _ in range(5):
        sim.step(HOME)
    assert np.array_equal(sim.object_poses()["shelf"][0], place)
    assert sim.object_poses()["box"][0][2] < 0.1


def test_a_drawer_stands_on_its_cabinet_wherever_that_is(drawer):
    turns, places = [], []
    for seed in range(20):
        drawer.reset(seed)
        (cabinet, turn), (handle, same) = (drawer.object_poses()[name] for name in ("cabinet", "drawer"))
        yaw = 2 * np.arcsin(turn[2])
        out = np.array([-np.sin(yaw), np.cos(yaw), 0.0])  # the way it opens
        assert handle == pytest.approx(cabinet + 0.022 * out + [0, 0, 0.03], abs=2e-4)
        assert same == pytest.approx(turn, abs=1e-6)
        assert drawer.object_joints()["drawer"] == pytest.approx((0.0, 0.0), abs=2e-4)
        turns.append(yaw), places.append(cabinet)
        drawer.data.joint("drawer").qpos[0] = 0.05
        mujoco.mj_kinematics(drawer.model, drawer.data)
        assert drawer.object_poses()["drawer"][0] == pytest.approx(handle + 0.05 * out, abs=5e-4)
    assert np.ptp(turns) > 0.2 and np.ptp(places, axis=0)[:2].min() > 0.02


def test_a_spring_shuts_a_door_and_its_stop_holds_it():
    sim = Simulation(CONTRACT, scene(frame=BOX | {"fixed": True}, door=DOOR))
    sim.data.joint("door").qpos[0] = 1.2
    sim.step(HOME)
    assert sim.object_joints()["door"][0] < 1.02
    for _ in range(20):
        sim.step(HOME)
    assert abs(sim.object_joints()["door"][0]) < 0.1


def test_the_gripper_holds_the_peg_where_the_seed_says(peg):
    sits = []
    for seed in range(15):
        state = peg.reset(seed)
        for _ in range(10):
            state, _ = peg.step(peg.still)
        sits.append([state["peg_y"] + state["hole_y"] - state["tip_y"], state["peg_z"] - state["tip_z"]])
        assert abs(state["peg_roll"]) < 0.05 and abs(state["peg_pitch"]) < 0.05
        assert -0.02 < state["gripper"] < 0.02, "16 mm"
    spawn = scene_objects(peg.task)["peg"].spawn
    for values, axis in zip(np.array(sits).T, "yz", strict=True):
        low, high = spawn[axis]
        assert low - 2e-3 < values.min() and values.max() < high + 2e-3
        assert np.ptp(values) > 0.5 * (high - low)


def test_a_reset_of_the_things_alone_puts_the_peg_into_jaws_that_are_closed(peg):
    peg.sim.reset(0)
    peg.sim.set_state(peg.sim.get_state())
    for _ in range(3):
        peg.sim.step(peg.sim.target)
    peg.sim.reset_objects(7)
    for _ in range(10):
        peg.sim.step(peg.sim.target)
    tip, _ = peg.sim.kinematics.forward(peg.sim.joint_position)
    assert np.linalg.norm(peg.sim.object_poses()["peg"][0] - tip) < 0.025


def test_the_same_seed_gives_the_same_grasp_bit_for_bit(peg):
    peg.reset(3)
    first = peg.sim.get_state()
    peg.reset(4)
    peg.reset(3)
    assert np.array_equal(first, peg.sim.get_state())


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"a": {"shape": "box", "size": [1, 1, 1]}}, r"cube\.scene\.objects\.a: key 'spawn' is missing"),
        ({"a": {"spawn": {"x": [0, 0], "y": [0, 0]}}}, r"objects\.a: key 'shape' is missing"),
        (
            {"a": BOX | {"parts": []}},
            r"objects\.a\.s(hape|ize): unknown key; allowed: collides, color, contact_time, fixed",
        ),
        (
            {"a": {"parts": [{"shape": "box", "size": [1, 1, 1]}], "spawn": BOX["spawn"]}},
            r"objects\.a\.parts\[0\]: key 'position' is missing",
        ),
        ({"door": DOOR}, r"objects\.door\.part_of: is 'frame', expected the name of an object above it"),
        (
            {"frame": BOX, "door": DOOR | {"joint": DOOR["joint"] | {"type": "ball"}}},
            r"objects\.door\.joint\.type: is 'ball', expected one of slide, hinge",
        ),
        (
            {"frame": BOX, "door": DOOR | {"joint": DOOR["joint"] | {"range": [1, -1]}}},
            r"objects\.door\.joint\.range: is \[1, -1\], expected \[lowest, highest\]",
        ),
        (
            {"frame": BOX, "door": DOOR | {"joint": DOOR["joint"] | {"damping": -1}}},
            r"objects\.door\.joint\.damping: is -1, expected a number of at least 0",
        ),
        ({"frame": BOX, "door": DOOR | {"position": 1}}, r"objects\.door\.position: is 1, expected three"),
        ({"a": BOX | {"friction": "high"}}, r"objects\.a\.friction: is 'high', expected a positive number"),
        ({"a": BOX | {"mass": 0}}, r"objects\.a\.mass: is 0, expected a positive number"),
        ({"a": BOX | {"held": True, "fixed": True}}, r"objects\.a: only one of fixed: true, held: true"),
    ],
    ids=str,
)
def test_wrong_objects_are_one_sentence(objects, message):
    with pytest.raises(ContractError, match=message):
        scene_objects(scene(**objects))


def test_jaws_that_are_open_at_home_hold_nothing():
    held = {"shape": "box", "size": [0.016, 0.016, 0.05], "held": True, "spawn": {}}
    with pytest.raises(
        ContractError,
        match=r"cube\.home: the jaws that hold 'a' are open there; add 'home: \{gripper: -0\.17\}'",
    ):
        Simulation(CONTRACT, scene(a=held))
