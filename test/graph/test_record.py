"""Demonstrations through driver, serial port and emulated servos; a recording that was interrupted goes on."""

import os
import signal
import subprocess
import time

import pytest

from hilrl_data.bags import episode_folders, read_info, read_steps

from .conftest import HILRL

pytestmark = pytest.mark.graph


def record(folder):
    words = ["record", "--episodes", "2", "--port", "emulated", "--operator", "scripted", "--run", "shown"]
    return subprocess.Popen(
        [HILRL, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def test_an_interrupted_recording_goes_on(tmp_path, own_domain):
    demos = tmp_path / "runs" / "shown" / "demos"
    first = record(tmp_path)
    try:
        end = time.monotonic() + 60
        while not (demos / "episode_000001" / "metadata.yaml").exists():
            assert first.poll() is None and time.monotonic() < end, "no demonstration was recorded"
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        output, _ = first.communicate(timeout=30)
        assert "1 of 2 demonstrations are in runs/shown/demos" in output, output
        assert "next: hilrl record" in output and "--run shown" in output
        kept = (demos / "episode_000001" / "episode.json").read_text()

        second = record(tmp_path)
        output, _ = second.communicate(timeout=90)
        assert second.returncode == 0, output
        assert "goes on: 1 of 2 recorded" in output
        assert "2 of 2 demonstrations are in runs/shown/demos" in output
        assert "next: hilrl train" in output and "--demos runs/shown/demos" in output
    finally:
        for process in (first, locals().get("second")):
            if process and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert (demos / "episode_000001" / "episode.json").read_text() == kept
    folders = episode_folders(demos)
    assert len(folders) == 2
    for folder in folders:
        info = read_info(folder)
        assert info.success and len(list(read_steps(folder))) == info.steps
