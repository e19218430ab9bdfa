"""Every kind of recovery target on a real server: exactly the rows that it means, no more and no less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgproof.backups.record import BackupRecord
from pgproof.restore.execute import make_startable, place_files
from pgproof.restore.extract import CONTROL, CONTROL_ASIDE
from pgproof.restore.locate import WalReader
from pgproof.restore.plan import RestoreRequest
from pgproof.restore.procedure import make_plan
from pgproof.restore.target import RecoveryTarget
from pgproof.timelines.history import TimelineHistory
from pgproof.wal.archive import list_wal, segments_between
from tests.drills.damage import answer, tree
from tests.servers.postgres import Source, now, running_source

LEFT_OVER = (
    "restore_command = 'false'",
    "recovery_target_name = 'of an earlier restore'",
    "recovery_target_timeline = '7'",
    "recovery_target_action = 'shutdown'",
    "primary_conninfo = 'host=/nowhere'",
    "primary_slot_name = 'slot'",
    "archive_cleanup_command = 'false'",
    "recovery_end_command = 'false'",
)


@dataclass
class Life:
    """A source that committed rows 0 to 6 one by one, with where each commit lies."""

    source: Source
    record: BackupRecord
    xids: list[int] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    lsns: list[str] = field(default_factory=list)
    moments: list[datetime] = field(default_factory=list)

    def target(self, name: str) -> list[str]:
        """Options of a target: ``xid:2`` is the transaction of row 3, ``moment:2`` a time after it."""
        kind, _, at = name.partition(":")
        values = {"xid": self.xids, "lsn": self.lsns, "time": self.times, "moment": self.moments}
        if kind in values:
            return [f"--target-{kind.replace('moment', 'time')}", str(values[kind][int(at)])]
        return {"name": ["--target-name", at], "immediate": ["--target-immediate"], "end": []}[kind]


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    with running_source(17, track_commit_timestamp="on") as source:
        for line in LEFT_OVER:
            source.sql(f"ALTER SYSTEM SET {line}")
        source.sql("ALTER SYSTEM SET work_mem = '5MB'")
        source.sql("CREATE TABLE t (g int)")
        source.sql("INSERT INTO t VALUES (0)")
        lived = Life(source, source.backup())
        with source.connect() as connection:
            for row in range(1, 7):
                with connection.transaction():
                    xid = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
                    connection.execute("INSERT INTO t VALUES (%s)", (row,))
                assert xid is not None
                lived.xids.append(xid[0])
                facts = connection.execute(
                    "SELECT pg_xact_commit_timestamp(%s::text::xid), clock_timestamp()", xid
                ).fetchone()
                assert facts is not None
                lived.times.append(facts[0])
                lived.moments.append(facts[1])
                connection.execute("SELECT pg_sleep(0.01)")
                if row == 3:
                    connection.execute("SELECT pg_create_restore_point('it''s; the mark')")
                if row == 5:
                    source.archive_now()
        source.archive_now()
        reader = WalReader(source.archive, source.bin)
        listing = list_wal(source.archive, 1 << 20)
        newest = listing.newest(1)
        assert newest is not None
        segments = segments_between(TimelineHistory(1), lived.record.first_segment, newest.end)
        commits = {commit.xid: str(commit.lsn) for segment in segments for commit in reader.commits(segment)}
        lived.lsns += [commits[xid] for xid in lived.xids]
        yield lived


# rows are counted from 1 here, the lists from 0: index 2 is the commit of row 3
CASES = [
    ("end", [], 6),
    ("immediate", [], 0),
    ("moment:2", [], 3),
    ("time:2", [], 3),
    ("time:2", ["--exclusive"], 2),
    ("lsn:2", [], 3),
    ("lsn:2", ["--exclusive"], 2),
    ("xid:2", [], 3),
    ("xid:2", ["--exclusive"], 2),
    ("name:it's; the mark", [], 3),
]


@pytest.mark.parametrize(
    ("target", "options", "last"), CASES, ids=lambda v: " ".join(v) if isinstance(v, list) else str(v)
)
def test_target(life: Life, tmp_path: Path, target: str, options: list[str], last: int) -> None:
    data = tmp_path / "restored"
    words = [
        "restore",
        "main",
        "--to",
        str(data),
        "--target-action",
        "promote",
        *life.target(target),
        *options,
    ]
    code, _, err = answer(life.source, *words)
    assert code == 0, err
    with life.source.copy(data) as connection:
        row = connection.execute(
            "SELECT array_agg(g ORDER BY g), current_setting('archive_mode'), current_setting('work_mem') FROM t"
        ).fetchone()
    assert row == (list(range(last + 1)), "off", "5MB")


@pytest.mark.parametrize(
    ("target", "options", "last"), CASES[2:], ids=lambda v: " ".join(v) if isinstance(v, list) else str(v)
)
def test_the_plan_names_the_commits_on_both_sides(
    life: Life, tmp_path: Path, target: str, options: list[str], last: int
) -> None:
    """What ``test_target`` finds in the rows is what the dry run had said."""
    words = ["restore", "main", "--to", str(tmp_path / "x"), "--dry-run", "--json", *life.target(target)]
    code, out, err = answer(life.source, *words, *options)
    assert code == 0, err

    def named(row: int) -> str:
        time = life.times[row - 1].astimezone(UTC)
        return f"transaction {life.xids[row - 1]} of {time:%F %T.%f%z} at LSN {life.lsns[row - 1]}"

    steps = json.loads(out)["steps"]
    assert steps[-4:-2] == [
        f"the last commit that will be there: {named(last)}",
        f"the first commit that will not be there: {named(last + 1)}",
    ]


def test_no_commits_are_named_at_the_end_and_as_soon_as_consistent(life: Life, tmp_path: Path) -> None:
    for options in ([], ["--target-immediate"]):
        words = ["restore", "main", "--to", str(tmp_path / "x"), "--dry-run", "--json", *options]
        code, out, err = answer(life.source, *words)
        assert code == 0, err
        assert not [step for step in json.loads(out)["steps"] if " commit that will " in step]


def test_pause_is_the_default(life: Life, tmp_path: Path) -> None:
    """A look before it counts: read-only at the target, and the next steps are told."""
    data = tmp_path / "restored"
    code, out, err = answer(life.source, "restore", "main", "--to", str(data), *life.target("xid:2"))
    assert code == 0, err
    assert f"\n  pgproof start {data}\n  pgproof accept {data}  # " in out
    with life.source.copy(data, open_for_writing=False) as connection:
        assert connection.execute("SELECT array_agg(g ORDER BY g) FROM t").fetchone() == ([0, 1, 2, 3],)


def test_nothing_of_an_earlier_restore_is_left(life: Life, tmp_path: Path) -> None:
    data = tmp_path / "restored"
    assert answer(life.source, "restore", "main", "--to", str(data), *life.target("xid:2"))[0] == 0
    before = (life.source.data / "postgresql.auto.conf").read_text()
    after = (data / "postgresql.auto.conf").read_text()
    for line in LEFT_OVER:
        assert line in before
        assert line not in after
    assert "work_mem = '5MB'" in after
    assert f"recovery_target_xid = '{life.xids[2]}'" in after
    assert "archive_mode = 'off'" in after
    assert (data / "recovery.signal").exists()
    assert not (data / "standby.signal").exists()
    assert data.stat().st_mode & 0o777 == 0o700


def test_take_over_leaves_archiving_as_it_is(life: Life, tmp_path: Path) -> None:
    data = tmp_path / "restored"
    done = answer(life.source, "restore", "main", "--to", str(data), "--take-over")
    assert done[0] == 0
    assert "archive_mode" not in (data / "postgresql.auto.conf").read_text()


@pytest.mark.parametrize("options", [[], ["--target-immediate", "--target-action", "promote", "--take-over"]])
def test_dry_run_is_the_plan_and_writes_nothing(life: Life, tmp_path: Path, options: list[str]) -> None:
    data = tmp_path / "restored"
    words = ["restore", "main", "--to", str(data), "--json", *options]
    before = tree(life.source.repository_path)
    code, dry, _ = answer(life.source, *words, "--dry-run")
    assert code == 0
    assert not data.exists()
    assert list(tmp_path.iterdir()) == []
    assert tree(life.source.repository_path) == before
    code, real, _ = answer(life.source, *words)
    assert code == 0
    after = tree(life.source.repository_path)
    assert {path: what for path, what in after.items() if "/restores" not in path} == {
        path: what for path, what in before.items() if "/restores" not in path
    }
    planned, did = json.loads(dry), json.loads(real)
    assert (planned.pop("done"), did.pop("done")) == (False, True)
    assert planned == did
    code, page, _ = answer(life.source, "restore", "main", "--to", str(tmp_path / "other"), "--dry-run")
    assert code == 0
    assert page.endswith("dry run: nothing was written\n")


class Stop(Exception):
    """The operator's Ctrl-C, a power cut: whatever ends a restore."""


def test_a_restore_that_stops_after_any_step_cannot_start(life: Life, tmp_path: Path) -> None:
    """pg_control is moved into place last."""
    source, archive = life.source, life.source.archive
    volumes = len(life.record.volumes)
    for step in range(1, volumes + 1):
        data = tmp_path / f"stopped-{step}"
        plan = make_plan(
            source.config, source.cluster, archive, RestoreRequest(data, RecoveryTarget()), now()
        )
        left = [step]

        def progress(size: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Stop

        with pytest.raises(Stop):
            place_files(plan, archive, source.bin, workers=1, progress=progress)
        assert not (data / CONTROL).exists()

    data = tmp_path / "files-only"
    plan = make_plan(source.config, source.cluster, archive, RestoreRequest(data, RecoveryTarget()), now())
    place_files(plan, archive, source.bin)
    assert not (data / CONTROL).exists()
    assert (data / CONTROL_ASIDE).exists()
    copy = source.start_copy(data, "stopped")
    assert copy._process is not None
    assert copy._process.wait(20) != 0
    make_startable(data)
    assert (data / CONTROL).exists()
    assert not (data / CONTROL_ASIDE).exists()
