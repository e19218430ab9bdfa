"""Timelines: where something is in the WAL: LSNs, segment names, and the histories of timelines."""
