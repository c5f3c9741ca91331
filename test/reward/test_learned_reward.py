"""The reward node where success is a classifier: who judges when, what is kept, and when it is ready."""

import dataclasses

import numpy as np
import pytest
import yaml
from hilrl_msgs.msg import Episode, OperatorEvent, Reward, RewardStatus
from labelled import contract_of, files, frames, pictures, seen, write_episode
from loop_messages import CONFIG, PERIOD, action, joint_state

from hilrl_actor.observer import Observer
from hilrl_reward.classifier import Classifier, SuccessNetwork, Training, camera_shapes, train
from hilrl_reward.labels import read_frames
from hilrl_reward.reward_node import RewardNode
from hilrl_reward.terms import RewardFunction
from hilrl_ros import qos
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.images import from_rgb
from hilrl_ros.messages import to_time
from hilrl_sim.simulation import Simulation

RNG = np.random.default_rng(0)


class Sent(list):
    publish = list.append


class Judge:
    """A reward node in a run's folder, and what it publishes."""

    def __init__(self, graph, folder, **success):
        self.robot, self.task = files(folder, success={"term": "classifier", **success} if success else None)
        made = graph(robot=self.robot, task=self.task, runs_dir=folder)
        self.graph, self.folder = made, folder / "run"
        self.node = made.add(RewardNode())
        self.node.publisher = self.rewards = Sent()
        self.statuses = made.listen(RewardStatus, "reward_status", qos.LATCHED)

    def announce(self, phase, episode=1):
        self.node.on_episode(Episode(run="run", phase=phase, episode=episode, status=Episode.RUNNING))

    def see(self, episode, step, solved, tip_z=0.0):
        """Show the observation of a step, and let the action follow."""
        msg = seen(self.node.contract, episode, step, pictures(RNG, solved))
        msg.state[self.node.contract.state_names.index("tip_z")] = tip_z
        self.node.on_observation(msg)
        self.node.on_action(action(episode, step, [0.0] * 4))
        return msg

    def press(self, event):
        self.node.on_event(OperatorEvent(event=event))


@pytest.fixture(scope="module")
def classifier():
    return train(frames(), Training(steps=60, batch=32))


@pytest.fixture
def judge(make_graph, tmp_path, classifier):
    """A judge whose classifier is there; `judge(hold=[2, 3])` adds to its success condition."""

    def make(**success):
        made = Judge(make_graph, tmp_path, **success)
        made.node.classifier = classifier
        made.node.worker = object()  # nothing to train
        made.node.close = lambda: None
        return made

    return make


def test_the_classifier_ends_the_episode(judge):
    it = judge()
    it.announce(Episode.TRAIN)
    for step, solved in enumerate([0, 0, 1]):
        it.see(1, step, solved)
    assert [(r.success, r.terminated, r.reward) for r in it.rewards] == [
        (False, False, 0.0),
        (True, True, 1.0),
    ]
    assert [r.source for r in it.rewards] == [Reward.CLASSIFIER] * 2
    assert it.rewards[0].probability < 0.1 < 0.9 < it.rewards[1].probability


def test_hold_asks_for_some_of_the_newest_steps_and_and_for_what_the_joints_tell(judge):
    it = judge(hold=[2, 3], **{"and": [{"term": "above", "state": "tip_z", "threshold": 0.05}]})
    it.announce(Episode.TRAIN)
    #        picture, height: only where both are right it counts, and twice in three steps is enough
    shown = [(0, 0.1), (1, 0.1), (0, 0.1), (1, 0.0), (1, 0.1), (0, 0.1), (1, 0.1)]
    for step, (solved, height) in enumerate(shown):
        it.see(1, step, solved, height)
    assert [r.success for r in it.rewards] == [False, False, False, False, False, True]
    it.announce(Episode.TRAIN, 2)
    for step in range(2):
        it.see(2, step, 1, 0.1)
    assert not it.rewards[-1].success  # what the last episode held does not count in this one


def test_a_threshold_of_the_task_overrides_the_classifiers_own(judge):
    it = judge(threshold=1.0)
    it.announce(Episode.TRAIN)
    for step in range(3):
        it.see(1, step, 1)
    assert not any(r.success for r in it.rewards) and it.rewards[0].probability > 0.9


def test_where_the_person_shows_the_classifier_is_not_asked(judge):
    it = judge()
    it.announce(Episode.DEMONSTRATE)
    it.see(1, 0, 1)
    it.see(1, 1, 1)
    assert not it.rewards[0].terminated and it.rewards[0].probability == -1.0
    it.press(OperatorEvent.SUCCESS)
    it.see(1, 2, 1)
    assert it.rewards[1].terminated and it.rewards[1].source == Reward.PERSON
    assert not (it.folder / "labels").exists()  # nobody was contradicted


def test_in_the_label_phase_the_button_labels_the_steps_in_which_it_is_held(judge):
    it = judge()
    it.announce(Episode.LABEL)
    for step in range(13):
        it.see(1, step, 0)
        if step in (2, 7):
            it.press(OperatorEvent.SUCCESS)
        if step in (5, 7):  # held for some steps; a tap
            it.press(OperatorEvent.SUCCESS_RELEASED)
        if step == 10:
            it.press(OperatorEvent.FAILURE)  # ends nothing here
    assert [r.step for r in it.rewards if r.success] == [2, 3, 4, 7]
    assert {r.source for r in it.rewards} == {Reward.PERSON}
    assert not any(r.terminated for r in it.rewards)
    assert [r.truncated for r in it.rewards] == [False] * 11 + [True]


def test_a_keyboard_that_knows_no_release_ends_the_label_with_failure(judge):
    it = judge()
    it.announce(Episode.LABEL)
    for step in range(6):
        it.see(1, step, 0)
        if step in (1, 3):
            it.press(OperatorEvent.SUCCESS if step == 1 else OperatorEvent.FAILURE)
    assert [r.step for r in it.rewards if r.success] == [1, 2]


def test_a_success_that_the_classifier_missed_is_kept_as_a_label(judge):
    it = judge()
    it.announce(Episode.TRAIN, 4)
    it.see(4, 0, 0)
    missed = it.see(4, 1, 0)
    it.press(OperatorEvent.SUCCESS)
    it.see(4, 2, 0)
    assert (it.rewards[-1].source, it.rewards[-1].reward, it.rewards[-1].terminated) == (
        Reward.PERSON,
        1.0,
        True,
    )
    kept = np.load(it.folder / "labels" / "told_000004_000001.npz")
    assert kept["success"].tolist() == [True]
    assert kept["camera.front"].tobytes() == missed.images[0].data.tobytes()


def test_a_failure_told_after_the_classifier_took_it_for_success_is_kept_as_a_label(judge):
    it = judge(hold=[2, 3])
    it.announce(Episode.TRAIN, 4)
    for step, solved in enumerate([0, 0, 1, 1]):
        it.see(4, step, solved)
    assert it.rewards[-1].terminated and it.rewards[-1].success
    it.press(OperatorEvent.FAILURE)
    it.press(OperatorEvent.FAILURE)
    (path,) = (it.folder / "labels").iterdir()
    kept = np.load(path)
    assert kept["step"].tolist() == [2, 3] and not kept["success"].any()


def test_steps_wait_until_it_is_known_who_judges(judge, classifier):
    it = judge()
    it.node.classifier = None
    for step in range(3):
        it.see(1, step, 0)
    assert it.rewards == []
    it.announce(Episode.TRAIN)
    assert it.rewards == []  # the classifier is not there yet
    it.node.classifier, it.node.waiting = classifier, it.node.create_timer(60.0, lambda: None)
    it.node.look()
    assert [r.step for r in it.rewards] == [0, 1]


def test_it_trains_on_the_labels_of_the_run_and_keeps_the_classifier_there(make_graph, tmp_path):
    it = Judge(make_graph, tmp_path)
    assert it.node.classified
    for number in range(1, 11):
        write_episode(it.folder / "labels", it.node.contract, number, [0] * 8 + [1] * 4)
    it.announce(Episode.PRETRAIN)
    it.graph.until(lambda: it.statuses and it.statuses[-1].state == RewardStatus.READY, 60)
    figures = dict(zip(it.statuses[-1].metric_names, it.statuses[-1].metric_values, strict=True))
    assert figures["recall"] > 0.9 and figures["successes"] == 8
    assert (it.folder / "classifier" / "held_out.png").exists()
    saved = (it.folder / "classifier" / "classifier.safetensors").read_bytes()

    second = it.graph.add(RewardNode())  # restarted in the middle of the run
    second.on_episode(Episode(run="run", phase=Episode.TRAIN))
    it.graph.until(lambda: second.classifier is not None, 30)
    assert (it.folder / "classifier" / "classifier.safetensors").read_bytes() == saved


def test_a_run_without_labels_ends_the_node_with_one_sentence(make_graph, tmp_path, logged):
    it = Judge(make_graph, tmp_path)
    it.announce(Episode.PRETRAIN)
    it.graph.until(lambda: it.node.finished, 30)
    assert it.node.exit_code == 1
    (line,) = [text for level, text in logged if level == "FATAL"]
    assert "0 of 0 labelled frames show success" in line and "labels:=200" in line


def test_a_given_classifier_is_kept_with_the_run_that_learns_from_it(make_graph, tmp_path, classifier):
    classifier.save(tmp_path / "given")
    robot, task = files(tmp_path)
    graph = make_graph(robot=robot, task=task, runs_dir=tmp_path, classifier=tmp_path / "given")
    node = graph.add(RewardNode())
    node.on_episode(Episode(run="run", phase=Episode.PRETRAIN))
    graph.until(lambda: node.classifier is not None or node.finished, 30)
    kept, given = (tmp_path / where / "classifier.safetensors" for where in ("run/classifier", "given"))
    assert kept.read_bytes() == given.read_bytes()


def test_an_intervention_can_cost(make_graph, tmp_path):
    contract = contract_of(tmp_path)
    node = Judge(make_graph, tmp_path).node
    task = dataclasses.replace(node.task, reward={"help": {"term": "intervention", "weight": -0.1}})
    function = RewardFunction(task, contract.entry_names, contract.action.names)
    state = dict.fromkeys(contract.entry_names, 0.0)
    assert function(state, np.zeros(4), state, person=True)[0]["help"] == pytest.approx(-0.1)
    assert function(state, np.zeros(4), state, person=False)[0]["help"] == 0.0


def test_trained_and_deployed_on_exactly_the_same_pixels(make_graph, tmp_path):
    """Rendered frames, cropped and resized by the observer: what training reads is what is judged live, bit for bit."""
    robot, task = tmp_path / "robot.yaml", CONFIG / "tasks" / "pick_cube_vision.yaml"
    raw = yaml.safe_load((CONFIG / "robots" / "so101.yaml").read_text())
    for name, size in (("front", [64, 64]), ("wrist", [48, 32])):
        raw["cameras"][name] = {"topic": f"{name}/image_raw", "crop": [6, 10, 110, 90], "size": size}
    robot.write_text(yaml.safe_dump(raw))
    made = yaml.safe_load(task.read_text()) | {"success": {"term": "classifier"}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(made))
    contract, scene = load_contract(robot, tmp_path / "task.yaml")
    simulation, observer = Simulation(contract, scene), Observer(contract, max_age=0.0, privileged=False)
    observed = []
    for step in range(6):
        simulation.reset(step)
        if step == 0:
            observer.begin(1, 0)
        stamp = to_time(step * PERIOD)
        for name, camera in contract.cameras.items():
            observer.add(camera.topic, from_rgb(simulation.render(name, 120, 128), stamp))
        observed.append(observer.add("joint_states", joint_state(step * PERIOD, simulation.joint_position)))
    simulation.close()

    write_episode(tmp_path / "labels", contract, 1, [0, 0, 0, 1, 1], observed=observed)
    read = read_frames([tmp_path / "labels"], contract, scene)
    network = SuccessNetwork(camera_shapes(contract))
    node = make_graph(robot=robot, task=tmp_path / "task.yaml", runs_dir=tmp_path).add(RewardNode())
    node.publisher, node.classifier, node.worker = Sent(), Classifier(network), object()
    node.close = lambda: None
    node.on_episode(Episode(run="run", phase=Episode.TRAIN, episode=1))
    for msg in observed:
        node.on_observation(msg)
        node.on_action(action(1, msg.step, [0.0] * 4))
    live = {reward.step + 1: reward.probability for reward in node.publisher}
    assert len(live) == 5 and len(set(live.values())) == 5
    for index, step in enumerate(read.step.tolist()):
        for name in contract.cameras:
            assert (
                read.images[name][index].tobytes()
                == observed[step].images[list(contract.cameras).index(name)].data.tobytes()
            )
        if step in live:
            images = {name: pixels[index] for name, pixels in read.images.items()}
            assert node.classifier.probability(images) == pytest.approx(live[step], abs=1e-7)
