"""What Gazebo's releases call things: Harmonic, which goes with ROS 2 Jazzy, and Fortress, which goes with Humble."""

from __future__ import annotations

from dataclasses import dataclass

from hilrl_ros.contract import ContractError

WORLD = "hilrl"  # name of the world, part of its services' names


@dataclass(frozen=True)
class Release:
    """Names of one release.

    Attributes:
        name: Of the release.
        library: Beginning of a system plugin's library.
        namespace: C++ namespace of the systems.
        messages: Beginning of message types.
        command: The command line tool.
    """

    name: str
    library: str
    namespace: str
    messages: str
    command: str

    def plugin(self, library: str, system: str) -> dict[str, str]:
        """Return the attributes of a `<plugin>`, for example of ("pose-publisher", "PosePublisher")."""
        return {
            "filename": f"{self.library}-{library}-system",
            "name": f"{self.namespace}::systems::{system}",
        }


RELEASES = {
    "harmonic": Release("harmonic", "gz-sim", "gz::sim", "gz.msgs", "gz"),
    "fortress": Release("fortress", "ignition-gazebo", "ignition::gazebo", "ignition.msgs", "ign"),
}


def release_named(name: str) -> Release:
    """Return a release; raises `ContractError` for one that is not known."""
    if name not in RELEASES:
        raise ContractError(f"Gazebo's release '{name}' is unknown; there are: {', '.join(RELEASES)}")
    return RELEASES[name]
