"""Observer, controller and simulator in one process, for tests that solve tasks without a graph."""

import dataclasses
from pathlib import Path

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState

from hilrl_actor.observer import Observer
from hilrl_control.arm import ArmController
from hilrl_reward.terms import RewardFunction
from hilrl_ros.contract_reader import load_contract
from hilrl_ros.messages import to_time
from hilrl_sim.simulation import Simulation

CONFIG = Path(__file__).parents[1] / "config"


class Loop:
    """Observer, controller and simulator in one process."""

    def __init__(self, task, robot="so101"):
        robot = robot if isinstance(robot, Path) else CONFIG / f"robots/{robot}.yaml"
        self.contract, self.task = load_contract(robot, CONFIG / f"tasks/{task}.yaml")
        self.sim = Simulation(self.contract, self.task)
        self.arm = ArmController(self.contract)
        self.observer = Observer(dataclasses.replace(self.contract, cameras={}), max_age=0.0)
        self.reward = RewardFunction(self.task, self.contract.entry_names, self.contract.action.names)
        self.still = np.zeros(len(self.contract.action.names))
        self.episodes = 0

    def reset(self, seed):
        """Begin an episode; return its first state."""
        self.sim.reset(seed)
        self.arm.reset(self.sim.joint_position)
        self.episodes += 1
        self.earned = 0.0
        self.observer.newest.clear()
        self.observer.begin(self.episodes, round(1e9 * self.sim.time))
        self.seen = self.state()
        return self.seen

    def state(self):
        """The contract's named state entries, as the observer reads them."""
        stamp = to_time(round(1e9 * self.sim.time))
        for name, (position, turn) in self.sim.object_poses().items():
            msg = PoseStamped()
            msg.header.stamp, place, way = stamp, msg.pose.position, msg.pose.orientation
            place.x, place.y, place.z = position
            way.x, way.y, way.z, way.w = turn
            self.observer.add(f"{name}/pose", msg)
        for name, (position, velocity) in self.sim.object_joints().items():
            msg = JointState(name=[name], position=[position], velocity=[velocity])
            msg.header.stamp = stamp
            self.observer.add(f"{name}/joint_states", msg)
        position, velocity, effort = self.joints()
        joints = JointState(name=self.contract.joints, position=position, velocity=velocity, effort=effort)
        joints.header.stamp = stamp
        seen = self.observer.add("joint_states", joints)
        return dict(zip(self.contract.state_names, map(float, seen.state), strict=True))

    def joints(self):
        """Positions, velocities and efforts [n] of the joints."""
        return self.sim.joint_position, self.sim.joint_velocity, self.sim.joint_effort

    def move(self, action):
        """Carry out an action for one control period."""
        self.sim.step(self.arm.step(self.sim.joint_position, action).target)

    def step(self, action):
        """Carry out an action; return the state after it and whether that is success."""
        self.move(action)
        before, self.seen = self.seen, self.state()
        terms, success = self.reward(before, action, self.seen)
        self.earned += sum(terms.values())
        return self.seen, success

    def episode(self, seed, act):
        """Run `act(step, state)` to the end; return success and length."""
        state = self.reset(seed)
        for step in range(self.task.max_episode_steps):
            state, done = self.step(act(step, state))
            if done:
                return True, step + 1
        return False, self.task.max_episode_steps

    def demonstrations(self, expert, seeds):
        """Success and length of an episode for each seed, by a scripted expert."""

        def act(step, state):
            if step == 0:
                expert.reset()
            return expert.act(state)

        return [self.episode(seed, act) for seed in seeds]
