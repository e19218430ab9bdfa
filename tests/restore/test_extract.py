"""Extraction: whole files where they belong, and nothing that leads out of the directory."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.backups.record import BackupRecord, Tablespace, Volume
from pgproof.errors import DestinationRefused, ObjectDamaged, ObjectMissing
from pgproof.repository.repository import Archive
from pgproof.restore.extract import CONTROL, CONTROL_ASIDE, extract_backup, tablespace_map
from tests.backups.test_volumes import make_archive
from tests.retention.archives import NOON, entry

PREFIX = "shop/7/backups/one/"


def member(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o600
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def store(
    archive: Archive,
    *members: tuple[tarfile.TarInfo, bytes],
    name: str = "base-000",
    tablespace: int | None = None,
) -> Volume:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return store_bytes(archive, out.getvalue(), name, tablespace)


def store_bytes(archive: Archive, content: bytes, name: str, tablespace: int | None = None) -> Volume:
    return Volume(archive.write(f"{PREFIX}{name}.tar", [content]), tablespace, len(content))


def make_record(archive: Archive, *volumes: Volume, tablespaces: tuple[Tablespace, ...] = ()) -> BackupRecord:
    manifest = archive.write(f"{PREFIX}backup_manifest", [b"{}"])
    return replace(entry("one", NOON, 3).record, volumes=volumes, manifest=manifest, tablespaces=tablespaces)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


def test_files_and_directories(data: Path) -> None:
    archive = make_archive()
    record = make_record(
        archive,
        store(
            archive,
            member("backup_label", b"START"),
            member("base", type=tarfile.DIRTYPE, size=0),
            member("base/5/1259", b"t" * 20_000, mode=0o640),
            member("pg_wal/archive_status", type=tarfile.DIRTYPE, size=0),
            member(CONTROL, b"c" * 8192),
        ),
        store(archive, member("empty", b""), name="base-001"),
    )
    seen: list[int] = []
    extract_backup(archive, record, data, {}, progress=seen.append)
    found = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
    assert found == {"backup_label", "base/5/1259", CONTROL_ASIDE, "empty", "backup_manifest"}
    assert (data / "base/5/1259").read_bytes() == b"t" * 20_000
    assert (data / "base/5/1259").stat().st_mode & 0o777 == 0o640
    assert (data / "pg_wal/archive_status").is_dir()
    assert {path.stat().st_mode & 0o777 for path in data.rglob("*") if path.is_dir()} == {0o700}
    assert sorted(seen) == sorted(volume.raw_size for volume in record.volumes)


def test_tablespaces_are_linked_to_where_they_are_now(data: Path, tmp_path: Path) -> None:
    archive = make_archive()
    old = Tablespace(16385, "/old")
    record = make_record(
        archive,
        store(
            archive,
            member("tablespace_map", b"16385 /old\n"),
            member("pg_tblspc/16385", b"", type=tarfile.SYMTYPE, linkname="/old"),
        ),
        store(archive, member("PG_17/5/16386", b"t"), name="16385-000", tablespace=16385),
        tablespaces=(old,),
    )
    new = tmp_path / "new\\shelf"
    new.mkdir()
    extract_backup(archive, record, data, {16385: new})
    assert (data / "pg_tblspc" / "16385").readlink() == new
    assert (new / "PG_17/5/16386").read_bytes() == b"t"
    assert (data / "tablespace_map").read_text() == f"16385 {tmp_path}/new\\\\shelf\n"


def test_tablespace_map_escapes_as_postgresql_does() -> None:
    assert tablespace_map({1: Path("/a b"), 2: Path("/back\\slash"), 3: Path("/new\nline")}) == (
        "1 /a b\n2 /back\\\\slash\n3 /new\\\nline\n"
    )


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "base/../../outside", "base/.."])
def test_members_that_lead_out(data: Path, tmp_path: Path, name: str) -> None:
    archive = make_archive()
    record = make_record(archive, store(archive, member("ok"), member(name, b"evil")))
    with pytest.raises(ObjectDamaged) as caught:
        extract_backup(archive, record, data, {})
    assert str(caught.value) == f'volume member "{name}" leads out of the data directory'
    assert {path.name for path in tmp_path.rglob("*")} == {"data", "ok"}


def test_links_lead_nowhere(data: Path, tmp_path: Path) -> None:
    """No member makes a link, so none can be written through; the server's are written anew from the record."""
    archive = make_archive()
    outside = tmp_path / "outside"
    outside.mkdir()
    record = make_record(
        archive,
        store(
            archive,
            member("base", b"", type=tarfile.SYMTYPE, linkname=str(outside)),
            member("hard", b"", type=tarfile.LNKTYPE, linkname="/etc/hostname"),
            member("pipe", b"", type=tarfile.FIFOTYPE),
            member("base/file", b"inside"),
        ),
    )
    extract_backup(archive, record, data, {})
    assert list(outside.iterdir()) == []
    assert (data / "base/file").read_bytes() == b"inside"
    assert sorted(path.name for path in data.iterdir()) == ["backup_manifest", "base"]


def test_volume_that_is_no_tar(data: Path) -> None:
    archive = make_archive()
    volume = store_bytes(archive, b"not a tar at all" * 100, "base-000")
    with pytest.raises(ObjectDamaged, match=r'^volume "shop/7/backups/one/base-000.tar.zst" is not a tar'):
        extract_backup(archive, make_record(archive, volume), data, {})


def test_volume_other_than_its_record_says(data: Path) -> None:
    """Content that is good in itself, under the name of another."""
    archive = make_archive()
    right = store(archive, member("a", b"right"))
    archive.store.delete(right.object.key)
    wrong = store(archive, member("a", b"wrong"))
    with pytest.raises(ObjectDamaged) as caught:
        extract_backup(archive, make_record(archive, right), data, {})
    assert caught.value.fact == f'object "{right.object.key}" is damaged'
    assert right.object.sha256 in caught.value.detail
    assert wrong.object.sha256 in caught.value.detail


def test_volume_that_is_gone(data: Path) -> None:
    archive = make_archive()
    volume = store(archive, member("a"))
    archive.store.delete(volume.object.key)
    with pytest.raises(ObjectMissing):
        extract_backup(archive, make_record(archive, volume), data, {})


def test_the_same_file_twice(data: Path) -> None:
    archive = make_archive()
    record = make_record(
        archive, store(archive, member("a", b"1")), store(archive, member("a", b"2"), name="base-001")
    )
    with pytest.raises(DestinationRefused, match="File exists"):
        extract_backup(archive, record, data, {})


def test_manifest_that_is_damaged(data: Path) -> None:
    archive = make_archive()
    record = make_record(archive, store(archive, member("a")))
    bad = replace(record.manifest, sha256=hashlib.sha256(b"other").hexdigest())
    with pytest.raises(ObjectDamaged, match="backup_manifest"):
        extract_backup(archive, replace(record, manifest=bad), data, {})
    assert not (data / "backup_manifest").exists()
