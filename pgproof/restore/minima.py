"""Minima are what five settings must be at least, or recovery pauses early.

The backup's pg_control has them as they were; of each restart with others WAL tells (``reading``).
"""

from __future__ import annotations

from pathlib import Path

from pgproof.held import temporary_directory
from pgproof.postgres.control import read_control
from pgproof.restore.extract import CONTROL, CONTROL_ASIDE


def backed_up(bin_directory: Path, data: Path) -> dict[str, int]:
    """The settings that the source had when a backup was taken, from its pg_control, which is still aside."""
    with temporary_directory("control") as directory:
        control = directory / CONTROL
        control.parent.mkdir()
        control.symlink_to(data / CONTROL_ASIDE)
        return read_control(bin_directory, directory).minima
