"""What a person holds: the gamepad."""
