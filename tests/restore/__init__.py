"""Restore: plans as values, and what real servers recover from what was put back."""
