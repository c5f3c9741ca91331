"""What the tests of datasets share: a small contract with cameras, and episodes made by hand."""

import dataclasses

import numpy as np
from hilrl_msgs.msg import Action
from loop_messages import CONTRACT as STATE_ONLY
from loop_messages import TASK, episode_messages

from hilrl_data.bags import EpisodeInfo, write_steps
from hilrl_ros.contract import Camera, StateEntry
from hilrl_ros.images import from_rgb
from hilrl_ros.messages import Joiner, floats

TRUTH = StateEntry("truth_z", "cube/pose", "pose.position.z", "m", type="geometry_msgs/msg/PoseStamped")
CONTRACT = dataclasses.replace(
    STATE_ONLY,
    cameras={
        "front": Camera("front/image_raw", (16, 16)),
        "wrist": Camera("wrist/image_raw", (15, 17), crop=(0, 0, 400, 300)),  # odd sizes too
    },
    privileged=(TRUTH,),
)
NS = 1_700_000_000_123_456_789  # a clock's time, as on a real arm


def picture(camera, k, size):
    """A smooth picture, as of a camera: gradients that move with the step."""
    rows, columns = np.mgrid[: size[0], : size[1]] / max(size)
    channels = [rows, columns, (rows + columns) / 2]
    return np.stack([(60 + 120 * c + 3 * k + 5 * len(camera)) % 256 for c in channels], 2).astype(np.uint8)


def steps(episode, count, end="terminated", contract=CONTRACT, person=lambda k: True, lost=()):
    """The steps of one episode with random numbers; those in `lost` are missing."""
    rng = np.random.default_rng(episode)
    messages = episode_messages(episode, count, end, NS)
    for k, observation in enumerate(messages["observation"]):
        observation.state = floats(rng.normal(0, 1, len(contract.state)).astype(np.float32).tobytes())
        observation.privileged = floats(rng.normal(0, 1, len(contract.privileged)).astype(np.float32).tobytes())
        for name, camera in contract.cameras.items():
            frames = [picture(name, max(k - back, 0), camera.size) for back in reversed(range(camera.stack))]
            observation.images.append(from_rgb(np.concatenate(frames)))
    for k, (action, reward) in enumerate(zip(messages["executed_action"], messages["reward"], strict=True)):
        action.action = floats(rng.uniform(-1, 1, len(contract.action.names)).astype(np.float32).tobytes())
        action.controller = reward.controller = Action.PERSON if person(k) else Action.POLICY
        reward.reward = float(np.float32(rng.normal()))
    joiner = Joiner()
    for k, observation in enumerate(messages["observation"]):
        yield from joiner.add(observation)
        if k < count and k not in lost:
            yield from joiner.add(messages["executed_action"][k])
            yield from joiner.add(messages["reward"][k])
    yield from joiner.add(messages["observation"][-1])


def record(folder, *episodes, contract=CONTRACT, **options):
    """Episode bags in a folder; each episode is (steps, end)."""
    for number, (count, end) in enumerate(episodes, 1):
        info = EpisodeInfo(number, 7 * number, TASK.name, f"{TASK.text} {number}", contract.hash(), False, 0)
        of_episode = steps(number, count, end, contract, **options)
        write_steps(folder / f"episode_{number:06d}", info, of_episode)
    return folder
