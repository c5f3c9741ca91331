"""What rviz2 shows of a run: markers made from messages (markers), and the node that publishes them (markers_node)."""
