"""A backup whose record was written anew, with a checksum that is right, to say another LSN than its files.

A copy that stopped a commit early or late is in test_sabotage.py and test_target_sabotage.py, another cluster's backup
in test_sabotaged_repository.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.repository.seal import sealed
from pgproof.timelines.lsn import LSN
from pgproof.validation.expectations import suites
from pgproof.validation.proof import read_proof
from tests.drills.damage import answer
from tests.servers.postgres import Source, installed, running_source

SEGMENT = 1 << 20
HINT = "one of them was altered or belongs to another backup; choose another with pgproof list"


@pytest.fixture(scope="module", params=[15, 17], ids=lambda major: f"pg{major}")
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source with WAL before and after its backup."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as made:
        made.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g")
        for _ in range(2):
            made.archive_now()
        made.backup()
        for _ in range(2):
            made.archive_now()
        yield made


@pytest.fixture
def record(source: Source, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackupRecord]:
    """The record of the backup, put back afterwards."""
    monkeypatch.setattr(suites, "available", lambda: False)
    (entry,) = read_catalog(source.archive).entries
    path = source.repository_path / source.archive.layout.backup_record(entry.label)
    kept = path.read_bytes()
    yield entry.record
    path.unlink()
    path.write_bytes(kept)


def rewrite(source: Source, record: BackupRecord, **changes: object) -> None:
    path = source.repository_path / source.archive.layout.backup_record(record.label)
    path.unlink()
    path.write_bytes(sealed({**record.as_dict(), **changes}))


@pytest.mark.parametrize(
    ("name", "by"),
    [(name, by) for name in ("start_lsn", "stop_lsn") for by in (-8, 8)]
    + [("start_lsn", -SEGMENT), ("stop_lsn", SEGMENT)],
)
def test_a_record_that_says_another_lsn(source: Source, record: BackupRecord, name: str, by: int) -> None:
    """By a byte or by a segment."""
    right = getattr(record, name)
    wrong = LSN(right + by)
    rewrite(source, record, **{name: str(wrong)})
    fact = f'backup record "{record.label}" contradicts its backup manifest'
    detail = f"Its {name} is {wrong}; the manifest says {right}."

    code, out, err = answer(source, "verify", "main", "--json")
    (result,) = json.loads(out)["backups"]
    assert (code, err) == (1, "")
    assert (result["ok"], result["fact"], result["detail"]) == (False, fact, detail)

    code, out, err = answer(source, "drill", "main", "--json")
    assert (code, err) == (1, "")
    proof = read_proof(source.archive, json.loads(out)["identifier"])
    assert (proof.verdict, proof.summary) == (
        "not recovered",
        f"{fact} DETAIL: {detail} HINT: {HINT}",
    )
    (entry,) = read_catalog(source.archive).entries
    assert (entry.state, entry.failed) == ("failed", proof.summary)
    assert list((source.root / "scratch").iterdir()) == []


@pytest.mark.parametrize(("name", "by"), [("start_lsn", SEGMENT), ("stop_lsn", -SEGMENT)])
def test_a_record_that_ends_before_it_starts(
    source: Source, record: BackupRecord, name: str, by: int
) -> None:
    rewrite(source, record, **{name: str(LSN(getattr(record, name) + by))})
    said = "ValueError('start_lsn cannot be')"

    code, out, err = answer(source, "verify", "main", "--json")
    (result,) = json.loads(out)["backups"]
    assert (code, err, result["ok"]) == (1, "", False)
    assert said in result["detail"]

    code, _, err = answer(source, "drill", "main")
    assert code == 41
    assert err.startswith(f"pgproof: no record of a backup can be used\nDETAIL: {record.label}: ")
    assert said in err
    assert list((source.root / "scratch").iterdir()) == []


def test_a_restore_writes_nothing(source: Source, record: BackupRecord) -> None:
    rewrite(source, record, start_lsn=str(LSN(record.start_lsn - 8)))
    destination = source.root / "restored"
    code, _, err = answer(source, "restore", "main", "--to", str(destination))
    assert code == 1
    assert err == (
        f'pgproof: backup record "{record.label}" contradicts its backup manifest\n'
        f"DETAIL: Its start_lsn is {LSN(record.start_lsn - 8)}; the manifest says {record.start_lsn}.\n"
        f"HINT: {HINT}\n"
    )
    assert [path for path in destination.rglob("*") if path.is_file()] == []


def test_a_record_of_another_timeline(source: Source, record: BackupRecord) -> None:
    """No history file leads to it, so it is refused before a byte of it is read."""
    rewrite(source, record, timeline=record.timeline + 1)
    code, out, _ = answer(source, "verify", "main", "--json")
    (result,) = json.loads(out)["backups"]
    assert (code, result["detail"]) == (1, "Its timeline is 2; the manifest says 1.")
