import dataclasses
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from builtin_interfaces.msg import Time
from hilrl_msgs.msg import Action, Transition
from lerobot_policy import write_other, write_python
from loop_messages import CONTRACT, episode_messages, observation
from rclpy.serialization import serialize_message

from hilrl_actor.policy import Policy
from hilrl_agents import PolicySpec, make_agent, save_checkpoint
from hilrl_agents.checkpoint import CheckpointError
from hilrl_agents.lerobot import lerobot_agent, read_lerobot_policy
from hilrl_agents.replay import ReplayError
from hilrl_agents.sac import SAC
from hilrl_data.bags import BagError, EpisodeInfo, EpisodeWriter
from hilrl_data.episodes import write_episodes
from hilrl_data.lerobot_writer import write_lerobot
from hilrl_data.sources import open_source
from hilrl_learner.learner import Learner, LearnerSettings
from hilrl_ros.contract import contract_from_dict
from hilrl_ros.messages import floats, nanoseconds
from hilrl_ros.settings import AgentSettings, WarmStartSettings

TINY = AgentSettings("sac", 1, {"hidden": [8, 8], "batch_size": 8, "precision": "float32"})
SETTINGS = LearnerSettings(pretrain_updates=3, learning_starts=10, online_capacity=200, offline_capacity=200)
KINDS = {"observation": "Observation", "executed_action": "Action", "reward": "Reward"}


@pytest.fixture
def make_learner(tmp_path):
    made = []

    def make(contract=CONTRACT, agent=TINY, settings=SETTINGS):
        made.append(Learner(contract, agent, tmp_path / "run", settings))
        return made[-1]

    yield make
    for learner in made:
        learner.close()


def transition(seq, episode, step, controller=Action.POLICY, end="", state=None):
    msg = Transition(
        seq=seq,
        observation=observation(episode, step, state),
        reward=float(seq),
        controller=controller,
        policy_version=1,
        terminated=end == "terminated",
        truncated=end == "truncated",
    )
    msg.action.extend([seq / 1000] * len(CONTRACT.action.names))
    if end:
        msg.final_observation.append(observation(episode, step + 1))
    return msg


def stream(episodes, length=5, seq=0, people=()):
    """Transitions of whole episodes; `people` are the (episode, step) that a person acted."""
    for episode in episodes:
        for step in range(length):
            seq += 1
            who = Action.PERSON if (episode, step) in people else Action.POLICY
            yield transition(seq, episode, step, who, "truncated" if step == length - 1 else "")


def record_demos(folder, count=2, steps=6, contract=CONTRACT, lost=0, idle=0, scale=1.0):
    for number in range(1, count + 1):
        writer = EpisodeWriter(folder / f"episode_{number:06d}")
        messages = episode_messages(number, steps)
        for msg in messages["executed_action"][idle:]:
            msg.controller = Action.PERSON  # what nobody showed is not imitated
        for msg in messages["observation"]:
            msg.state = floats(np.array(msg.state) * scale)
        if lost:
            del messages["reward"][lost]
        for topic, items in messages.items():
            for msg in items:
                kind = f"hilrl_msgs/msg/{KINDS[topic]}"
                writer.write(f"/{topic}", kind, nanoseconds(msg.header.stamp), serialize_message(msg))
        writer.finish(EpisodeInfo(number, 0, "t", "t", contract.hash(), True, steps))
    return folder


def pretrained(make_learner, tmp_path):
    learner = make_learner()
    if not (tmp_path / "demos").exists():
        record_demos(tmp_path / "demos")
    learner.load_offline(tmp_path / "demos")
    learner.pretrain(threading.Event())
    learner.save()
    return learner


def drain(learner):
    while learner.due:
        learner.update(threading.Event())


def neighbours(buffer):
    """{state value of a usable step: that of the step after it} of all that can be sampled."""
    batch = buffer.sample(2000, np.random.default_rng(0))
    return {
        float(a[0]): float(b[0])
        for a, b in zip(batch.observation["state"], batch.next_observation["state"], strict=True)
    }


# -- transitions come in


def test_what_comes_after_a_gap_is_refused_and_repeats_are_acknowledged(make_learner):
    learner = make_learner()
    one, two, three = list(stream([1], 3))
    assert learner.last_seq == 0
    assert learner.ingest(one)
    assert not learner.ingest(three)
    assert learner.last_seq == 1
    assert learner.ingest(two) and learner.ingest(three)
    assert learner.ingest(one) and learner.ingest(three)
    assert (learner.last_seq, learner.online.stored) == (3, 3)


def test_every_order_of_sending_again_stores_each_transition_once(make_learner):
    learner, rng = make_learner(), np.random.default_rng(0)
    sent = list(stream(range(1, 6)))
    while learner.last_seq < len(sent):
        start = rng.integers(0, learner.last_seq + 2)
        for msg in sent[start : start + rng.integers(1, 9)]:
            learner.ingest(msg)
    assert learner.online.stored == len(sent) == len(learner.online)


@pytest.mark.parametrize(
    ("msg", "error", "message"),
    [
        (
            transition(1, 1, 0, state=[0.0] * 3),
            ValueError,
            "observation has a state of 3, the contract .* names",
        ),
        (
            transition(1, 1, 0, state=[np.nan] * len(CONTRACT.state)),
            ReplayError,
            "state holds a value that is not",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_stored(make_learner, msg, error, message):
    learner = make_learner()
    msg.controller = Action.PERSON
    with pytest.raises(error, match=message):
        learner.ingest(msg)
    assert (learner.last_seq, learner.online.stored, learner.offline.stored) == (0, 0, 0)


def test_interventions_are_also_in_the_offline_buffer_with_what_came_after_them(make_learner):
    learner = make_learner()
    people = {(1, 1), (1, 2), (2, 4), (3, 0)}  # in the middle, up to the end, and at the start
    for msg in stream([1, 2, 3], people=people):
        learner.ingest(msg)
    assert learner.online.stored == 15
    assert learner.offline.stored == len(people)
    expected = {1000.0 * e + k: 1000.0 * e + k + 1 for e, k in people}
    assert neighbours(learner.offline) == expected
    assert len(neighbours(learner.online)) == 15


def test_an_intervention_before_a_gap_in_the_steps_has_no_next_observation(make_learner):
    learner = make_learner()
    for seq, step in enumerate((0, 1, 3), 1):  # step 2 was lost on the way to the actor
        learner.ingest(transition(seq, 1, step, Action.PERSON if step < 2 else Action.POLICY))
    assert learner.offline.stored == 2
    assert neighbours(learner.offline) == {1000.0: 1001.0}


# -- updates follow


def test_one_update_follows_each_transition_exactly(make_learner, tmp_path):
    learner = pretrained(make_learner, tmp_path)
    for msg in stream(range(1, 7)):
        learner.ingest(msg)
        assert learner.due == max(0, learner.online.stored - SETTINGS.learning_starts - learner.agent.updates)
        assert learner.learnt_seq == learner.last_seq - learner.due
        if msg.seq % 4 == 0:
            drain(learner)
            assert learner.learnt_seq == learner.last_seq
    drain(learner)
    assert learner.agent.updates == learner.online.stored - SETTINGS.learning_starts == 20
    assert learner.metrics and all(np.isfinite(v) for v in learner.metrics.values())


def test_the_time_of_weights_is_that_of_what_they_were_learnt_from_not_of_what_came_since(
    make_learner, tmp_path
):
    learner = pretrained(make_learner, tmp_path)
    assert learner.learnt_until == 0.0
    for msg in stream(range(1, 7)):
        msg.observation.header.stamp = Time(sec=1000 + msg.seq)
        learner.ingest(msg)
    stop = threading.Event()
    while learner.due > 3:
        learner.update(stop)
    assert learner.learnt_until == 1000 + learner.last_seq - 3
    drain(learner)
    assert learner.learnt_until == 1000 + learner.last_seq


def test_nothing_is_due_before_the_demonstrations_are_imitated(make_learner):
    learner = make_learner()
    for msg in stream(range(1, 5)):
        learner.ingest(msg)
    assert learner.due == 0 and learner.learnt_seq == 20


def test_pretraining_moves_the_policy_and_can_be_stopped(make_learner, tmp_path):
    learner = make_learner()
    learner.load_offline(record_demos(tmp_path / "demos"))
    before = learner.agent.policy_state()
    stop = threading.Event()
    stop.set()
    learner.pretrain(stop)
    assert not learner.pretrained
    stop.clear()
    assert "bc_loss" in "".join(learner.pretrain(stop))
    assert learner.pretrained
    after = learner.agent.policy_state()
    assert any(not torch.equal(before[name], after[name]) for name in before)


# -- demonstrations


def test_demonstrations_are_stored_once_however_often_they_are_read(make_learner, tmp_path):
    learner, demos = make_learner(), record_demos(tmp_path / "demos", count=3)
    assert learner.load_offline(demos) == 18
    assert learner.load_offline(demos) == 18
    assert learner.offline.stored == 18
    expected = {1000.0 * e + k: 1000.0 * e + k + 1 for e in (1, 2, 3) for k in range(6)}
    assert neighbours(learner.offline) == expected


def test_what_came_before_the_person_took_hold_is_not_imitated(make_learner, tmp_path):
    learner = make_learner()
    assert learner.load_offline(record_demos(tmp_path / "demos", count=2, idle=2)) == 8
    expected = {1000.0 * e + k: 1000.0 * e + k + 1 for e in (1, 2) for k in range(2, 6)}
    assert neighbours(learner.offline) == expected


def test_interventions_are_stored_behind_the_demonstrations(make_learner, tmp_path):
    learner = make_learner()
    learner.load_offline(record_demos(tmp_path / "demos"))
    learner.ingest(transition(1, 1, 0, Action.PERSON, "terminated"))
    assert learner.offline.stored == 13


def test_demonstrations_of_another_contract_are_refused(make_learner, tmp_path):
    other = contract_from_dict(CONTRACT.to_dict() | {"control_rate": 20.0})
    demos = record_demos(tmp_path / "demos", contract=other)
    learner = make_learner()
    with pytest.raises(
        BagError, match=f"episode_000001: recorded under contract {other.hash()} .task t., this run's is "
    ):
        learner.load_offline(demos)
    assert learner.offline.stored == 0


def test_demonstrations_that_lack_messages_are_refused(make_learner, tmp_path):
    demos = record_demos(tmp_path / "demos", lost=2)
    with pytest.raises(BagError, match="episode_000001: 5 of 6 steps are whole; the bag lacks messages"):
        make_learner().load_offline(demos)


# -- restarts


def test_a_restarted_learner_goes_on_where_it_was(make_learner, tmp_path):
    learner = pretrained(make_learner, tmp_path)
    for msg in stream(range(1, 5)):
        learner.ingest(msg)
    drain(learner)
    learner.save()
    state = learner.agent.state()
    learner.close()
    again = make_learner()
    assert again.pretrained
    assert (again.last_seq, again.online.stored, again.agent.updates, again.due) == (20, 20, 10, 0)
    assert all(torch.equal(state[name], tensor) for name, tensor in again.agent.state().items())
    assert again.offline.stored == 12
    assert again.ingest(transition(21, 5, 0)) and again.due == 1


def test_a_restarted_learner_does_not_draw_the_batches_of_its_beginning_again(make_learner, tmp_path):
    pretrained(make_learner, tmp_path).close()

    def drawn(learner):
        return learner.online.sample(8, learner.rng).action

    learner = make_learner()
    for msg in stream(range(1, 20)):
        learner.ingest(msg)
    first = drawn(learner)
    drain(learner)
    learner.save()
    learner.close()
    assert not torch.equal(drawn(make_learner()), first)


def test_updates_that_were_lost_in_a_crash_are_done_again(make_learner, tmp_path):
    learner = pretrained(make_learner, tmp_path)
    for msg in stream(range(1, 5)):
        learner.ingest(msg)
    drain(learner)
    learner.close()  # without save
    again = make_learner()
    assert again.due == 10
    drain(again)
    assert again.agent.updates == 10


def test_a_kill_between_the_two_renames_of_a_checkpoint_does_not_begin_anew(make_learner, tmp_path):
    pretrained(make_learner, tmp_path).close()
    (tmp_path / "run/checkpoint").rename(tmp_path / "run/checkpoint.old")
    assert make_learner().pretrained


def test_versions_of_weights_are_never_used_again(make_learner, tmp_path):
    learner = make_learner()
    assert [learner.next_weights()[0] for _ in range(3)] == [1, 2, 3]
    learner.close()
    again = make_learner()
    assert again.version == 3
    assert again.next_weights()[0] == 4
    assert not list((tmp_path / "run").glob("policy_version.*"))


def test_a_checkpoint_of_another_contract_is_refused(make_learner, tmp_path):
    pretrained(make_learner, tmp_path).close()
    other = contract_from_dict(CONTRACT.to_dict() | {"control_rate": 20.0})
    with pytest.raises(CheckpointError, match=r"another contract: control_rate was 10\.0, but here it is 20"):
        make_learner(contract=other)


@pytest.mark.parametrize("agent", [AgentSettings("bc", 1, {}), AgentSettings("sac", 4, TINY.options)])
def test_a_run_does_not_go_on_with_another_algorithm(make_learner, tmp_path, agent):
    pretrained(make_learner, tmp_path).close()
    with pytest.raises(
        ValueError, match=r"is of 'sac' with chunks of 1, asked for is '(bc|sac)' with chunks"
    ):
        make_learner(agent=agent)


KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    sys.path[:0] = sys.argv[2:]
    from test_learner import CONTRACT, SETTINGS, TINY, drain, stream
    from hilrl_learner.learner import Learner

    learner = Learner(CONTRACT, TINY, Path(sys.argv[1]), SETTINGS)
    for msg in stream(range(1, 10_000), people={(e, 2) for e in range(10_000)}):
        if learner.ingest(msg):
            print(learner.last_seq, flush=True)
        if msg.seq > learner.last_seq:
            raise SystemExit("a gap")
        drain(learner)
        if msg.seq % 10 == 0:
            learner.next_weights()
            learner.save()
""")


def test_a_killed_learner_keeps_every_transition_that_it_acknowledged(make_learner, tmp_path):
    pretrained(make_learner, tmp_path).close()
    here = Path(__file__).resolve().parent
    before = 0
    for count in (40, 75):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "run"), str(here), str(here.parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        lines = process.communicate()[0].split("\n")
        acknowledged = max([int(line) for line in lines if line.isdigit()], default=count)
        learner = make_learner()
        assert learner.pretrained
        assert learner.last_seq == learner.online.stored >= max(acknowledged, before)
        assert learner.version >= learner.agent.updates // 10
        person = (learner.last_seq + 2) // 5  # every third of five steps
        assert learner.offline.stored == 12 + person
        before = learner.last_seq
        learner.close()
        drained = make_learner()
        drain(drained)
        assert drained.agent.updates == max(0, before - SETTINGS.learning_starts)
        drained.close()


def test_of_offline_data_all_is_learnt_from_and_what_a_person_did_is_imitated(make_learner, tmp_path):
    data = record_demos(tmp_path / "data", count=2, idle=2)
    demos = record_demos(tmp_path / "demos", count=1, idle=2)
    learner = make_learner(settings=dataclasses.replace(SETTINGS, offline_data=(data,)))
    assert learner.load_offline(demos) == 4 + 8
    assert len(learner.offline) == 4 + 12
    assert learner.load_offline(demos) == 4 + 8 and len(learner.offline) == 4 + 12  # after a restart
    batch = learner.offline.sample(256, np.random.default_rng(0))
    assert 0 < batch.person.float().mean() < 1


def test_a_recorded_mistake_that_a_person_put_right_is_no_success_where_take_overs_end(
    make_learner, tmp_path
):
    data = record_demos(tmp_path / "data", count=1, idle=2)
    agent = dataclasses.replace(TINY, options=TINY.options | {"takeovers_end": True})
    learner = make_learner(agent=agent, settings=dataclasses.replace(SETTINGS, offline_data=(data,)))
    learner.load_offline(None)
    batch = learner.offline.sample(64, np.random.default_rng(0))
    person = batch.person[:, 0]
    assert person.any() and not person.all()
    assert batch.solved[person].all() and not batch.solved[~person].any()
    assert batch.bootstrap[batch.left == 5].eq(0).all()  # the step before the person's first


def test_nothing_is_fitted_anew_where_nobody_has_shown_anything(make_learner, monkeypatch):
    fitted = []
    monkeypatch.setattr(SAC, "refresh_due", True)
    monkeypatch.setattr(SAC, "refresh", lambda self, batches: fitted.append(next(iter(batches))))
    learner = make_learner()
    learner.pretrain(threading.Event())
    for msg in stream([1, 2, 3]):
        learner.ingest(msg)
    drain(learner)
    assert learner.agent.updates and not fitted
    for msg in stream([4], seq=15, people=[(4, step) for step in range(5)]):
        learner.ingest(msg)
    drain(learner)
    assert fitted


def test_offline_data_does_not_push_the_demonstrations_out(make_learner, tmp_path):
    data = record_demos(tmp_path / "data", count=3)
    learner = make_learner(settings=dataclasses.replace(SETTINGS, offline_data=(data,)))
    assert learner.offline.capacity == SETTINGS.offline_capacity + 3 * 7


# -- from an imitation policy


@pytest.fixture
def prior(tmp_path):
    agent = make_agent("bc", PolicySpec.from_contract(CONTRACT.to_dict()), {"hidden": [8]}, seed=3)
    states = np.random.default_rng(0).normal(5, 2, (30, len(CONTRACT.state)))
    agent.fit_normalizer(states, np.zeros((30, len(CONTRACT.action.names))))
    save_checkpoint(tmp_path / "bc" / "checkpoint", agent, CONTRACT.to_dict())
    return agent


def warm(folder):
    return dataclasses.replace(TINY, warm_start=WarmStartSettings(folder))


def test_an_imitation_policy_is_all_that_learning_needs(make_learner, tmp_path, prior):
    learner = make_learner(agent=warm(tmp_path / "bc"))
    assert learner.load_offline(None) == 0
    learner.pretrain(threading.Event())
    assert learner.pretrained
    mean = prior.policy_state()["encoder.normalizer.mean"]
    assert torch.equal(learner.agent.policy_state()["encoder.normalizer.mean"], mean)
    for msg in stream([1, 2, 3]):
        learner.ingest(msg)
    drain(learner)
    assert learner.agent.updates == 5
    learner.save()
    learner.close()
    shutil.rmtree(tmp_path / "bc")
    assert make_learner(agent=warm(tmp_path / "bc")).agent.prior.name == "bc"  # from the checkpoint's copy


def test_demonstrations_do_not_move_a_policy_that_learning_starts_from(make_learner, tmp_path, prior):
    learner = make_learner(agent=warm(tmp_path / "bc"))
    learner.load_offline(record_demos(tmp_path / "demos"))
    assert learner.pretrain(threading.Event()) == {}
    state = prior.policy_state()
    for name, tensor in learner.agent.policy_state().items():
        origin = name.replace("average.mean", "policy").replace("actor.mean", "policy")
        assert origin not in state or torch.equal(tensor, state[origin]), name
    assert len(learner.offline) == 12


def test_the_actor_starts_from_the_same_policy_as_the_learner(make_learner, tmp_path, prior):
    learner = make_learner(agent=warm(tmp_path / "bc"))
    policy = Policy.untrained(CONTRACT, warm(tmp_path / "bc"))
    policy.agent.load_policy(learner.agent.policy_state())
    seen = {"state": np.zeros(len(CONTRACT.state), np.float32), "images": {}}
    assert np.array_equal(policy.act(seen, False, 1, 1, 0)[0], prior.act(seen, False)[0])


OVER_PRIOR = AgentSettings(
    "residual", 1, {"hidden": [8, 8], "batch_size": 8, "critics": 2, "precision": "float32"}
)


def over_a_prior(tmp_path):
    """Settings of a residual agent over a policy of chunks."""
    spec = PolicySpec.from_contract(CONTRACT.to_dict(), 4)
    prior = make_agent("flow", spec, {"hidden": [8], "n_action_steps": 2}, seed=3)
    folder = save_checkpoint(tmp_path / "prior", prior, CONTRACT.to_dict(), {"policy_version": 1})
    return dataclasses.replace(OVER_PRIOR, warm_start=WarmStartSettings(folder))


def test_a_prior_that_lerobot_runs_is_asked_about_recorded_episodes_and_then_let_go(
    make_learner, tmp_path, monkeypatch
):
    state, action = len(CONTRACT.state), len(CONTRACT.action.names)
    theirs = write_other(tmp_path / "theirs", state, action, {})
    monkeypatch.setenv("HILRL_LEROBOT_PYTHON", str(write_python(tmp_path / "python")))
    prior = lerobot_agent(read_lerobot_policy(theirs))
    folder = save_checkpoint(tmp_path / "prior", prior, CONTRACT.to_dict(), {"policy_version": 1})
    learner = make_learner(agent=dataclasses.replace(OVER_PRIOR, warm_start=WarmStartSettings(folder)))
    (theirs / "asked.npz").unlink()
    learner.load_offline(record_demos(tmp_path / "demos"))
    assert (theirs / "asked.npz").exists() and learner.agent.prior.process is None
    assert np.abs(learner.offline.states()[:, -action:]).max() > 0


def test_what_the_prior_does_is_part_of_every_stored_state(make_learner, tmp_path):
    settings, names = over_a_prior(tmp_path), len(CONTRACT.action.names)
    actor, learner = Policy.untrained(CONTRACT, settings), make_learner(agent=settings)
    sent = []
    for msg in stream((1, 2), length=3):
        seen = [msg.observation, *msg.final_observation]
        actions = [
            actor.prior_action({"state": np.array(o.state, np.float32), "images": {}}, 9, o.episode, o.step)
            for o in seen
        ]
        msg.prior_action.extend(actions[0])
        msg.final_prior_action.extend(actions[1] if len(actions) > 1 else ())
        assert learner.ingest(msg)
        sent += actions
    np.testing.assert_array_equal(learner.online.states()[:, -names:], np.array(sent))
    msg = next(iter(stream((3,), seq=6)))  # without the prior's action
    with pytest.raises(ReplayError, match=r"transition 7 .*state has shape"):
        learner.ingest(msg)


def test_the_prior_goes_through_demonstrations_too(make_learner, tmp_path):
    settings, names = over_a_prior(tmp_path), len(CONTRACT.action.names)
    learner = make_learner(agent=settings)
    learner.load_offline(record_demos(tmp_path / "demos", count=1))
    states = learner.offline.states()
    assert states.shape == (7, len(CONTRACT.state) + names)
    first = {"state": states[0, :-names], "images": {}}
    # a person acts in every step, so nothing planned before is kept; the draw is the step's own number
    expected = learner.agent.prior.act(first, False, -6)[0]
    np.testing.assert_array_equal(states[0, -names:], expected)


def test_an_episode_earns_for_the_gate_once_its_updates_are_done(make_learner, tmp_path):
    earned = []
    learner = make_learner()
    learner.pretrained, learner.agent.episode_over = True, earned.append
    for msg in stream((1, 2), length=10, people={(2, 4)}):
        learner.ingest(msg)
    stop = threading.Event()
    while learner.due:
        assert not earned or learner.learnt_seq >= 10
        learner.update(stop)
    assert earned == [sum(range(1, 11)), 0.0]
    for msg in list(stream((3,), length=4, seq=20))[2:]:  # begun with another learner
        msg.seq -= 2
        learner.ingest(msg)
    while learner.due:
        learner.update(stop)
    assert len(earned) == 2


def test_demonstrations_that_went_through_a_lerobot_dataset_are_the_same_to_the_learner(
    make_learner, tmp_path
):
    shown, dataset, back = tmp_path / "shown", tmp_path / "set", tmp_path / "back"
    record_demos(shown, count=3, scale=1e-3)  # a joint may stand there

    def ignore(_):
        pass

    write_lerobot(
        dataset, open_source(shown, CONTRACT, ("t", "t")).episodes(), CONTRACT, False, ignore, ignore
    )
    write_episodes(back, open_source(dataset, CONTRACT, ("t", "t")).episodes(), ignore, ignore)
    own = make_learner()
    assert own.load_offline(shown) == 18
    settings = dataclasses.replace(SETTINGS, offline_data=(back,))
    imported = Learner(CONTRACT, TINY, tmp_path / "other", settings)
    assert imported.load_offline(None) == 18
    first, second = (of.offline.sample(200, np.random.default_rng(0)) for of in (own, imported))
    for name in ("action", "reward", "steps", "bootstrap", "person"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    for name in ("observation", "next_observation"):
        assert torch.equal(getattr(first, name)["state"], getattr(second, name)["state"])
    imported.close()


def test_sizes_of_a_priors_networks_are_the_priors_whatever_the_file_says(make_learner, tmp_path):
    over = over_a_prior(tmp_path)  # a flow policy of chunks of 4, with one hidden layer of 8
    chooser = {"hidden": [16, 16], "critic_hidden": [8], "batch_size": 8, "flow_steps": 3}
    agent = AgentSettings("qc", 2, chooser, over.warm_start)
    learner = make_learner(agent=agent)
    assert (learner.agent.spec.horizon, learner.agent.config.hidden) == (4, (8,))
    assert (learner.agent.config.critic_hidden, learner.agent.config.n_action_steps) == ((8,), 2)
    learner.pretrain(threading.Event())
    learner.save()
    learner.close()
    assert make_learner(agent=agent).agent.spec.horizon == 4  # it goes on
