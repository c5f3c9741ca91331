"""Pieces of SDF: numbers, poses, surfaces, shapes and meshes as Gazebo reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from hilrl_ros.kinematics import matrix_rpy
from hilrl_sim.objects import Part


def stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """Return a binary STL of vertices [V, 3] (m) and faces [F, 3]."""
    corners = vertices[faces].astype("<f4")
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    facets = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])
    facets["normal"], facets["corners"] = normals, corners
    return b"\0" * 80 + np.uint32(len(faces)).astype("<u4").tobytes() + facets.tobytes()


def link_name(name: str) -> str:
    """Return the name of an object's link: its joint has the object's own, and no two things may share one."""
    return f"{name}_link"


def _number(value: float) -> str:
    if isinstance(value, str):
        return value
    if math.isinf(value):
        return "1e16" if value > 0 else "-1e16"
    return f"{value:.7g}" if abs(value) > 1e-14 else "0"


def add_text(parent: Element, tag: str, value) -> Element:
    """Add an element that holds a text, a number or a vector."""
    element = SubElement(parent, tag)
    values = [value] if isinstance(value, str) or np.ndim(value) == 0 else value
    element.text = " ".join(map(_number, values))
    return element


def add_pose(parent: Element, pos: np.ndarray, R: np.ndarray) -> None:
    """Add a pose: position [3] (m) and rotation [3, 3]."""
    add_text(parent, "pose", (*pos, *matrix_rpy(R)))


def add_colour(parent: Element, tag: str, rgba: Sequence[float]) -> None:
    """Add a colour as it shall look, RGBA from 0 to 1.

    Gazebo computes with light and brightens its pictures for the screen (sRGB); as it is, a colour would come out pale.
    """
    rgb = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgba[:3]]
    add_text(parent, tag, (*rgb, rgba[3]))


def add_material(parent: Element, rgba: Sequence[float]) -> None:
    """Add a plain colour, RGBA from 0 to 1."""
    material = SubElement(parent, "material")
    for key in ("ambient", "diffuse"):
        add_colour(material, key, rgba)
    add_text(material, "specular", (0.1, 0.1, 0.1, 1))


def add_surface(parent: Element, friction: float, bits: int) -> None:
    """Add the friction of a shape, and the bits that tell what it collides with."""
    surface = SubElement(parent, "surface")
    ode = SubElement(SubElement(surface, "friction"), "ode")
    add_text(ode, "mu", friction)
    add_text(ode, "mu2", friction)
    add_text(SubElement(surface, "contact"), "collide_bitmask", bits)


def add_axis(joint: Element, direction: np.ndarray, low: float, high: float, damping: float) -> Element:
    """Add the axis of a joint: direction [3] in its frame, range (rad or m) and damping; return it."""
    axis = SubElement(joint, "axis")
    add_text(axis, "xyz", direction)
    limit, dynamics = SubElement(axis, "limit"), SubElement(axis, "dynamics")
    add_text(limit, "lower", low)
    add_text(limit, "upper", high)
    add_text(dynamics, "damping", damping)
    return axis


def add_primitive(geometry: Element, part: Part) -> None:
    """Add the shape of a part of an object."""
    if part.shape == "box":
        add_text(SubElement(geometry, "box"), "size", part.size)
    elif part.shape == "sphere":
        add_text(SubElement(geometry, "sphere"), "radius", part.size[0])
    else:
        cylinder = SubElement(geometry, "cylinder")
        add_text(cylinder, "radius", part.size[0])
        add_text(cylinder, "length", part.size[1])


def add_inertial(link: Element, masses: np.ndarray, centres: np.ndarray, inertias: np.ndarray) -> None:
    """Add the inertia of bodies that are one link, about their common centre.

    Args:
        link: The link.
        masses: Of the bodies [k], kg.
        centres: Of the bodies in the link's frame [k, 3], m.
        inertias: About the bodies' own centres along the link's axes [k, 3, 3], kg m².
    """
    centre = masses @ centres / masses.sum()
    inertia = inertias.sum(axis=0) + 1e-9 * np.eye(3)
    for mass, own in zip(masses, centres, strict=True):  # Steiner
        way = own - centre
        inertia += mass * (way @ way * np.eye(3) - np.outer(way, way))
    inertial = SubElement(link, "inertial")
    add_pose(inertial, centre, np.eye(3))
    add_text(inertial, "mass", masses.sum())
    matrix = SubElement(inertial, "inertia")
    for row, column in ("xx", "xy", "xz", "yy", "yz", "zz"):
        add_text(matrix, f"i{row}{column}", inertia["xyz".index(row), "xyz".index(column)])


def add_camera(
    link: Element,
    name: str,
    pose: tuple[np.ndarray, np.ndarray],
    rate: float,
    size: tuple[int, int],
    fovy: float,
) -> None:
    """Add a camera.

    Args:
        link: What it is fixed to.
        name: Its name, the beginning of its topics and of its frame.
        pose: Position [3] (m) and rotation [3, 3] in the link's frame; it looks along x, with z up.
        rate: Pictures per second, Hz.
        size: Height and width of a picture, px.
        fovy: Vertical field of view, degrees.
    """
    sensor = SubElement(link, "sensor", name=name, type="camera")
    add_pose(sensor, *pose)
    for key, value in (("topic", f"{name}/image"), ("update_rate", rate), ("always_on", 1)):
        add_text(sensor, key, value)
    camera = SubElement(sensor, "camera")
    add_text(camera, "optical_frame_id", f"{name}_optical_frame")
    height, width = size
    add_text(camera, "horizontal_fov", 2 * math.atan(math.tan(math.radians(fovy) / 2) * width / height))
    image, clip = SubElement(camera, "image"), SubElement(camera, "clip")
    # multisampling would take as long as all else
    for key, value in (("width", width), ("height", height), ("format", "R8G8B8"), ("anti_aliasing", 0)):
        add_text(image, key, value)
    add_text(clip, "near", 0.01)
    add_text(clip, "far", 5)
