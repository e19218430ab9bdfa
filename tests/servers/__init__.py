"""Servers that the tests start themselves, on loopback, and end by process id."""
