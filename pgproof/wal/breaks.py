"""A break is a record in WAL that no recovery goes past: from there on the server wrote ``wal_level = minimal``.

Such WAL lacks what recovery needs, and a server that recovers ends at the record with FATAL
(``CheckRequiredParameterValues``). All names may be there; only whoever reads the records sees it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgproof.errors import WalGap
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment


@dataclass(frozen=True, order=True, slots=True)
class Break:
    """Where recovery ends: the segment, on its own timeline, and the record in it."""

    segment: WalSegment
    lsn: LSN

    def __str__(self) -> str:
        return (
            f"no recovery goes past LSN {self.lsn} in {self.segment}: from there on the server ran with "
            "wal_level = minimal"
        )

    def as_dict(self) -> dict[str, str]:
        return {"segment": self.segment.name, "lsn": str(self.lsn)}

    @classmethod
    def from_dict(cls, tree: dict[str, str], segment_size: int) -> Break:
        """Read a break as ``wal-checked.json`` has it.

        Raises:
            PgproofError, KeyError: it is none.
        """
        return cls(WalSegment.parse(tree["segment"], segment_size), LSN.parse(tree["lsn"]))


def first_crossed(breaks: Iterable[Break], history: TimelineHistory, start: LSN, end: LSN) -> Break | None:
    """The first break that a recovery meets.

    Args:
        breaks: that are known.
        history: of the timeline that recovery follows.
        start: where it begins.
        end: where it stops, exclusive.
    """
    met = [one for one in breaks if start <= one.lsn < end and _on_path(one, history)]
    return min(met, key=lambda one: one.lsn, default=None)


def _on_path(one: Break, history: TimelineHistory) -> bool:
    return history.timeline_at(one.segment.end - 1) == one.segment.timeline


def require_unbroken(
    breaks: Iterable[Break], history: TimelineHistory, start: LSN, end: LSN, purpose: str
) -> None:
    """Refuse a recovery that would end at a break.

    Raises:
        WalGap: it names the break.
    """
    if found := first_crossed(breaks, history, start, end):
        raise WalGap(
            f"{found}",
            f"That lies {purpose}. A backup that was taken afterwards begins a new recovery window.",
            f"choose a target before LSN {found.lsn}, or a backup after it; pgproof wal check NAME shows the windows",
        )
