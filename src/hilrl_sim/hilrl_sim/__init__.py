"""MuJoCo simulator node, scenes, scripted operator."""
