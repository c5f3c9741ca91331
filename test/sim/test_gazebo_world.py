"""Gazebo's world, its meshes and the bridge's configuration, against the MuJoCo scene and the topics of the graph."""

import ctypes
import math
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest
import yaml
from loop_messages import CONFIG

from hilrl_ros.contract import ContractError
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.kinematics import Kinematics, rpy_matrix
from hilrl_sim.gazebo import files
from hilrl_sim.gazebo.release import RELEASES, release_named
from hilrl_sim.gazebo.sdf import stl
from hilrl_sim.gazebo.world import make_world
from hilrl_sim.objects import draw_places, scene_objects
from hilrl_sim.simulation import Simulation

CAMERAS = ["front", "wrist"]


def loaded(task, robot="so101"):
    return load_contract(CONFIG / f"robots/{robot}.yaml", CONFIG / f"tasks/{task}.yaml")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The files of each task, by task and release."""
    cache = tmp_path_factory.mktemp("gazebo")
    robot = CONFIG / "robots/so101.yaml"
    return {
        (task, release): files.write_files(robot, CONFIG / f"tasks/{task}.yaml", release, CAMERAS, cache)
        for task, release in (
            ("pick_cube", "harmonic"), ("open_drawer", "harmonic"), ("reach", "harmonic"), ("open_drawer", "fortress"),
        )
    }  # fmt: skip


def world_of(folder):
    return ElementTree.parse(folder / "world.sdf").getroot().find("world")


@pytest.fixture(scope="module")
def simulated():
    return Simulation(*loaded("pick_cube"))


@pytest.fixture(scope="module")
def cube(folders):
    return world_of(folders["pick_cube", "harmonic"])


@pytest.fixture(scope="module")
def drawer(folders):
    return world_of(folders["open_drawer", "harmonic"])


def numbers(text):
    return np.array(text.split(), float)


def matrix(element):
    """The transform that an element's <pose> is [4, 4]."""
    values = numbers(element.findtext("pose", "0 0 0 0 0 0"))
    T = np.eye(4)
    T[:3, 3], T[:3, :3] = values[:3], rpy_matrix(values[3:])
    return T


def plugins(element):
    return [(p.get("filename"), p.get("name"), p) for p in element.findall("plugin")]


# --- sdformat ---


def sdformat():
    """Gazebo's own reader of SDF, as the newest one that is installed."""
    for version in reversed(range(12, 20)):
        try:
            library = ctypes.CDLL(f"libsdformat{version}.so.{version}")
        except OSError:
            continue
        library.cmdCheck.argtypes, library.cmdCheck.restype = [ctypes.c_char_p], ctypes.c_int
        return library
    pytest.skip("sdformat is not installed (Debian: libsdformat12-12): Gazebo's worlds are not checked by it")


def test_sdformat_finds_every_world_valid(folders, capfd):
    library = sdformat()
    for folder in folders.values():
        code = library.cmdCheck(str(folder / "world.sdf").encode())
        said = capfd.readouterr()
        assert (code, said.err) == (0, ""), folder.name


def test_sdformat_finds_fault_with_a_world_that_is_wrong(folders, tmp_path, capfd):
    library = sdformat()
    text = (folders["open_drawer", "harmonic"] / "world.sdf").read_text()
    (tmp_path / "world.sdf").write_text(text.replace("<child>drawer_link</child>", "<child>door</child>"))
    assert library.cmdCheck(str(tmp_path / "world.sdf").encode()) != 0
    assert "door" in capfd.readouterr().err


def test_physics_keeps_the_robot_files_step_in_real_time_with_a_detector_that_holds_what_is_grasped(cube):
    assert (
        cube.findtext("physics/max_step_size") == "0.002" and cube.findtext("physics/real_time_factor") == "1"
    )
    assert cube.findtext("physics/dart/collision_detector") == "fcl"


# --- the arm ---


def test_the_joints_are_those_of_the_contract_in_its_order_with_servos_of_the_robot_file(cube):
    contract, _ = loaded("pick_cube")
    arm = cube.find("model[@name='so101']")
    joints = [j for j in arm.findall("joint") if j.get("type") != "fixed"]
    assert [j.get("name") for j in joints] == list(contract.joints)
    assert {j.get("type") for j in joints} == {"revolute"}
    limits = np.array([[j.findtext(f"axis/limit/{k}") for k in ("lower", "upper")] for j in joints], float)
    assert np.allclose(limits, Kinematics(contract).joint_limits, atol=1e-6)
    effort = [float(j.findtext("axis/limit/effort")) for j in joints]
    assert effort == [2.94] * 5 + [1.5]
    fixed = arm.find("joint[@type='fixed']")
    assert (fixed.findtext("parent"), fixed.findtext("child")) == ("world", "base_link")


def test_the_joints_move_the_gripper_as_in_mujoco(cube, simulated):
    contract, _ = loaded("pick_cube")
    arm = cube.find("model[@name='so101']")
    rest = {link.get("name"): matrix(link) for link in arm.findall("link")}
    q = np.array([0.3, -0.4, 0.5, 0.9, -0.6, 0.2])
    moved = {"base_link": rest["base_link"]}
    for name, angle in zip(contract.joints, q, strict=True):
        joint = arm.find(f"joint[@name='{name}']")
        parent, child = joint.findtext("parent"), joint.findtext("child")
        pose, turn = matrix(joint), np.eye(4)
        quaternion, R = np.empty(4), np.empty(9)
        mujoco.mju_axisAngle2Quat(quaternion, numbers(joint.findtext("axis/xyz")), angle)
        mujoco.mju_quat2Mat(R, quaternion)
        turn[:3, :3] = R.reshape(3, 3)
        at_rest = np.linalg.inv(rest[parent]) @ rest[child]
        moved[child] = moved[parent] @ at_rest @ pose @ turn @ np.linalg.inv(pose)
    sim = simulated
    for name, value in zip(contract.joints, q, strict=True):
        sim.data.joint(name).qpos[0] = value
    mujoco.mj_kinematics(sim.model, sim.data)
    for link in ("gripper_link", "moving_jaw_so101_v1_link"):
        assert np.allclose(moved[link][:3, 3], sim.data.body(link).xpos, atol=1e-5)
        assert np.allclose(moved[link][:3, :3], sim.data.body(link).xmat.reshape(3, 3), atol=1e-5)


def test_mass_and_inertia_are_those_of_the_model(cube, simulated):
    links = cube.find("model[@name='so101']").findall("link")
    model = simulated.model
    masses = {link.get("name"): float(link.findtext("inertial/mass")) for link in links}
    assert masses["gripper_link"] == pytest.approx(0.087, abs=1e-3)
    assert sum(masses.values()) == pytest.approx(model.body_mass.sum() - 0.03, abs=1e-3)
    for link in links:
        entry = {
            k: float(link.findtext(f"inertial/inertia/{k}"))
            for k in ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")
        }
        inertia = np.array(
            [[entry["ixx"], entry["ixy"], entry["ixz"]], [entry["ixy"], entry["iyy"], entry["iyz"]],
             [entry["ixz"], entry["iyz"], entry["izz"]]]
        )  # fmt: skip
        moments = np.linalg.eigvalsh(inertia)
        assert moments[0] > 0 and moments[0] + moments[1] >= moments[2] * 0.999
        expected = model.body(link.get("name")).inertia
        assert np.sort(expected) == pytest.approx(moments, rel=1e-3, abs=2e-8)


def test_joint_states_name_the_joints_and_each_joint_has_a_position_controller_that_leads_it_home(cube):
    contract, _ = loaded("pick_cube")
    found = plugins(cube.find("model[@name='so101']"))
    assert {(file, name) for file, name, _ in found} == {
        ("gz-sim-joint-state-publisher-system", "gz::sim::systems::JointStatePublisher"),
        ("gz-sim-joint-position-controller-system", "gz::sim::systems::JointPositionController"),
    }
    states = found[0][2]
    assert [e.text for e in states.findall("joint_name")] == list(contract.joints)
    controllers = {p.findtext("joint_name"): p for _, name, p in found if name.endswith("Controller")}
    assert list(controllers) == list(contract.joints)
    homes = [float(p.findtext("initial_position")) for p in controllers.values()]
    assert homes == pytest.approx(contract.home)
    assert {p.findtext("use_velocity_commands") for p in controllers.values()} == {"true"}


def test_the_base_and_the_table_do_not_collide_and_all_else_does(cube):
    def bits(model):
        return {
            int(c.findtext(".//collide_bitmask"))
            for c in cube.find(f"model[@name='{model}']").iter("collision")
        }

    (table,), (box,) = bits("table"), bits("cube")
    base = cube.find("model[@name='so101']/link[@name='base_link']")
    (under,) = {int(c.findtext(".//collide_bitmask")) for c in base.iter("collision")}
    assert not under & table and under & box and box & table
    assert all(mask & table and mask & box for mask in bits("so101") - {under})


def test_meshes_are_there_and_small(folders, cube):
    triangles = 0
    for uri in {u.text for u in cube.iter("uri")}:
        assert uri.startswith("file:///")
        data = Path(uri.removeprefix("file://")).read_bytes()
        count = int(np.frombuffer(data[80:84], "<u4")[0])
        assert len(data) == 84 + 50 * count
        triangles += count
    assert 10_000 < triangles < 30_000  # of 323 000: physics waits for the cameras


def test_an_stl_has_its_corners_and_normals_that_point_outwards():
    data = stl(np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0]], float), np.array([[0, 1, 2]]))
    assert np.frombuffer(data[84:132], "<f4").tolist() == [0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0]


# --- cameras ---


def test_cameras_see_what_the_robot_file_says(cube, simulated):
    sim, contract = simulated, simulated.contract
    sim.data.qpos[:7] = 0
    mujoco.mj_forward(sim.model, sim.data)
    arm = cube.find("model[@name='so101']/link[@name='gripper_link']")
    places = {"front": np.eye(4), "wrist": matrix(arm)}
    for name, place in places.items():
        sensor = next(s for s in cube.iter("sensor") if s.get("name") == name)
        T = place @ matrix(sensor)
        camera = sim.data.camera(name)
        axes = camera.xmat.reshape(3, 3)
        if name == "front":
            assert T[:3, 3] == pytest.approx(contract.sim["cameras"]["front"]["position"], abs=1e-6)
        assert np.allclose(T[:3, 3], camera.xpos, atol=1e-5)
        assert np.allclose(T[:3, 0], -axes[:, 2], atol=1e-5)  # it looks along x; MuJoCo's along -z
        assert np.allclose(T[:3, 2], axes[:, 1], atol=1e-5)
        assert sensor.findtext("topic") == f"{name}/image"
        assert sensor.findtext("camera/optical_frame_id") == f"{name}_optical_frame"
        assert sensor.findtext("camera/image/anti_aliasing") == "0"
        assert float(sensor.findtext("update_rate")) == 10
        half = math.tan(float(sensor.findtext("camera/horizontal_fov")) / 2)
        fovy = np.degrees(2 * math.atan(half * 480 / 640))
        assert fovy == pytest.approx(contract.sim["cameras"][name]["fovy"], abs=1e-3)


def test_colours_are_written_as_light_that_a_screen_shows_as_the_task_files(cube):
    """Gazebo's pictures are sRGB: IEC 61966-2-1 makes of the light that is written what MuJoCo's pictures have."""
    light = numbers(cube.find("model[@name='cube']").findtext(".//visual/material/diffuse"))
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    _, task = loaded("pick_cube")
    assert (
        shown[:3] == pytest.approx(scene_objects(task)["cube"].parts[0].color[:3], abs=1e-6) and light[3] == 1
    )


def test_without_cameras_nothing_renders():
    world = make_world(*loaded("reach"), RELEASES["harmonic"], []).root.find("world")
    assert not list(world.iter("sensor"))
    assert not [name for _, name, _ in plugins(world) if name.endswith("Sensors")]


# --- objects ---


def test_the_cube_is_the_task_files_and_begins_where_seed_0_places_it(cube):
    _, task = loaded("pick_cube")
    model = cube.find("model[@name='cube']")
    (place, yaw) = draw_places(task, np.random.default_rng(0))["cube"]
    assert numbers(model.findtext("pose")) == pytest.approx([*place, 0, 0, yaw], abs=1e-6)
    assert numbers(model.findtext("link/collision/geometry/box/size")).tolist() == [0.025] * 3
    assert float(model.findtext("link/inertial/mass")) == pytest.approx(0.03)
    assert float(model.findtext("link/inertial/inertia/ixx")) == pytest.approx(0.03 * 0.025**2 / 6, rel=1e-2)
    ((file, name, plugin),) = plugins(model)
    assert (file, name) == ("gz-sim-pose-publisher-system", "gz::sim::systems::PosePublisher")
    assert plugin.findtext("publish_model_pose") == "true" and plugin.findtext("publish_link_pose") == "false"


def test_every_simulator_draws_the_same_places():
    contract, task = loaded("open_drawer")
    sim = Simulation(contract, task)
    for seed in (3, 4):
        sim.reset_objects(seed)
        position, yaw = draw_places(task, np.random.default_rng(seed))["cabinet"]
        seen, quaternion = sim.object_poses()["cabinet"]
        assert np.allclose(seen, position) and quaternion[2] == pytest.approx(np.sin(yaw / 2))


def test_the_drawer_slides_in_a_cabinet_too_heavy_to_move(drawer):
    model = drawer.find("model[@name='cabinet']")
    assert drawer.find("model[@name='drawer']") is None
    masses = {link.get("name"): float(link.findtext("inertial/mass")) for link in model.findall("link")}
    assert masses == {"cabinet_link": pytest.approx(20.0), "drawer_link": pytest.approx(0.08)}
    assert numbers(model.findtext("link[@name='drawer_link']/pose"))[:3].tolist() == [0, 0.022, 0.03]
    (joint,) = model.findall("joint")
    assert joint.get("name") == "drawer" and joint.get("type") == "prismatic"
    assert (joint.findtext("parent"), joint.findtext("child")) == ("cabinet_link", "drawer_link")
    assert joint.findtext("axis/xyz") == "0 1 0"
    assert [joint.findtext(f"axis/limit/{k}") for k in ("lower", "upper")] == ["0", "0.08"]
    assert [joint.findtext(f"axis/dynamics/{k}") for k in ("damping", "friction")] == ["2", "0.4"]
    kinds = {name.rpartition("::")[2] for _, name, _ in plugins(model)}
    assert kinds == {"PosePublisher", "JointStatePublisher", "ApplyJointForce"}


def test_a_mark_in_space_neither_falls_nor_collides(folders):
    link = world_of(folders["reach", "harmonic"]).find("model[@name='target']/link")
    assert link.findtext("gravity") == "false" and link.find("collision") is None
    assert link.findtext("visual/geometry/sphere/radius") == "0.012"


def test_a_thing_in_the_jaws_and_a_finger_that_follows_another_are_refused():
    with pytest.raises(
        ContractError,
        match=r"insert_peg\.scene\.objects\.peg\.held: Gazebo cannot begin with a thing in the jaws",
    ):
        make_world(*loaded("insert_peg"), RELEASES["harmonic"], [])
    with pytest.raises(
        ContractError, match=r"viperx: joint '.*finger' has no servo of its own .* run this robot in M"
    ):
        make_world(*loaded("reach", "viperx"), RELEASES["harmonic"], [])


# --- releases ---


def test_fortress_has_its_own_names(folders):
    world = world_of(folders["open_drawer", "fortress"])
    found = plugins(world) + [p for model in world.findall("model") for p in plugins(model)]
    assert all(file.startswith("ignition-gazebo-") for file, _, _ in found)
    assert all(name.startswith("ignition::gazebo::systems::") for _, name, _ in found)
    bridge = yaml.safe_load((folders["open_drawer", "fortress"] / "bridge.yaml").read_text())
    assert all(entry["gz_type_name"].startswith("ignition.msgs.") for entry in bridge)
    with pytest.raises(ContractError, match="release 'classic' is unknown; there are: harmonic, fortress"):
        release_named("classic")


# --- bridge ---


def topics_of_the_world(world):
    """What the world's systems publish and take, by Gazebo's documented naming."""
    topics = {}
    for model in world.findall("model"):
        for _, name, plugin in plugins(model):
            system = name.rpartition("::")[2]
            joint = plugin.findtext("joint_name")
            if system == "JointStatePublisher":
                topics[plugin.findtext("topic")] = ("gz.msgs.Model", "GZ_TO_ROS")
            elif system == "JointPositionController":
                topics[plugin.findtext("topic")] = ("gz.msgs.Double", "ROS_TO_GZ")
            elif system == "PosePublisher":
                topics[f"/model/{model.get('name')}/pose"] = ("gz.msgs.Pose", "GZ_TO_ROS")
            else:
                assert system == "ApplyJointForce"
                topics[f"/model/{model.get('name')}/joint/{joint}/cmd_force"] = (
                    "gz.msgs.Double",
                    "ROS_TO_GZ",
                )
    for sensor in world.iter("sensor"):
        camera = sensor.findtext("topic").removesuffix("/image")
        topics[f"{camera}/image"] = ("gz.msgs.Image", "GZ_TO_ROS")
        topics[f"{camera}/camera_info"] = ("gz.msgs.CameraInfo", "GZ_TO_ROS")
    return topics


@pytest.mark.parametrize("task", ["pick_cube", "open_drawer", "reach"])
def test_the_bridge_carries_exactly_the_topics_of_the_world(folders, task):
    folder = folders[task, "harmonic"]
    bridge = yaml.safe_load((folder / "bridge.yaml").read_text())
    carried = {entry["gz_topic_name"]: (entry["gz_type_name"], entry["direction"]) for entry in bridge}
    assert carried == topics_of_the_world(world_of(folder))
    # so that a pushed namespace holds for all
    assert not [entry for entry in bridge if entry["ros_topic_name"].startswith("/")]
    lazy = {entry["ros_topic_name"] for entry in bridge if entry.get("lazy")}
    assert lazy == {f"{camera}/{kind}" for camera in CAMERAS for kind in ("image_raw", "camera_info")}


def test_the_graph_finds_its_topics(folders):
    entries = yaml.safe_load((folders["pick_cube", "harmonic"] / "bridge.yaml").read_text())
    types = {entry["ros_topic_name"]: entry["ros_type_name"] for entry in entries}
    contract, _ = load_contract(CONFIG / "robots/so101.yaml")
    assert types["joint_states"] == "sensor_msgs/msg/JointState"
    assert {types[camera.topic] for camera in contract.cameras.values()} == {"sensor_msgs/msg/Image"}


# --- files ---


def test_the_same_robot_and_task_are_written_once_and_a_change_gets_its_own_folder(folders, tmp_path):
    folder = folders["pick_cube", "harmonic"]
    robot, task = CONFIG / "robots/so101.yaml", tmp_path / "pick_cube.yaml"
    before = (folder / "world.sdf").stat().st_mtime_ns
    again = files.write_files(robot, CONFIG / "tasks/pick_cube.yaml", "harmonic", CAMERAS, folder.parent)
    assert again == folder and (folder / "world.sdf").stat().st_mtime_ns == before
    task.write_text(
        (CONFIG / "tasks/pick_cube.yaml").read_text().replace("0.025, 0.025, 0.025", "0.03, 0.03, 0.03")
    )
    assert files.write_files(robot, task, "harmonic", CAMERAS, folder.parent) != folder
    assert not list(folder.parent.glob(".unfinished*"))


def test_the_command_prints_the_folder_or_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = ["--robot", str(CONFIG / "robots/so101.yaml"), "--task"]
    assert files.main([*arguments, str(CONFIG / "tasks/reach.yaml")]) == 0
    folder = capsys.readouterr().out
    assert folder.startswith(f"{tmp_path}/hilrl/gazebo/so101_reach_harmonic_")
    assert files.main([*arguments, str(CONFIG / "tasks/insert_peg.yaml")]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "run this task in MuJoCo" in said.err
    reach = [*arguments, str(CONFIG / "tasks/reach.yaml")]
    assert files.main([*reach, "--real-time-factor", "0.5"]) == 0
    slow = capsys.readouterr().out
    assert slow != folder and "<real_time_factor>0.5<" in (Path(slow) / "world.sdf").read_text()
    assert files.main([*reach, "--real-time-factor", "2"]) == 1
    assert "real_time_factor is 2, expected a number from 0.01 to 1" in capsys.readouterr().err
    assert files.main([*reach, "--cameras", "behind"]) == 1
    assert "camera 'behind' is not in the scene; there are front, side, top, wrist" in capsys.readouterr().err
