"""hilrl reward: from recorded labels to a measured classifier, and the page on which a person labels."""

import io
import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from labelled import contract_of, files, write_episode
from PIL import Image

from hilrl_cli.errors import UserError
from hilrl_cli.label_page import Episodes, make_server
from hilrl_cli.main import main
from hilrl_reward.labels import read_labels


@pytest.fixture
def run_folder(tmp_path):
    """A run with ten labelled episodes, and the words that name its robot and task."""
    robot, task = files(tmp_path)
    contract, run = contract_of(tmp_path), tmp_path / "run"
    for number in range(1, 11):
        write_episode(run / "labels", contract, number, [0] * 8 + [1] * 4)
    (run / "status.json").write_text(json.dumps({"robot": str(robot), "task": str(task)}))
    return run


def test_a_classifier_is_trained_on_a_run_and_measured_on_another_folder(run_folder, tmp_path, capsys):
    assert main(["reward", "train", str(run_folder)]) == 0
    assert "trained on 32 frames of success and 64 others" in capsys.readouterr().out
    others = tmp_path / "others"
    write_episode(others, contract_of(tmp_path), 50, [0] * 6 + [1] * 6)
    words = ["--task", str(tmp_path / "task.yaml"), "--robot", str(tmp_path / "robot.yaml")]
    picture = tmp_path / "wrong.png"
    assert main(["reward", "eval", str(run_folder), str(others), "-o", str(picture), *words]) == 0
    assert "of 6 successes" in capsys.readouterr().out and picture.exists()
    assert main(["reward", "eval", str(run_folder), str(others), "-o", str(picture)]) == 2
    assert "is no run, so say what was recorded with --task" in capsys.readouterr().err


@pytest.fixture
def page(run_folder, tmp_path):
    server = make_server(Episodes(run_folder, contract_of(tmp_path)), 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def get(url, **more):
    with urllib.request.urlopen(urllib.request.Request(url, **more), timeout=10) as answer:
        return answer.read()


def test_on_the_page_a_person_sees_the_frames_and_labels_them(page, run_folder):
    assert b"paint" in get(page + "/")
    names = json.loads(get(page + "/episodes"))
    assert len(names) == 10 and names[0] == "labels/episode_000001"
    shown = json.loads(get(f"{page}/episode/{names[0]}"))
    assert shown["steps"] == list(range(13))
    assert shown["labels"] == {str(step): step >= 8 for step in range(12)}
    frame = np.asarray(Image.open(io.BytesIO(get(f"{page}/frame/{names[0]}/9"))))
    assert frame.shape == (24, 32 + 16, 3)
    json_type = {"Content-Type": "application/json"}
    get(f"{page}/episode/{names[0]}", data=b'{"3": false, "12": true}', headers=json_type)
    assert read_labels(run_folder / names[0]) == {3: False, 12: True}
    assert json.loads(get(f"{page}/episode/{names[0]}"))["labels"] == {"3": False, "12": True}


def test_the_page_answers_nobody_but_this_machine(page):
    for asked in (
        {"headers": {"Host": "evil.example"}},
        {"data": b"{}", "headers": {"Content-Type": "text/plain"}},
    ):
        with pytest.raises(urllib.error.HTTPError):
            get(f"{page}/episode/labels/episode_000001", **asked)


def test_a_folder_without_episodes_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no recorded episode"):
        Episodes(tmp_path, contract_of(tmp_path))
