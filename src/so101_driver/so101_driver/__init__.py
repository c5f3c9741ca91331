"""The SO-101: servo bus (bus, registers), calibration, and an emulator of the bus (emulator)."""
