"""Names in a LeRobotDataset: LeRobot's own, and those of this suite, which LeRobot's policies do not look at."""

INFO = "meta/info.json"
REWARD, DONE = "next.reward", "next.done"
SUCCESS, TERMINATED, TRUNCATED = "next.success", "next.terminated", "next.truncated"
PERSON = "complementary_info.is_intervention"
PRIVILEGED = "privileged"  # no `observation.…`: no policy shall see it
# what a dataset of this suite carries beside LeRobot's files: the robot contract, and of each episode its number,
# seed, task, step numbers and the observation after its last frame, for which a LeRobotDataset has no place
CONTRACT, EPISODES = "meta/hilrl/contract.yaml", "meta/hilrl/episodes.parquet"
