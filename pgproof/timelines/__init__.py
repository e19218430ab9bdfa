"""Timelines: which part of which timeline leads to a point."""
