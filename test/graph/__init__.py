"""Tests that start the real graph."""
