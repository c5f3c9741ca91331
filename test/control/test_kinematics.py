import dataclasses
from pathlib import Path

import mujoco
import numpy as np
import pytest

from hilrl_ros.contract import ContractError, Model
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import (
    Kinematics,
    arm_spec,
    find_model,
    matrix_rpy,
    resolve_mesh,
    rotation_vector,
    rpy_matrix,
    urdf_text,
)

CONFIG = Path(__file__).parents[2] / "config"
CONTRACT, _ = load_contract(CONFIG / "robots/so101.yaml")


@pytest.fixture(scope="module")
def kinematics():
    return Kinematics(CONTRACT)


def random_joints(kinematics, rng):
    low, high = kinematics.joint_limits.T
    return rng.uniform(low, high)


def test_forward_agrees_with_mujocos_own_compilation_of_the_urdf(kinematics):
    model = arm_spec(CONTRACT.model, meshes=False).compile()
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    for _ in range(20):
        q = random_joints(kinematics, rng)
        for name, value in zip(CONTRACT.joints, q, strict=True):
            data.joint(name).qpos = value
        mujoco.mj_forward(model, data)
        pos, R = kinematics.forward(q)
        base = data.body("base_link")
        assert pos == pytest.approx(data.body("gripper_frame_link").xpos - base.xpos, abs=1e-12)
        assert pytest.approx(data.body("gripper_frame_link").xmat.reshape(3, 3), abs=1e-12) == R


def test_jacobian_agrees_with_finite_differences(kinematics):
    rng = np.random.default_rng(1)
    step = 1e-6
    for _ in range(20):
        q = random_joints(kinematics, rng)
        J = kinematics.jacobian(q)
        for column, joint in enumerate(kinematics.arm):
            ahead, behind = q.copy(), q.copy()
            ahead[joint] += step
            behind[joint] -= step
            (p1, R1), (p0, R0) = kinematics.forward(ahead), kinematics.forward(behind)
            assert J[:3, column] == pytest.approx((p1 - p0) / (2 * step), abs=1e-6)
            assert J[3:, column] == pytest.approx(rotation_vector(R1 @ R0.T) / (2 * step), abs=1e-6)


def test_ik_reaches_centimetre_steps_and_stays_within_limits(kinematics):
    rng = np.random.default_rng(2)
    low, high = kinematics.joint_limits.T
    q = np.array(CONTRACT.home)
    target, R = kinematics.forward(q)
    errors = []
    for _ in range(500):
        step = rng.normal(size=3)
        target = target + 0.01 * rng.random() ** (1 / 3) * step / np.linalg.norm(step)
        target = np.clip(target, [0.15, -0.12, 0.01], [0.27, 0.12, 0.09])  # where top-down is in reach
        q = kinematics.step_ik(q, target, R)
        assert np.all(q >= low) and np.all(q <= high)
        pos, _ = kinematics.forward(q)
        errors.append(np.linalg.norm(pos - target))
    assert np.median(errors) < 1e-4
    assert np.percentile(errors, 95) < 5e-4


def test_ik_reaches_past_a_joint_at_its_limit_by_tilting(kinematics):
    q = np.array(CONTRACT.home)
    _, R = kinematics.forward(q)
    target = np.array([0.22, 0.0, 0.14])  # too high for the wrist to point straight down
    for _ in range(30):
        q = kinematics.step_ik(q, target, R)
    pos, _ = kinematics.forward(q)
    assert np.linalg.norm(pos - target) < 1e-3


def test_ik_leaves_the_gripper_alone(kinematics):
    q = np.array(CONTRACT.home)
    pos, R = kinematics.forward(q)
    gripper = CONTRACT.joints.index(CONTRACT.gripper_joint)
    assert kinematics.step_ik(q, pos + 0.01, R)[gripper] == q[gripper]


def test_joint_limits_are_the_urdfs(kinematics):
    assert kinematics.joint_limits[0] == pytest.approx([-1.91986, 1.91986])
    assert kinematics.joint_limits[5] == pytest.approx([-0.174533, 1.74533])


def test_rpy_round_trip():
    rng = np.random.default_rng(3)
    for _ in range(50):
        rpy = rng.uniform([-3, -1.5, -3], [3, 1.5, 3])
        assert matrix_rpy(rpy_matrix(rpy)) == pytest.approx(rpy)


def test_missing_package_is_one_sentence_with_the_remedy():
    model = dataclasses.replace(CONTRACT.model, package="no_such_arm")
    with pytest.raises(
        ContractError, match=r"'no_such_arm' is not installed; install it with 'pip install --no-deps no-such"
    ):
        find_model(model)


def test_glob_that_matches_nothing_names_the_folder():
    model = dataclasses.replace(CONTRACT.model, urdf="**/nothing.urdf")
    with pytest.raises(
        ContractError, match=r"model.urdf '\*\*/nothing.urdf' must name one file in .*found: none"
    ):
        find_model(model)


def test_unknown_joint_and_frame_are_named():
    joints = ("elbow", *CONTRACT.joints[1:])
    with pytest.raises(ContractError, match=r"joints: 'elbow' is not in the URDF; it has: shoulder_pan"):
        Kinematics(dataclasses.replace(CONTRACT, joints=joints))
    model = dataclasses.replace(CONTRACT.model, tip_frame="hand")
    with pytest.raises(ContractError, match=r"model.tip_frame: 'hand' is not in the URDF"):
        Kinematics(dataclasses.replace(CONTRACT, model=model))


def test_urdf_text_names_existing_mesh_files():
    text = urdf_text(CONTRACT.model)
    paths = [part.split('"')[0] for part in text.split('filename="file://')[1:]]
    assert len(paths) == 34
    assert all(Path(p).is_file() for p in paths)


def test_missing_mesh_is_named(tmp_path):
    with pytest.raises(ContractError, match=r"mesh 'gone.stl' does not exist"):
        resolve_mesh("gone.stl", tmp_path / "arm.urdf")


URDF = """<robot name="two">
<link name="world"/><link name="base_link"/><link name="upper"/><link name="hand"/>
<joint name="mount" type="fixed"><parent link="world"/><child link="base_link"/>
  <origin xyz="1 2 3" rpy="0 0 1"/></joint>
<joint name="a" type="continuous"><parent link="base_link"/><child link="upper"/><axis xyz="0 0 1"/></joint>
<joint name="b" type="prismatic"><parent link="upper"/><child link="hand"/>
  <origin xyz="0.3 0 0"/><axis xyz="1 0 0"/><limit lower="0" upper="0.1" effort="1" velocity="1"/></joint>
</robot>"""


def test_another_arm_whose_base_is_not_the_root(tmp_path, monkeypatch):
    (tmp_path / "two_arm").mkdir()
    (tmp_path / "two_arm/__init__.py").touch()
    (tmp_path / "two_arm/two.urdf").write_text(URDF)
    monkeypatch.syspath_prepend(tmp_path)
    model = dataclasses.replace(CONTRACT.model, package="two_arm", urdf="*.urdf", tip_frame="hand")
    kinematics = Kinematics(dataclasses.replace(CONTRACT, model=model, joints=("a", "b"), gripper_joint="b"))
    pos, _ = kinematics.forward(np.array([np.pi / 2, 0.05]))
    assert pos == pytest.approx([0.0, 0.35, 0.0])
    assert kinematics.joint_limits.tolist() == [[-np.pi, np.pi], [0.0, 0.1]]


MJCF = """<mujoco><compiler angle="radian"/><worldbody>{bodies}</worldbody></mujoco>"""
LINK = """<body name="l{i}" pos="0 0 .2"><inertial pos="0 0 .1" mass="1" diaginertia=".01 .01 .01"/>
<joint name="j{i}" axis="{axis}" range="-3 3" limited="true"/>"""


@pytest.fixture
def seven(tmp_path):
    """An arm of seven joints, bent, and its contract; the last site is its tip."""
    axes = ["0 0 1", "0 1 0", "0 0 1", "0 1 0", "0 0 1", "0 1 0", "0 0 1", "1 0 0"]
    links = "".join(LINK.format(i=i, axis=axis) for i, axis in enumerate(axes))
    bodies = f'<body name="base_link">{links}<site name="tool" pos="0 0 .1"/>{"</body>" * (len(axes) + 1)}'
    (tmp_path / "seven.xml").write_text(MJCF.format(bodies=bodies))
    return dataclasses.replace(
        CONTRACT,
        model=Model(str(tmp_path), "tool", mjcf="seven.xml"),
        joints=tuple(f"j{i}" for i in range(8)),
        gripper_joint="j7",
        home=(0.0, 0.4, 0.0, 1.6, 0.0, 1.1, 0.0, 0.0),
    )


def test_the_elbow_of_a_redundant_arm_does_not_wander_off(seven):
    kinematics = Kinematics(seven)
    q = np.array(seven.home)
    home, R = kinematics.forward(q)
    for turn in np.linspace(0.0, 20 * np.pi, 1000):
        way = 0.08 * np.array([np.cos(turn) - 1.0, np.sin(turn), 0.5 * np.sin(2 * turn)])
        q = kinematics.step_ik(q, home + way, R)
    pos, turned = kinematics.forward(q)
    assert pos == pytest.approx(home, abs=1e-3) and turned == pytest.approx(R, abs=0.01)
    assert q == pytest.approx(seven.home, abs=0.05)


def test_a_site_may_be_the_tip_and_its_jacobian_is_the_sites(seven):
    kinematics = Kinematics(seven)
    q = np.array(seven.home) + 0.1
    ahead = q + 1e-6 * np.eye(8)[1]
    slope = (kinematics.forward(ahead)[0] - kinematics.forward(q)[0]) / 1e-6
    assert kinematics.jacobian(q)[:3, 1] == pytest.approx(slope, abs=1e-5)


def test_what_an_mjcf_lacks_is_named(seven):
    def loaded(**changes):
        return Kinematics(dataclasses.replace(seven, model=dataclasses.replace(seven.model, **changes)))

    with pytest.raises(
        ContractError, match=r"model.root: 'arm' is no body at the top of .*seven.xml: base_link"
    ):
        loaded(root="arm")
    with pytest.raises(
        ContractError, match=r"model.tip_frame: 'hand' is not in the MJCF; it has: .*l7, tool"
    ):
        loaded(tip_frame="hand")
    with pytest.raises(ContractError, match=r"joints: 'elbow' is not in the MJCF; it has: j0, j1"):
        loaded(joints={"j3": "elbow"})
    with pytest.raises(
        ContractError, match=r"seven.xml: is an MJCF; robot_state_publisher and rviz2 need a URDF"
    ):
        urdf_text(seven.model)
    find_model(seven.model).write_text("<mujoco><worldbody><arm/></worldbody></mujoco>")
    with pytest.raises(ContractError, match=r"seven.xml: MuJoCo cannot read this MJCF: .*arm"):
        loaded()
