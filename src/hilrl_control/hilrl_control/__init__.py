"""What may reach the arm: arm controller and intervention mux."""
