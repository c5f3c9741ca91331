"""The SO-101's servo bus (bus), its registers (registers), and an emulator of it (emulator)."""
