"""Packages say the truth about themselves: versions, dependencies, executables."""

import ast
import configparser
import re
import runpy
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MANIFESTS = [ROOT / "package.xml", *sorted((ROOT / "src").glob("*/package.xml"))]
PYTHON = [m.parent for m in MANIFESTS if (m.parent / "setup.py").is_file()]
# What rosdep calls a module, where that is not the module's own name.
ROSDEP = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "matplotlib": "python3-matplotlib",
    "numpy": "python3-numpy",
    "psutil": "python3-psutil",
    "pygame": "python3-pygame",
    "rich": "python3-rich",
    "ruamel": "python3-ruamel.yaml",
    "scservo_sdk": "feetech-servo-sdk",  # on PyPI only
    "yaml": "python3-yaml",
}


def setup_arguments(package):
    """What a package's setup.py gives to setup()."""
    recorded = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(package)
        patch.setattr("setuptools.setup", lambda **arguments: recorded.update(arguments))
        runpy.run_path("setup.py")
    return recorded


def manifest(path):
    return ElementTree.parse(path).getroot()


def ids(paths):
    return [str(path.relative_to(ROOT)) or "." for path in paths]


def test_every_package_has_the_same_version_licence_and_maintainer():
    def facts(path):
        root = manifest(path)
        maintainer = root.find("maintainer")
        return root.findtext("version"), root.findtext("license"), maintainer.text, maintainer.get("email")

    assert len({facts(path) for path in MANIFESTS}) == 1


@pytest.mark.parametrize("package", PYTHON, ids=ids(PYTHON))
def test_setup_py_agrees_with_package_xml(package):
    root, setup = manifest(package / "package.xml"), setup_arguments(package)
    assert (setup["name"], setup["version"]) == (root.findtext("name"), root.findtext("version"))
    assert setup.get("description", root.findtext("description")) == root.findtext("description")


def test_the_command_knows_the_version():
    from hilrl_cli import __version__

    assert __version__ == manifest(ROOT / "package.xml").findtext("version")


def test_the_root_package_depends_on_every_other():
    depends = {d.text for d in manifest(ROOT / "package.xml").findall("exec_depend")}
    assert {manifest(m).findtext("name") for m in MANIFESTS[1:]} <= depends


def imported(package):
    """Modules from outside that the package's code imports."""
    found = set()
    for file in (package / package.name).rglob("*.py"):
        if file.name == "lerobot_child.py":  # runs under a Python that has lerobot, none of the suite's
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - {package.name} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", PYTHON, ids=ids(PYTHON))
def test_imports_are_declared(package):
    declared = {e.text for e in manifest(package / "package.xml") if e.tag.endswith("depend")}
    # What no distribution packages (no rosdep key) or pip alone shall find stands in setup.py.
    declared |= {
        re.match(r"[\w-]+", entry)[0] for entry in setup_arguments(package).get("install_requires", [])
    }
    missing = sorted(ROSDEP.get(m, m) for m in imported(package) if not {m, ROSDEP.get(m)} & declared)
    assert not missing, f"{package.name}/package.xml lacks exec_depend: {', '.join(missing)}"


@pytest.mark.parametrize("package", PYTHON, ids=ids(PYTHON))
def test_executables_exist_and_lie_where_ros2_run_looks(package):
    scripts = setup_arguments(package).get("entry_points", {}).get("console_scripts", [])
    for script in scripts:
        module, function = re.fullmatch(r"\S+ = ([\w.]+):(\w+)", script).groups()
        file = package / Path(*module.split("."))
        tree = ast.parse((file if file.suffix else file.with_suffix(".py")).read_text())
        defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        assert function in defined, f"{script}: {module} has no {function}()"
    if scripts and package.name != "hilrl_cli":  # `hilrl` itself belongs on the PATH
        config = configparser.ConfigParser()
        config.read(package / "setup.cfg")
        assert (
            config["develop"]["script_dir"]
            == config["install"]["install_scripts"]
            == f"$base/lib/{package.name}"
        )
