"""Who drives: the policy, or the person while the dead-man of a device is held."""

from __future__ import annotations

from dataclasses import dataclass, field

from hilrl_msgs.msg import Action

from hilrl_ros.messages import nanoseconds


@dataclass
class Mux:
    """Chooses the executed action of each step.

    Of several devices (gamepad, keyboard, leader arm) the one whose dead-man was held first drives, until it is
    let go.

    Attributes:
        exact: Wait for the person's reading made for the step's own observation (simulation in lockstep);
            otherwise the newest reading counts.
        timeout_ns: In real time, a reading older than this no longer counts as a held button.
        person_allowed: Whether the person may take over in this episode.
        drive: Where no policy acts, the newest command, whose episode counts take-overs; see `on_tick`.
    """

    exact: bool
    timeout_ns: int = 250_000_000
    person_allowed: bool = True
    policy: Action | None = None
    person: Action | None = None
    # newest reading of each device whose dead-man is held, and when it came; who took over first stands first
    held: dict[str, tuple[Action, int]] = field(default_factory=dict)
    drive: Action = field(default_factory=Action)

    def on_policy(self, msg: Action, now_ns: int) -> Action | None:
        """Take the policy's action for a step; return what shall be executed if that is known already."""
        self.policy = msg
        return self._decide(now_ns)

    def on_person(self, msg: Action, now_ns: int) -> Action | None:
        """Take a reading of the person's device; return what shall be executed if a step waited for it."""
        self.person = msg
        if msg.controller == Action.PERSON:
            self.held[msg.device] = (msg, now_ns)
        else:
            self.held.pop(msg.device, None)
        return self._decide(now_ns) if self.exact else None

    def on_tick(self, now_ns: int) -> Action | None:
        """Return what shall be executed in a control period where no policy acts; None while nobody drives.

        Each take-over is an episode of its own, so that the arm controller begins where the arm is. The stamp is 0:
        the command waits for no observation.
        """
        person = self._driving(0, now_ns)
        if person is None:
            self.drive = Action(episode=self.drive.episode)
            return None
        before = self.drive
        goes_on = person.device == before.device
        self.drive = Action(
            controller=Action.PERSON, device=person.device, space=person.space, action=person.action,
            episode=before.episode if goes_on else before.episode + 1, step=before.step + 1 if goes_on else 0,
        )  # fmt: skip
        return self.drive

    def _decide(self, now_ns: int) -> Action | None:
        policy = self.policy
        if policy is None:
            return None
        stamp = nanoseconds(policy.header.stamp)
        # equal, not newer: a restarted simulator sets the clock back, and older readings would count
        if self.exact and (self.person is None or nanoseconds(self.person.header.stamp) != stamp):
            return None
        self.policy = None
        person = self._driving(stamp, now_ns)
        if person is not None and self.person_allowed:
            out = Action(
                controller=Action.PERSON, device=person.device, space=person.space, action=person.action
            )
        else:
            out = Action(controller=Action.POLICY, space=policy.space, action=policy.action)
        out.header, out.episode, out.step = policy.header, policy.episode, policy.step
        out.policy_version = policy.policy_version
        return out

    def _driving(self, stamp_ns: int, now_ns: int) -> Action | None:
        """Return the reading of the device that drives at a step; a device whose reading is old has let go."""
        self.held = {
            device: (msg, seen)
            for device, (msg, seen) in self.held.items()
            if (nanoseconds(msg.header.stamp) == stamp_ns if self.exact else now_ns - seen <= self.timeout_ns)
        }
        return next((msg for msg, _ in self.held.values()), None)
