"""Lends the helpers of the other tests, and their own ROS domain."""

import sys
from pathlib import Path

TEST = Path(__file__).parents[1] / "test"
sys.path[:0] = [str(TEST), str(TEST / "data")]
