"""The markers of a run: where the tip may go, where it is, where it shall go, and who says so.

Every array holds every marker, to be drawn or to be deleted, so rviz2 may join late or miss one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Vector3
from hilrl_msgs.msg import Action, Episode, Reward
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from hilrl_ros.contract import Contract
from hilrl_ros.messages import CONTROLLER_NAMES, PHASE_NAMES

LIFETIME = 3  # s after which rviz2 drops what a dead node has left
TEXT_ABOVE = 0.2  # m between the box and the lower text: the arm reaches over its box
TEXT_SIZE = 0.025  # m
WHITE, GREY = (1.0, 1.0, 1.0), (0.6, 0.6, 0.6)
GREEN, RED, YELLOW = (0.3, 0.9, 0.3), (1.0, 0.3, 0.3), (1.0, 0.9, 0.3)
COLORS = {Action.POLICY: (0.25, 0.55, 1.0), Action.PERSON: (1.0, 0.55, 0.1), Action.NOBODY: GREY}
_PHASES = {number: name for name, number in PHASE_NAMES.items()} | {Episode.DONE: "done"}
# edges of a box, by its corners as binary numbers: two corners that differ in one bit
_EDGES = [(corner, corner | bit) for corner in range(8) for bit in (1, 2, 4) if not corner & bit]


@dataclass(frozen=True)
class Shown:
    """What the markers show at one time.

    Attributes:
        stamp: Of the joint state.
        tip: Measured position [3] of the tip in base_frame, m; None where no joint state is fresh.
        target: Commanded position [3] of the tip in base_frame, m; None where no command is fresh.
        box: Bounds of the tip [2, 3] in base_frame, m.
        controller: Who is in control, as in Action.
        control: Text above the arm: who is in control of which episode.
        earned: Text below it: what that episode earned; empty before the first reward.
        outcome: Colour of that text: how the episode ended.
    """

    stamp: Time
    box: np.ndarray
    tip: np.ndarray | None
    target: np.ndarray | None
    controller: int
    control: str
    earned: str = ""
    outcome: tuple[float, float, float] = WHITE


def caption(executed: Action | None, episode: Episode | None) -> str:
    """Return the text above the arm: who is in control, phase and episode.

    Args:
        executed: Newest executed action, None where none is fresh.
        episode: Newest announcement of the session, None without a session.
    """
    who = CONTROLLER_NAMES.get(executed.controller if executed else Action.NOBODY, "unknown")
    lines = [f"{who} ({executed.device})" if executed and executed.device else who]
    if episode:
        status = {Episode.IDLE: "waiting", Episode.PAUSED: "paused"}.get(episode.status)
        phase = [_PHASES.get(episode.phase, f"phase {episode.phase}"), f"episode {episode.episode}", status]
        lines.append(", ".join(part for part in phase if part))
    return "\n".join(lines)


def earnings(reward: Reward, total: float) -> tuple[str, tuple[float, float, float]]:
    """Return what an episode earned as a text, and the text's colour.

    Args:
        reward: Newest reward of the episode.
        total: Sum of the rewards of the episode.
    """
    text = f"reward {reward.reward:.2f}, return {total:.2f}"
    if reward.probability >= 0:
        text += f", p(success) {reward.probability:.2f}"
    if reward.success:
        return f"{text}\nsuccess", GREEN
    if reward.terminated:
        return f"{text}\nfailure", RED
    if reward.truncated:
        return f"{text}\ntime is up", YELLOW
    return text, WHITE


def marker_array(contract: Contract, shown: Shown) -> MarkerArray:
    """Return all markers, in the contract's base_frame; those of what is not known as deletions.

    Namespaces: `box` (0: edges, 1: sides), `tip`, `target`, `way` (from tip to target) and the texts `control` and
    `reward`.
    """
    low, high = shown.box
    middle = (low + high) / 2
    color = COLORS.get(shown.controller, GREY)
    header = Header(stamp=shown.stamp, frame_id=contract.model.base_frame)

    def marker(ns: str, kind: int, scale, rgb, alpha: float = 1.0, *, number: int = 0, at=None) -> Marker:
        made = Marker(header=header, ns=ns, id=number, type=kind, action=Marker.ADD)
        made.lifetime = Duration(sec=LIFETIME)
        made.scale = Vector3(**dict(zip("xyz", map(float, scale), strict=True)))
        made.color = ColorRGBA(**dict(zip("rgba", (*rgb, alpha), strict=True)))
        if at is not None:
            made.pose.position = _point(at)
        return made

    edges = marker("box", Marker.LINE_LIST, (0.002, 0, 0), GREY)
    corners = [np.where([number & 1, number & 2, number & 4], high, low) for number in range(8)]
    edges.points = [_point(corners[end]) for edge in _EDGES for end in edge]
    sides = marker("box", Marker.CUBE, high - low, GREY, 0.08, number=1, at=middle)
    tip = marker("tip", Marker.SPHERE, [0.014] * 3, WHITE, at=shown.tip)
    target = marker("target", Marker.SPHERE, [0.018] * 3, color, 0.6, at=shown.target)
    way = marker("way", Marker.LINE_STRIP, (0.004, 0, 0), color)
    above = np.array([*middle[:2], high[2] + TEXT_ABOVE])
    reward = marker("reward", Marker.TEXT_VIEW_FACING, (0, 0, TEXT_SIZE), shown.outcome, at=above)
    above[2] += 3 * TEXT_SIZE
    control = marker("control", Marker.TEXT_VIEW_FACING, (0, 0, TEXT_SIZE), color, at=above)
    reward.text, control.text = shown.earned, shown.control
    if not shown.earned:
        reward.action = Marker.DELETE
    if shown.tip is None:
        tip.action = Marker.DELETE
    if shown.target is None:
        target.action = Marker.DELETE
    if shown.tip is None or shown.target is None:
        way.action = Marker.DELETE
    else:
        way.points = [_point(shown.tip), _point(shown.target)]
    return MarkerArray(markers=[edges, sides, tip, target, way, control, reward])


def _point(xyz) -> Point:
    return Point(**dict(zip("xyz", map(float, xyz), strict=True)))
