"""Behaviour under trouble: what is cancelled, stopped, killed or out of reach, on a real server with real workers."""
