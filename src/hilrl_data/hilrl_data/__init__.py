"""Recorder, bags, offline loading."""
