"""A backup that is disturbed leaves nothing that looks like a backup, and the next one works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.backups.source import check_archiving
from pgproof.errors import LeaseHeld, ServerNotReady
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import read_facts
from tests.drills.damage import answer, assert_refused, flip_bit
from tests.servers.background import end_background
from tests.servers.postgres import PGPROOF, PROJECT, Source, installed, now, running_source

SLOW = "backup.max_rate = 6000"  # kB/s: four seconds for an empty cluster


def backup_objects(source: Source) -> list[Path]:
    """Everything below ``backups/``, temporary files too."""
    return [path for path in source.repository_path.glob("main/*/backups/*/*") if path.is_file()]


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def running(source: Source) -> Iterator[subprocess.Popen[str]]:
    """A backup that has stored its first volume and goes on."""
    source.write_config(cluster=SLOW)
    source.archive_now()
    process = subprocess.Popen(
        [*PGPROOF, "--config", str(source.config_path), "backup", "main"],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: {path.name[:5] for path in backup_objects(source)} == {"base-", ".tmp-"})
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_second_backup_at_once_and_a_killed_one(source: Source, running: subprocess.Popen[str]) -> None:
    with pytest.raises(LeaseHeld) as caught:
        source.backup()
    lease = source.archive.layout.lease
    assert caught.value.fact == f'could not take the lease "{lease}"'
    assert caught.value.detail.startswith('It is held for a base backup of cluster "main" by process ')
    assert str(running.pid) in caught.value.detail
    assert caught.value.exit_code == 78
    assert running.poll() is None

    running.kill()
    running.wait()
    source.write_config()
    listed = json.loads(answer(source, "list", "main", "--json")[1])
    assert listed["backups"] == []
    assert len(listed["torn"]) == 1
    torn = listed["torn"][0]

    record = source.backup()  # at once: the lease of a dead process is no lease
    catalog = read_catalog(source.archive)
    assert [entry.label for entry in catalog.entries] == [record.label]
    assert catalog.torn == (torn,)

    code, out, err = answer(source, "expire", "main", "--json")
    assert code == 0, err
    assert json.loads(out)["torn"] == [torn]
    assert read_catalog(source.archive).torn == ()
    assert list(source.archive.store.list(source.archive.layout.backup(torn))) == []
    assert answer(source, "verify", "main")[0] == 0


@pytest.mark.parametrize("how", ["server", "walsender"])
def test_server_that_dies_on_the_way(source: Source, running: subprocess.Popen[str], how: str) -> None:
    if how == "server":
        source.server.stop("immediate")
    else:
        source.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (76, "")
    assert err.startswith('pgproof: the replication connection to cluster "main" broke\nDETAIL: ')
    said = "terminating connection due to administrator command"
    assert (said if how == "walsender" else "server closed the connection") in err
    assert backup_objects(source) == []


def test_invariant_2_no_record_without_its_wal(source: Source) -> None:
    switch = source.root / "archiver-may-work"
    switch.touch()
    source.set(archive_command=f"test -e {switch} || exit 3; {source.archive_command}")
    source.archive_now()
    source.write_config(cluster='backup.archive_timeout = "1s"')
    switch.unlink()
    end_background(source.root)
    before = now()
    code, _, err = answer(source, "backup", "main")
    assert code == 79
    lines = err.splitlines()
    segment = lines[0].split('"')[1]
    label = lines[0].split('"')[3]
    assert f"{before:%Y%m%dT%H%M%SZ}-full" <= label <= f"{now():%Y%m%dT%H%M%SZ}-full"
    assert lines[0] == f'pgproof: WAL segment "{segment}" of backup "{label}" did not reach the archive'
    assert lines[1] == f"DETAIL: Waited 1 s for segments {segment} to {segment}."
    assert lines[2] == (
        "HINT: pgproof doctor main; SELECT * FROM pg_stat_archiver shows the archiver's last error"
    )
    assert backup_objects(source) == []
    assert read_catalog(source.archive).entries == ()

    switch.touch()
    source.archive_now()  # nothing was lost: the segment is archived, and so is the next
    assert source.stored(segment).exists()
    assert source.backup()


def test_corrupt_page_of_the_source() -> None:
    if reason := installed(18):
        pytest.skip(f"{reason} (its clusters have checksums by default)")
    with running_source(18) as source:
        source.sql("CREATE TABLE t AS SELECT g, repeat('x', 500) FROM generate_series(1, 500) g")
        source.sql("CHECKPOINT")
        path = source.data / source.sql("SELECT pg_relation_filepath('t')")[0][0]
        flip_bit(path, 3 * 8192 + 5000)
        code, out, err = answer(source, "backup", "main")
        assert re.sub("[0-9A-F]{1,4} but expected [0-9A-F]{1,4}", "A but expected B", err) == (
            'pgproof: cluster "main" has damaged pages\n'
            f'DETAIL: checksum verification failed in file "./{path.relative_to(source.data)}" '
            "(public.t of database postgres), block 3: calculated A but expected B.\n"
            "HINT: no backup was taken; keep older ones with pgproof hold: docs/runbooks/backup-fails.md, step 4\n"
        )
        assert (code, out) == (40, "")
        assert backup_objects(source) == []


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Source]:
    """A source whose archive_command succeeds and archives nothing."""
    with running_source(17, archive_command="true") as source:
        yield source


@pytest.mark.parametrize("command", ["true", "cp %p {root}/elsewhere/%f"], ids=["true", "cp"])
def test_archive_command_that_points_elsewhere(elsewhere: Source, command: str) -> None:
    command = command.format(root=elsewhere.root)
    (elsewhere.root / "elsewhere").mkdir(exist_ok=True)
    elsewhere.set(archive_command=command)
    started = time.monotonic()
    code, _, err = answer(elsewhere, "backup", "main")
    assert time.monotonic() - started < 15  # the archiver says that it is done: there is nothing to wait for
    segment = elsewhere.sql("SELECT last_archived_wal FROM pg_stat_archiver")[0][0]
    assert err == (
        f'pgproof: WAL of cluster "main" does not arrive in the repository "file://{elsewhere.repository_path}"\n'
        f'DETAIL: The archiver says: it last archived {segment}. archive_command is "{command}".\n'
        "HINT: run the archive_command by hand as the server's account, and look in the server's log; "
        "it must be: pgproof --config /path/pgproof.toml wal push %p\n"
    )
    assert code == 22
    assert os.listdir(elsewhere.repository_path) == ["pgproof.json"]


def test_archive_command_that_fails(elsewhere: Source) -> None:
    elsewhere.set(archive_command="false")
    with connect(elsewhere.cluster) as connection, pytest.raises(ServerNotReady) as caught:
        facts = read_facts(connection)
        archive = elsewhere.repository.archive("main", facts.system_identifier)
        check_archiving(connection, archive, facts, timeout=1.5)
    name, at = elsewhere.sql("SELECT last_failed_wal, last_failed_time FROM pg_stat_archiver")[0]
    assert caught.value.detail.startswith(f"The archiver says: {name} failed at {at:%F %H:%M}")
    assert caught.value.detail.endswith('archive_command is "false".')


def test_archiving_switched_off(elsewhere: Source) -> None:
    elsewhere.set(archive_mode="off")
    assert_refused(
        elsewhere,
        ["backup", "main"],
        22,
        'cluster "main" does not archive WAL\n'
        'DETAIL: archive_mode is off, archive_command is "(disabled)".\n'
        "HINT: pgproof init main shows the settings; without WAL no backup can be restored",
    )


def test_wal_level_minimal(elsewhere: Source) -> None:
    elsewhere.set(archive_mode="off", wal_level="minimal", max_wal_senders="0")
    assert_refused(
        elsewhere,
        ["backup", "main"],
        22,
        'cluster "main" has wal_level = minimal\n'
        "DETAIL: Such WAL cannot be archived or recovered from.\n"
        "HINT: psql -c \"ALTER SYSTEM SET wal_level = 'replica'\" and restart the server",
    )


def test_archive_command_that_was_changed_after_the_last_segment(source: Source) -> None:
    """The last segment is here, so the backup starts; its own WAL tells (invariant 2)."""
    source.archive_now()
    source.set(archive_command="true")
    source.write_config(cluster='backup.archive_timeout = "1s"')
    assert answer(source, "backup", "main")[0] == 79
    assert backup_objects(source) == []
