"""The exact cut against a model of how PostgreSQL commits: the record first, visibility some time later."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.validation.cut import Snapshot, find_cut
from pgproof.wal.lsn import LSN
from pgproof.wal.records import CommitRecord

WRAP = 1 << 32
FIRST_NORMAL_XID = 3  # after a wrap the xids 0, 1 and 2 are left out


@dataclass
class Server:
    """What a server does with transactions, and what its WAL and its snapshots then show."""

    next_xid: int
    running: list[int] = field(default_factory=list)  # in ProcArray: not visible yet
    recorded: list[int] = field(default_factory=list)  # of those running, with their commit in WAL
    visible: set[int] = field(default_factory=set)
    records: list[CommitRecord] = field(default_factory=list)
    latest_completed: int = 0

    def __post_init__(self) -> None:
        self.latest_completed = self.next_xid - 1

    def begin(self, _: int) -> None:
        while self.next_xid % WRAP < FIRST_NORMAL_XID:
            self.next_xid += 1
        self.running.append(self.next_xid)
        self.next_xid += 1

    def record_commit(self, choice: int) -> None:
        if waiting := [xid for xid in self.running if xid not in self.recorded]:
            xid = waiting[choice % len(waiting)]
            self.recorded.append(xid)
            self._write(xid, committed=True)

    def show(self, choice: int) -> None:
        if self.recorded:
            xid = self.recorded.pop(choice % len(self.recorded))
            self.visible.add(xid)
            self._end(xid)

    def abort(self, choice: int) -> None:
        if waiting := [xid for xid in self.running if xid not in self.recorded]:
            xid = waiting[choice % len(waiting)]
            self._write(xid, committed=False)
            self._end(xid)

    def commit_without_xid(self, _: int) -> None:
        self._write(0, committed=True)

    def snapshot(self) -> Snapshot:
        """As ``GetSnapshotData``: xmax is past the newest ended xid, xip what runs below it."""
        xmax = self.latest_completed + 1
        xip = frozenset(xid for xid in self.running if xid < xmax)
        return Snapshot(min(xip, default=xmax), xmax, xip)

    def _end(self, xid: int) -> None:
        self.running.remove(xid)
        self.latest_completed = max(self.latest_completed, xid)

    def _write(self, xid: int, *, committed: bool) -> None:
        lsn = LSN(0x1000 + 64 * len(self.records))
        self.records.append(CommitRecord(lsn, xid % WRAP, None, committed))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "record_commit", "record_commit", "show", "show", "abort"])
        | st.just("commit_without_xid"),
        st.integers(0, 50),
    ),
    max_size=60,
)
# far from a wrap, around the first ones, and around one late in the life of a cluster
FIRST_XIDS = st.builds(
    lambda epoch, offset: max(FIRST_NORMAL_XID, epoch * WRAP + offset),
    st.sampled_from([0, 1, 2, 77, (1 << 31) - 2]),
    st.integers(-40, 40) | st.just(1 << 31) | st.just((1 << 31) + 7),
)


@settings(max_examples=600, deadline=None, database=None)
@given(FIRST_XIDS, STEPS, STEPS)
def test_a_cut_is_exact_if_and_only_if_the_snapshot_is_a_point_of_the_wal(
    first: int, before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    server = Server(first)
    for action, choice in before:
        getattr(server, action)(choice)
    snapshot, visible = server.snapshot(), set(server.visible)
    for action, choice in after:
        getattr(server, action)(choice)

    cut = find_cut(Snapshot.parse(str(snapshot)), server.records)

    commits = [(r.lsn, r.xid) for r in server.records if r.committed and r.xid]
    seen = {xid % WRAP for xid in visible}
    points = [lsn for lsn, xid in commits if xid not in seen and {x for at, x in commits if at < lsn} == seen]
    assert cut.exact == bool(points)
    if cut.exact:
        assert cut.lsn == points[0]
        assert cut.reason == ""
    else:
        assert cut.reason


@settings(max_examples=300, deadline=None, database=None)
@given(FIRST_XIDS, STEPS)
def test_a_snapshot_sees_what_is_visible_and_nothing_else(first: int, steps: list[tuple[str, int]]) -> None:
    server = Server(first)
    for action, choice in steps:
        getattr(server, action)(choice)
    snapshot = server.snapshot()
    for xid in server.visible:
        assert snapshot.sees(xid % WRAP)
    for xid in server.running:
        assert not snapshot.sees(xid % WRAP)


@pytest.mark.parametrize(
    ("xmax", "xid", "wide"),
    [
        (1000, 999, 999),
        (1000, 1000, 1000),
        (WRAP + 5, WRAP - 1, WRAP - 1),  # of the epoch before
        (WRAP + 5, 4, WRAP + 4),
        (WRAP - 2, 3, WRAP + 3),  # of the epoch after
        (7 * WRAP + 100, 100 + (1 << 31) - 1, 7 * WRAP + 100 + (1 << 31) - 1),
        (7 * WRAP + 100, (100 + (1 << 31)) % WRAP, 7 * WRAP + 100 - (1 << 31)),
    ],
)
def test_an_xid_of_wal_gets_the_epoch_that_is_nearest(xmax: int, xid: int, wide: int) -> None:
    assert Snapshot(xmax, xmax, frozenset()).widen(xid % WRAP) == wide


@pytest.mark.parametrize("text", ["3:3:", "700:705:700,703", f"{WRAP - 1}:{WRAP + 4}:{WRAP - 1},{WRAP + 3}"])
def test_a_snapshot_prints_as_it_was_read(text: str) -> None:
    assert str(Snapshot.parse(text)) == text


@pytest.mark.parametrize("bad", ["", "1:2", "1:2:3:4", "a:b:", "1:2:x"])
def test_snapshot_bad(bad: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Snapshot.parse(bad)


def test_without_a_commit_after_the_fence_there_is_no_cut() -> None:
    snapshot = Snapshot(10, 10, frozenset())
    for records in ([], [CommitRecord(LSN(1), 9, None, True)], [CommitRecord(LSN(1), 11, None, False)]):
        cut = find_cut(snapshot, records)
        assert not cut.exact
        assert cut.reason == "no commit after the fence is in the archive"


def test_a_cut_that_is_not_exact_names_both_transactions() -> None:
    records = [CommitRecord(LSN(0x10), 12, None, True), CommitRecord(LSN(0x20), 11, None, True)]
    assert find_cut(Snapshot(12, 13, frozenset({12})), records).reason == (
        "transaction 12 at 0/10 is not seen, but 11 at 0/20, which committed after it, is"
    )
