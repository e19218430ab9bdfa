"""Timelines: histories and ancestry."""
