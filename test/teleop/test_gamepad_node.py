"""The gamepad reader with SDL's virtual joystick instead of a pad."""

import ctypes

import pytest
from sensor_msgs.msg import Joy

from hilrl_ros import qos
from hilrl_teleop.gamepad_node import GamepadNode

GAME_CONTROLLER, AXES, BUTTONS = 1, 6, 15
LX, LY, RX, RY, LT, RT = range(6)


class VirtualPad:
    """A game controller that exists only inside SDL."""

    def __init__(self, sdl):
        self.sdl = sdl
        self.index = sdl.SDL_JoystickAttachVirtual(GAME_CONTROLLER, AXES, BUTTONS, 0)
        if self.index < 0:
            pytest.skip("this build of SDL has no virtual joysticks")
        sdl.SDL_JoystickOpen.restype = ctypes.c_void_p
        self.joystick = ctypes.c_void_p(sdl.SDL_JoystickOpen(self.index))

    def axis(self, axis, value):
        assert self.sdl.SDL_JoystickSetVirtualAxis(self.joystick, axis, ctypes.c_int16(value)) == 0

    def button(self, button, down):
        assert self.sdl.SDL_JoystickSetVirtualButton(self.joystick, button, ctypes.c_uint8(down)) == 0

    def unplug(self):
        self.sdl.SDL_JoystickClose(self.joystick)
        assert self.sdl.SDL_JoystickDetachVirtual(self.index) == 0


@pytest.fixture
def graph(make_graph, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return make_graph(rate=100.0)


@pytest.fixture
def sdl(graph):
    """SDL as pygame brings it, while a node of the graph has it open."""
    graph.add(GamepadNode())
    import pygame.base

    # the symbols of the SDL that pygame's own modules are linked to
    return ctypes.CDLL(pygame.base.__file__)


def test_the_pads_sticks_triggers_and_buttons_appear_on_joy(graph, sdl):
    heard = graph.listen(Joy, "joy", qos.STEP)
    graph.connect()
    pad = VirtualPad(sdl)
    graph.until(lambda: heard)
    assert (len(heard[-1].axes), len(heard[-1].buttons)) == (AXES, BUTTONS)
    assert sum(heard[-1].buttons) == 0

    def shows(axis, value):
        graph.until(lambda: abs(heard[-1].axes[axis] - value) < 0.01)

    for axis in (LX, LY, RX, RY):  # SDL counts right and down as positive, joy left and up
        pad.axis(axis, 32767)
        shows(axis, -1.0)
        pad.axis(axis, -32768)
        shows(axis, 1.0)
        pad.axis(axis, 0)
        shows(axis, 0.0)
    for axis in (LT, RT):  # at rest a raw trigger is at its lowest; game_controller_node shows 0 to -1
        pad.axis(axis, -32768)
        shows(axis, 0.0)
        pad.axis(axis, 32767)
        shows(axis, -1.0)
    for button in range(BUTTONS):
        pad.button(button, 1)
        graph.until(
            lambda button=button: list(heard[-1].buttons) == [int(b == button) for b in range(BUTTONS)]
        )
        pad.button(button, 0)
    graph.until(lambda: sum(heard[-1].buttons) == 0)
    pad.unplug()


def test_a_pad_may_be_unplugged_and_plugged_in_again(graph, sdl, logged):
    heard = graph.listen(Joy, "joy", qos.STEP)
    graph.connect()
    node = graph.nodes[1]
    graph.until(lambda: any("no gamepad 0 yet" in text for _, text in logged))
    assert heard == []
    for _ in range(2):
        pad = VirtualPad(sdl)
        graph.until(lambda: heard)
        pad.button(3, 1)
        graph.until(lambda: heard[-1].buttons[3] == 1)
        pad.unplug()
        graph.until(lambda: node.pad is None)
        assert "gamepad unplugged: nobody holds the dead-man until it is back" in [t for _, t in logged]
        silent = len(heard)
        graph.until(lambda: any("no gamepad" in text for _, text in logged))
        assert len(heard) <= silent + 1  # at most one reading was still on its way
        heard.clear()
        logged.clear()
