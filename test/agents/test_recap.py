import numpy as np
import pytest
import torch
from agent_data import observation, random_batch

from hilrl_agents import PolicySpec, load_checkpoint, make_agent, save_checkpoint
from hilrl_agents.recap import NEGATIVE, POSITIVE, UNKNOWN

SPEC = PolicySpec(state_dim=2, action_dim=1, horizon=3)
SMALL = {"hidden": [16, 16], "value_hidden": [16], "value_bins": 5, "flow_steps": 3, "episode_steps": 10}


def agent_for(spec=SPEC, **options):
    return make_agent("recap", spec, SMALL | options, seed=1)


def ends(batch, left, solved):
    batch.left[:], batch.solved[:] = torch.tensor(left), torch.tensor(solved)
    return batch


def test_value_loss_is_the_cross_entropy_of_the_returns_bin():
    agent = agent_for(failure_cost=0.5)
    batch = ends(random_batch(SPEC, 5), [4, 10, 2, 9, 0], [True, True, False, False, False])
    # returns −0.4, −1, −0.7, −1 (clipped) and an episode whose end is not known; bins −1, −.75, −.5, −.25, 0
    logits = torch.randn(1, 5, 5)
    agent.value_net.forward = lambda features: logits
    log_share = logits[0].log_softmax(1)
    expected = -(log_share[0, 2] + log_share[1, 0] + log_share[2, 1] + log_share[3, 0]) / 4
    assert agent.value_loss(torch.zeros(5, 2), batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_advantage_by_hand():
    agent = agent_for(advantage_steps=4, failure_cost=0.5)
    assert agent.n_step == agent.pretrain_n_step == 4
    batch = ends(
        random_batch(SPEC, 5, steps=[4, 4, 3, 2, 4], n_step=4),
        [9, 4, 3, 2, 0],
        [True, True, True, False, False],
    )
    batch.bootstrap[:] = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    values = {"before": -0.6, "after": -0.25}
    agent.expected = lambda features: features[:, 0]
    agent.encoder.forward = lambda observation: torch.full((5, 2), values["after"])
    advantage = agent.advantage(torch.full((5, 2), values["before"]), batch)
    # goes on; solved after 4; solved after 3; timed out after 2; goes on, its end is not stored yet
    reached = torch.tensor([-0.4 - 0.25, -0.4, -0.3, -0.2 - 0.5, -0.4 - 0.25])
    torch.testing.assert_close(advantage, reached + 0.6)


def test_the_best_share_of_the_policys_own_chunks_is_positive_and_all_of_a_persons():
    agent = agent_for(positive_share=0.25)
    batch = random_batch(SPEC, 10, steps=[3, 3, 3, 3, 3, 3, 3, 3, 3, 1], offline=[False] * 10)
    batch.person[8] = True
    batch.person[9, 0] = True  # the rest is padding
    batch.person[7, 0] = True  # a person let go in the middle
    agent.advantage = lambda features, batch: torch.arange(10.0) / 10 - 0.4
    label, _ = agent.labels(torch.zeros(10, 2), batch)
    # of 8 the quantile .75 lies between the 6th and the 7th
    assert label.tolist() == [NEGATIVE] * 6 + [POSITIVE] * 4
    assert agent.threshold.value.item() == pytest.approx(0.525 - 0.4)


def test_loss_is_flow_matching_of_all_steps_under_the_label():
    agent = agent_for(condition_dropout=0.0)
    batch = random_batch(SPEC, 2, steps=[3, 1], offline=[True, False])
    label = torch.tensor([POSITIVE, NEGATIVE])
    agent.labels = lambda features, batch: (label, torch.zeros(2))
    state = agent.generator.clone_state()
    torch.rand(2, generator=state)
    noise = torch.randn(2, 3, 1, generator=state)
    told = []

    def velocity(features, label, x, time):
        told.append(label)
        return torch.full_like(x, 0.25)

    agent.velocity = velocity
    loss, _ = agent.loss(torch.zeros(2, 2), batch)
    action = torch.stack([batch.action[0], batch.action[1, :1].expand(3, 1)])
    assert loss.item() == pytest.approx((0.25 - (action - noise)).square().mean().item(), rel=1e-5)
    assert told[0].tolist() == [POSITIVE, NEGATIVE]
    agent = agent_for(condition_dropout=1.0)
    agent.velocity = velocity
    agent.loss(torch.zeros(2, 2), batch)
    assert told[1].tolist() == [UNKNOWN, UNKNOWN]


@pytest.mark.parametrize(("guidance", "expected"), [(1.0, 2.0), (0.0, 0.0), (2.5, 5.0)])
def test_guidance_goes_from_untold_to_positive_and_beyond(guidance, expected):
    agent = agent_for(guidance=guidance)
    agent.velocity = lambda features, label, x, time: label[:, None, None].float().expand_as(x)
    found = agent.guided(torch.zeros(1, 2), torch.zeros(1, 3, 1), torch.zeros(1, 1))
    assert found.flatten().tolist() == [expected] * 3


def test_a_chunk_follows_from_weights_observation_and_seed():
    spec = PolicySpec(2, 2, {"front": (16, 16, 3)}, horizon=3)
    agent, other = agent_for(spec), make_agent("recap", spec, SMALL, seed=7)
    other.load_policy(agent.policy_state())
    seen = observation(spec, 3)
    chunk = agent.act(seen, True, 5)
    assert chunk.shape == (3, 2) and np.abs(chunk).max() <= 1
    assert np.array_equal(chunk, other.act(seen, False, 5))
    assert not np.array_equal(chunk, agent.act(seen, True, 6))


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path):
    spec = PolicySpec(2, 2, {"front": (16, 16, 3)}, horizon=3)
    agent = agent_for(spec, batch_size=4, utd_ratio=2, advantage_steps=5)
    batches = [ends(random_batch(spec, 8, seed=k, n_step=5), [3] * 8, [True] * 8) for k in range(3)]
    agent.update(batches[0])
    save_checkpoint(tmp_path / "c", agent)
    loaded, _ = load_checkpoint(tmp_path / "c")
    for batch in batches[1:]:
        assert agent.update(batch) == loaded.update(batch)
    state, other = agent.state(), loaded.state()
    assert all(torch.equal(state[key], other[key]) for key in state)


def test_what_went_better_is_done_though_it_was_rare():
    """One chunk in four goes right, to success; the others time out. Nobody shows anything."""
    spec = PolicySpec(1, 1, horizon=2)
    options = {
        "hidden": [32, 32],
        "value_hidden": [16],
        "learning_rate": 3e-3,
        "batch_size": 32,
        "flow_steps": 5,
    }
    agent = make_agent(
        "recap", spec, options | {"episode_steps": 4, "advantage_steps": 2, "positive_share": 0.3}
    )

    def batch(k):
        made = random_batch(spec, 32, offline=[False] * 32, seed=k)
        made.observation["state"].zero_()
        right = torch.rand(32, generator=torch.Generator().manual_seed(k)) < 0.25
        made.action.copy_(torch.where(right, 0.6, -0.6)[:, None, None].expand(-1, 2, 1))
        made.bootstrap.copy_(1 - right.float())
        return ends(made, [2] * 32, right.tolist())

    for k in range(300):
        metrics = agent.update(batch(k))
    assert 0.1 < metrics["positive"] < 0.5
    seen = {"state": np.zeros(1, np.float32), "images": {}}
    assert np.mean([agent.act(seen, True, k).mean() > 0.2 for k in range(40)]) > 0.8
