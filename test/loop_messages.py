"""What the tests of the loop's parts share: the contract, and messages made by hand."""

from pathlib import Path

import numpy as np
from geometry_msgs.msg import PoseStamped
from hilrl_msgs.msg import Action, Observation, Reward
from sensor_msgs.msg import JointState

from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import floats, to_time

CONFIG = Path(__file__).parents[1] / "config"
ROBOT, TASK_FILE = CONFIG / "robots/so101.yaml", Path(__file__).parent / "cube_task.yaml"
CONTRACT, TASK = load_contract(ROBOT, TASK_FILE)
HOME = np.array(CONTRACT.home)
MS = 1_000_000
PERIOD = 100 * MS
CUBE_Z = CONTRACT.state_names.index("cube_z")
SCALE = dict(zip(CONTRACT.action.names, CONTRACT.action.scale, strict=True))


def stick(**axes):
    """An action of the contract: the named components, the others zero."""
    assert set(axes) <= set(CONTRACT.action.names)
    return [float(axes.get(name, 0.0)) for name in CONTRACT.action.names]


def joint_state(stamp_ns, positions=HOME, names=CONTRACT.joints):
    """A joint state, at home if nothing else is said; each joint's speed is a tenth of its position."""
    positions = [float(v) for v in positions]
    msg = JointState(name=list(names), position=positions, velocity=[v / 10 for v in positions])
    msg.header.stamp = to_time(stamp_ns)
    return msg


def pose(stamp_ns, x, y, z):
    """The pose of an object, m."""
    msg = PoseStamped()
    msg.header.stamp = to_time(stamp_ns)
    msg.pose.position.x, msg.pose.position.y, msg.pose.position.z = x, y, z
    return msg


def observation(episode, step, state=None, start_ns=0):
    """An observation; without a state, one that names its episode and step."""
    if state is None:
        state = [1000.0 * episode + step] * len(CONTRACT.state)
    msg = Observation(episode=episode, step=step, state=floats(state))
    msg.header.stamp = to_time(start_ns + step * PERIOD)
    return msg


def action(episode, step, values=(), controller=Action.POLICY, start_ns=0, **fields):
    """An action for a step; without values it means to hold still."""
    msg = Action(episode=episode, step=step, action=floats(values), controller=controller, **fields)
    msg.header.stamp = to_time(start_ns + step * PERIOD)
    return msg


def reward(episode, step, terminated=False, truncated=False, value=0.0, start_ns=0):
    """What a step earned; one that terminated is a success."""
    msg = Reward(
        episode=episode,
        step=step,
        reward=value,
        terminated=terminated,
        truncated=truncated,
        success=terminated,
    )
    msg.header.stamp = to_time(start_ns + (step + 1) * PERIOD)
    return msg


def episode_messages(episode, steps, end="terminated", start_ns=0):
    """All messages of one episode in order of time: {topic: messages}, the final observation included."""
    names = len(CONTRACT.action.names)
    return {
        "observation": [observation(episode, k, start_ns=start_ns) for k in range(steps + 1)],
        "executed_action": [
            action(episode, k, [(k + 1) / 1000] * names, start_ns=start_ns) for k in range(steps)
        ],
        "reward": [
            reward(episode, k, **({end: True} if k == steps - 1 else {}), value=float(k), start_ns=start_ns)
            for k in range(steps)
        ],
    }
