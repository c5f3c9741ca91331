"""Handles with which a person drags the sides of the tip's box in rviz2, without ROS communication."""

from __future__ import annotations

import math

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import InteractiveMarker, InteractiveMarkerControl, InteractiveMarkerPose, Marker

SIDES = tuple(f"{axis}_{bound}" for bound in ("min", "max") for axis in "xyz")
SIZE = 0.016  # m
COLOR = (1.0, 0.85, 0.2)
_HALF = math.sqrt(0.5)
# turns the x axis, along which a control moves, into the named one
_ALONG = {
    "x": Quaternion(w=1.0),
    "y": Quaternion(w=_HALF, z=_HALF),
    "z": Quaternion(w=_HALF, y=-_HALF),
}


def dragged(box: np.ndarray, side: str, position: Point) -> np.ndarray:
    """Return a box [2, 3] whose one side went where its handle was let go.

    Args:
        box: Lower and upper bounds [2, 3], m.
        side: One of `SIDES`.
        position: Of the handle, in the frame of the box, m.
    """
    new = box.copy()
    new[_index(side)] = getattr(position, side[0])
    return new


def poses(box: np.ndarray, frame: str) -> list[InteractiveMarkerPose]:
    """Return where the handles belong: each in the middle of its side of a box [2, 3], m."""
    out = []
    for side in SIDES:
        at = dict(zip("xyz", box.mean(axis=0).tolist(), strict=True))
        at[side[0]] = float(box[_index(side)])
        pose = InteractiveMarkerPose(name=side, pose=Pose(position=Point(**at)))
        pose.header.frame_id = frame
        out.append(pose)
    return out


def interactive_markers(box: np.ndarray, frame: str) -> list[InteractiveMarker]:
    """Return a handle for each side of a box [2, 3], m, which moves along its axis only."""
    out = []
    for at in poses(box, frame):
        ball = Marker(type=Marker.SPHERE, scale=Vector3(x=SIZE, y=SIZE, z=SIZE))
        ball.color = ColorRGBA(**dict(zip("rgba", (*COLOR, 0.9), strict=True)))
        control = InteractiveMarkerControl(
            name="drag",
            description=f"drag the box's {at.name.replace('_', ' ')}",
            orientation=_ALONG[at.name[0]],
            interaction_mode=InteractiveMarkerControl.MOVE_AXIS,
            always_visible=True,
            markers=[ball],
        )
        marker = InteractiveMarker(
            header=at.header, name=at.name, pose=at.pose, scale=2 * SIZE, controls=[control]
        )
        out.append(marker)
    return out


def _index(side: str) -> tuple[int, int]:
    """Where a box [2, 3] holds the bound of a side."""
    axis, bound = side.split("_")
    return ("min", "max").index(bound), "xyz".index(axis)
