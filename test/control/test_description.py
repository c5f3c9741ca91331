from pathlib import Path
from xml.etree import ElementTree

from so101_description.urdf import main

ROBOT = Path(__file__).parents[2] / "config/robots/so101.yaml"


def test_urdf_is_printed_with_mesh_files_that_exist(capsys):
    assert main(["--robot", str(ROBOT)]) == 0
    root = ElementTree.fromstring(capsys.readouterr().out)
    meshes = [mesh.get("filename") for mesh in root.iter("mesh")]
    assert meshes and all(Path(m.removeprefix("file://")).is_file() for m in meshes)
    assert all(m.startswith("file:///") for m in meshes)


def test_an_unknown_robot_is_one_sentence(capsys):
    assert main(["--robot", "nowhere.yaml"]) == 1
    assert capsys.readouterr().err == (
        "nowhere.yaml: no such file; give a path to a YAML file or a name from config/robots\n"
    )
