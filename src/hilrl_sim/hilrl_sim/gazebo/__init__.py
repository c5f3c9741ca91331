"""The same arm, table and tasks in Gazebo: its world, its bridge, the node between it and the graph."""
