"""Reward terms and the reward node."""
