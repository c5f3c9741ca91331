import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from agent_data import random_batch

from hilrl_agents import (
    CheckpointError,
    PolicySpec,
    load_checkpoint,
    make_agent,
    pack_policy,
    read_checkpoint,
    save_checkpoint,
    unpack_policy,
)
from hilrl_agents.agent import AgentStateError

SPEC = PolicySpec(state_dim=3, action_dim=2, cameras={"front": (8, 8, 3)}, horizon=2)
CONTRACT = {"control_rate": 10.0, "cameras": {"front": {"size": [8, 8]}}, "state": [{"name": "pan"}]}


@pytest.fixture
def agent():
    made = make_agent("sac", SPEC, {"batch_size": 8, "hidden": [16, 16], "utd_ratio": 2}, seed=3)
    made.update(random_batch(SPEC, 16))
    return made


@pytest.mark.parametrize("name", ["sac", "bc"])
def test_a_resumed_agent_goes_on_bit_for_bit(tmp_path, name):
    agent = make_agent(name, SPEC, {"batch_size": 8, "hidden": [16, 16]}, seed=3)
    agent.fit_normalizer(torch.randn(20, 3).numpy(), np.zeros((20, 2)))
    agent.update(random_batch(SPEC, 8))
    save_checkpoint(tmp_path / "c", agent, CONTRACT, {"robot_steps": 12})
    resumed, checkpoint = load_checkpoint(tmp_path / "c", CONTRACT)
    assert checkpoint.counters == {"robot_steps": 12}
    assert checkpoint.contract == CONTRACT
    assert (resumed.spec, resumed.config, resumed.updates) == (agent.spec, agent.config, 1)
    for step in range(3):
        batch = random_batch(SPEC, 8, seed=step)
        assert agent.update(batch) == resumed.update(batch)
    before, after = agent.state(), resumed.state()
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_fresh_agent_can_be_saved_and_resumed(tmp_path):
    agent = make_agent("sac", SPEC)
    save_checkpoint(tmp_path / "c", agent)
    resumed, _ = load_checkpoint(tmp_path / "c")
    batch = random_batch(SPEC, agent.batch_size)
    assert agent.update(batch) == resumed.update(batch)


def test_policy_only_loads_what_acts(tmp_path, agent):
    save_checkpoint(tmp_path / "c", agent)
    loaded, _ = load_checkpoint(tmp_path / "c", policy_only=True, overrides={"learning_rate": 1e-4})
    assert loaded.config.learning_rate == 1e-4 and loaded.updates == 0
    for name, tensor in agent.policy_state().items():
        assert torch.equal(tensor, loaded.policy_state()[name])
    assert not torch.equal(agent.critic.weights[0], loaded.critic.weights[0])


def test_the_folder_holds_yaml_and_safetensors_only(tmp_path, agent):
    save_checkpoint(tmp_path / "c", agent, CONTRACT)
    save_checkpoint(tmp_path / "c", agent, CONTRACT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == ["agent.safetensors", "config.yaml", "policy.safetensors"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"control_rate": 30.0}, r"another contract: control_rate was 10\.0, but here it is 30\.0$"),
        ({"cameras": {"front": {"size": [9, 8]}}}, r"cameras\.front\.size\[0\] was 8, but here it is 9$"),
        ({"cameras": {}}, r"cameras\.front was .*, but here it is 'absent'$"),
        ({"state": []}, r"the length of state was 1, but here it is 0$"),
        ({"home": 1}, r"home was 'absent', but here it is 1$"),
    ],
)
def test_another_contract_is_named_by_its_first_differing_key(tmp_path, agent, change, error):
    save_checkpoint(tmp_path / "c", agent, CONTRACT)
    with pytest.raises(CheckpointError, match=error):
        load_checkpoint(tmp_path / "c", CONTRACT | change)


def test_missing_and_damaged_checkpoints(tmp_path, agent):
    with pytest.raises(CheckpointError, match=r"nowhere is no checkpoint: there is no config\.yaml in it"):
        load_checkpoint(tmp_path / "nowhere")
    folder = save_checkpoint(tmp_path / "c", agent)
    whole = (folder / "agent.safetensors").read_bytes()
    (folder / "agent.safetensors").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=r"agent\.safetensors is damaged: "):
        load_checkpoint(folder)
    (folder / "agent.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"agent\.safetensors is missing; the checkpoint is incomplete"):
        load_checkpoint(folder)
    text = (folder / "config.yaml").read_text()
    for damaged in ("{", "a: 1", text.replace("format: 1", "format: 2"), text.replace("state_dim: 3", "")):
        (folder / "config.yaml").write_text(damaged)
        with pytest.raises(
            CheckpointError, match=r"config\.yaml (is damaged: |has format 2, but this version)"
        ):
            read_checkpoint(folder)
    (folder / "config.yaml").write_text(text.replace("algorithm: sac", "algorithm: sax"))
    with pytest.raises(CheckpointError, match=r"unknown agent 'sax'; did you mean 'sac'\?"):
        load_checkpoint(folder)


def test_weights_of_another_shape_are_refused_whole(agent):
    other = make_agent("sac", PolicySpec(4, 2, SPEC.cameras, 2), {"hidden": [16, 16]})
    before = other.policy_state()
    with pytest.raises(
        AgentStateError, match=r"'encoder\.normalizer\.mean' has shape \(3,\), this agent's is \(4,\)"
    ):
        other.load_policy(agent.policy_state())
    with pytest.raises(AgentStateError, match=r"'extra' in these weights is unknown to this 'sac' agent"):
        other.load_policy(before | {"extra": torch.zeros(1)})
    with pytest.raises(AgentStateError, match=r"'encoder\.normalizer\.mean' is missing from these weights"):
        other.load_policy({})
    assert all(torch.equal(before[name], tensor) for name, tensor in other.policy_state().items())


def test_packed_policy_is_checked_before_it_is_read(agent):
    data = pack_policy(agent.policy_state())
    checksum = hashlib.sha256(data).hexdigest()
    state = unpack_policy(data, checksum)
    assert all(torch.equal(tensor, state[name]) for name, tensor in agent.policy_state().items())
    with pytest.raises(
        CheckpointError, match=r"policy weights are damaged: sha256 \w{12}…, but \w{12}… was announced"
    ):
        unpack_policy(data[:-1] + bytes([data[-1] ^ 1]), checksum)
    with pytest.raises(CheckpointError, match=r"policy weights are no safetensors"):
        unpack_policy(b"nothing", hashlib.sha256(b"nothing").hexdigest())


WRITER = """
    import sys
    import torch
    from hilrl_agents import PolicySpec, make_agent, save_checkpoint

    agent = make_agent("bc", PolicySpec(3, 2), {"hidden": [64]})
    count = 0
    while True:
        count += 1
        agent.updates = count
        with torch.no_grad():
            agent.policy.weights[0].fill_(count)
        save_checkpoint(sys.argv[1], agent, {}, {"count": count})
        print(count, flush=True)
"""


def test_kill_9_while_saving_leaves_a_whole_checkpoint(tmp_path):
    folder = tmp_path / "c"
    for trial in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)], stdout=subprocess.PIPE, text=True
        )
        writer.stdout.readline()
        time.sleep(0.2 + 0.013 * trial)
        writer.send_signal(signal.SIGKILL)
        last = int(writer.stdout.read().split()[-1])
        writer.wait()
        agent, checkpoint = load_checkpoint(folder)
        count = checkpoint.counters["count"]
        assert last <= count <= last + 1
        assert agent.updates == count and (agent.policy.weights[0] == count).all()


def test_a_kill_between_the_two_renames_is_survived(tmp_path, agent):
    folder = save_checkpoint(tmp_path / "c", agent)
    os.rename(folder, tmp_path / "c.old")
    (tmp_path / "c.new-12345678").mkdir()
    loaded, _ = load_checkpoint(folder)
    assert loaded.updates == agent.updates
    save_checkpoint(folder, loaded)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]
