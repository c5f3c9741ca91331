"""What every device of a person publishes, so that the mux treats all of them alike."""

from __future__ import annotations

from collections.abc import Iterable

from builtin_interfaces.msg import Time
from hilrl_msgs.msg import Action, OperatorEvent

from hilrl_ros.messages import floats

EVENTS = {
    "success": OperatorEvent.SUCCESS,
    "failure": OperatorEvent.FAILURE,
    "discard": OperatorEvent.DISCARD,
    "pause": OperatorEvent.PAUSE,
}
# no button of its own: told by devices that know when one is let go
SUCCESS_RELEASED = "success_released"
_CODES = EVENTS | {SUCCESS_RELEASED: OperatorEvent.SUCCESS_RELEASED}


def reading(
    device: str, stamp: Time, held: bool, action: Iterable[float], space: int = Action.EE_DELTA
) -> Action:
    """Return a reading for `teleop/action`.

    Args:
        device: Name of the device; the mux tells devices apart by it.
        stamp: When it was read.
        held: Whether the person is in control.
        action: Components of `space`, each in [-1, 1].
        space: EE_DELTA or JOINT_POSITION of the message.
    """
    controller = Action.PERSON if held else Action.NOBODY
    msg = Action(controller=controller, device=device, space=space, action=floats(action))
    msg.header.stamp = stamp
    return msg


def event(stamp: Time, name: str) -> OperatorEvent:
    """Return the message for `operator_event` of an event's name (of EVENTS, or SUCCESS_RELEASED)."""
    msg = OperatorEvent(event=_CODES[name])
    msg.header.stamp = stamp
    return msg
