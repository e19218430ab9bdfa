"""A base backup of a real server: what is stored can be read by tar and zstd, and restored."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgproof.backups.base_backup import take_backup
from pgproof.backups.catalog import read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.backups.volumes import END_OF_TAR
from pgproof.errors import BackupFailed
from pgproof.postgres.programs import run
from tests.drills.damage import answer, assert_refused
from tests.repository.conftest import recipient_of
from tests.servers.postgres import PGPROOF, PROJECT, Source, now, running_source

ZSTD, TAR = shutil.which("zstd"), shutil.which("tar")


@dataclass
class Taken:
    """A source with a tablespace and a table larger than a volume, its backup, and rows to look for."""

    source: Source
    record: BackupRecord
    old: Path
    rows: list[tuple[object, ...]]

    QUERY = (
        "SELECT (SELECT sum(hashtext(t::text)::bigint) FROM t), (SELECT count(*) FROM large), "
        "(SELECT spcname FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE relname = 't')"
    )

    def path(self, key: str) -> Path:
        return self.source.repository_path / key


@pytest.fixture(scope="module")
def taken() -> Iterator[Taken]:
    with running_source(17) as source:
        old = source.root / "old space"
        old.mkdir()
        source.sql(f"CREATE TABLESPACE shelf LOCATION '{old}'")
        source.sql("CREATE TABLE t (g int, s text) TABLESPACE shelf")
        source.sql("INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 5000) g")
        source.sql("CREATE TABLE large AS SELECT repeat('l', 900) FROM generate_series(1, 8000)")
        source.sql("CHECKPOINT")
        record = source.backup()
        yield Taken(source, record, old, source.sql(Taken.QUERY))


def test_record_says_what_was_taken(taken: Taken) -> None:
    record, source = taken.record, taken.source
    system = source.sql("SELECT system_identifier FROM pg_control_system()")[0][0]
    assert (record.cluster, record.system_identifier, record.timeline) == ("main", system, 1)
    assert (record.kind, record.parent, record.from_standby) == ("full", None, False)
    assert record.segment_size == 1 << 20
    assert record.server_version == int(source.sql("SHOW server_version_num")[0][0])
    assert record.label == f"{record.started_at:%Y%m%dT%H%M%SZ}-full"
    assert record.started_at <= record.stopped_at
    assert record.start_lsn < record.stop_lsn
    oid = source.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'shelf'")[0][0]
    assert [(t.oid, t.path) for t in record.tablespaces] == [(oid, str(taken.old))]
    assert {volume.tablespace for volume in record.volumes} == {None, oid}
    assert len(record.volumes) > 4


def test_invariant_1_every_object_is_as_the_record_names_it(taken: Taken) -> None:
    for stored in (*(volume.object for volume in taken.record.volumes), taken.record.manifest):
        content = taken.path(stored.key).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (stored.size, stored.sha256)
    directory = taken.path(taken.source.archive.layout.backup(taken.record.label))
    named = {Path(volume.object.key).name for volume in taken.record.volumes}
    assert set(os.listdir(directory)) == named | {"backup_manifest.zst", "backup.json"}


@pytest.mark.skipif(not (ZSTD and TAR), reason="needs the programs zstd and tar: apt-get install zstd tar")
def test_every_volume_is_a_tar_for_tar_and_zstd(taken: Taken, tmp_path: Path) -> None:
    """Restorable without us; and extracted by hand it is what PostgreSQL's own manifest says."""
    tablespace = tmp_path / "shelf"
    data = tmp_path / "data"
    for directory in (data, tablespace):
        directory.mkdir()
    for volume in taken.record.volumes:
        path = taken.path(volume.object.key)
        subprocess.run([str(ZSTD), "-q", "-t", path], check=True)
        into = data if volume.tablespace is None else tablespace
        subprocess.run(f"'{ZSTD}' -q -d -c '{path}' | '{TAR}' -x -C '{into}'", shell=True, check=True)
    manifest = subprocess.run(
        [str(ZSTD), "-q", "-d", "-c", taken.path(taken.record.manifest.key)], capture_output=True, check=True
    )
    (data / "backup_manifest").write_bytes(manifest.stdout)
    link = data / "pg_tblspc" / str(taken.record.tablespaces[0].oid)
    link.unlink(missing_ok=True)
    link.symlink_to(tablespace)
    done = run([taken.source.bin / "pg_verifybackup", "-n", data], timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "backup successfully verified")


def test_volumes_end_as_a_tar_does_and_split_no_file(taken: Taken) -> None:
    limit = taken.source.cluster.backup.volume_size
    sizes = {}
    for volume in taken.record.volumes:
        content = b"".join(taken.source.archive.open_checked(volume.object))
        assert len(content) == volume.raw_size
        assert content.endswith(END_OF_TAR)
        path = taken.source.root / "volume.tar"
        path.write_bytes(content)
        with tarfile.open(path) as tar:
            members = [(member.name, member.size) for member in tar]
        assert len(members) == 1 or volume.raw_size - len(END_OF_TAR) <= limit
        sizes.update(members)
    relation = taken.source.sql("SELECT pg_relation_filepath('large')")[0][0]
    assert sizes[relation] > limit
    assert sizes["global/pg_control"] == 8192


def test_manifest_is_stored_as_the_server_sent_it(taken: Taken) -> None:
    """Its last line is the SHA-256 of all before (PostgreSQL manual, 69.1)."""
    text = b"".join(taken.source.archive.open_checked(taken.record.manifest))
    manifest = json.loads(text)
    before, _, _ = text.rpartition(b'"Manifest-Checksum"')
    assert hashlib.sha256(before).hexdigest() == manifest["Manifest-Checksum"]
    assert manifest["WAL-Ranges"] == [
        {
            "Timeline": 1,
            "Start-LSN": str(taken.record.start_lsn),
            "End-LSN": str(taken.record.stop_lsn),
        }
    ]


def test_tablespace_must_be_mapped_where_its_directory_is_taken(taken: Taken, tmp_path: Path) -> None:
    data = tmp_path / "data"
    words = ["restore", "main", "--to", str(data)]
    hint = "HINT: name a new directory; a tablespace's with --tablespace OLD=NEW"
    name = os.listdir(taken.old)[0]
    assert_refused(
        taken.source,
        words,
        43,
        f'cannot restore into "{taken.old}"\n'
        f"DETAIL: Reason: it is not empty: it has 1 entries, such as {name}. Nothing was written.\n{hint}",
    )
    assert_refused(
        taken.source,
        [*words, "--tablespace", f"{taken.old}={data}"],
        43,
        f'cannot restore into "{data}"\n'
        f"DETAIL: Reason: two directories of the backup would share it. Nothing was written.\n{hint}",
    )
    assert_refused(
        taken.source,
        [*words, "--tablespace", "/nobody=/tmp/x"],
        43,
        f'tablespace "/nobody" is not in backup "{taken.record.label}"\nDETAIL: It has: {taken.old}. '
        "Recovery creates: none.",
    )
    assert not data.exists()


def test_tablespace_is_restored_into_another_directory(taken: Taken, tmp_path: Path) -> None:
    data, new = tmp_path / "data", tmp_path / "new space"
    words = ["restore", "main", "--to", str(data), "--tablespace", f"{taken.old}={new}"]
    assert answer(taken.source, *words)[0] == 0
    with taken.source.copy(data) as connection:
        assert connection.execute(Taken.QUERY.encode()).fetchall() == taken.rows
        row = connection.execute(
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'shelf'"
        ).fetchone()
        assert row == (str(new),)
        connection.execute("INSERT INTO t VALUES (0, 'new')")
    assert taken.source.sql(Taken.QUERY) == taken.rows  # the source's own was not touched


def test_json_answer(taken: Taken) -> None:
    code, out, _ = answer(taken.source, "list", "main", "--json")
    (backup,) = json.loads(out)["backups"]
    assert code == 0
    assert BackupRecord.from_dict({n: backup[n] for n in taken.record.as_dict()}) == taken.record
    assert (backup["state"], backup["stored_size"]) == ("complete", taken.record.stored_size)


def test_backups_that_begin_in_one_second(source: Source) -> None:
    first = source.backup()
    began = [first.started_at, first.started_at.replace(microsecond=900_000)]
    second = take_backup(source.cluster, source.repository, lambda: began.pop() if began else now())
    assert first.label < second.label
    with pytest.raises(BackupFailed, match=f'"{second.label}" exists already'):
        take_backup(source.cluster, source.repository, lambda: second.started_at.replace(microsecond=990_000))
    assert [entry.label for entry in read_catalog(source.archive).entries] == [first.label, second.label]


def test_everything_is_encrypted(source: Source, identity: str) -> None:
    """With recipients nothing but records is readable; the identity is needed to restore, and to recover."""
    key = source.root / "key.txt"
    key.write_text(f"# created: today\n{identity}\n")
    recipients = f'age_recipients = ["{recipient_of(identity)}"]'
    source.write_config(store=f'{recipients}\nage_identity = "file:{key}"')
    source.sql(
        "CREATE TABLE t AS SELECT 'the marker that must not be readable' m FROM generate_series(1, 500)"
    )
    record = source.backup()
    source.sql("INSERT INTO t VALUES ('later')")
    source.archive_now()

    files = [path for path in source.repository_path.rglob("*") if path.is_file()]
    content = [path for path in files if path.suffix != ".json"]
    assert {path.suffix for path in content} == {".age"}
    assert {path.parts[len(source.repository_path.parts) + 2] for path in content} == {"wal", "backups"}
    assert all(path.read_bytes().startswith(b"age-encryption.org/v1\n") for path in content)
    assert not any(b"the marker" in path.read_bytes() for path in files)
    assert all(volume.object.key.endswith(".tar.zst.age") for volume in record.volumes)

    assert answer(source, "verify", "main")[0] == 0
    assert answer(source, "wal", "check", "main", "--content")[0] == 0
    data = source.root / "restored"
    assert answer(source, "restore", "main", "--to", str(data))[0] == 0
    with source.copy(data) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (501,)

    source.write_config(store=recipients)
    code, _, err = answer(source, "restore", "main", "--to", str(source.root / "none"))
    assert code == 2
    assert "is encrypted and no age identity is configured" in err


def test_memory_stays_bounded(source: Source) -> None:
    """300 MB through two workers, in less than 200 MB."""
    source.write_config(cluster='backup.volume_size = "64MB"\nbackup.workers = 2')
    block = os.urandom(1 << 20)
    for number in range(6):
        with open(source.data / f"ballast-{number}", "wb") as file:
            for _ in range(50):
                file.write(block)
    process = subprocess.Popen(
        [*PGPROOF, "--config", str(source.config_path), "backup", "main", "--json"],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if "VmHWM" in status:  # not of a process that has just ended
            peak = int(status.split("VmHWM:")[1].split()[0])
        time.sleep(0.01)
    assert process.stdout is not None
    record = json.loads(process.stdout.read())
    process.stdout.close()
    assert process.returncode == 0
    assert record["raw_size"] > 300 << 20
    assert 10 << 10 < peak < 200 << 10  # kB


def test_the_progress_bar_knows_about_how_much_there_is(taken: Taken) -> None:
    """On a terminal; a bar without a total has no per cent."""
    ours, theirs = pty.openpty()
    read: list[bytes] = []

    def collect() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 65536):
                read.append(chunk)

    reader = threading.Thread(target=collect)
    reader.start()
    try:
        subprocess.run(
            [*PGPROOF, "--config", str(taken.source.config_path), "backup", "main"],
            env={**os.environ, "PYTHONPATH": str(PROJECT), "TERM": "xterm", "COLUMNS": "140"},
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            check=True,
            timeout=120,
        )
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    shown = b"".join(read).decode()
    assert re.search(r"\d+\.\d/\d+\.\d MB", shown), shown
    assert re.search(r"\d+%", shown), shown
