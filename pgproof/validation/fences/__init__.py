"""Fences: snapshots of the source, the exact cut of each, and what every table held."""
