"""The learner node: stores transitions, updates, publishes weights."""
