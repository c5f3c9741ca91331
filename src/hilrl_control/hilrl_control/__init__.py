"""What may reach the arm: intervention mux and arm controller."""
