"""A copy is another repository that gets every WAL file, too; it is worth what it holds of what recovery needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgproof.errors import ObjectMissing, PgproofError
from pgproof.gaps.gap import Gap, GapReport, gap_dict
from pgproof.repository.repository import Archive, Repository
from pgproof.wal.archive import find_key, list_wal
from pgproof.wal.runs import by_timeline, intersect, runs_of, subtract

OpenCopy = Callable[[], Repository]
_LOOKED_AT = 8  # gaps of a copy whose age is asked for


@dataclass(frozen=True, slots=True)
class CopyCheck:
    """What a copy has of the WAL that recoveries need.

    Args:
        name: of the repository.
        lacks: segments that the main repository has and this one has not.
        fills: of the main repository's own gaps those that this one could fill.
        overdue: something that it lacks has been in the main repository for longer than a push may take.
        error: why it could not be looked at; empty when it was.
    """

    name: str
    lacks: tuple[Gap, ...] = ()
    fills: tuple[Gap, ...] = ()
    overdue: bool = False
    error: str = ""

    @property
    def fault(self) -> str:
        """What is wrong with it, in one line; empty when nothing is."""
        if self.error:
            return f'copy "{self.name}" cannot be looked at: {self.error}'
        if not self.overdue:
            return ""
        more = f" and {len(self.lacks) - 1} more stretches" if len(self.lacks) > 1 else ""
        return f'copy "{self.name}" lacks {self.lacks[0]}{more}'

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "lacks": [gap_dict(gap) for gap in self.lacks],
            "fills": [gap_dict(gap) for gap in self.fills],
            "overdue": self.overdue,
            "error": self.error,
        }


def check_copies(
    archive: Archive,
    report: GapReport,
    segment_size: int,
    copies: Mapping[str, OpenCopy],
    now: datetime,
    grace: float,
) -> tuple[CopyCheck, ...]:
    """Compare each copy with the main repository.

    Args:
        archive: the main one.
        report: of its gap check.
        segment_size: of the cluster, in bytes.
        copies: how to open each, by name.
        now: aware, by a clock that agrees with the store's.
        grace: seconds within which a copy may still get what the main repository has.
    """
    before = now.timestamp() - grace
    return tuple(
        _check(archive, report, segment_size, name, opened, before) for name, opened in copies.items()
    )


def _check(
    archive: Archive, report: GapReport, size: int, name: str, opened: OpenCopy, before: float
) -> CopyCheck:
    try:
        copy = opened().archive(archive.layout.cluster, archive.system_identifier)
        listing = list_wal(copy, size)
    except PgproofError as error:
        return CopyCheck(name, error=f"{error.fact}. {error.detail}".strip())
    lacks = tuple(runs_of(subtract(by_timeline(report.needed), listing.numbers), size, Gap))
    fills = tuple(runs_of(intersect(by_timeline(report.gaps), listing.numbers), size, Gap))
    overdue = any(_stored_at(archive, gap) < before for gap in lacks[:_LOOKED_AT])
    return CopyCheck(name, lacks, fills, overdue)


def _stored_at(archive: Archive, gap: Gap) -> float:
    """When the main repository got the first segment of what a copy lacks, in epoch seconds."""
    try:
        return archive.store.head(find_key(archive, gap.first.name)).modified
    except ObjectMissing:  # expired meanwhile
        return float("inf")
