"""Demonstrations through driver, serial port and emulated servos; a recording that was interrupted goes on."""

import contextlib
import os
import signal
import subprocess
import time

import pytest

from hilrl_data.bags import episode_folders, finished_episodes, read_info, read_steps

from .conftest import HILRL

pytestmark = pytest.mark.graph


@contextlib.contextmanager
def recording(output):
    """`hilrl record` of two demonstrations; what it prints goes to a file."""
    words = ["record", "--episodes", "2", "--port", "emulated", "--operator", "scripted", "--run", "shown"]
    with output.open("w") as file:
        process = subprocess.Popen(
            [HILRL, *words], cwd=output.parent, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_an_interrupted_recording_goes_on(tmp_path, own_domain):
    demos, output = tmp_path / "runs" / "shown" / "demos", tmp_path / "output.txt"
    with recording(output) as first:
        end = time.monotonic() + 90
        while not finished_episodes(demos):
            assert first.poll() is None and time.monotonic() < end, output.read_text()
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        first.wait(30)
    assert "1 of 2 demonstrations are in runs/shown/demos" in output.read_text()
    assert "next: hilrl record" in output.read_text()
    (kept,) = episode_folders(demos)
    before = (kept / "episode.json").read_text()

    with recording(output) as second:
        assert second.wait(90) == 0, output.read_text()
    assert "goes on: 1 of 2 recorded" in output.read_text()
    assert "2 of 2 demonstrations are in runs/shown/demos" in output.read_text()
    assert "next: hilrl train" in output.read_text()
    assert (kept / "episode.json").read_text() == before
    folders = episode_folders(demos)
    assert len(folders) == 2
    for folder in folders:
        info = read_info(folder)
        assert info.success and len(list(read_steps(folder))) == info.steps
