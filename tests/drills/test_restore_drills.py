"""Backups that are damaged: verify and restore say so, and what was half restored cannot start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.backups.record import BackupRecord
from pgproof.repository.repository import StoredObject
from pgproof.repository.seal import sealed
from tests.drills.damage import answer, assert_refused, flip_bit, truncate
from tests.servers.postgres import Source, now, running_source

HINT = "HINT: this backup cannot be restored whole; choose another with pgproof list"


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Source, BackupRecord]]:
    with running_source(17) as source:
        source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g")
        yield source, source.backup()


@pytest.fixture
def one(shared: tuple[Source, BackupRecord]) -> Iterator[tuple[Source, BackupRecord]]:
    """A source with one backup, whose objects are healed afterwards."""
    source, record = shared
    directory = source.repository_path / source.archive.layout.backup(record.label)
    kept = {path: path.read_bytes() for path in directory.iterdir()}
    yield source, record
    for path, content in kept.items():
        path.unlink(missing_ok=True)
        path.write_bytes(content)


def damaged(path: Path, stored: StoredObject) -> str:
    content = path.read_bytes()
    return (
        f'object "{stored.key}" is damaged\n'
        f"DETAIL: It has {len(content)} bytes with SHA-256 {hashlib.sha256(content).hexdigest()}; "
        f"the record says {stored.size} bytes with {stored.sha256}.\n{HINT}"
    )


def assert_cannot_start(source: Source, data: Path) -> None:
    assert not (data / "global" / "pg_control").exists()
    copy = source.start_copy(data)
    assert copy._process is not None
    assert copy._process.wait(20) != 0
    assert "could not find the database system" in copy.log.read_text()


OBJECTS = {
    "first volume": lambda record: record.volumes[0].object,
    "last volume": lambda record: record.volumes[-1].object,
    "manifest": lambda record: record.manifest,
}


def verified(source: Source, record: BackupRecord) -> str:
    """What verify says of a damaged backup."""
    code, out, _ = answer(source, "verify", "main", "--json")
    (result,) = json.loads(out)["backups"]
    assert (code, result["backup"], result["ok"], result["exit_code"]) == (1, record.label, False, 1)
    return f"{result['fact']}\nDETAIL: {result['detail']}\nHINT: {result['hint']}"


@pytest.mark.parametrize("what", OBJECTS)
def test_object_of_a_backup_with_a_flipped_bit(
    one: tuple[Source, BackupRecord], what: str, tmp_path: Path
) -> None:
    source, record = one
    stored: StoredObject = OBJECTS[what](record)
    path = source.repository_path / stored.key
    flip_bit(path)
    message = damaged(path, stored)
    assert verified(source, record) == message
    data = tmp_path / "restored"
    code, _, err = answer(source, "restore", "main", "--to", str(data))
    assert (code, err) == (1, f"pgproof: {message}\n")
    assert_cannot_start(source, data)


@pytest.mark.parametrize("what", OBJECTS)
@pytest.mark.parametrize("harm", ["truncated", "missing"])
def test_object_of_a_backup_truncated_or_missing(
    one: tuple[Source, BackupRecord], harm: str, what: str
) -> None:
    """Seen before the first write."""
    source, record = one
    stored: StoredObject = OBJECTS[what](record)
    path = source.repository_path / stored.key
    if harm == "truncated":
        truncate(path)
        assert verified(source, record) == damaged(path, stored)
        fact = f'object "{stored.key}" is damaged\n'
        fact += f"DETAIL: It has {path.stat().st_size} bytes; the record says {stored.size}."
    else:
        path.unlink()
        fact = f'object "{stored.key}" is missing\nDETAIL: The backup record names it.'
        assert verified(source, record) == f"{fact}\n{HINT}"
    data = source.root / "restored"
    assert_refused(source, ["restore", "main", "--to", str(data)], 1, f"{fact}\n{HINT}")
    assert not data.exists()


def test_a_half_restored_directory_is_not_filled_again(
    one: tuple[Source, BackupRecord], tmp_path: Path
) -> None:
    source, record = one
    flip_bit(source.repository_path / record.volumes[0].object.key)
    data = tmp_path / "restored"
    assert answer(source, "restore", "main", "--to", str(data))[0] == 1
    code, _, err = answer(source, "restore", "main", "--to", str(data))
    assert code == 43
    assert err.startswith(f'pgproof: cannot restore into "{data}"\nDETAIL: Reason: it is not empty: ')


def test_record_lost(one: tuple[Source, BackupRecord]) -> None:
    """Without its record a backup does not exist: its data is named as torn."""
    source, record = one
    (source.repository_path / source.archive.layout.backup_record(record.label)).unlink()
    code, out, _ = answer(source, "list", "main", "--json")
    unproven = {"backup": None, "at": None, "seconds": 0.0, "stale": False}
    listed = {"backups": [], "torn": [record.label], "damaged": {}, "unread": {}, "old_systems": []}
    listed["proof"] = unproven
    assert (code, json.loads(out)) == (0, listed)
    assert_refused(
        source,
        ["restore", "main", "--to", str(source.root / "restored")],
        41,
        "there is no backup yet\nHINT: pgproof backup NAME",
    )


def test_invariant_6_record_of_another_system_identifier(one: tuple[Source, BackupRecord]) -> None:
    source, record = one
    path = source.repository_path / source.archive.layout.backup_record(record.label)
    path.write_bytes(sealed({**record.as_dict(), "system_identifier": "7412345678901234567"}))
    fault = (
        f'{record.label}: backup record "{record.label}" belongs to another cluster. Its system identifier is '
        f"7412345678901234567; configured is {record.system_identifier}."
    )
    code, out, err = answer(source, "list", "main")
    assert (code, err) == (1, "")
    assert f"damaged: {fault}" in out
    message = f"no record of a backup can be used\nDETAIL: {fault}\nHINT: pgproof list NAME names each"
    assert_refused(source, ["restore", "main", "--to", str(source.root / "restored")], 41, message)


def test_two_backups_one_of_them_out_of_use(source: Source, tmp_path: Path) -> None:
    """A damaged record or a gap stands in the way of one backup, not of the others."""
    source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g")
    first = source.backup()
    between = source.archive_now()
    source.sql("SELECT pg_sleep(1.1)")
    second = source.backup()
    archive = source.archive
    proof = {"backup": first.label, "verdict": "proven", "at": now().isoformat(), "summary": "equal"}
    archive.write_json(f"{archive.layout.proofs}20261123T000000Z.json", proof)
    restore = ["restore", "main", "--to", str(tmp_path / "restored"), "--json"]

    def plan() -> dict[str, object]:
        code, out, err = answer(source, *restore, "--dry-run")
        assert code == 0, err
        found: dict[str, object] = json.loads(out)
        return found

    assert plan()["backup"] == first.label  # proven is preferred
    healthy = source.stored(between).read_bytes()
    source.stored(between).unlink()
    found = plan()
    assert found["backup"] == second.label  # but not where WAL is missing behind it
    assert found["steps"][0] == (  # type: ignore[index]
        f"backup {second.label} (full, the newest one before the target)"
    )
    (source.repository_path / f"{archive.layout.wal_file(between)}.zst").write_bytes(healthy)

    record = source.repository_path / archive.layout.backup_record(first.label)
    record.write_text(record.read_text()[:500])
    found = plan()
    assert found["backup"] == second.label
    fault = f'record "{archive.layout.backup_record(first.label)}" is damaged. '
    assert found["warnings"][0].startswith(f"backup {first.label} was not considered: {fault}")  # type: ignore[index]
    code, out, _ = answer(source, "list", "main", "--json")
    listed = json.loads(out)
    assert code == 1
    assert [backup["label"] for backup in listed["backups"]] == [second.label]
    assert listed["damaged"][first.label].startswith(fault)
    code, out, _ = answer(source, "verify", "main")
    assert code == 1
    assert f'{first.label}: backup "{first.label}" cannot be used\n  {fault}' in out
    assert f"{second.label}: " in out
    assert answer(source, "verify", "main", "--backup", second.label)[0] == 0
    code, out, err = answer(source, "expire", "main")
    assert (code, err) == (0, "")  # nothing expires by guess
    kept = f'warning: backup "{first.label}" is kept, with all WAL and every older backup, because its record'
    assert kept in out
    assert "removed 0 backups, 0 torn ones and 0 WAL objects" in out
    reason = listed["damaged"][first.label]
    assert_refused(
        source,
        [*restore[:-1], "--backup", first.label],
        41,
        f'backup "{first.label}" cannot be used\nDETAIL: {reason}\nHINT: pgproof list NAME shows the others',
    )
