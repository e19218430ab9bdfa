"""A speed is how much of one phase of a drill is done in a second: bytes of backups and WAL, rows of tables.

The recovery time of tomorrow is forecast from the speeds of the last drills (``pgproof.validation.forecast``).
"""

from __future__ import annotations

from collections.abc import Mapping

from pgproof.timelines.segment import WalSegment
from pgproof.validation.comparison import Comparison
from pgproof.validation.fences.fence import Fence

# What a restore does, too, until its server answers; a drill verifies, counts, compares and checks besides
RESTORING = ("extract", "combine", "fetch", "start", "replay")
_OF_BACKUP = ("extract", "combine", "verify")
_OF_WAL = ("fetch", "replay")
_SHORTEST = 0.001  # seconds; phases are measured in no smaller parts


def recovery_seconds(phases: Mapping[str, float]) -> float:
    """The recovery time that a drill measured; 0 when its copy was not recovered."""
    if "replay" not in phases:
        return 0.0
    return round(sum(phases.get(name, 0.0) for name in RESTORING), 3)


def replayed_bytes(fence: Fence, segment: str, *, first: bool = False) -> int:
    """Bytes of WAL from the beginning of the first segment that recovery had to a cut.

    Args:
        fence: whose cut recovery ended at.
        segment: its name; empty when nothing was restored.
        first: recovery ended at the first cut, and not at the last.
    """
    cuts = [database.cut for database in fence.databases if database.cut is not None]
    if not segment or not cuts:
        return 0
    return max(0, (min if first else max)(cuts) - WalSegment.parse(segment, fence.segment_size).start)


def byte_speeds(phases: Mapping[str, float], backup: int, wal: int) -> dict[str, float]:
    """Bytes per second of each phase that was measured.

    Args:
        phases: seconds.
        backup: raw bytes of the backup's files.
        wal: bytes of WAL.
    """
    speeds = {}
    for names, size in ((_OF_BACKUP, backup), (_OF_WAL, wal)):
        speeds.update({name: _speed(size, phases[name]) for name in names if name in phases and size})
    return speeds


def row_speeds(fence: Fence, phases: Mapping[str, float], comparison: Comparison | None) -> dict[str, float]:
    """Rows per second of counting and fingerprinting, on the ``source`` and in the ``copy``."""
    speeds = {}
    if fence.rows and fence.count_seconds:
        speeds["source"] = _speed(fence.rows, fence.count_seconds)
    rows = sum(max(0, table.restored_rows) for table in comparison.tables) if comparison else 0
    if rows and "count" in phases:
        speeds["copy"] = _speed(rows, phases["count"])
    return speeds


def _speed(amount: float, seconds: float) -> float:
    return round(amount / max(seconds, _SHORTEST), 1)


def rounded(phases: Mapping[str, float]) -> dict[str, float]:
    """Seconds as a proof keeps them: to the millisecond."""
    return {name: round(seconds, 3) for name, seconds in phases.items()}
