"""The SO-101's model for ROS tools; the model itself stays in the package that carries it."""
