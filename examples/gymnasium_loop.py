"""Trains an agent on any Gymnasium environment with a box action, without ROS.

python examples/gymnasium_loop.py                        # Pendulum-v1, some two minutes
python examples/gymnasium_loop.py --env Reacher-v5 --set utd_ratio=2
python examples/gymnasium_loop.py --agent tdmpc2 --chunk-size 3
"""

import argparse
import tempfile

import gymnasium as gym
import numpy as np
import yaml

from hilrl_agents import AGENTS, PolicySpec, ReplayBuffer, make_agent, sample_mixed
from hilrl_agents.tuning import tune_process


def main() -> None:
    """Trains and prints the return of every tenth episode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--agent", default="sac", choices=AGENTS, help="(default sac)")
    parser.add_argument("--chunk-size", type=int, default=1, help="actions planned at once (default 1)")
    parser.add_argument("--steps", type=int, default=8000, help="environment steps (default 8000)")
    parser.add_argument("--random-steps", type=int, default=1000, help="random actions first (default 1000)")
    parser.add_argument("--reward-scale", type=float, default=0.1, help="(default 0.1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="options of the agent")
    args = parser.parse_args()
    tune_process(threads=1)
    env = gym.wrappers.RescaleAction(gym.make(args.env), -1.0, 1.0)
    spec = PolicySpec(env.observation_space.shape[0], env.action_space.shape[0], {}, args.chunk_size)
    options = {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in args.set)}
    agent = make_agent(args.agent, spec, options, args.seed)
    folder, rng = tempfile.TemporaryDirectory(), np.random.default_rng(args.seed)
    online, offline = (
        ReplayBuffer(f"{folder.name}/{n}", spec, args.steps * 2) for n in ("online", "offline")
    )

    seen, _ = env.reset(seed=args.seed)
    episode, step, returns = 0, 0, [0.0]
    for seq in range(args.steps):
        now = {"state": seen.astype(np.float32), "images": {}}
        exploring = seq < args.random_steps
        action = (
            rng.uniform(-1, 1, spec.action_dim) if exploring else agent.act(now, explore=True, seed=seq)[0]
        )
        seen, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
        returns[-1] += float(reward)
        final = {"state": seen.astype(np.float32), "images": {}} if terminated or truncated else None
        reward *= args.reward_scale
        online.add(seq, episode, step, now, action, reward, terminated, truncated, 0, 0, final)
        step += 1
        if seq == args.random_steps:
            agent.fit_normalizer(online.states(), online.actions())
        if seq >= args.random_steps:
            batch = sample_mixed(
                online, offline, agent.batch_size, rng, spec.horizon, agent.n_step, path=agent.path
            )
            agent.update(batch)
        if final:
            if episode % 10 == 9:
                print(f"step {seq + 1}: mean return of 10 episodes {np.mean(returns[-10:]):.1f}", flush=True)
            seen, _ = env.reset()
            episode, step, returns = episode + 1, 0, [*returns, 0.0]


if __name__ == "__main__":
    main()
