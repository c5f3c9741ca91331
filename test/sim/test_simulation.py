import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract
from hilrl_sim.objects import scene_objects
from hilrl_sim.scene import decimate
from hilrl_sim.simulation import Simulation

CONFIG = Path(__file__).parents[2] / "config"
CONTRACT, TASK = load_contract(CONFIG / "robots/so101.yaml", CONFIG / "tasks/pick_cube.yaml")
HOME = np.array(CONTRACT.home)


@pytest.fixture(scope="module")
def sim():
    return Simulation(CONTRACT, TASK)


def wander(sim, seed, steps=30):
    """Random targets around home, low enough to meet table and cube now and then; all states on the way."""
    rng = np.random.default_rng(seed)
    target = HOME.copy()
    states = []
    for _ in range(steps):
        target = target + rng.uniform(-0.1, 0.1, len(HOME))
        target[1] += 0.03
        sim.step(target)
        states.append(sim.get_state())
    return np.array(states)


def test_the_same_seed_and_targets_give_the_same_states_bit_for_bit(sim):
    sim.reset(7)
    first = wander(sim, 0)
    sim.reset(8)
    wander(sim, 1, 5)
    sim.reset(7)
    assert np.array_equal(first, wander(sim, 0))
    assert np.array_equal(first, wander(Simulation(CONTRACT, TASK, seed=7), 0))


def test_a_period_cut_into_ticks_gives_the_same_motion(sim):
    target = HOME + 0.1
    sim.reset(7)
    sim.step(target)
    sim.step(target)
    whole = sim.joint_position
    sim.reset(7)
    for _ in range(20):
        sim.step(target, CONTRACT.period / 10)
    assert sim.joint_position == pytest.approx(whole, abs=1e-9)
    assert sim.time == pytest.approx(2 * CONTRACT.period)


def test_another_seed_gives_another_start(sim):
    sim.reset(1)
    joints, cube = sim.joint_position, sim.object_poses()["cube"]
    sim.reset(2)
    assert np.abs(sim.joint_position - joints).max() > 1e-3
    assert np.abs(sim.object_poses()["cube"][0] - cube[0]).max() > 1e-3


def test_a_restored_state_repeats_bit_for_bit(sim):
    sim.reset(3)
    wander(sim, 2, 5)
    saved = sim.get_state()
    first = wander(sim, 3, 10)
    poses = sim.object_poses()
    sim.set_state(saved)
    assert np.array_equal(first, wander(sim, 3, 10))
    assert np.array_equal(poses["cube"][0], sim.object_poses()["cube"][0])


def test_objects_lie_where_the_task_says_and_the_tip_starts_near_home(sim):
    spawn = scene_objects(TASK)["cube"].spawn
    home, R_home = sim.kinematics.forward(HOME)
    seen = []
    for seed in range(40):
        sim.reset(seed)
        pos, quat = sim.object_poses()["cube"]
        yaw = 2 * np.arctan2(quat[2], quat[3])
        seen.append([pos[0], pos[1], yaw])
        assert pos[2] == pytest.approx(TASK.scene["objects"]["cube"]["size"][2] / 2, abs=5e-4)
        tip, R = sim.kinematics.forward(sim.joint_position)
        assert np.abs(tip - home).max() < TASK.scene["home_spread"] + 2e-3
        assert pytest.approx(R_home, abs=0.3) == R  # at the top the wrist meets its limit
        assert np.abs(sim.joint_velocity).max() < 0.05
    for values, axis in zip(np.array(seen).T, ("x", "y", "yaw"), strict=True):
        low, high = spawn[axis]
        assert values.min() > low - 2e-3 and values.max() < high + 2e-3
        assert np.ptp(values) > 0.7 * (high - low)  # the whole range is used


def test_the_arm_follows_its_targets(sim):
    sim.reset(0)
    target = HOME + np.array([0.1, -0.1, 0.1, -0.1, 0.1, 0.2])
    for _ in range(3):
        sim.step(target)
    assert sim.joint_position == pytest.approx(target, abs=0.01)
    assert sim.time == pytest.approx(3 * CONTRACT.period)
    assert sim.joint_velocity.shape == sim.joint_effort.shape == (6,)


def test_pushing_against_the_table_stays_above_it(sim):
    sim.reset(0)
    q = HOME.copy()
    tip, R = sim.kinematics.forward(q)
    for z in np.linspace(tip[2], -0.03, 15):
        q = sim.kinematics.step_ik(q, np.array([tip[0], tip[1], z]), R)
        sim.step(q)
    assert sim.kinematics.forward(sim.joint_position)[0][2] > 0.0
    assert np.abs(sim.joint_effort).max() <= CONTRACT.sim["servos"]["force"] + 1e-9


def test_bad_targets_are_refused_and_nothing_moves(sim):
    sim.reset(0)
    before = sim.get_state()
    for bad in (np.full(6, np.nan), np.zeros(5), np.array([0, 0, 0, 0, 0, np.inf])):
        with pytest.raises(ValueError, match=r"joint targets: .*, expected 6 finite numbers"):
            sim.step(bad)
    assert np.array_equal(before, sim.get_state())


def test_the_gap_between_open_jaws_is_free(sim):
    """The object fits, however it is turned, up to half its height deeper than where a grasp holds it.

    The single hull of either jaw would fill the gap.
    """
    import mujoco

    sim.reset(0)
    grasp = CONTRACT.sim["grasp"]
    pos, R = sim.kinematics.forward(sim.joint_position)
    middle = pos + R @ np.array(grasp["offset"])
    size = np.array(TASK.scene["objects"]["cube"]["size"]) / 2
    cube = sim.model.geom("cube").id
    for depth in np.linspace(0.0, size[2], 4):  # up into the gripper
        for yaw in np.linspace(*scene_objects(TASK)["cube"].spawn["yaw"], 5):
            sim._place("cube", middle - R[:, 2] * depth, np.eye(3), yaw)
            mujoco.mj_forward(sim.model, sim.data)
            touching = [c for c in sim.data.contact if cube in c.geom]
            assert not touching, (
                f"cube of {2 * size} touches the jaws {depth * 1e3:.0f} mm up at yaw {yaw:.2f}"
            )


def test_decimation_keeps_the_outline():
    rng = np.random.default_rng(0)
    vertices = rng.uniform(-0.05, 0.05, (3000, 3))
    faces = rng.integers(0, 3000, (1000, 3))
    fewer, kept = decimate(vertices, faces, 0.01)
    assert len(fewer) < len(vertices) and len(kept) <= len(faces)
    assert kept.max() < len(fewer)
    assert np.abs(np.ptp(fewer, axis=0) - 0.1).max() < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": "cone"}, r"scene.objects.cube.shape: is 'cone', expected one of box, sphere, cylinder"),
        ({"size": [0.1]}, r"scene.objects.cube.size: is \[0.1\], expected 3 positive metres for a box"),
        ({"colour": [1, 0, 0]}, r"scene.objects.cube.colour: unknown key; did you mean 'color'\?"),
    ],
)
def test_a_wrong_scene_is_one_clear_sentence(change, message):
    cube = TASK.scene["objects"]["cube"] | change
    with pytest.raises(ContractError, match=message):
        scene_objects(dataclasses.replace(TASK, scene={"objects": {"cube": cube}}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("split", {"jaw": {"axis": "z", "pieces": 2}}, "sim.split: no mesh 'jaw'; the model has: base_motor"),
        (
            "cameras",
            {"c": {"position": [0, 0, 1], "look_at": [0, 0, 0], "fovy": 40}},
            "sim.cameras.c.up: is parallel",
        ),
        ("timestep", 1.0, "sim.timestep: longer than the control period"),
        ("servo", {}, r"so101.sim.servo: unknown key; did you mean 'servos'\?"),
    ],
)
def test_a_wrong_sim_section_is_one_clear_sentence(key, value, message):
    contract = dataclasses.replace(CONTRACT, sim=CONTRACT.sim | {key: value})
    with pytest.raises(ContractError, match=message):
        Simulation(contract, TASK)


def test_sim_settings_are_no_part_of_the_contract():
    other = dataclasses.replace(CONTRACT, sim={})
    assert other.hash() == CONTRACT.hash() and "sim" not in CONTRACT.to_dict()


URDF = """<robot name="crane">
<link name="base_link"/>
<link name="beam"><collision><geometry><box size="0.04 0.04 0.04"/></geometry></collision>
  <inertial><mass value="0.2"/>
  <inertia ixx="1e-4" iyy="1e-4" izz="1e-4" ixy="0" ixz="0" iyz="0"/></inertial></link>
<link name="hand"><visual><geometry><sphere radius="0.02"/></geometry></visual>
  <collision><geometry><sphere radius="0.02"/></geometry></collision>
  <inertial><mass value="0.1"/>
  <inertia ixx="1e-4" iyy="1e-4" izz="1e-4" ixy="0" ixz="0" iyz="0"/></inertial></link>
<joint name="slide" type="prismatic"><parent link="base_link"/><child link="beam"/><axis xyz="1 0 0"/>
  <origin xyz="0 0 0.3"/><limit lower="0" upper="0.5" effort="50" velocity="1"/></joint>
<joint name="drop" type="prismatic"><parent link="beam"/><child link="hand"/><axis xyz="0 0 1"/>
  <limit lower="-0.28" upper="0" effort="50" velocity="1"/></joint>
</robot>"""


def test_another_arm_joins_by_its_files_alone(tmp_path, monkeypatch):
    (tmp_path / "crane").mkdir()
    (tmp_path / "crane/__init__.py").touch()
    (tmp_path / "crane/crane.urdf").write_text(URDF)
    monkeypatch.syspath_prepend(tmp_path)
    servos = {"kp": 500, "kv": 30, "force": 50, "damping": 1, "frictionloss": 0, "armature": 0.1}
    sim = Simulation(
        dataclasses.replace(
            CONTRACT, robot="crane", joints=("slide", "drop"), gripper_joint="drop", home=(0.2, -0.1),
            model=dataclasses.replace(CONTRACT.model, package="crane", urdf="*.urdf", tip_frame="hand"),
            sim={"timestep": 0.002, "servos": servos, "cameras": {}},
        ),
        TASK,
    )  # fmt: skip
    for _ in range(20):
        sim.step(np.array([0.3, -0.2]))
    assert sim.joint_position == pytest.approx([0.3, -0.2], abs=0.01)
