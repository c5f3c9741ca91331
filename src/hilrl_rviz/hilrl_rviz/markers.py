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
TEXT_ABOVE = 0.2  # m between the box and the text: the arm reaches over its box
WHITE, GREY = (1.0, 1.0, 1.0), (0.6, 0.6, 0.6)
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
        controller: Who is in control, as in Action.
        text: What stands above the arm.
    """

    stamp: Time
    tip: np.ndarray | None
    target: np.ndarray | None
    controller: int
    text: str


def caption(executed: Action | None, episode: Episode | None, reward: Reward | None, total: float) -> str:
    """Return the text above the arm: who is in control, phase and episode, return.

    Args:
        executed: Newest executed action, None where none is fresh.
        episode: Newest announcement of the session, None without a session.
        reward: Newest reward of that episode, None before the first.
        total: Sum of the rewards of that episode.
    """
    who = CONTROLLER_NAMES.get(executed.controller if executed else Action.NOBODY, "unknown")
    lines = [f"{who} ({executed.device})" if executed and executed.device else who]
    if episode:
        status = {Episode.IDLE: "waiting", Episode.PAUSED: "paused"}.get(episode.status)
        phase = [_PHASES.get(episode.phase, f"phase {episode.phase}"), f"episode {episode.episode}", status]
        lines.append(", ".join(part for part in phase if part))
    if reward:
        ends = {"success": reward.success, "failure": reward.terminated, "time is up": reward.truncated}
        end = next((f", {name}" for name, holds in ends.items() if holds), "")
        lines.append(f"return {total:.2f}{end}")
    return "\n".join(lines)


def marker_array(contract: Contract, shown: Shown) -> MarkerArray:
    """Return all markers, in the contract's base_frame; those of an unknown tip or target as deletions.

    Namespaces: `box` (0: edges, 1: sides), `tip`, `target`, `way` (from tip to target) and `control` (text).
    """
    low, high = np.array([contract.box_min, contract.box_max])
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
    text = marker(
        "control", Marker.TEXT_VIEW_FACING, (0, 0, 0.025), color, at=(*middle[:2], high[2] + TEXT_ABOVE)
    )
    text.text = shown.text
    if shown.tip is None:
        tip.action = Marker.DELETE
    if shown.target is None:
        target.action = Marker.DELETE
    if shown.tip is None or shown.target is None:
        way.action = Marker.DELETE
    else:
        way.points = [_point(shown.tip), _point(shown.target)]
    return MarkerArray(markers=[edges, sides, tip, target, way, text])


def _point(xyz) -> Point:
    return Point(**dict(zip("xyz", map(float, xyz), strict=True)))
