"""Scripted operator node: a simulated person who shows the task, watches, takes over through /joy and lets go."""

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
from hilrl_msgs.msg import Episode, Observation, ResetStatus
from hilrl_msgs.srv import Reset
from rclpy.node import Node
from sensor_msgs.msg import Joy

from hilrl_reward.terms import RewardFunction
from hilrl_ros import qos
from hilrl_ros.config import find_config
from hilrl_ros.contract import EE_AXES
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import floats, named_entries
from hilrl_ros.node import UserError, declare, param, run
from hilrl_sim.expert import Operator
from hilrl_sim.labeller import Labeller
from hilrl_sim.skills import make_expert
from hilrl_teleop.joy_mapping import JoyMapping

_LOOK_S = 0.1  # between two looks whether things wait to be put in place
_CIRCLE = 0.15  # share of a full stick
_CIRCLE_S = 8.0  # s from one circle to the next: 2π of motion at 1 rad/s, and the rest


@dataclass
class OperatorParams:
    """Parameters of the scripted operator."""

    robot: str = param("so101", "Robot contract: a name from config/robots or a path")
    task: str = param("pick_cube", "Task: a name from config/tasks or a path")
    mapping: str = param("game_controller", "Gamepad mapping: a name from config/gamepads or a path")
    teleop: bool = param(
        False, "There are no episodes: the person leads the tip in slow circles, with a rest after each"
    )
    seed: int = param(0, "Seed of the person's little variations", bounds=(0, 2**31 - 1))


class OperatorNode(Node):
    """Sees `observation`, holds a gamepad: publishes one `joy` reading for each observation.

    Where the task's success is a classifier, presses success while the task is solved in truth: as a label, and at the
    end of a demonstration.

    Where a reset waits for a person (`reset_status`), puts the things of the emulated arm's table in place
    (`reset_scene`) and presses pause, which starts the episode.
    """

    def __init__(self):
        super().__init__("operator")
        params = declare(self, OperatorParams)
        self.contract, self.task = load_contract(params.robot, params.task)
        if not self.task.expert and not params.teleop:
            raise UserError(
                f"task '{self.task.name}' names no expert: run it with operator:=none and a gamepad"
            )
        # a person's device moves the tip, whatever the policy's action space is
        self.by_hand = dataclasses.replace(self.contract, action=self.contract.motion)
        if self.task.expert:
            make_expert(self.by_hand, self.task, np.random.default_rng(0))  # one that there is, or an error
        self.function = RewardFunction(self.task, self.contract.entry_names, self.contract.action.names)
        self.mapping = JoyMapping.load(find_config("gamepads", params.mapping))
        self.seed = params.seed
        self.episode: Episode | None = None
        self.person: Operator | Labeller | None = None
        self.last: tuple[tuple[int, int], Joy] | None = None
        # an observation that was faster than the message that announces its episode
        self.early: Observation | None = None
        self.publisher = self.create_publisher(Joy, "joy", qos.STEP)
        self.create_subscription(Observation, "observation", self.on_observation, qos.STEP)
        self.create_subscription(Episode, "episode", self.on_episode, qos.LATCHED)
        self.create_subscription(ResetStatus, "reset_status", self.on_reset_status, qos.LATCHED)
        self.scene = self.create_client(Reset, "reset_scene")
        self.to_place: ResetStatus | None = None
        self.started = time.monotonic()
        if params.teleop:
            self.create_timer(self.contract.period, self.circle)
        else:
            self.create_timer(_LOOK_S, self.place)

    def on_episode(self, msg: Episode) -> None:
        """Prepare for an episode."""
        if msg.status != Episode.RUNNING or (self.episode and self.episode.episode == msg.episode):
            return
        self.episode = msg
        seed = self.seed + msg.episode
        if msg.phase == Episode.LABEL:
            rng = np.random.default_rng(seed)
            self.person = Labeller(make_expert(self.by_hand, self.task, rng), rng)
        else:
            mode = "demonstrate" if msg.phase == Episode.DEMONSTRATE else "watch" if msg.person else "off"
            self.person = Operator(self.by_hand, self.task, seed, mode)
        if self.early:
            early, self.early = self.early, None
            self.on_observation(early)

    def on_reset_status(self, msg: ResetStatus) -> None:
        """Note for which episode a reset waits."""
        self.to_place = msg if msg.state == ResetStatus.WAITING else None

    def place(self) -> None:
        """Put things in place for the episode that waits, then start it."""
        if self.to_place and self.scene.service_is_ready():
            request = Reset.Request(episode=self.to_place.episode, seed=self.to_place.seed)
            self.to_place = None
            self.scene.call_async(request).add_done_callback(lambda _: self.press("pause"))

    def circle(self) -> None:
        """Lead the tip along a horizontal circle, or let go for a moment after it."""
        angle = (time.monotonic() - self.started) % _CIRCLE_S
        motion = np.zeros(len(EE_AXES))
        motion[[EE_AXES.index("x"), EE_AXES.index("y")]] = _CIRCLE * np.array([np.cos(angle), np.sin(angle)])
        axes, buttons = self.mapping.write(angle < 2 * np.pi, motion)
        self.publisher.publish(Joy(axes=floats(axes), buttons=buttons))

    def press(self, event: str) -> None:
        """Press a button of the pad and let go of it."""
        for pressed in (event, ""):
            axes, buttons = self.mapping.write(False, np.zeros(len(EE_AXES)), pressed)
            self.publisher.publish(Joy(axes=floats(axes), buttons=buttons))

    def on_observation(self, msg: Observation) -> None:
        """Look, decide, press."""
        key = (msg.episode, msg.step)
        if self.last and self.last[0] == key:
            self.publisher.publish(self.last[1])
            return
        if self.person is None or self.episode.episode != msg.episode:
            self.early = msg
            return
        state = named_entries(msg, self.contract)
        solved = bool(self.function.solved(state))
        if isinstance(self.person, Labeller):
            held, action = True, self.person.act(state, solved)
        else:
            held, action = self.person.decide(msg.step, state)
        tells = (
            self.function.condition.needs_classifier
            and solved
            and self.episode.phase in (Episode.LABEL, Episode.DEMONSTRATE)
        )
        motion = np.zeros(len(EE_AXES))
        if held:
            for name, value in zip(self.contract.motion.names, action, strict=True):
                motion[EE_AXES.index(name)] = value
        axes, buttons = self.mapping.write(held, motion, "success" if tells else "")
        joy = Joy(axes=floats(axes), buttons=buttons)
        joy.header.stamp = msg.header.stamp
        self.last = (key, joy)
        self.publisher.publish(joy)


def main() -> None:
    """Run the node."""
    run(OperatorNode)
