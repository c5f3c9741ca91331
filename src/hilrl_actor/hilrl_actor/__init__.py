"""The loop's clock, policy and episodes: observer, actor and session nodes."""
