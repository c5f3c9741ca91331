import os
import time
from pathlib import Path

import pytest


@pytest.fixture
def demo(tmp_path, monkeypatch) -> Path:
    """Share folder of an installed package `demo` with the executables `plain` and `other`."""
    prefix = tmp_path / "prefix"
    share, executables = prefix / "share" / "demo", prefix / "lib" / "demo"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    for folder in (share, executables, index):
        folder.mkdir(parents=True)
    (index / "demo").touch()
    (share / "params.yaml").write_text("/**: {ros__parameters: {a: 1}}\n")
    for name in ("plain", "other"):
        (executables / name).write_text("#!/bin/sh\n")
        (executables / name).chmod(0o755)
    before = os.environ.get("AMENT_PREFIX_PATH")
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join([str(prefix), *([before] if before else [])]))
    monkeypatch.setenv("HILRL_TEST_SET", "debug")
    monkeypatch.delenv("HILRL_TEST_NOT_SET", raising=False)
    return share


@pytest.fixture
def press(monkeypatch):
    """Enter is pressed, while a command looks for it, whenever this list's next function returns True."""
    waiting, begin = [], time.monotonic()

    def entered(_lines):
        assert time.monotonic() - begin < 40, "still waiting for enter"
        if waiting and waiting[0]():
            waiting.pop(0)
            return True
        return False

    monkeypatch.setattr("hilrl_cli.lines.Lines.entered", entered)
    return waiting
