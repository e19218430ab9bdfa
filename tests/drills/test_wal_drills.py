"""WAL that is lost, altered or of another cluster: named by every check, and never taken for the end of WAL."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from pgproof.backups.record import BackupRecord
from pgproof.timelines.segment import WalSegment
from tests.drills.damage import answer, assert_refused, flip_bit, tree, truncate
from tests.servers.postgres import PGPROOF, PROJECT, Source, running_source

OTHER = 7412345678901234567


@dataclass
class Archive:
    """A source with a backup and four segments after it, each with one more row of table t."""

    source: Source
    record: BackupRecord
    segments: list[str]

    @property
    def victim(self) -> str:
        return self.segments[1]

    @property
    def segment(self) -> WalSegment:
        return WalSegment.parse(self.victim, 1 << 20)

    def fetch(self, name: str, code: int) -> str:
        """Fetch a file as recovery would; the message."""
        target = self.source.data / "pg_wal" / "RECOVERYXLOG"
        before = tree(self.source.data / "pg_wal")
        exit_code, out, err = answer(self.source, "wal", "fetch", name, str(target))
        assert (exit_code, out) == (code, "")
        if code:
            assert tree(self.source.data / "pg_wal") == before
        else:
            target.unlink()
        return err

    def check(self, *options: str) -> tuple[int, dict[str, object]]:
        code, out, _ = answer(self.source, "wal", "check", "main", "--json", *options)
        return code, json.loads(out)


@pytest.fixture(scope="module")
def shared() -> Iterator[Archive]:
    with running_source(17) as source:
        source.sql("CREATE TABLE t (g int)")
        record = source.backup()
        segments = []
        for number in range(4):
            source.sql("INSERT INTO t VALUES (%s)", number)
            segments.append(source.archive_now())
        yield Archive(source, record, segments)


@pytest.fixture
def archive(shared: Archive) -> Iterator[Archive]:
    """The shared one, whose damaged objects are healed afterwards."""
    kept = {name: path.read_bytes() for name in shared.segments if (path := shared.source.stored(name))}
    first = shared.source.stored(shared.record.first_segment.name)
    kept_first = first.read_bytes()
    yield shared
    for name, content in kept.items():
        path = shared.source.repository_path / f"{shared.source.archive.layout.wal_file(name)}.zst"
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    first.unlink(missing_ok=True)
    first.write_bytes(kept_first)


def replace_content(source: Source, name: str, change: Callable[[bytes], bytes]) -> None:
    """Store other content under a segment's name, through the codec."""
    archive = source.archive
    key = archive.layout.wal_file(name)
    content = b"".join(archive.open(f"{key}.zst"))
    archive.store.delete(f"{key}.zst")
    archive.write(key, [change(content)])


def of_another_cluster(content: bytes) -> bytes:
    return content[:24] + OTHER.to_bytes(8, "little") + content[32:]


def test_nothing_is_wrong(archive: Archive) -> None:
    code, found = archive.check("--content")
    assert (code, found["gaps"], found["damaged"], found["ok"]) == (0, [], [], True)
    assert archive.fetch(archive.victim, 0) == ""


def test_segment_removed(archive: Archive) -> None:
    source, segment = archive.source, archive.segment
    source.stored(archive.victim).unlink()
    code, found = archive.check()
    assert code == 1
    assert found["gaps"] == [{"first": archive.victim, "last": archive.victim, "segments": 1}]
    assert found["windows"] == [
        {
            "backup": archive.record.label,
            "timeline": 1,
            "start": str(archive.record.stop_lsn),
            "end": str(segment.start),
            "from_time": archive.record.stopped_at.isoformat(),
            "to_time": found["newest_commit"],
            "broken_by": archive.victim,
            "expired": False,
            "unusable": "",
        }
    ]
    code, out, _ = answer(source, "wal", "check", "main")
    assert code == 1
    assert f"gap: {archive.victim} missing, LSN {segment.start} to {segment.end}" in " ".join(out.split())
    assert "no gap" not in out

    assert archive.fetch(archive.victim, 97) == (
        f'pgproof: WAL file "{archive.victim}" is not in the archive "file://{source.repository_path}"\n'
    )
    assert answer(source, "verify", "main")[0] == 0  # the backup's own WAL is there
    data = source.root / "restored"
    assert_refused(
        source,
        ["restore", "main", "--to", str(data)],
        1,
        f'WAL segment "{archive.victim}" is missing from the archive\n'
        f"DETAIL: It holds LSN {segment.start} to {segment.end}, needed from backup {archive.record.label} "
        "to the end of the archived WAL.\n"
        "HINT: pgproof wal check NAME --repair looks for it on the source, on standbys and in copies, and says which "
        "recovery windows remain; when nobody has it, take a new backup",
    )
    assert not data.exists()
    before = ["restore", "main", "--to", str(data), "--dry-run", "--target-lsn", str(segment.start)]
    assert answer(source, *before)[0] == 0  # up to the gap is a recovery window


def test_several_segments_removed(archive: Archive) -> None:
    for name in archive.segments[1:3]:
        archive.source.stored(name).unlink()
    code, found = archive.check()
    assert (code, found["gaps"]) == (
        1,
        [{"first": archive.segments[1], "last": archive.segments[2], "segments": 2}],
    )
    code, _, err = answer(archive.source, "restore", "main", "--to", str(archive.source.root / "restored"))
    assert code == 1
    assert err.startswith(
        f'pgproof: WAL segment "{archive.segments[1]}" and 1 more is missing from the archive\n'
    )


def test_newest_segment_removed_though_the_archiver_got_an_ok_for_it(archive: Archive) -> None:
    newest = archive.segments[-1]
    archive.source.stored(newest).unlink()
    code, found = archive.check()
    assert (code, found["gaps"]) == (1, [{"first": newest, "last": newest, "segments": 1}])


@pytest.mark.parametrize(
    ("damage", "fault", "code"),
    [
        (
            lambda source, name: truncate(source.stored(name)),
            'object "{key}" is truncated. The zstd frame does not end.',
            129,
        ),
        (lambda source, name: flip_bit(source.stored(name)), 'object "{key}" is damaged. zstd says: ', 129),
        (
            lambda source, name: replace_content(source, name, of_another_cluster),
            'WAL segment "{name}" belongs to another cluster. '
            f"Its system identifier is {OTHER}; the archive's is ",
            152,
        ),
        (
            lambda source, name: replace_content(source, name, lambda content: content[: 1 << 19]),
            'WAL segment "{name}" has the wrong length. '
            "It has 524288 bytes; a segment of this cluster has 1048576.",
            129,
        ),
        (
            lambda source, name: replace_content(source, name, lambda content: bytes(1 << 20)),
            'WAL segment "{name}" does not start with a WAL page. '
            "Its first bytes are 00000000000000000000000000000000.",
            129,
        ),
    ],
    ids=["truncated", "bit", "another cluster", "short", "zeros"],
)
def test_segment_damaged(
    archive: Archive, damage: Callable[[Source, str], None], fault: str, code: int
) -> None:
    source, name = archive.source, archive.victim
    damage(source, name)
    assert archive.check()[0] == 0  # by name alone it is there
    key = f"{source.archive.layout.wal_file(name)}.zst"
    exit_code, found = archive.check("--content")
    assert exit_code == 1
    ((damaged, reason),) = found["damaged"]  # type: ignore[misc]
    assert damaged == name
    assert reason.startswith(fault.format(key=key, name=name))
    assert archive.fetch(name, code).startswith("pgproof: ")


def test_segment_of_the_backup_itself(archive: Archive) -> None:
    """Verify reads it, and a plan knows it by its name."""
    source, name = archive.source, archive.record.first_segment.name
    flip_bit(source.stored(name))
    code, out, _ = answer(source, "verify", "main", "--json")
    (result,) = json.loads(out)["backups"]
    assert (code, result["ok"], result["error"]) == (1, False, "ObjectDamaged")
    assert result["fact"] == f'WAL segment "{name}" is damaged'
    source.stored(name).unlink()
    code, out, _ = answer(source, "verify", "main")
    first = archive.record.first_segment
    assert (code, out) == (
        1,
        f'{archive.record.label}: WAL segment "{name}" is missing from the archive\n'
        f"  It holds LSN {first.start} to {first.end}; without it the backup cannot become consistent.\n",
    )
    assert_refused(
        source,
        ["restore", "main", "--to", str(source.root / "restored"), "--target-immediate"],
        1,
        f'WAL segment "{name}" is missing from the archive\n'
        f"DETAIL: It holds LSN {first.start} to {first.end}, needed from backup {archive.record.label} "
        "to the end of the backup.\n"
        "HINT: pgproof wal check NAME --repair looks for it on the source, on standbys and in copies, and says which "
        "recovery windows remain; when nobody has it, take a new backup",
    )


def test_damaged_segment_stops_recovery_and_does_not_end_it(archive: Archive) -> None:
    """Recovery that took it for the end of WAL would promote, without the rows after it."""
    source = archive.source
    data = source.root / "copy"
    assert answer(source, "restore", "main", "--to", str(data))[0] == 0
    path = source.stored(archive.victim)
    healthy = path.read_bytes()
    flip_bit(path)
    copy = source.start_copy(data)
    assert copy._process is not None
    assert copy._process.wait(30) == 1
    log = copy.log.read_text()
    assert (
        f'FATAL:  could not restore file "{archive.victim}" from archive: child process exited with exit code 129'
        in log
    )
    assert "archive recovery complete" not in log

    path.write_bytes(healthy)
    with source.copy(data) as connection:
        assert connection.execute("SELECT array_agg(g ORDER BY g) FROM t").fetchone() == ([0, 1, 2, 3],)


@pytest.mark.parametrize("stderr", ["full", "closed"])
@pytest.mark.parametrize(("name", "code"), [("000000010000000000000099", 97), ("x", 138)])
def test_fetch_with_nowhere_to_write_its_message(archive: Archive, stderr: str, name: str, code: int) -> None:
    """A fault of the log's disk must not read as "not archived", which is exit code 97."""
    target = archive.source.data / "pg_wal" / "RECOVERYXLOG"
    words = [*PGPROOF, "--config", str(archive.source.config_path), "wal", "fetch", name, str(target)]
    close = "exec 2>&-; " if stderr == "closed" else "exec 2>/dev/full; "
    done = subprocess.run(
        ["sh", "-c", close + 'exec "$@"', "sh", *words], env={**os.environ, "PYTHONPATH": str(PROJECT)}
    )
    assert done.returncode == code


def test_repository_that_is_away_for_a_while(source: Source) -> None:
    """PostgreSQL asks again and keeps every segment; once the repository is back nothing is missing."""
    source.sql("CREATE TABLE t (g int)")
    record = source.backup()
    away = source.root / "away"
    source.repository_path.rename(away)
    for number in range(3):
        source.sql("INSERT INTO t VALUES (%s)", number)
        source.sql("SELECT pg_switch_wal()")
    end = time.monotonic() + 20
    while not source.sql("SELECT failed_count > 0 FROM pg_stat_archiver")[0][0]:
        assert time.monotonic() < end
        time.sleep(0.05)
    source.sql("CHECKPOINT")
    assert not source.repository_path.exists()  # an unmounted disk is not taken for an empty repository
    log = source.server.log.read_text()
    assert f'pgproof: there is no repository at "file://{source.repository_path}"' in log
    away.rename(source.repository_path)
    code, out, _ = answer(source, "wal", "check", "main", "--json")
    if json.loads(out)["archiver_failing"]:
        assert code == 1

    source.archive_now()
    code, out, _ = answer(source, "wal", "check", "main", "--json")
    found = json.loads(out)
    assert (code, found["gaps"], found["archiver_failing"]) == (0, [], "")
    assert found["windows"][0]["backup"] == record.label
    assert answer(source, "restore", "main", "--to", str(source.root / "copy"))[0] == 0
    with source.copy(source.root / "copy") as connection:
        assert _rows(connection) == [0, 1, 2]


def _rows(connection: psycopg.Connection[tuple[list[int]]]) -> list[int]:
    row = connection.execute("SELECT array_agg(g ORDER BY g) FROM t").fetchone()
    assert row is not None
    return row[0]


def test_archiver_that_fails_is_a_finding(source: Source) -> None:
    source.backup()
    source.set(archive_command="false")
    source.sql("SELECT pg_current_xact_id()")
    source.sql("SELECT pg_switch_wal()")
    end = time.monotonic() + 20
    while not source.sql("SELECT failed_count > 0 FROM pg_stat_archiver")[0][0]:
        assert time.monotonic() < end
        time.sleep(0.05)
    code, out, _ = answer(source, "wal", "check", "main")
    assert code == 1
    name = source.sql("SELECT last_failed_wal FROM pg_stat_archiver")[0][0]
    assert f"the archiver is failing: {name} failed at " in out
    assert Path(source.data / "pg_wal" / name).exists()
