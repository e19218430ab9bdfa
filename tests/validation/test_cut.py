"""The exact cut against a model of how PostgreSQL commits: what is accepted is what a recovery would give.

The model is tests/validation/commit_model.py. Of the ways to break the algorithm that were tried by hand (xip ignored,
``<=`` for ``<`` at xmin or at xmax, no check of what comes later, an abort taken for a commit, 32-bit xids as they are,
the last unseen commit instead of the first), each makes one of these tests fail.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgproof.timelines.lsn import LSN
from pgproof.validation.fences.burst import Candidate, choose, cuts_of, find_cuts
from pgproof.validation.fences.cut import Snapshot, find_cut
from pgproof.wal.records import CommitRecord
from tests.validation.commit_model import DATABASES, FIRST_NORMAL_XID, WRAP, Server

Steps = list[tuple[str, int]]
ACTIONS = [
    *["begin", "record_commit", "show"] * 3,
    *["abort", "savepoint", "roll_back_to_savepoint", "prepare", "commit_without_xid"],
]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 50)), max_size=60)
# far from a wrap, around the first ones, and around one late in the life of a cluster
FIRST_XIDS = st.builds(
    lambda epoch, offset: max(FIRST_NORMAL_XID, epoch * WRAP + offset),
    st.sampled_from([0, 1, 2, 77, (1 << 31) - 2]),
    st.integers(-40, 40) | st.just(1 << 31) | st.just((1 << 31) + 7),
)


def run(server: Server, steps: Steps) -> None:
    for action, choice in steps:
        getattr(server, action)(choice)


@settings(max_examples=800, database=None)
@given(FIRST_XIDS, STEPS, STEPS)
def test_a_cut_is_found_if_and_only_if_a_recovery_can_give_what_was_seen(
    first: int, before: Steps, after: Steps
) -> None:
    server = Server(first)
    run(server, before)
    snapshot, seen = server.snapshot(), server.seen()
    run(server, after)

    cut = find_cut(Snapshot.parse(str(snapshot)), server.records)

    exact = [lsn for lsn in server.points() if server.recovered(lsn) == seen]
    assert cut.exact == bool(exact)
    if cut.lsn is not None:
        assert server.recovered(cut.lsn) == seen
        assert cut.lsn == exact[0]
        assert cut.reason == ""
    else:
        assert cut.reason


@settings(max_examples=400, database=None)
@given(FIRST_XIDS, STEPS, st.lists(STEPS.map(lambda steps: steps[:3]), min_size=1, max_size=9), STEPS)
def test_a_cut_of_several_databases_is_what_each_of_them_saw(
    first: int, before: Steps, between: list[Steps], after: Steps
) -> None:
    """Snapshots of one database after the other, with something happening between them, or nothing."""
    server = Server(first)
    run(server, before)
    burst: dict[str, list[Candidate]] = {str(number): [] for number in range(DATABASES)}
    saw: dict[int, frozenset[int]] = {}
    for number, steps in enumerate(between):
        candidate = Candidate(str(number % DATABASES), None, server.snapshot())  # type: ignore[arg-type]
        saw[id(candidate)] = server.seen()
        burst[candidate.database].append(candidate)
        run(server, steps)
    run(server, after)

    candidates = [candidate for found in burst.values() for candidate in found]
    exact = find_cuts(candidates, server.records)
    chosen = choose(burst)

    possible = {
        id(one): {lsn for lsn in server.points() if server.recovered(lsn) == saw[id(one)]}
        for one in candidates
    }
    assert exact == sum(bool(points) for points in possible.values())
    assert chosen.keys() == {name for name, found in burst.items() if any(possible[id(one)] for one in found)}
    for name, candidate in chosen.items():
        assert candidate in burst[name]
        assert candidate.lsn is not None
        assert server.recovered(candidate.lsn) == saw[id(candidate)]
    reached = [set().union(*(possible[id(one)] for one in burst[name])) for name in chosen]
    common = set.intersection(*reached) if reached else set()
    assert (len(cuts_of(chosen.values())) == 1) == bool(common)


@settings(max_examples=400, database=None)
@given(FIRST_XIDS, STEPS, STEPS, st.integers(0, 30))
def test_a_commit_from_before_the_wal_that_is_looked_at_moves_no_cut_when_it_is_known_to_wait(
    first: int, before: Steps, after: Steps, lost: int
) -> None:
    """The WAL begins anywhere before the snapshot; what waits for a standby is told apart."""
    server = Server(first)
    run(server, before)
    begin = server.records[min(lost, len(server.records) - 1)].lsn if server.records else LSN(0)
    candidate = Candidate("0", None, server.snapshot())  # type: ignore[arg-type]
    seen = server.seen()
    waiting = [one.xid % WRAP for one in server.running if one.recorded]
    run(server, after)

    find_cuts([candidate], [record for record in server.records if record.lsn >= begin], waiting)

    if candidate.lsn is not None:
        assert server.recovered(candidate.lsn) == seen
    else:
        assert candidate.reason


@settings(max_examples=300, database=None)
@given(FIRST_XIDS, STEPS)
def test_a_snapshot_sees_what_is_visible_and_nothing_else(first: int, steps: Steps) -> None:
    server = Server(first)
    run(server, steps)
    snapshot = server.snapshot()
    for _, _, xids in server.written:
        for xid in xids & server.visible:
            assert snapshot.sees(xid % WRAP)
    for one in server.running:
        assert not snapshot.sees(one.xid % WRAP)


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
