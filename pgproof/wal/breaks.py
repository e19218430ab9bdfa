"""A break is a record in WAL that no recovery goes past. All names may be there; only who reads the records sees it.

From there on the server wrote ``wal_level = minimal``, whose WAL lacks what recovery needs: a server that recovers ends
with FATAL (``CheckRequiredParameterValues``). Or ``pg_resetwal`` began new WAL, whose first record follows none: a
server that recovers takes the record before it for the last one, and opens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgproof.errors import PermanentError, WalGap
from pgproof.timelines.history import TimelineHistory
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.wal.pages import FIRST_IS_CONTRECORD, LONG

MINIMAL, RESET = "wal_level = minimal", "pg_resetwal"
_WORDS = {
    MINIMAL: "from there on the server ran with wal_level = minimal",
    RESET: "pg_resetwal began new WAL there",
}
# after length and transaction: xl_prev 8, xl_info 1, xl_rmid 1. No record comes before it, and it is
# XLOG_CHECKPOINT_SHUTDOWN of RM_XLOG_ID (``WriteEmptyXLOG``)
_FIRST, _FIRST_AT = bytes(10), LONG + 8
_FLAGS_AT = 2  # xlp_info


@dataclass(frozen=True, order=True, slots=True)
class Break:
    """Where recovery ends: the segment, on its own timeline, and the record in it.

    Args:
        segment: that holds it.
        lsn: of the record.
        reason: MINIMAL or RESET.
    """

    segment: WalSegment
    lsn: LSN
    reason: str = MINIMAL

    def __str__(self) -> str:
        return f"no recovery goes past LSN {self.lsn} in {self.segment}: {_WORDS[self.reason]}"

    @property
    def meanwhile(self) -> str:
        """What happened, as a part of a sentence."""
        ran = f"the server ran with {MINIMAL}" if self.reason == MINIMAL else f"{RESET} was run"
        return f"{ran} meanwhile"

    @property
    def within(self) -> str:
        """What happened in the segment, as a clause."""
        return (
            "in which wal_level became minimal"
            if self.reason == MINIMAL
            else f"with which {RESET} began new WAL"
        )

    def as_dict(self) -> dict[str, str]:
        return {"segment": self.segment.name, "lsn": str(self.lsn), "reason": self.reason}

    @classmethod
    def from_dict(cls, tree: dict[str, str], segment_size: int) -> Break:
        """Read a break as ``wal-checked.json`` has it.

        Raises:
            PgproofError, KeyError: it is none.
        """
        reason = tree.get("reason", MINIMAL)
        if reason not in _WORDS:
            raise PermanentError(f'no break has the reason "{reason}"')
        return cls(WalSegment.parse(tree["segment"], segment_size), LSN.parse(tree["lsn"]), reason)


def reset_at(segment: WalSegment, content: bytes) -> Break | None:
    """The break where pg_resetwal made a segment, whose content this is; its beginning is enough.

    The very first segment of a cluster begins like that, too (``BootStrapXLOG``): no recovery comes from before it.
    """
    if content[_FIRST_AT : _FIRST_AT + len(_FIRST)] != _FIRST or not any(content[LONG:_FIRST_AT]):
        return None
    if content[_FLAGS_AT] & FIRST_IS_CONTRECORD:
        return None
    return Break(segment, LSN(segment.start + LONG), RESET)


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
