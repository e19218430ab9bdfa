"""A backup record beside its backup manifest: they must agree, and the list of files is never parsed."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import pytest

from pgproof.backups.manifest import check_manifest
from pgproof.backups.record import BackupRecord
from pgproof.errors import ObjectDamaged
from pgproof.timelines.lsn import LSN
from tests.retention.archives import NOON, entry

RECORD = entry("20261123T120000Z-full", NOON, 3, last=5).record


def manifest(record: BackupRecord, files: int = 1, system: bool = True) -> bytes:
    """As ``AddFileToBackupManifest`` and ``AddWALInfoToBackupManifest`` write it."""
    names = [json.dumps(f'base/5/{n}"WAL-Ranges"') for n in range(files)]
    lines = [f'{{ "Path": {name}, "Size": 8192, "Checksum": "00000000" }}' for name in names]
    identifier = f'"System-Identifier": {record.system_identifier},\n' if system else ""
    return (
        f'{{ "PostgreSQL-Backup-Manifest-Version": 2,\n{identifier}"Files": [\n'
        + ",\n".join(lines)
        + f'\n],\n"WAL-Ranges": [\n{{ "Timeline": {record.timeline}, "Start-LSN": "{record.start_lsn}", '
        f'"End-LSN": "{record.stop_lsn}" }}\n],\n"Manifest-Checksum": "00"}}\n'
    ).encode()


@pytest.mark.parametrize("system", [True, False], ids=["from 17 on", "before"])
def test_they_agree(system: bool) -> None:
    check_manifest(RECORD, [manifest(RECORD, system=system)])


def test_they_contradict_each_other() -> None:
    other = replace(RECORD, stop_lsn=LSN.parse("0/501001"))
    with pytest.raises(ObjectDamaged) as caught:
        check_manifest(RECORD, [manifest(other)])
    assert str(caught.value) == (
        'backup record "20261123T120000Z-full" contradicts its backup manifest\n'
        "DETAIL: Its stop_lsn is 0/501000; the manifest says 0/501001.\n"
        "HINT: one of them was altered or belongs to another backup; choose another with pgproof list"
    )
    with pytest.raises(ObjectDamaged, match="Its system_identifier is "):
        check_manifest(RECORD, [manifest(replace(RECORD, system_identifier=1))])


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"WAL-Ranges": [], "Files": []}', b'{"Files": "WAL-Ranges"']
)
def test_one_that_cannot_be_read_is_left_to_pg_verifybackup(content: bytes) -> None:
    check_manifest(RECORD, [content])


def test_memory_does_not_grow_with_the_files() -> None:
    content = manifest(RECORD, files=50_000)
    tracemalloc.start()
    try:
        check_manifest(RECORD, [content])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(content) > 3_000_000
    assert peak < 100_000


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 14, 1 << 20])
def test_it_comes_in_chunks(size: int) -> None:
    content = manifest(replace(RECORD, stop_lsn=LSN.parse("0/501001")), files=1000)
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    with pytest.raises(ObjectDamaged, match="Its stop_lsn is "):
        check_manifest(RECORD, chunks)
