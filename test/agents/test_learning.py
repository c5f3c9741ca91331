import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hilrl_agents import PolicySpec, ReplayBuffer, make_agent, sample_mixed
from hilrl_agents.tuning import tune_process

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT = 25  # steps of an episode


class Reach:
    """A point in a square goes to a goal; reward 1 there and the end, no other reward."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def reset(self):
        self.point, self.goal = self.rng.uniform(-1, 1, (2, 2))
        self.steps = 0
        return self.seen()

    def seen(self):
        state = np.concatenate([self.point, self.goal]).astype(np.float32)
        return {"state": state, "images": {}}

    def step(self, action):
        self.point = np.clip(self.point + 0.15 * np.asarray(action), -1, 1)
        self.steps += 1
        reached = bool(np.linalg.norm(self.point - self.goal) < 0.08)
        return self.seen(), float(reached), reached, not reached and self.steps >= LIMIT

    def expert(self):
        return np.clip((self.goal - self.point) / 0.15, -1, 1)


def rollout(env, act, buffer=None, episode=0, controller=0, after_step=lambda: None):
    seen, done, step = env.reset(), False, 0
    while not done:
        action = act(seen)
        following, reward, terminated, truncated = env.step(action)
        done = terminated or truncated
        if buffer is not None:
            seq = max(buffer.last_seq + 1, -10_000 if episode < 0 else 0)
            final = following if done else None
            buffer.add(seq, episode, step, seen, action, reward, terminated, truncated, controller, 0, final)
        seen, step = following, step + 1
        after_step()
    return terminated


@pytest.mark.learns
def test_sac_learns_what_cloning_of_few_demonstrations_does_not(tmp_path):
    tune_process(1)
    spec = PolicySpec(4, 2)
    online, offline = (ReplayBuffer(tmp_path / name, spec, 20_000) for name in ("online", "offline"))
    options = {"batch_size": 128, "hidden": [64, 64], "learning_rate": 1e-3, "tau": 0.01, "gamma": 0.95}
    options |= {"utd_ratio": 2, "bc_loss_weight": 1.0}
    agent = make_agent("sac", spec, options, seed=1)
    env, rng = Reach(1), np.random.default_rng(1)
    for episode in range(-10, 0):
        rollout(env, lambda seen: env.expert(), offline, episode, controller=1)
    agent.fit_normalizer(np.random.default_rng(1).uniform(-1, 1, (500, 4)), offline.actions())
    for _ in range(500):
        agent.pretrain(offline.sample(128, rng))

    def rate():
        return np.mean(
            [rollout(Reach(seed), lambda seen: agent.act(seen, False)[0]) for seed in range(100, 140)]
        )

    cloned = rate()

    def learn():
        if online.samplable:
            agent.update(sample_mixed(online, offline, agent.batch_size, rng))

    episode = 0
    while online.stored < 3000:
        rollout(env, lambda seen: agent.act(seen, True, online.stored)[0], online, episode, after_step=learn)
        episode += 1
    learnt = rate()
    assert cloned < 0.8, "cloning alone suffices: the task proves nothing"
    assert learnt >= 0.85
    assert learnt >= cloned + 0.2


@pytest.mark.parametrize("agent", ["sac", "qc", "tdmpc2", "recap"])
def test_the_gymnasium_example_runs(agent):
    pytest.importorskip("gymnasium")
    command = [sys.executable, str(EXAMPLES / "gymnasium_loop.py"), "--agent", agent, "--chunk-size", "2"]
    arguments = ["--steps", "2010", "--random-steps", "2000", "--set", "batch_size=32", "hidden=[32, 32]"]
    run = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "step 2000: mean return of 10 episodes -" in run.stdout
