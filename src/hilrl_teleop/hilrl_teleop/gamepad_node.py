"""Gamepad node: publishes /joy in the layout of game_controller_node, for machines without the joy package."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rclpy.node import Node
from sensor_msgs.msg import Joy

from hilrl_ros import qos
from hilrl_ros.messages import floats
from hilrl_ros.node import declare, param, run

# SDL's order of axes and buttons is game_controller_node's as well
AXES = 6
BUTTONS = 15
_FULL = 32767.0


@dataclass
class GamepadParams:
    """Parameters of the gamepad reader."""

    device: int = param(0, "Which pad, counted in the order in which they were plugged in", bounds=(0, 15))
    rate: float = param(50.0, "Readings per second", unit="Hz", bounds=(1.0, 200.0))


class GamepadNode(Node):
    """Publishes `joy` at a fixed rate while a pad is there; a pad may be unplugged and plugged in again."""

    def __init__(self):
        super().__init__("gamepad")
        self.params = declare(self, GamepadParams)
        # without a screen SDL needs a video driver that does nothing
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        # readings shall not stop when another window has the focus
        os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
        import pygame
        from pygame._sdl2 import controller

        self.pygame, self.sdl = pygame, controller
        pygame.display.init()
        controller.init()
        self.pad = None
        self.publisher = self.create_publisher(Joy, "joy", qos.STEP)
        self.create_timer(1.0 / self.params.rate, self.read)

    def read(self) -> None:
        """Publish one reading, or look for the pad."""
        self.pygame.event.pump()
        if self.pad is not None and not self.pad.attached():
            self.get_logger().warning("gamepad unplugged: nobody holds the dead-man until it is back")
            self.pad.quit()
            self.pad = None
        if self.pad is None and not self.open():
            return
        # SDL counts right and down as positive, the joy convention left and up; game_controller_node turns
        # all axes round, so a pulled trigger is -1
        axes = [-self.pad.get_axis(i) / _FULL for i in range(AXES)]
        msg = Joy(axes=floats([min(max(a, -1.0), 1.0) for a in axes]))
        msg.buttons = [int(self.pad.get_button(i)) for i in range(BUTTONS)]
        msg.header.stamp = self.get_clock().now().to_msg()
        self.publisher.publish(msg)

    def open(self) -> bool:
        """Open the pad if it is there."""
        if self.sdl.get_count() <= self.params.device or not self.sdl.is_controller(self.params.device):
            self.get_logger().info(
                f"no gamepad {self.params.device} yet: plug one in", throttle_duration_sec=10.0
            )
            return False
        self.pad = self.sdl.Controller(self.params.device)
        self.get_logger().info(f"gamepad '{self.pad.name}' is ready")
        return True

    def close(self) -> None:
        """Leave SDL."""
        self.sdl.quit()
        self.pygame.quit()


def main() -> None:
    """Run the node."""
    run(GamepadNode)
