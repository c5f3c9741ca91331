"""What every node shares: robot contract, kinematics, parameters, message conversions."""
