"""USB cameras: the newest frame (capture), and the node that publishes it (camera_node)."""
