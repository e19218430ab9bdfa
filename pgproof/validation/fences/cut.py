"""The exact cut is the LSN at which a recovered cluster holds precisely what a snapshot saw.

A snapshot sees a transaction when its xid is below ``xmin``, or below ``xmax`` and not in ``xip``
(``XidInMVCCSnapshot``; manual, 9.28.8). When, in WAL order, every commit that the snapshot sees comes before
every commit that it does not see, the LSN of the first unseen commit *is* the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgproof.timelines.lsn import LSN
from pgproof.wal.records import CommitRecord


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What ``pg_current_snapshot()`` returned; xids are 64 bits wide, with their epoch."""

    xmin: int
    xmax: int
    xip: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read ``xmin:xmax:xip,xip``."""
        xmin, xmax, xip = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in xip.split(",") if xid))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(str(xid) for xid in sorted(self.xip))}"

    def widen(self, xid: int) -> int:
        """The 64-bit xid of a 32-bit one from WAL: the one nearest to ``xmax``.

        Valid because no two live xids are further than 2^31 apart.
        """
        difference = (xid - self.xmax) & 0xFFFFFFFF
        if difference >= 0x8000_0000:
            difference -= 0x1_0000_0000
        return self.xmax + difference

    def sees(self, xid: int) -> bool:
        """Whether the transaction of a 32-bit xid from WAL is visible, when it committed."""
        wide = self.widen(xid)
        return wide < self.xmin or (wide < self.xmax and wide not in self.xip)


@dataclass(frozen=True, slots=True)
class Cut:
    """The result for one fence: the cut's LSN when it is exact, else why it is not."""

    lsn: LSN | None
    reason: str = ""

    @property
    def exact(self) -> bool:
        return self.lsn is not None


def find_cut(snapshot: Snapshot, records: Iterable[CommitRecord]) -> Cut:
    """Find the exact cut of a snapshot among the commits around it.

    Args:
        snapshot: of the fence.
        records: transaction ends in WAL order, from well before the fence to at least one commit after it.

    Returns:
        the LSN of the first commit that the snapshot does not see; not exact when one that it sees comes later,
        or when no unseen one is there.
    """
    first_unseen: CommitRecord | None = None
    for record in records:
        if not record.committed or record.xid == 0:
            continue
        if not snapshot.sees(record.xid):
            first_unseen = first_unseen or record
        elif first_unseen is not None:
            return Cut(
                None,
                f"transaction {first_unseen.xid} at {first_unseen.lsn} is not seen, but {record.xid} at "
                f"{record.lsn}, which committed after it, is",
            )
    if first_unseen is None:
        return Cut(None, "no commit after the fence is in the archive")
    return Cut(first_unseen.lsn)
