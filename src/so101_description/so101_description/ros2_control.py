"""What ros2_control wants of a URDF: which plugin talks to the hardware, and what each joint offers."""

from __future__ import annotations

from xml.etree import ElementTree

from hilrl_ros.contract import Contract
from hilrl_ros.kinematics import Kinematics


def ros2_control_tag(contract: Contract, plugin: str) -> ElementTree.Element:
    """Return the `<ros2_control>` tag of a robot: position commands, position and velocity states, rad and rad/s.

    Commands are limited to the joint limits, and a mock begins at the home pose. Parameters of the plugin itself
    (a port, servo ids) are for the lab to add.

    Args:
        contract: Of the robot.
        plugin: Hardware plugin, as package/Class.

    Raises:
        ContractError: The robot's model is not found.
    """
    tag = ElementTree.Element("ros2_control", name=contract.robot, type="system")
    hardware = ElementTree.SubElement(tag, "hardware")
    ElementTree.SubElement(hardware, "plugin").text = plugin
    limits = Kinematics(contract).joint_limits
    for name, home, (low, high) in zip(contract.joints, contract.home, limits, strict=True):
        joint = ElementTree.SubElement(tag, "joint", name=name)
        _interface(joint, "command", "position", min=low, max=high)
        _interface(joint, "state", "position", initial_value=home)
        _interface(joint, "state", "velocity", initial_value=0.0)
    return tag


def with_ros2_control(urdf: str, contract: Contract, plugin: str) -> str:
    """Return a URDF with the robot's `ros2_control_tag` in it; raises as that does."""
    root = ElementTree.fromstring(urdf)
    root.append(ros2_control_tag(contract, plugin))
    return ElementTree.tostring(root, encoding="unicode")


def _interface(joint: ElementTree.Element, kind: str, name: str, **values: float) -> None:
    interface = ElementTree.SubElement(joint, f"{kind}_interface", name=name)
    for key, value in values.items():
        ElementTree.SubElement(interface, "param", name=key).text = f"{value:.6g}"
