import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from agent_data import add_episode, observation, stamp

from hilrl_agents import PolicySpec, ReplayBuffer, ReplayError, sample_mixed


def everything(buffer, horizon=1, n_step=1, draws=600):
    """All samples that occur, by the stamp of their start: (steps, bootstrap, next stamp, batch, row)."""
    batch = buffer.sample(draws, np.random.default_rng(0), horizon, n_step)
    found = {}
    for row in range(draws):
        start = int(batch.observation["state"][row, 0])
        after = int(batch.next_observation["state"][row, 0])
        found[start] = (int(batch.steps[row]), float(batch.bootstrap[row]), after, batch, row)
    return found


def solved(found):
    """Of all samples that occur, by the stamp of their start, whether what was done there solved the task."""
    return {start: bool(batch.solved[row]) for start, (_, _, _, batch, row) in found.items()}


def test_next_observation_never_crosses_a_truncation(buffer):
    seq = add_episode(buffer, 0, 1, 4, "truncated")
    add_episode(buffer, seq, 2, 4, "truncated")
    found = everything(buffer)
    assert set(found) == {stamp(e, s) for e in (1, 2) for s in range(4)}
    for start, (_, bootstrap, after, _, _) in found.items():
        assert (
            after == start + 1
        )  # at the last step: the true final observation, not the next episode's first
        assert bootstrap == 1.0


def test_termination_stops_the_bootstrap_even_without_a_final_observation(buffer):
    buffer.add(0, 1, 0, observation(buffer.spec, 1), np.zeros(2), 1.0, True, False, 0, 0)
    add_episode(buffer, 1, 2, 3, "terminated")
    found = everything(buffer)
    assert {start: value[1] for start, value in found.items()} == {1: 0.0, 200: 1.0, 201: 1.0, 202: 0.0}


def test_truncation_without_a_final_observation_is_never_sampled(buffer):
    buffer.add(0, 1, 0, observation(buffer.spec, 1), np.zeros(2), 1.0, False, True, 0, 0)
    add_episode(buffer, 1, 2, 3, "truncated")
    assert set(everything(buffer)) == {200, 201, 202}
    assert len(buffer) == 4


def test_intervention_segments_keep_their_own_observations(buffer):
    # two segments of the same episode, as an offline buffer that stores only a person's steps sees them
    add_episode(buffer, 3, 1, 3, None, first=3, controller=1)
    buffer.add_observation(observation(buffer.spec, stamp(1, 6)))
    add_episode(buffer, 10, 1, 2, None, first=10, controller=1)
    found = everything(buffer)
    assert set(found) == {103, 104, 105, 110}  # 111 still waits for its successor
    assert [found[start][2] for start in (103, 104, 105, 110)] == [104, 105, 106, 111]
    for start, (_, _, after, batch, row) in found.items():
        assert int(batch.observation["images"]["front"][row, 0, 0, 0]) == start % 251
        assert int(batch.next_observation["images"]["front"][row, 0, 0, 0]) == after % 251
        assert batch.person[row, 0]


def test_a_gap_costs_the_transition_whose_neighbour_is_missing(buffer):
    add_episode(buffer, 0, 1, 6, "truncated", skip=(3,))
    assert set(everything(buffer)) == {100, 101, 104, 105}
    assert len(buffer) == 5


def test_the_newest_transition_waits_for_its_successor(buffer):
    add_episode(buffer, 0, 1, 3, None)
    assert set(everything(buffer)) == {100, 101}
    assert buffer.samplable == 2
    add_episode(buffer, 3, 1, 1, None, first=3)
    assert set(everything(buffer)) == {100, 101, 102}


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize("length", range(1, 9))
def test_chunks_against_brute_force_at_every_end(buffer, end, length):
    horizon, gamma = 4, 0.9
    seq = add_episode(buffer, 0, 1, length, end)
    add_episode(buffer, seq, 2, 9, "truncated")
    found = everything(buffer, horizon)
    for start in range(length):
        left = length - start
        if end == "truncated" and left < horizon:
            assert stamp(1, start) not in found  # cut chunk: not a sample of its value
            continue
        steps, bootstrap, after, batch, row = found[stamp(1, start)]
        real = min(left, horizon)
        ended = end == "terminated" and left <= horizon
        assert (steps, bootstrap, after) == (real, 0.0 if ended else 1.0, stamp(1, start + real))
        expected = sum(gamma**i * 2.0 ** (start + i) for i in range(real))
        assert float(batch.chunk_return(gamma)[row]) == pytest.approx(expected)
        discount = float(batch.bootstrap_discount(gamma)[row])
        assert discount == pytest.approx(0.0 if ended else gamma**real)
        actions = [(start + i) / 100 if i < real else 0.0 for i in range(horizon)]
        np.testing.assert_allclose(batch.action[row, :, 0], actions, rtol=1e-6)
        assert batch.valid()[row].tolist() == [1.0 if i < real else 0.0 for i in range(horizon)]


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize("n_step", [3, 5, 12])
@pytest.mark.parametrize("length", range(1, 8))
def test_backups_against_brute_force_with_any_horizon_and_n_step(buffer, end, n_step, length):
    """The target of a start, rolled out step by step, where the value of a state is its stamp."""
    horizon, gamma = 3, 0.9
    seq = add_episode(buffer, 0, 1, length, end)
    add_episode(buffer, seq, 2, 13, "truncated")
    found = everything(buffer, horizon, n_step)

    def rolled_out(start):
        total = 0.0
        for step in range(start, min(start + max(horizon, n_step), length)):
            total += gamma ** (step - start) * 2.0**step
            if end == "terminated" and step == length - 1:
                return total
        return total + gamma ** (step + 1 - start) * stamp(1, step + 1)

    for start in range(length):
        if end == "truncated" and length - start < horizon:
            assert stamp(1, start) not in found
            continue
        _, _, after, batch, row = found[stamp(1, start)]
        target = batch.chunk_return(gamma)[row] + batch.bootstrap_discount(gamma)[row] * after
        assert float(target) == pytest.approx(rolled_out(start))


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("ends", [False, True])
def test_what_the_policy_did_ends_where_a_person_takes_over_if_so_wanted(tmp_path, spec, ends, horizon):
    buffer = ReplayBuffer(tmp_path, spec, 100, takeovers_end=ends)
    seq = add_episode(buffer, 0, 1, 3, None)
    seq = add_episode(buffer, seq, 1, 2, None, first=3, controller=1)  # takes over …
    seq = add_episode(buffer, seq, 1, 2, "terminated", first=5)  # … and lets go
    add_episode(buffer, seq, 2, 2, "terminated", controller=1)  # has it from the beginning
    found = everything(buffer, horizon, n_step=3)
    steps = {start: (value[0], value[1]) for start, value in found.items()}
    after = {103: (3, 1.0), 104: (3, 0.0), 105: (2, 0.0), 106: (1, 0.0), 200: (2, 0.0), 201: (1, 0.0)}
    before = (
        {100: (3, 0.0), 101: (2, 0.0), 102: (1, 0.0)} if ends else dict.fromkeys((100, 101, 102), (3, 1.0))
    )
    assert steps == before | after
    assert found[102][2] == (103 if ends else 105)
    assert solved(found) == {start: not ends or start > 102 for start in found}
    buffer.close()
    again = ReplayBuffer(tmp_path, spec, 100, takeovers_end=ends)
    found = everything(again, horizon, n_step=3)
    assert {start: value[:2] for start, value in found.items()} == steps
    assert solved(found) == {start: not ends or start > 102 for start in found}


@pytest.mark.parametrize("capacity", [6, 9, 40])
def test_how_an_episode_ends_is_known_once_its_end_is_stored(tmp_path, spec, capacity):
    buffer = ReplayBuffer(tmp_path / "ring", spec, capacity)
    seq = add_episode(buffer, 0, 1, 4, "terminated")
    seq = add_episode(buffer, seq, 2, 3, "truncated")
    add_episode(buffer, seq, 3, 3, None)
    expected = {stamp(1, s): (4 - s, True) for s in range(4)} | {
        stamp(2, s): (3 - s, False) for s in range(3)
    }
    expected |= {stamp(3, s): (0, False) for s in range(2)}

    def check():
        found = everything(buffer)
        assert len(found) >= min(capacity, 9) - 3
        for start, (_, _, _, batch, row) in found.items():
            assert (int(batch.left[row]), bool(batch.solved[row])) == expected[start]

    check()
    buffer.close()
    buffer = ReplayBuffer(tmp_path / "ring", spec, capacity)
    check()
    add_episode(buffer, seq + 3, 3, 1, "terminated", first=3)
    expected |= {stamp(3, s): (4 - s, True) for s in range(4)}
    check()
    buffer.close()


def test_a_termination_without_reward_is_not_solved(buffer):
    add_episode(buffer, 0, 1, 2, None)
    buffer.add(2, 1, 2, observation(buffer.spec, 102), np.zeros(2), 0.0, True, False, 0, 0)
    batch = buffer.sample(20, np.random.default_rng(0))
    assert not batch.solved.any() and set(batch.left.tolist()) == {1, 2, 3}


@pytest.mark.parametrize("cached", [False, True])
def test_the_path_holds_what_was_seen_after_each_step(buffer, cached):
    class Brightness:
        version = 1

        def __call__(self, images):
            return images["front"].reshape(len(images["front"]), -1).mean(1, keepdims=True).astype(np.float32)

    seq = add_episode(buffer, 0, 1, 4, "terminated")
    add_episode(buffer, seq, 2, 4, "truncated")
    batch = buffer.sample(200, np.random.default_rng(0), 2, 3, Brightness() if cached else None, path=True)
    assert buffer.sample(2, np.random.default_rng(0), 2, 3).path is None
    for row in range(len(batch)):
        start, steps = int(batch.observation["state"][row, 0]), int(batch.steps[row])
        after = [start + min(offset, steps) for offset in (1, 2, 3)]
        assert batch.path["state"][row, :, 0].tolist() == after
        seen = batch.path["features"][row] if cached else batch.path["images"]["front"][row, :, 0, 0, :1]
        assert seen[:, 0].tolist() == [value % 251 for value in after]
        assert float(batch.next_observation["state"][row, 0]) == after[-1]
    assert len(batch.split(2)[1].path["state"]) == 100


def test_n_step_returns_end_early_at_a_truncation(buffer):
    add_episode(buffer, 0, 1, 5, "truncated")
    found = everything(buffer, horizon=1, n_step=3)
    assert {start: (value[0], value[2]) for start, value in found.items()} == {
        100: (3, 103),
        101: (3, 104),
        102: (3, 105),
        103: (2, 105),
        104: (1, 105),
    }


@pytest.mark.parametrize("capacity", [5, 6, 7, 12])
@pytest.mark.parametrize("horizon", [1, 3])
def test_overwriting_and_the_seam(tmp_path, spec, capacity, horizon):
    buffer = ReplayBuffer(tmp_path / "ring", spec, capacity)
    seq = 0
    for episode in range(1, 12):
        for step in range(4):
            last = step == 3
            final = observation(spec, stamp(episode, 4)) if last else None
            buffer.add(
                seq,
                episode,
                step,
                observation(spec, stamp(episode, step)),
                np.zeros(2),
                1.0,
                False,
                last,
                0,
                0,
                final,
            )
            seq += 1
            slots = [(e, s) for e in range(1, episode + 1) for s in range(5) if (e, s) <= (episode, step)]
            slots = ([*slots, (episode, 4)] if last else slots)[-capacity:]
            held = [slot for slot in slots if slot[1] < 4]
            assert len(buffer) == len(held)
            usable = {stamp(e, s) for e, s in held if (e, s + horizon) in slots}
            assert buffer.stored == seq
            if usable:
                found = everything(buffer, horizon, draws=200)
                assert set(found) == usable
                assert all(value[2] == start + horizon for start, value in found.items())
    buffer.close()
    reopened = ReplayBuffer(tmp_path / "ring", spec, capacity)
    assert set(everything(reopened, horizon, draws=200)) == usable
    assert (len(reopened), reopened.stored, reopened.last_seq) == (len(held), seq, seq - 1)
    reopened.close()


def test_a_repeated_transition_is_ignored(buffer):
    add_episode(buffer, 0, 1, 3, None)
    assert not buffer.add(2, 1, 2, observation(buffer.spec, 999), np.zeros(2), 0.0, False, False, 0, 0)
    assert (len(buffer), buffer.last_seq) == (3, 2)


def test_sampling_is_uniform_and_a_function_of_the_generator(buffer):
    add_episode(buffer, 0, 1, 10, "truncated")
    draws = [buffer.sample(5000, np.random.default_rng(3)).observation["state"][:, 0] for _ in range(2)]
    assert (draws[0] == draws[1]).all()
    counts = np.bincount(draws[0].numpy().astype(int) - 100)
    assert len(counts) == 10 and counts.min() > 400 and counts.max() < 600


def test_mixed_batch_is_half_and_half(tmp_path, spec):
    online, offline = (ReplayBuffer(tmp_path / name, spec, 32) for name in ("online", "offline"))
    rng = np.random.default_rng(0)
    with pytest.raises(ReplayError, match=r"no chunk of 1 steps can be sampled yet"):
        sample_mixed(online, offline, 8, rng)
    add_episode(offline, -4, -1, 4, "terminated")
    assert sample_mixed(online, offline, 8, rng).offline.all()
    add_episode(online, 0, 1, 4, "terminated")
    batch = sample_mixed(online, offline, 9, rng)
    assert len(batch) == 9 and batch.offline.sum() == 5
    assert (batch.observation["state"][batch.offline] < 0).all()
    assert (batch.observation["state"][~batch.offline] > 0).all()
    for part in sample_mixed(online, offline, 16, rng).split(2):
        assert len(part) == 8 and part.offline.sum() == 4
    offline.close()
    empty = ReplayBuffer(tmp_path / "empty", spec, 32)
    assert not sample_mixed(online, empty, 8, rng).offline.any()
    empty.close()
    online.close()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"action": np.zeros(3)}, r"transition 5 \(episode 1, step 0\): action has shape \(3,\), not \(2,\)"),
        ({"action": np.array([0, np.nan])}, r"transition 5 .*: action holds a value that is not finite"),
        ({"reward": np.inf}, r"reward holds a value that is not finite"),
        ({"observation": {"state": np.zeros(3), "images": {}}}, r"state has shape \(3,\); .* takes \(2,\)"),
        ({"observation": {"state": np.zeros(2), "images": {}}}, r"has cameras \[\]; .* takes \['front'\]"),
    ],
)
def test_a_bad_transition_is_refused_and_nothing_is_written(buffer, change, error):
    good = {
        "seq": 5,
        "episode": 1,
        "step": 0,
        "observation": observation(buffer.spec, 1),
        "action": np.zeros(2),
        "reward": 0.0,
        "terminated": False,
        "truncated": False,
        "controller": 0,
        "policy_version": 0,
    }
    with pytest.raises(ReplayError, match=error):
        buffer.add(**(good | change))
    assert len(buffer) == 0
    assert buffer.add(**good)


def test_folder_errors(tmp_path, spec):
    buffer = ReplayBuffer(tmp_path / "r", spec, 16)
    with pytest.raises(ReplayError, match=r"is in use by another buffer"):
        ReplayBuffer(tmp_path / "r", spec, 16)
    buffer.close()
    with pytest.raises(ReplayError, match=r"stored with capacity 16, but 17 is asked for"):
        ReplayBuffer(tmp_path / "r", spec, 17)
    with pytest.raises(ReplayError, match=r"stored with state_dim 2, but 5 is asked for"):
        ReplayBuffer(tmp_path / "r", PolicySpec(5, 2, spec.cameras), 16)
    os.truncate(tmp_path / "r" / "reward.bin", 8)
    with pytest.raises(ReplayError, match=r"reward.bin: 8 bytes, but 72 are expected; the file is damaged"):
        ReplayBuffer(tmp_path / "r", spec, 16)
    with pytest.raises(ReplayError, match=r"GB, but the disk has"):
        ReplayBuffer(tmp_path / "huge", PolicySpec(2, 2, {"c": (4096, 4096, 3)}), 10**9)


WRITER = """
    import sys
    import numpy as np
    from hilrl_agents import PolicySpec, ReplayBuffer

    def see(n):
        image = np.full((64, 64, 3), n % 251, np.uint8)
        return {"state": np.full(2, n, np.float32), "images": {"front": image}}

    spec = PolicySpec(2, 2, {"front": (64, 64, 3)})
    buffer = ReplayBuffer(sys.argv[1], spec, 300)
    seq = max(buffer.last_seq + 1, 0)
    print(seq, len(buffer), flush=True)
    while True:
        episode, step = divmod(seq, 7)
        end = step == 6
        final = see(10 * episode + 7) if end else None
        action = np.full(2, seq % 100 / 100)
        buffer.add(seq, episode, step, see(10 * episode + step), action, float(seq), False, end, 0, 0, final)
        seq += 1
        print(seq, flush=True)
"""


def test_kill_9_loses_and_doubles_nothing(tmp_path):
    spec = PolicySpec(2, 2, {"front": (64, 64, 3)})
    expected = 0
    for trial in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "r")],
            stdout=subprocess.PIPE,
            text=True,
        )
        first, _ = map(int, writer.stdout.readline().split())
        assert first == expected
        time.sleep(0.1 + 0.037 * trial)
        writer.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in writer.stdout.read().split("\n")[:-1] if line]
        writer.wait()
        buffer = ReplayBuffer(tmp_path / "r", spec, 300)
        # what was acknowledged is there; at most the one in flight more
        assert buffer.stored == buffer.last_seq + 1
        assert acknowledged[-1] <= buffer.stored <= acknowledged[-1] + 1
        expected = buffer.stored
        found = everything(buffer, draws=2000)
        for start, (_, _, after, batch, row) in found.items():
            seq = start // 10 * 7 + start % 10
            assert after == start + 1
            assert float(batch.reward[row, 0]) == seq
            assert float(batch.action[row, 0, 0]) == pytest.approx(seq % 100 / 100)
            assert (batch.observation["images"]["front"][row] == start % 251).all()
            assert (batch.next_observation["images"]["front"][row] == after % 251).all()
        buffer.close()
    assert expected > 300, "the ring was never overwritten: raise the writing time"
