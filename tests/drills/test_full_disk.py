"""A full disk: nothing that does not fit looks as if it did, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from pgproof.postgres.lock_file import running_in
from pgproof.postgres.programs import account
from pgproof.restore import acceptance
from tests.drills.damage import answer, assert_command_refused, tree
from tests.servers.place import give_to_server, make_directory
from tests.servers.postgres import Source

pytestmark = pytest.mark.as_root
MB = 1 << 20


@pytest.fixture
def small() -> Iterator[Source]:
    """A source whose repository is a file system of 8 MB."""
    root = make_directory()
    owner = account(None)
    assert owner is not None
    source = Source(17, root)
    source.repository_path.mkdir()
    options = f"size=8m,mode=0750,uid={owner.pw_uid},gid={owner.pw_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", source.repository_path], check=True)
    try:
        source.create()
        yield source
    finally:
        if hasattr(source, "server"):
            source.server.stop("immediate")
        subprocess.run(["umount", "--lazy", source.repository_path], check=True)
        shutil.rmtree(root)


def test_disk_full_in_the_middle_of_a_backup(small: Source) -> None:
    source = small
    source.archive_now()
    ballast = source.data / "ballast"  # the server sends whatever lies in its data directory
    ballast.write_bytes(os.urandom(12 * MB))
    shutil.chown(ballast, "postgres")
    before = tree(source.repository_path)
    done = source.run("backup", "main")
    assert done.returncode == 44
    first, *rest = done.stderr.splitlines()
    url = f"file://{source.repository_path}"
    assert first.startswith(f'pgproof: cannot write "main/{source.archive.system_identifier}/backups/')
    assert first.endswith(f'no room in the repository "{url}"')
    assert rest == [
        "DETAIL: No space left on device.",
        f"HINT: df -h {source.repository_path}; pgproof expire NAME --dry-run shows what could go",
    ]
    listed = json.loads(source.run("list", "main", "--json").stdout)
    unproven = {"backup": None, "at": None, "seconds": 0.0, "stale": False}
    assert listed == {
        "backups": [],
        "torn": [],
        "damaged": {},
        "unread": {},
        "proof": unproven,
        "old_systems": [],
    }
    left = {name: value for name, value in tree(source.repository_path).items() if value}
    assert {name: left[name] for name in before if before[name]} == {n: v for n, v in before.items() if v}
    assert not any("/backups/" in name for name in left)  # what was written is gone: WAL needs the room

    ballast.unlink()
    done = source.run("backup", "main")
    assert done.returncode == 0, done.stderr
    assert source.run("verify", "main").returncode == 0


def test_wal_push_onto_a_full_disk_keeps_the_segment(small: Source) -> None:
    source = small
    source.archive_now()
    filler = source.repository_path / "filler"
    with pytest.raises(OSError, match="No space left"), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"f" * 4096)
    source.sql("CREATE TABLE t AS SELECT gen_random_uuid() u FROM generate_series(1, 3000)")
    row = source.sql("SELECT pg_walfile_name(pg_switch_wal())")
    segment = row[0][0]
    path = source.data / "pg_wal" / segment
    content = path.read_bytes()
    key = source.archive.layout.wal_file(segment)
    assert_command_refused(
        source,
        ["wal", "push", str(path)],
        44,
        f'cannot write "{key}.zst": no room in the repository "file://{source.repository_path}"\n'
        "DETAIL: No space left on device.\n"
        f"HINT: df -h {source.repository_path}; pgproof expire NAME --dry-run shows what could go",
    )
    source.sql("CHECKPOINT")
    assert path.read_bytes() == content  # PostgreSQL keeps what is not archived
    assert (source.data / "pg_wal" / "archive_status" / f"{segment}.ready").exists()
    assert not (source.repository_path / f"{key}.zst").exists()

    filler.unlink()
    source.archive_now()
    assert b"".join(source.archive.open(f"{key}.zst")) == content


def test_restore_onto_a_file_system_that_is_too_small(small: Source) -> None:
    source = small
    record = source.backup()
    source.archive_now()
    shutil.move(source.repository_path / "main", source.root / "moved")  # the room there is now 8 MB
    (source.root / "repository-2").mkdir()
    shutil.move(source.root / "moved", source.root / "repository-2" / "main")
    shutil.move(source.repository_path / "pgproof.json", source.root / "repository-2")
    source.write_config(repository=f"file://{source.root}/repository-2")
    place = source.repository_path / "restored"
    state = os.statvfs(source.repository_path)
    assert_command_refused(
        source,
        ["restore", "main", "--to", str(place)],
        44,
        f'too little room at "{place}"\n'
        f"DETAIL: The restore needs {sum(volume.raw_size for volume in record.volumes):,} bytes there; "
        f"{state.f_bavail * state.f_frsize:,} are free. Nothing was written.",
    )
    assert not place.exists()


@contextmanager
def restored_onto(source: Source, size: str) -> Iterator[Path]:
    """A restored cluster that runs on a file system of its own; its source is down."""
    place, owner = source.root / "disk", account(None)
    assert owner is not None
    place.mkdir()
    (source.root / "accepted").mkdir()
    give_to_server(source.root / "accepted")
    options = f"size={size},mode=0750,uid={owner.pw_uid},gid={owner.pw_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    data = place / "restored"
    try:
        code, _, err = answer(source, "restore", "main", "--to", str(data), "--target-immediate")
        assert code == 0, err
        with open(data / "postgresql.conf", "a") as file:
            file.write(f"unix_socket_directories = '{source.root}/accepted'\nlisten_addresses = ''\n")
            file.write("wal_recycle = off\nmin_wal_size = 2MB\n")
        code, _, err = answer(source, "start", str(data))
        assert code == 0, err
        with source.away():
            yield data
    finally:
        if server := running_in(data):
            server.stop()
        subprocess.run(["umount", "--lazy", place], check=True)


def filled(place: Path) -> None:
    """Nothing more goes onto a file system."""
    try:
        with open(place / "filler", "ab", buffering=0) as file:
            while True:
                file.write(b"f" * 4096)
    except OSError:
        return


@pytest.mark.parametrize("step", ["_open", "reserve", "take_out"])
def test_a_disk_that_fills_while_a_cluster_is_accepted(
    source: Source, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Said as what it is; nothing is lost or half written, and the same command goes on when there is room."""
    source.sql("CREATE TABLE t AS SELECT 1 AS g")
    source.backup()
    source.archive_now()
    with restored_onto(source, "120m") as data:
        before = (data / "postgresql.auto.conf").read_bytes()
        real: Callable[..., object] = getattr(acceptance, step)

        def in_a_full_disk(*words: object, **options: object) -> object:
            filled(data.parent)
            return real(*words, **options)

        with monkeypatch.context() as patched:
            patched.setattr(acceptance, step, in_a_full_disk)
            code, _, err = answer(source, "accept", str(data), "--yes")
        assert not list(data.rglob("*.pgproof"))
        (data.parent / "filler").unlink()
        again = f"HINT: df -h {data}; then run the same command again"
        assert (code, err.splitlines()[1:]) == (44, ["DETAIL: No space left on device.", again])
        assert (data / "postgresql.auto.conf").read_bytes() == before
        code, _, err = answer(source, "accept", str(data), "--yes")
        assert (code, err.rpartition("HINT: ")[2].strip()) == (43, f"pgproof start {data}")
        for words in (["start", str(data)], ["accept", str(data), "--yes"]):
            code, _, err = answer(source, *words)
            assert code == 0, err
        server = running_in(data)
        assert server is not None
        with psycopg.connect(server.dsn, user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute("INSERT INTO t VALUES (2)")
            assert connection.execute("SELECT sum(g) FROM t").fetchone() == (3,)
