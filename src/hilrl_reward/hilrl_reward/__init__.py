"""Reward terms, the reward classifier and the reward node."""
