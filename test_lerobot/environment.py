"""lerobot's environment, named by HILRL_LEROBOT_PYTHON."""

import os
import subprocess
from pathlib import Path

import pytest

PYTHON = os.environ.get("HILRL_LEROBOT_PYTHON")
needs_lerobot = pytest.mark.skipif(
    not PYTHON, reason="HILRL_LEROBOT_PYTHON names no Python with lerobot: make test-lerobot"
)


def run(script, *words):
    """Run a script of this folder there."""
    # the workspace's own modules are not those of lerobot's environment
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    command = [PYTHON, Path(__file__).parent / script, *map(str, words)]
    done = subprocess.run(command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
