"""A full disk: nothing that does not fit looks as if it did, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from pgproof.postgres.programs import account
from tests.drills.damage import assert_command_refused, tree
from tests.servers.place import make_directory
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
