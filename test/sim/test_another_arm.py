"""An arm that joins by its files alone: an MJCF with scenery, a gripper of two fingers, and names of its own."""

import numpy as np
import pytest
import yaml
from simulated_loop import CONFIG, Loop

from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract
from hilrl_sim.simulation import Simulation
from hilrl_sim.skills import make_expert

# A gantry over a table. Its base is turned and raised, angles are in degrees, and defaults, floor, sky, lamp, camera,
# another body, a motor and a keyframe must not reach the scene. The left finger closes as its joint grows.
MJCF = """<mujoco><compiler angle="degree" inertiagrouprange="4 5"/>
<default><geom density="700" rgba="0 0 1 1" margin=".01"/><joint armature="3"/>
 <general ctrllimited="true" ctrlrange="-.1 .1"/><default class="metal"><geom rgba="1 0 0 1"/></default></default>
<asset><texture type="skybox" builtin="flat" width="8" height="48"/></asset>
<worldbody>
<light pos="0 0 3"/><camera name="theirs" pos="0 0 2"/><geom type="plane" size="1 1 .1"/>
<body name="crate"><freejoint/><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/><geom size=".1"/></body>
<body name="l/frame" pos="1 2 .5" euler="0 0 90">
 <body name="l/bridge" pos="0 0 .4"><inertial pos="0 0 0" mass="1" diaginertia=".01 .01 .01"/>
  <joint name="l/x" type="slide" axis="1 0 0" range="0 .4" limited="true"/>
  <body name="l/trolley"><inertial pos="0 0 0" mass="1" diaginertia=".01 .01 .01"/>
   <joint name="l/y" type="slide" axis="0 1 0" range="-.3 .3" limited="true"/>
   <body name="l/mast"><inertial pos="0 0 0" mass=".5" diaginertia=".01 .01 .01"/>
    <joint name="l/z" type="slide" axis="0 0 1" range="-.3 0" limited="true"/>
    <site name="tool" pos="0 0 -.25"/>
    <body name="l/left" pos="0 .034 -.225" childclass="metal">
     <inertial pos="0 0 0" mass=".05" diaginertia="1e-4 1e-4 1e-4"/>
     <joint name="l/finger" type="slide" axis="0 -1 0" range="0 .03" limited="true"/>
     <geom type="box" size=".01 .004 .03"/></body>
    <body name="l/right" pos="0 -.034 -.225"><inertial pos="0 0 0" mass=".05" diaginertia="1e-4 1e-4 1e-4"/>
     <joint name="l/other_finger" type="slide" axis="0 -1 0" range="-.03 0" limited="true" frictionloss="99"/>
     <geom type="box" size=".01 .004 .03"/></body>
   </body></body></body></body>
</worldbody>
<actuator><motor joint="l/x"/></actuator>
<keyframe><key qpos="0 0 0 1 0 0 0 0 0 0 0 0"/></keyframe>
</mujoco>"""
JOINTS = ["x", "y", "z", "gripper"]


def robot(folder):
    """The gantry's contract as YAML would give it."""
    raw = yaml.safe_load((CONFIG / "robots/so101.yaml").read_text())
    of_a_joint = {"topic": "joint_states", "unit": "m"}
    raw |= {
        "robot": "gantry",
        "model": {
            "package": str(folder), "mjcf": "gantry.xml", "root": "l/frame", "base_frame": "l/frame",
            "tip_frame": "tool", "joints": {"x": "l/x", "y": "l/y", "z": "l/z", "gripper": "l/finger"},
        },
        "joints": JOINTS,
        "max_gripper_speed": 0.1,
        "state": [{"name": j, "field": f"position[{j}]"} | of_a_joint for j in JOINTS]
        + [{"name": f"tip_{axis}", "field": f"tip.{axis}"} | of_a_joint for axis in "xyz"],
        "action": {"type": "ee_delta", "scale": {"x": 0.02, "y": 0.02, "z": 0.02, "gripper": -0.005}},
        "home": {"x": 0.22, "y": 0.0, "z": -0.07, "gripper": 0.01},
        "sim": {
            "timestep": 0.002,
            "servos": {
                "kp": 2e4, "kv": 500.0, "force": 300.0, "damping": 1.0, "frictionloss": 0.0, "armature": 0.1,
                "overrides": {"gripper": {"kp": 2000.0, "kv": 50.0, "force": 15.0}},
            },
            "mimic": {"l/other_finger": {"joint": "gripper", "multiplier": -1.0}},
            "grasp": {"open": 0.01, "closed": 0.03, "offset": [0, 0, 0.003], "gap": [0, 0.04, 0]},
            "cameras": {},
        },
    }  # fmt: skip
    raw.pop("motion")
    return raw


@pytest.fixture
def files(tmp_path):
    (tmp_path / "gantry.xml").write_text(MJCF)
    (tmp_path / "gantry.yaml").write_text(yaml.safe_dump(robot(tmp_path), sort_keys=False))
    return tmp_path


def test_it_picks_up_the_cube(files):
    loop = Loop("pick_cube", files / "gantry.yaml")
    expert = make_expert(loop.contract, loop.task, np.random.default_rng(0))
    assert sum(success for success, _ in loop.demonstrations(expert, range(10))) == 10
    left, right = (loop.sim.data.joint(name).qpos[0] for name in ("l/finger", "l/other_finger"))
    assert right == pytest.approx(-left, abs=1e-4)
    assert 2 * (0.03 - left) == pytest.approx(
        0.03, abs=0.006
    )  # a cube of 25 mm, perhaps askew, is between them


def test_only_the_arm_of_its_file_is_in_the_scene(files):
    model = Simulation(*load_contract(files / "gantry.yaml", CONFIG / "tasks/pick_cube.yaml")).model
    assert [model.actuator(i).name for i in range(model.nu)] == JOINTS
    assert model.ncam == 0 and model.nlight == 2 and model.nkey == 0
    bodies = {model.body(i).name for i in range(model.nbody)}
    assert "crate" not in bodies and {"l/frame", "cube"} < bodies
    assert model.body("cube").mass[0] == pytest.approx(0.03)
    assert model.geom("cube").margin[0] == 0.0 and not model.actuator_ctrllimited.any()
    left, right = (model.geom_bodyid == model.body(name).id for name in ("l/left", "l/right"))
    assert model.geom_rgba[left].tolist() == [[1, 0, 0, 1]] * 2 and model.geom_rgba[right][0, 2] == 1


def test_a_gripper_moves_no_faster_than_it_may(files):
    raw = robot(files) | {"max_gripper_speed": 0.02}
    (files / "slow.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    loop = Loop("pick_cube", files / "slow.yaml")
    loop.reset(0)
    start = loop.sim.joint_position
    target = loop.arm.step(start, np.array([0.0, 0.0, 0.0, -1.0])).target
    assert (target - start)[3] == pytest.approx(0.002, abs=1e-6)
    assert loop.contract.joint_speeds == (2.0, 2.0, 2.0, 0.02)


def test_what_is_held_begins_in_the_middle_of_two_jaws(files):
    task = yaml.safe_load((CONFIG / "tasks/pick_cube.yaml").read_text())
    task["scene"]["objects"]["cube"] |= {"held": True, "spawn": {}}
    task["home"] = {"gripper": 0.03}
    (files / "held.yaml").write_text(yaml.safe_dump(task))
    contract, held = load_contract(files / "gantry.yaml", files / "held.yaml")
    simulation = Simulation(contract, held)
    for _ in range(10):
        simulation.step(simulation.target)
    tip, _ = simulation.kinematics.forward(simulation.joint_position)
    assert simulation.object_poses()["cube"][0] == pytest.approx([*tip[:2], tip[2] + 0.003], abs=0.001)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mimic": {"l/thumb": {"joint": "gripper"}}}, r"mimic.l/thumb: no joint without a servo; there are: l/oth"),
        ({"mimic": {"l/other_finger": {"joint": "z9"}}}, r"mimic.l/other_finger.joint: 'z9' is not one of x, y, z"),
        ({"grasp": {"open": 0, "closed": 1, "offset": [0, 0, 0]}}, r"gantry.sim.grasp.gap: is missing or zero"),
        ({"grasp": {"open": 0, "offset": [0, 0, 0]}}, r"gantry.sim.grasp: key 'closed' is missing"),
    ],
)  # fmt: skip
def test_a_wrong_gripper_is_one_clear_sentence(files, change, message):
    raw = robot(files)
    raw["sim"] |= change
    (files / "wrong.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(ContractError, match=message):
        Simulation(*load_contract(files / "wrong.yaml", CONFIG / "tasks/pick_cube.yaml"))


def test_jaws_that_close_up_and_down_cannot_grasp_from_above(files):
    raw = robot(files)
    raw["sim"]["grasp"] |= {"gap": [0, 0, 0.04]}
    (files / "wrong.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    contract, task = load_contract(files / "wrong.yaml", CONFIG / "tasks/pick_cube.yaml")
    with pytest.raises(ContractError, match=r"the jaws close up and down in the home pose; the expert pick"):
        make_expert(contract, task, np.random.default_rng(0))
