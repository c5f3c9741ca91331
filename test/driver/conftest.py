import pytest
from emulated_arm import IDS, calibrate

from so101_driver.emulator import EmulatedBus


@pytest.fixture
def emulated():
    with EmulatedBus(IDS, speed=8000.0) as bus:
        calibrate(bus)
        yield bus
