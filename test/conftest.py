"""Keeps the tests' ROS graph to itself: own domain, this machine only, logs in a temporary folder."""

import os
import random
import tempfile

# At import, before anything creates a ROS context; processes started by tests inherit it.
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="hilrl-test-log-")
