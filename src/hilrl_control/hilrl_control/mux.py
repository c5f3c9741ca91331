"""Who drives: the policy, or the person while the dead-man button is held."""

from __future__ import annotations

from dataclasses import dataclass

from hilrl_msgs.msg import Action

from hilrl_ros.messages import nanoseconds


@dataclass
class Mux:
    """Chooses the executed action of each step.

    Attributes:
        exact: Wait for the person's reading made for the step's own observation (simulation in lockstep);
            otherwise the newest reading counts.
        timeout_ns: In real time, a reading older than this no longer counts as a held button.
        person_allowed: Whether the person may take over in this episode.
    """

    exact: bool
    timeout_ns: int = 250_000_000
    person_allowed: bool = True
    policy: Action | None = None
    person: Action | None = None
    person_seen_ns: int = 0

    def on_policy(self, msg: Action, now_ns: int) -> Action | None:
        """Take the policy's action for a step; return what shall be executed if that is known already."""
        self.policy = msg
        return self._decide(now_ns)

    def on_person(self, msg: Action, now_ns: int) -> Action | None:
        """Take a reading of the person's device; return what shall be executed if a step waited for it."""
        self.person, self.person_seen_ns = msg, now_ns
        return self._decide(now_ns) if self.exact else None

    def _decide(self, now_ns: int) -> Action | None:
        policy, person = self.policy, self.person
        if policy is None:
            return None
        if self.exact:
            # equal, not newer: a restarted simulator sets the clock back, and older readings would count
            if person is None or nanoseconds(person.header.stamp) != nanoseconds(policy.header.stamp):
                return None
            fresh = True
        else:
            fresh = person is not None and now_ns - self.person_seen_ns <= self.timeout_ns
        self.policy = None
        if fresh and self.person_allowed and person.controller == Action.PERSON:
            out = Action(controller=Action.PERSON, space=person.space, action=person.action)
        else:
            out = Action(controller=Action.POLICY, space=policy.space, action=policy.action)
        out.header, out.episode, out.step = policy.header, policy.episode, policy.step
        out.policy_version = policy.policy_version
        return out
