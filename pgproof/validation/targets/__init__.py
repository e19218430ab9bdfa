"""Targets: a drill also recovers to points on the way to the cut, and shows by canary commits that each is honoured."""
