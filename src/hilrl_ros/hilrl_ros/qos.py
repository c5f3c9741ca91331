"""Named quality-of-service profiles: every topic of the suite uses one of these, and this file says why."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

# Sensor data: the newest counts. Best effort on the reading side accepts every driver, whether it
# publishes reliably or not.
SENSOR = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)

# Messages of one step (observation, actions, reward, joint commands): none may be lost, and one that
# comes late is of no use to a node that starts later.
STEP = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=20,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)

# The same, as read by those whom the loop does not wait for (recorder, session): in lockstep it makes more than a
# hundred steps a second, also while a disk is slow.
STEP_ASIDE = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1000,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)

# Transitions: the learner may be busy or starting; the actor sends again what is not acknowledged.
TRANSITIONS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=500,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)

# State that a node which starts later must know: the newest message is kept for it.
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

# Policy weights: latched, deep enough for all parts of one version.
WEIGHT_PARTS = 32
WEIGHTS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=WEIGHT_PARTS,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
