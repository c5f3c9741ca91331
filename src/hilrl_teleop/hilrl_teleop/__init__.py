"""What a person holds: gamepad, keyboard, leader arm."""
