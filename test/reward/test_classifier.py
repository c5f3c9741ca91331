import dataclasses
import json

import numpy as np
import pytest
import yaml
from hilrl_msgs.msg import Reward
from labelled import SIZES, contract_of, frames, pictures, seen, write_episode
from loop_messages import TASK as LOOP_TASK

from hilrl_data.bags import BagError, read_steps
from hilrl_reward.classifier import Classifier, ClassifierError, SuccessNetwork, Training, fit, train
from hilrl_reward.evaluation import Evaluation, draw
from hilrl_reward.labels import (
    Frames,
    LabelError,
    episode_labels,
    keep_told,
    read_frames,
    read_labels,
    run_folders,
    write_labels,
)
from hilrl_reward.training import train_and_save

TASK = dataclasses.replace(LOOP_TASK, success={"term": "classifier"})
QUICK = Training(steps=60, batch=32)


@pytest.fixture(scope="module")
def trained():
    return train(frames(), QUICK)


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    return contract_of(tmp_path_factory.mktemp("contract"))


@pytest.mark.parametrize("sizes", [SIZES, {"only": (40, 24)}], ids=["two cameras", "one camera"])
def test_it_learns_from_any_cameras_and_is_right_on_episodes_that_it_has_not_seen(sizes):
    classifier = train(frames(sizes=sizes), QUICK)
    unseen = classifier.evaluate(frames(seed=1, sizes=sizes))
    assert unseen.recall(classifier.threshold) > 0.95
    assert unseen.false_positive_rate(classifier.threshold) < 0.03
    held_out = classifier.facts["held_out"]
    assert (held_out["episodes"], held_out["successes"], held_out["others"]) == (4, 16, 32)
    assert classifier.facts["successes"] == 64 and classifier.facts["others"] == 128


def test_the_same_labels_give_the_same_classifier(trained):
    again, some = train(frames(), QUICK), frames(seed=2, episodes=1)
    assert np.array_equal(again.probabilities(some.images), trained.probabilities(some.images))


def test_a_saved_classifier_is_the_same_one(trained, contract, tmp_path):
    trained.save(tmp_path / "c")
    loaded, some = Classifier.load(tmp_path / "c", contract), frames(seed=2, episodes=1)
    assert np.array_equal(loaded.probabilities(some.images), trained.probabilities(some.images))
    assert (loaded.threshold, loaded.facts) == (trained.threshold, trained.facts)
    one = {name: pixels[0] for name, pixels in some.images.items()}
    assert loaded.probability(one) == pytest.approx(loaded.probabilities(some.images)[0], abs=1e-6)


def test_what_does_not_fit_is_one_sentence(trained, contract, tmp_path):
    trained.save(tmp_path / "c")
    other = contract_of(tmp_path, sizes={"front": (24, 32), "wrist": (16, 24)})
    with pytest.raises(
        ClassifierError,
        match=r"looks at front \(24x32x3\), wrist \(16x16x3\), but here it would get .*16x24x3",
    ):
        Classifier.load(tmp_path / "c", other)
    with pytest.raises(ClassifierError, match=r"is no classifier: there is no classifier\.yaml in it"):
        Classifier.load(tmp_path, contract)
    (tmp_path / "c" / "classifier.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ClassifierError, match=r"classifier\.safetensors cannot be read"):
        Classifier.load(tmp_path / "c", contract)
    (tmp_path / "c" / "classifier.yaml").write_text("cameras: 3\n")
    with pytest.raises(ClassifierError, match=r"classifier\.yaml is damaged"):
        Classifier.load(tmp_path / "c", contract)


def test_too_few_episodes_to_hold_some_out_are_refused():
    with pytest.raises(
        ClassifierError, match=r"3 episodes, 12 frames of success and 24 others .* are too few"
    ):
        train(frames(episodes=3), QUICK)


def test_training_stops_when_told():
    import threading

    stop = threading.Event()
    stop.set()
    assert isinstance(fit(frames(episodes=5), Training(steps=10**9), stop), SuccessNetwork)


# -- evaluation


def evaluation(probability, success):
    success = np.array(success, bool)
    some = Frames(
        {}, success, np.full(len(success), True), np.arange(len(success)), np.zeros(len(success), int), ()
    )
    return Evaluation(some, np.array(probability))


def test_recall_precision_and_false_positives_are_counted_at_a_threshold():
    e = evaluation([0.9, 0.8, 0.3, 0.7, 0.1, 0.2, 0.0], [1, 1, 1, 0, 0, 0, 0])
    assert e.recall(0.5) == pytest.approx(2 / 3)
    assert e.false_positive_rate(0.5) == pytest.approx(1 / 4)
    assert e.precision(0.5) == pytest.approx(2 / 3)
    assert e.precision(0.95) == 1.0


def test_the_threshold_leaves_at_most_one_false_positive_in_a_hundred():
    others = np.linspace(0.0, 0.99, 200)
    e = evaluation([*others, 0.995], [*[0] * 200, 1])
    threshold = e.choose_threshold()
    assert e.false_positive_rate(threshold) == 0.01 and e.recall(threshold) == 1.0
    assert evaluation([0.1, 0.2, 0.9], [0, 0, 1]).choose_threshold() == 0.5  # not lower than even odds


def test_the_picture_shows_the_curve_and_the_wrong_frames(trained, tmp_path):
    from PIL import Image

    some = frames(seed=3, episodes=2)
    draw(Evaluation(some, np.linspace(0, 1, len(some))), 0.5, tmp_path / "wrong.png")
    draw(Evaluation(some, some.success.astype(float)), 0.5, tmp_path / "right.png")
    wrong, right = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
        for name in ("wrong", "right")
    )
    red = [((p[..., 0] > 200) & (p[..., 1] < 70) & (p[..., 2] < 60)).sum() for p in (wrong, right)]
    assert red[0] > 1000 > red[1]  # the spots in the frames


# -- labels


def told(folder, contract, *arguments, **more):
    return episode_labels(list(read_steps(write_episode(folder, contract, *arguments, **more))), contract)


def test_in_the_label_phase_the_person_judged_every_frame_that_was_acted_on(contract, tmp_path):
    assert told(tmp_path, contract, 1, [0, 0, 1, 1, 0]) == {0: False, 1: False, 2: True, 3: True, 4: False}


def test_a_demonstration_that_a_person_ended_labels_what_the_person_saw(contract, tmp_path):
    steps = list(read_steps(write_episode(tmp_path, contract, 1, [0] * 7 + [1], end="terminated")))
    for step in steps[:-1]:
        step.reward.source = Reward.CLASSIFIER
    # frames just before the button are left out: a person presses late
    assert episode_labels(steps, contract) == {0: False, 1: False, 2: False, 3: False, 7: True}


def test_hand_written_terms_label_the_final_frame_and_a_classifier_labels_none(contract, tmp_path):
    by_terms = told(tmp_path, contract, 1, [0, 0, 1], source=Reward.TERMS, end="terminated")
    assert by_terms == {0: False, 1: False, 2: False, 3: True}
    assert told(tmp_path, contract, 2, [0, 0, 1], source=Reward.CLASSIFIER, end="terminated") == {}
    assert told(tmp_path, contract, 3, [0, 0, 0], source=Reward.TERMS) == {}


def test_frames_come_from_all_episodes_and_from_what_a_person_corrected(contract, tmp_path):
    run = tmp_path / "run"
    write_episode(run / "labels", contract, 1, [0, 0, 1, 1])
    write_episode(run / "demos", contract, 2, [0, 0, 1], source=Reward.TERMS, end="terminated")
    corrected = seen(contract, 7, 5, pictures(np.random.default_rng(9), True))
    path = keep_told(run / "labels", [corrected], False, contract)
    found = read_frames(run_folders(run), contract, TASK)
    assert found.names == ("episode_000001", path.stem, "episode_000002")
    assert found.success.tolist() == [False, False, True, True, False, False, False, False, True]
    assert found.step.tolist() == [0, 1, 2, 3, 5, 0, 1, 2, 3]
    assert {name: pixels.shape[1:] for name, pixels in found.images.items()} == {
        name: (*size, 3) for name, size in SIZES.items()
    }
    assert np.array_equal(
        found.images["front"][4], np.frombuffer(corrected.images[0].data, np.uint8).reshape(24, 32, 3)
    )


def test_it_learns_and_is_judged_together_with_the_tasks_other_conditions(contract, tmp_path):
    """Pictures that say nothing below a height: the height rules those frames out, before training and after."""
    height = contract.state_names.index("tip_z")
    task = dataclasses.replace(
        TASK, success={"term": "classifier", "and": [{"term": "above", "state": "tip_z", "threshold": 0.05}]}
    )
    rng = np.random.default_rng(0)
    for number in range(1, 11):
        observed = [seen(contract, number, step, pictures(rng, step > 4)) for step in range(13)]
        for step, msg in enumerate(observed):
            msg.state[height] = 0.1 if step < 9 else 0.0  # from step 9 on it only looks like success
        write_episode(tmp_path, contract, number, [4 < step < 9 for step in range(12)], observed=observed)
    keep_told(tmp_path, [observed[10]], False, contract)
    found = read_frames([tmp_path], contract, task)
    assert found.possible.sum() == 90 and not found.possible[-1]
    classifier = train(found, QUICK)
    assert (classifier.facts["successes"], classifier.facts["others"]) == (32, 40)
    assert classifier.facts["held_out"]["others"] == 16
    everywhere = classifier.evaluate(found)
    assert everywhere.recall(0.5) > 0.95 and everywhere.false_positive_rate(0.5) < 0.03
    assert classifier.probabilities(found.images)[~found.possible].mean() > 0.5  # alone it would be wrong


def test_labels_that_were_given_afterwards_replace_the_recorded_ones(contract, tmp_path):
    episode = write_episode(tmp_path, contract, 1, [0, 0, 1, 1])
    write_labels(episode, {1: True, 3: False, 4: True})
    assert read_labels(episode) == {1: True, 3: False, 4: True}
    found = read_frames([tmp_path], contract, TASK)
    assert dict(zip(found.step.tolist(), found.success.tolist(), strict=True)) == {
        1: True, 3: False, 4: True,
    }  # fmt: skip


def test_labels_that_cannot_be_used_are_one_sentence(contract, tmp_path):
    with pytest.raises(
        LabelError, match=r"0 of 0 labelled frames show success, a classifier needs both kinds"
    ):
        read_frames([tmp_path], contract, TASK)
    episode = write_episode(tmp_path, contract, 1, [0, 1])
    (episode / "labels.csv").write_text("step,success\n1,yes\n")
    with pytest.raises(LabelError, match=r"labels\.csv: expected the columns step,success"):
        read_frames([tmp_path], contract, TASK)
    (episode / "labels.csv").unlink()
    info = json.loads((episode / "episode.json").read_text())
    (episode / "episode.json").write_text(json.dumps(info | {"contract": "other"}))
    with pytest.raises(BagError, match="recorded under contract other"):
        read_frames([tmp_path], contract, TASK)
    (tmp_path / "told_000001_000001.npz").write_bytes(b"not an archive")
    (episode / "episode.json").write_text(json.dumps(info))
    with pytest.raises(LabelError, match=r"told_000001_000001\.npz: is damaged or has other cameras"):
        read_frames([tmp_path], contract, TASK)


def test_a_run_becomes_a_classifier_with_its_evaluation(contract, tmp_path):
    for number in range(1, 11):
        write_episode(tmp_path / "labels", contract, number, [0] * 8 + [1] * 4)
    train_and_save([tmp_path], tmp_path / "classifier", contract, TASK)
    assert {p.name for p in (tmp_path / "classifier").iterdir()} == {
        "classifier.yaml", "classifier.safetensors", "held_out.png",
    }  # fmt: skip
    described = yaml.safe_load((tmp_path / "classifier" / "classifier.yaml").read_text())
    assert described["cameras"] == {"front": [24, 32, 3], "wrist": [16, 16, 3]}
    assert (described["successes"], described["held_out"]["successes"]) == (32, 8)
