"""MuJoCo simulation of a contract's arm, its scenes, and the scripted operator."""
