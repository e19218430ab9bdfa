"""A model of how PostgreSQL commits: the record in WAL first, visibility some time later; and of what is seen then.

It follows ``RecordTransactionCommit``, ``ProcArrayEndTransaction`` and ``GetSnapshotData``: a transaction gets an xid
with its first write, its commit record is written while it is still in the ProcArray, and it leaves that array when
others shall see it; in between it may wait, as for a synchronous standby. A prepared transaction stays in the array
under its own xid, whoever commits it. Databases share all of that.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgproof.timelines.lsn import LSN
from pgproof.validation.fences.cut import Snapshot
from pgproof.wal.records import CommitRecord

WRAP = 1 << 32
FIRST_NORMAL_XID = 3  # after a wrap the xids 0, 1 and 2 are left out
DATABASES = 3


@dataclass
class Transaction:
    """One that has an xid."""

    xid: int
    database: int
    children: list[int] = field(default_factory=list)
    prepared: bool = False
    recorded: bool = False


@dataclass
class Server:
    """What a server does with transactions, and what its WAL and its snapshots then show.

    Args:
        next_xid: 64 bits.
        running: the ProcArray: what nobody sees yet.
        visible: xids of all that can be seen, of children too.
        written: for each committed transaction its LSN, its database and its xids: what a recovery applies.
    """

    next_xid: int
    running: list[Transaction] = field(default_factory=list)
    visible: set[int] = field(default_factory=set)
    records: list[CommitRecord] = field(default_factory=list)
    written: list[tuple[LSN, int, frozenset[int]]] = field(default_factory=list)
    latest_completed: int = 0

    def __post_init__(self) -> None:
        self.latest_completed = self.next_xid - 1

    def _assign(self) -> int:
        while self.next_xid % WRAP < FIRST_NORMAL_XID:
            self.next_xid += 1
        self.next_xid += 1
        return self.next_xid - 1

    # ---- what happens

    def begin(self, choice: int) -> None:
        self.running.append(Transaction(self._assign(), choice % DATABASES))

    def savepoint(self, choice: int) -> None:
        """A subtransaction that writes: an xid of its own, which no commit record has as its own."""
        if open_ones := [one for one in self.running if not one.recorded and not one.prepared]:
            open_ones[choice % len(open_ones)].children.append(self._assign())

    def roll_back_to_savepoint(self, choice: int) -> None:
        """An aborted subtransaction counts as completed (``XidCacheRemoveRunningXids``)."""
        if nested := [one for one in self.running if one.children and not one.recorded and not one.prepared]:
            xid = nested[choice % len(nested)].children.pop()
            self.latest_completed = max(self.latest_completed, xid)

    def prepare(self, choice: int) -> None:
        if waiting := self._unrecorded:
            waiting[choice % len(waiting)].prepared = True

    def record_commit(self, choice: int) -> None:
        """Also COMMIT PREPARED: the record has the xid of what was prepared."""
        if waiting := self._unrecorded:
            one = waiting[choice % len(waiting)]
            one.recorded = True
            lsn = self._write(one.xid, committed=True)
            self.written.append((lsn, one.database, frozenset({one.xid, *one.children})))

    def show(self, choice: int) -> None:
        if recorded := [one for one in self.running if one.recorded]:
            one = recorded[choice % len(recorded)]
            self.visible |= {one.xid, *one.children}
            self._end(one)

    def abort(self, choice: int) -> None:
        if waiting := self._unrecorded:
            one = waiting[choice % len(waiting)]
            self._write(one.xid, committed=False)
            self._end(one)

    def commit_without_xid(self, _: int) -> None:
        self._write(0, committed=True)

    @property
    def _unrecorded(self) -> list[Transaction]:
        return [one for one in self.running if not one.recorded]

    # ---- what is seen of it

    def snapshot(self) -> Snapshot:
        """As ``GetSnapshotData`` and ``pg_current_snapshot``: xmax is past the newest ended xid, xip what runs."""
        xmax = self.latest_completed + 1
        xip = frozenset(one.xid for one in self.running if one.xid < xmax)
        return Snapshot(min(xip, default=xmax), xmax, xip)

    def seen(self) -> frozenset[int]:
        """The xids of all transactions and subtransactions that a query sees now, in whatever database."""
        return frozenset(self.visible)

    def recovered(self, lsn: LSN) -> frozenset[int]:
        """The xids of all that is there when recovery ends just before an LSN."""
        return frozenset(xid for at, _, xids in self.written if at < lsn for xid in xids)

    def points(self) -> list[LSN]:
        """Where a recovery can end that leaves out at least one commit."""
        return [at for at, _, _ in self.written]

    def _end(self, one: Transaction) -> None:
        self.running.remove(one)
        self.latest_completed = max(self.latest_completed, one.xid, *one.children)

    def _write(self, xid: int, *, committed: bool) -> LSN:
        lsn = LSN(0x1000 + 64 * len(self.records))
        self.records.append(CommitRecord(lsn, xid % WRAP, None, committed))
        return lsn
