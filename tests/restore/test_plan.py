"""The restore plan, from facts alone: which backup, along which timeline, with which WAL; or a refusal."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.backups.record import Tablespace, Volume
from pgproof.errors import (
    DestinationRefused,
    InvalidTarget,
    NoBackup,
    NoRoom,
    PgproofError,
    TargetOutsideWindow,
    WalGap,
)
from pgproof.repository.repository import StoredObject
from pgproof.restore.destination import Destination, look_at_destination
from pgproof.restore.locate import Located, WalReader
from pgproof.restore.plan import RestorePlan, RestoreRequest, plan_restore
from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing
from pgproof.wal.records import CommitRecord
from pgproof.wal.runs import Numbers
from tests.retention.archives import NOON, entry
from tests.wal.listings import at, catalog, listing, name

TO = Path("/nowhere/restored")
END = RecoveryTarget()


def hour(number: int) -> object:
    return NOON + timedelta(hours=number)


A = entry("A", NOON, 3)
B = entry("B", NOON + timedelta(hours=4), 7)
C = entry("C", NOON + timedelta(hours=8), 11)


class Reader(WalReader):
    """Commits at known places, instead of segments read by pg_waldump: segment n commits at n o'clock.

    Args:
        xids: where transactions end.
        later: hours by which the commits of a timeline are later, such as those after a restore to an earlier point.
    """

    def __init__(
        self, xids: Mapping[str, float] | None = None, later: Mapping[int, int] | None = None
    ) -> None:
        self.xids, self.later = xids or {}, later or {}
        self.read: list[WalSegment] = []

    def commits(self, segment: WalSegment) -> list[CommitRecord]:
        self.read.append(segment)
        hours = segment.number - 3 + self.later.get(segment.timeline, 0)
        return [CommitRecord(at(segment.number + 0.5), 800, NOON + timedelta(hours=hours), True)]

    def locate_record(self, segments: Sequence[WalSegment], kind: str, value: str) -> Located | None:
        self.read += segments
        if value in self.xids and int(self.xids[value]) in {segment.number for segment in segments}:
            return Located(at(self.xids[value]), None)
        return None


def room_enough(data: Path, tablespaces: Sequence[Path]) -> Destination:
    paths = (data, *tablespaces)
    return Destination(dict.fromkeys(paths), dict.fromkeys(paths, 1 << 50))


def plan(
    backups: Catalog,
    found: WalListing,
    target: RecoveryTarget = END,
    *,
    reader: Reader | None = None,
    **options: object,
) -> RestorePlan:
    request = RestoreRequest(TO, target, **options)  # type: ignore[arg-type]
    return plan_restore(request, backups, lambda size: found, lambda major: reader or Reader(), room_enough)


def lsn(segment: float, timeline: int | None = None) -> RecoveryTarget:
    return RecoveryTarget("lsn", str(at(segment)), timeline=timeline)


class TestChoice:
    """Proven before newer, newer before older, and none that WAL does not reach from."""

    everything = listing(range(3, 15))

    def chosen(
        self, *entries: BackupEntry, target: RecoveryTarget = END, **options: object
    ) -> tuple[str, str]:
        made = plan(catalog(*entries), self.everything, target, **options)
        return made.record.label, made.reason

    def test_newest(self) -> None:
        assert self.chosen(A, B, C) == ("C", "the newest one before the target")

    def test_proven_is_preferred(self) -> None:
        proven = entry("B", B.record.stopped_at, 7, proven=True)
        assert self.chosen(A, proven, C) == ("B", "the newest proven one before the target")

    def test_failed_comes_last(self) -> None:
        failed = entry("C", C.record.stopped_at, 11, failed="2 tables differ")
        assert self.chosen(A, B, failed) == ("B", "the newest one before the target")
        assert self.chosen(failed) == ("C", "the only kind left: its last drill failed")
        made = plan(catalog(failed), self.everything)
        assert made.warnings[0] == "the last restore drill of backup C failed: 2 tables differ"

    def test_before_the_target(self) -> None:
        assert self.chosen(A, B, C, target=lsn(9))[0] == "B"
        assert self.chosen(A, B, C, target=lsn(7.001))[0] == "A"  # B ends behind it
        assert self.chosen(A, B, C, target=RecoveryTarget.build(time=f"{hour(3)}"))[0] == "A"
        assert self.chosen(A, B, C, target=RecoveryTarget.build(immediate=True))[0] == "C"

    def test_named(self) -> None:
        assert self.chosen(A, B, C, label="A") == ("A", "named by --backup")
        with pytest.raises(TargetOutsideWindow) as caught:
            self.chosen(A, B, C, label="C", target=lsn(9))
        assert str(caught.value) == (
            "recovery target lsn 0/900000 is outside the recovery window\n"
            "DETAIL: Backup C ended at LSN 0/B01000. The first backup ended at 2026-11-23 20:00:00+0000, "
            "LSN 0/B01000.\nHINT: pgproof wal check NAME shows the recovery windows"
        )
        with pytest.raises(NoBackup, match='backup "D" does not exist'):
            self.chosen(A, B, C, label="D")

    def test_no_backup_at_all(self) -> None:
        with pytest.raises(NoBackup, match="there is no backup yet"):
            self.chosen()

    def test_parent_missing(self) -> None:
        child = entry("C", C.record.stopped_at, 11, parent="lost")
        assert self.chosen(A, B, child)[0] == "B"
        with pytest.raises(NoBackup) as caught:
            self.chosen(A, B, child, label="C")
        assert str(caught.value) == (
            'backup "C" cannot be restored\nDETAIL: It builds on "lost", which does not exist.\n'
            "HINT: pgproof list NAME shows the others"
        )
        whole = entry("C", C.record.stopped_at, 11, parent="B")
        made = plan(catalog(A, B, whole), self.everything)
        assert [record.label for record in made.chain] == ["B", "C"]


class TestGaps:
    def test_the_gap_is_named(self) -> None:
        with pytest.raises(WalGap) as caught:
            plan(catalog(A), listing({3, 4, 6, 7}))
        assert str(caught.value).startswith(
            f'WAL segment "{name(5)}" is missing from the archive\n'
            "DETAIL: It holds LSN 0/500000 to 0/600000, needed from backup A to the end of the archived WAL.\n"
        )

    def test_falls_back_to_a_backup_behind_the_gap(self) -> None:
        proven = entry("A", A.record.stopped_at, 3, proven=True)
        made = plan(catalog(proven, B), listing({3, 4, 6, 7, 8}))
        assert (made.record.label, made.reason) == ("B", "the newest one before the target")
        assert made.warnings[0] == (
            f'backup A was passed over: WAL segment "{name(5)}" is missing from the archive'
        )

    def test_of_several_gaps_that_of_the_preferred_backup_is_told(self) -> None:
        with pytest.raises(WalGap, match=name(8)):
            plan(catalog(A, B), listing({3, 5, 7, 9}))

    def test_only_what_the_target_needs(self) -> None:
        found = listing({3, 4, 6})
        assert [s.number for s in plan(catalog(A), found, lsn(4.5)).segments] == [3, 4]
        assert [s.number for s in plan(catalog(A), found, lsn(5)).segments] == [3, 4]
        with pytest.raises(WalGap):
            plan(catalog(A), found, lsn(5.5))
        immediate = plan(catalog(A), found, RecoveryTarget.build(immediate=True))
        assert [s.number for s in immediate.segments] == [3]
        assert immediate.reach == A.record.stop_lsn


RESTORED = {2: 24}  # timeline 2 began a day later, by a restore to an earlier point


class TestTimelines:
    """A was taken on timeline 1, which timeline 2 left at 5.5; B on timeline 1 after that."""

    found = listing(range(3, 20), range(5, 9), t2="1 5.5")

    def test_the_future_that_began_when_the_other_had_ended(self) -> None:
        made = plan(catalog(A), self.found, reader=Reader(later=RESTORED))
        assert made.history.timeline == 2
        assert [(s.timeline, s.number) for s in made.segments] == [
            (1, 3),
            (1, 4),
            (2, 5),
            (2, 6),
            (2, 7),
            (2, 8),
        ]
        assert made.reach == at(9)  # though timeline 1 goes on to 20

    def test_the_timeline_that_was_left(self) -> None:
        made = plan(catalog(A, B), self.found, RecoveryTarget(timeline=1))
        assert (made.history.timeline, made.record.label, made.reach) == (1, "B", at(20))
        assert {s.timeline for s in made.segments} == {1}

    def test_a_backup_behind_the_fork_is_of_another_future(self) -> None:
        """It is the stop LSN that must lie before the fork."""

        def chosen(*entries: BackupEntry) -> str:
            return plan(catalog(*entries), self.found, reader=Reader(later=RESTORED)).record.label

        assert chosen(A, B) == "A"
        across = entry("across", B.record.stopped_at, 5, stop_lsn=at(5.75))
        assert chosen(A, across) == "A"
        until = entry("until", B.record.stopped_at, 5, stop_lsn=at(5.5))
        assert chosen(A, until) == "until"
        with pytest.raises(TargetOutsideWindow, match="Backup B ended at LSN 0/701000"):
            plan(catalog(A, B), self.found, RecoveryTarget(timeline=2), label="B")

    def test_a_named_backup_chooses_its_timeline(self) -> None:
        assert plan(catalog(A, B), self.found, label="B").history.timeline == 1

    def test_no_backup_on_the_timeline(self) -> None:
        with pytest.raises(NoBackup) as caught:
            plan(catalog(B), self.found, RecoveryTarget(timeline=2))
        assert str(caught.value) == (
            "no backup lies on timeline 2\nDETAIL: The backups are on timelines [1].\n"
            "HINT: choose another --target-timeline; pgproof list NAME"
        )

    def test_unknown_timeline(self) -> None:
        with pytest.raises(InvalidTarget, match=r"^timeline 3 is not in the archive"):
            plan(catalog(A), self.found, RecoveryTarget(timeline=3))

    def test_target_behind_the_end_of_the_path(self) -> None:
        with pytest.raises(TargetOutsideWindow, match="The archive reaches from 0/301000 to 0/900000"):
            plan(catalog(A), self.found, lsn(12), reader=Reader(later=RESTORED))
        assert plan(catalog(A), self.found, lsn(12, timeline=1)).reach == at(12)

    def test_just_promoted(self) -> None:
        """The history is archived, and no segment of the new timeline yet."""
        made = plan(catalog(A), listing(range(3, 5), (), t2="1 5.5"))
        assert made.history.timeline == 2
        assert [s.number for s in made.segments] == [3, 4]


class TestTarget:
    found = listing(range(3, 15))

    def test_time_between_two_commits(self) -> None:
        """Segment n commits at n - 3 o'clock: half past two lies before the commit of segment 6."""
        time = NOON + timedelta(hours=2, minutes=30)
        made = plan(catalog(A), self.found, RecoveryTarget.build(time=time.isoformat()))
        assert (made.reach, made.segments[-1].number) == (at(6.5), 6)

    def test_time_is_found_by_halving(self) -> None:
        reader = Reader()
        target = RecoveryTarget.build(time=(NOON + timedelta(hours=90)).isoformat())
        plan(catalog(A), listing(range(3, 130)), target, reader=reader)
        assert len(reader.read) < 12

    @pytest.mark.parametrize("hours", [-1, 30])
    def test_time_outside(self, hours: int) -> None:
        target = RecoveryTarget.build(time=(NOON + timedelta(hours=hours)).isoformat())
        with pytest.raises(TargetOutsideWindow):
            plan(catalog(A), self.found, target)

    @pytest.mark.parametrize(("kind", "value"), [("xid", "801"), ("name", "mark")])
    def test_record(self, kind: str, value: str) -> None:
        reader = Reader({value: 9.25})
        made = plan(catalog(A, C), self.found, RecoveryTarget(kind, value), reader=reader)
        assert (made.record.label, made.reach) == ("A", at(9.25))
        assert [s.number for s in made.segments] == list(range(3, 10))
        with pytest.raises(TargetOutsideWindow, match="It is in no archived WAL from 0/301000 to 0/F00000"):
            plan(catalog(A, C), self.found, RecoveryTarget(kind, "other"), reader=reader)

    def test_record_inside_the_first_backup(self) -> None:
        """Before the stop LSN there is no consistent state to stop at."""
        with pytest.raises(TargetOutsideWindow):
            plan(catalog(A), self.found, RecoveryTarget("name", "mark"), reader=Reader({"mark": 3.0001}))


class TestDestination:
    def refused(self, destination: Destination, record: BackupEntry = A, **options: object) -> PgproofError:
        request = RestoreRequest(TO, **options)  # type: ignore[arg-type]
        with pytest.raises(PgproofError) as caught:
            plan_restore(
                request,
                catalog(record),
                lambda size: listing({3}),
                lambda major: Reader(),
                lambda r, t: destination,
            )
        return caught.value

    def test_fault(self) -> None:
        error = self.refused(Destination({TO: "it is not empty"}, {TO: 1 << 50}))
        assert isinstance(error, DestinationRefused)
        assert error.detail == "Reason: it is not empty. Nothing was written."

    def test_room(self) -> None:
        error = self.refused(Destination({TO: None}, {TO: 299}))
        assert isinstance(error, NoRoom)
        assert str(error) == (
            f'too little room at "{TO}"\nDETAIL: The restore needs 300 bytes there; 299 are free. Nothing was written.'
        )

    def test_room_on_several_file_systems(self) -> None:
        """Each must hold its own part, and one that holds two of them both."""
        space = Path("/other/space")
        record = with_tablespace(A, size=500)
        assert isinstance(
            self.refused(
                Destination({TO: None, space: None}, {TO: 300, space: 499}, {TO: 1, space: 2}), record
            ),
            NoRoom,
        )
        one_disk = Destination({TO: None, space: None}, {TO: 799, space: 799}, {TO: 1, space: 1})
        assert "needs 800 bytes there" in str(self.refused(one_disk, record))
        enough = Destination({TO: None, space: None}, {TO: 300, space: 500}, {TO: 1, space: 2})
        request = RestoreRequest(TO)
        made = plan_restore(
            request, catalog(record), lambda size: listing({3}), lambda major: Reader(), lambda r, t: enough
        )
        assert made.room == 800

    def test_unknown_tablespace(self) -> None:
        error = self.refused(Destination({}, {}), tablespaces={"/a": "/b"})
        assert (
            str(error)
            == 'tablespace "/a" is not in backup "A"\nDETAIL: It has: none. Recovery creates: none.'
        )

    def test_look(self, tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        (tmp_path / "empty").mkdir()
        paths = [tmp_path / "full", tmp_path / "empty", tmp_path / "a" / "b", tmp_path / "full" / "file"]
        found = look_at_destination(paths[0], [*paths[1:], paths[1], Path("relative")])
        assert found.usable == {
            paths[0]: "it is not empty: it has 1 entries, such as file",
            paths[1]: "two directories of the backup would share it",
            paths[2]: None,
            paths[3]: "it is not a directory",
            Path("relative"): "it is not an absolute path",
        }
        assert set(found.free) == set(found.device) == set(found.usable)


def with_tablespace(base: BackupEntry, size: int) -> BackupEntry:
    volume = Volume(StoredObject("key", 1, "x"), 16385, size)
    record = replace(
        base.record, volumes=(*base.record.volumes, volume), tablespaces=(Tablespace(16385, "/other/space"),)
    )
    return replace(base, record=record)


def test_steps_and_warnings() -> None:
    found = listing(range(3, 15))
    proven = entry("A", NOON, 3, proven=True)
    made = plan(catalog(proven), found, lsn(9), target_action="promote", take_over=True)
    assert made.steps() == [
        "backup A (full, the newest proven one before the target)",
        f"make {TO} with mode 0700",
        "extract 1 volume of A, checked by SHA-256",
        "recover along timeline 1 to lsn 0/900000, then promote",
        "nothing isolates it: archiving, subscriptions and extensions stay as configured",
        "move pg_control into place, which makes the directory startable",
    ]
    assert made.warnings == ()
    chain = catalog(A, entry("B", B.record.stopped_at, 7, parent="A"))
    standby = plan(chain, found, standby=True)
    assert standby.steps()[2:7] == [
        "extract 1 volume of A, checked by SHA-256",
        "extract 1 volume of B, checked by SHA-256",
        "combine 2 backups with pg_combinebackup",
        "leave out the visibility maps, which incremental backups have wrong; VACUUM makes them",
        "write standby.signal and restore_command",
    ]
    assert standby.warnings == ("backup B is not proven by a restore drill yet",)
    assert plan(catalog(A), found).steps()[3] == (
        "recover along timeline 1 to the end of the archived WAL, then open for writing"
    )
    damaged = Catalog((A,), (), (("Z", "its record is damaged"),))
    assert plan(damaged, found).warnings[0] == "backup Z was not considered: its record is damaged"


@pytest.mark.parametrize(("backups", "segments"), [(365, 21_000), (2_000, 120_000)])
def test_many_backups_behind_one_gap(backups: int, segments: int) -> None:
    """Every backup is passed over, and what was looked at for it is let go: a year of them took 455 MB."""
    step = (segments - 100) // backups
    every = catalog(*(entry(f"{n:05}", NOON + timedelta(minutes=n), 3 + n * step) for n in range(backups)))
    found = listing([*range(3, segments - 10), *range(segments - 9, segments)])
    tracemalloc.start()
    before = time.process_time()
    with pytest.raises(WalGap, match=name(segments - 10)):
        plan(every, found)
    took, (_, peak) = time.process_time() - before, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    assert took < 30


def test_segments_have_the_size_of_the_cluster() -> None:
    sixteen = entry("A", NOON, 3, segment_size=16 << 20)
    sizes: list[int] = []

    def listing_of(size: int) -> WalListing:
        sizes.append(size)
        return WalListing(size, {1: Numbers({3, 4})})

    made = plan_restore(RestoreRequest(TO), catalog(sixteen), listing_of, lambda major: Reader(), room_enough)
    assert sizes == [16 << 20]
    assert [segment.name for segment in made.segments] == [
        "000000010000000000000003",
        "000000010000000000000004",
    ]
