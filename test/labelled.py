"""What the tests of the learned reward share: small cameras, a task that needs a classifier, recorded episodes."""

import numpy as np
import yaml
from hilrl_msgs.msg import Action, Reward
from loop_messages import CONFIG, action, observation, reward
from rclpy.serialization import serialize_message

from hilrl_data.bags import EpisodeInfo, EpisodeWriter
from hilrl_reward.labels import Frames
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.images import from_rgb
from hilrl_ros.messages import nanoseconds

SIZES = {"front": (24, 32), "wrist": (16, 16)}


def files(folder, sizes=SIZES, success=None):
    """Write a robot with cameras of these sizes and a task that needs a classifier; return both paths."""
    robot = yaml.safe_load((CONFIG / "robots/so101.yaml").read_text())
    robot["cameras"] = {n: {"topic": f"{n}/image_raw", "size": list(size)} for n, size in sizes.items()}
    task = {
        "task": "seen", "text": "pick up what is seen", "max_episode_steps": 12, "cameras": list(sizes),
        "success": success or {"term": "classifier"}, "reward": {"success": {"term": "success", "weight": 1.0}},
    }  # fmt: skip
    paths = folder / "robot.yaml", folder / "task.yaml"
    for path, content in zip(paths, (robot, task), strict=True):
        path.write_text(yaml.safe_dump(content))
    return paths


def picture(rng, size, solved):
    """A grey picture with noise; a red spot somewhere in its upper half is success, in its lower half it is not."""
    pixels = rng.integers(90, 130, (*size, 3), dtype=np.uint8)
    row = rng.integers(0, size[0] // 2 - 5) + (0 if solved else size[0] // 2)
    column = rng.integers(0, size[1] - 6)
    pixels[row : row + 5, column : column + 5] = (230, 40, 30)
    return pixels


def pictures(rng, solved, sizes=SIZES):
    """A picture of each camera."""
    return {name: picture(rng, size, solved) for name, size in sizes.items()}


def frames(seed=0, episodes=20, length=12, sizes=SIZES):
    """Labelled frames: the last third of each episode is success."""
    rng = np.random.default_rng(seed)
    success = np.tile(np.arange(length) >= 2 * length // 3, episodes)
    seen = [pictures(rng, solved, sizes) for solved in success]
    return Frames(
        {name: np.stack([s[name] for s in seen]) for name in sizes},
        success,
        np.full(len(success), True),
        np.repeat(np.arange(episodes), length),
        np.tile(np.arange(length), episodes),
        tuple(f"episode_{e:06d}" for e in range(episodes)),
    )


def seen(contract, episode, step, images):
    """An observation with these pictures."""
    msg = observation(episode, step, [0.0] * len(contract.state))
    msg.images = [from_rgb(images[name], msg.header.stamp) for name in contract.cameras]
    return msg


def write_episode(folder, contract, number, told, source=Reward.PERSON, end="truncated", observed=None):
    """Record an episode whose step k was told to be success where `told[k]`, and looks like it if nothing is given."""
    rng = np.random.default_rng(number)
    steps = len(told)
    writer = EpisodeWriter(folder / f"episode_{number:06d}")
    for step in range(steps + 1):
        solved = bool(told[min(step, steps - 1)])
        look = observed[step] if observed else seen(contract, number, step, pictures(rng, solved))
        messages = [("Observation", "observation", look)]
        if step < steps:
            msg = reward(number, step)
            msg.source, msg.success = source, bool(told[step])
            if step == steps - 1:
                msg.terminated, msg.truncated = end == "terminated", end == "truncated"
            messages += [
                ("Action", "executed_action", action(number, step, [0.0] * 4, Action.PERSON)),
                ("Reward", "reward", msg),
            ]
        for kind, topic, msg in messages:
            stamp = nanoseconds(msg.header.stamp)
            writer.write(f"/{topic}", f"hilrl_msgs/msg/{kind}", stamp, serialize_message(msg))
    info = EpisodeInfo(number, 0, "seen", "", contract.hash(), bool(told[-1]), steps)
    return writer.finish(info)


def contract_of(folder, **more):
    """The contract of `files`."""
    return load_contract(*files(folder, **more))[0]
