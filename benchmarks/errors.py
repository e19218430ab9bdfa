"""What ends a measurement: a tool failed, or what is measured is not there."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A measurement that would not mean anything."""
