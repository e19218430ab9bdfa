"""``pgproof fleet``: a row for each cluster, whatever is the matter with the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pgproof.backups.record import BackupRecord
from pgproof.commands import fleet as fleet_command
from pgproof.fleet.score import measure_score
from pgproof.repository.store import Store
from tests.drills.damage import answer
from tests.servers.postgres import Source, now, running_source

pytestmark = pytest.mark.usefixtures("plain")

ELSEWHERE = """
[repositories.elsewhere]
url = "file:///nowhere/at/all"

[clusters.lost]
dsn = "host=/nowhere user=pgproof dbname=postgres"
repository = "elsewhere"
"""


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with running_source(17) as made:
        made.sql("CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, 1000) g")
        made.archive_now()
        yield made


def score(source: Source, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and the only cluster as ``--json`` shows it."""
    code, out, _ = answer(source, "fleet", *words, "--json")
    (found,) = json.loads(out)["clusters"]
    return code, found


def missed(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(miss["what"], miss["command"]) for miss in found["misses"]]


def test_a_life(source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing_yet(source)
    backup = source.backup()
    taken(source)
    source.sql("INSERT INTO orders VALUES (0)")
    source.archive_now()
    assert answer(source, "drill", "main")[0] == 0
    in_order(source, backup)
    each_record_is_read_once(source, backup)
    with_one_that_cannot_be_read(source)
    source.write_config()
    with monkeypatch.context() as patch:
        old(source, patch)
    a_gap(source, backup, tmp_path)
    the_source_is_away(source)


def nothing_yet(source: Source) -> None:
    code, found = score(source)
    assert (code, found["ok"], found["error"]) == (1, False, "")
    assert found["window"] == {"start": None, "end": None}
    assert missed(found) == [
        ("there is no backup: nothing can be recovered from WAL alone", "pgproof backup main"),
        ("nothing is proven", "pgproof drill main"),
        ("the recovery time was not measured", "pgproof drill main"),
        ("what would be lost now is not known", "pgproof objectives main"),
    ]


def taken(source: Source) -> None:
    code, found = score(source)
    assert code == 1
    assert missed(found) == [
        ("nothing is proven", "pgproof drill main"),
        ("the recovery time was not measured", "pgproof drill main"),
    ]
    assert (found["proof"]["backup"], found["proof"]["at"]) == (None, None)


def in_order(source: Source, backup: BackupRecord) -> None:
    code, found = score(source)
    assert (code, found["ok"], missed(found)) == (0, True, [])
    assert found["proof"]["backup"] == backup.label
    assert found["window"]["start"] == backup.stopped_at.isoformat()
    assert found["window"]["end"] >= found["window"]["start"]
    assert (found["rpo"]["target"], found["rpo"]["met"]) == (300, True)
    assert (found["rto"]["target"], found["rto"]["met"]) == (3600, True)
    assert found["rto"]["measured"] > 0
    assert found["missing_segments"] == 0
    code, out, _ = answer(source, "fleet")
    assert code == 0
    first, columns, row = out.splitlines()
    assert first == "1 of 1 cluster in order"
    assert columns.split() == " ".join(fleet_command.COLUMNS).split()
    assert row.startswith(f"main     in order  {now():%F} ")
    assert " of 5 min " in row and " of 1 h " in row and row.endswith(" none")


@dataclass
class Counted:
    """A store that notes what is read.

    Args:
        store: that has it.
        read: the keys, in their order.
    """

    store: Store
    read: list[str] = field(default_factory=list)

    def get(self, key: str) -> Iterator[bytes]:
        self.read.append(key)
        return self.store.get(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def each_record_is_read_once(source: Source, backup: BackupRecord) -> None:
    """The gap check, the forecast and the ages rest on one reading of the catalog: a request for each on S3."""
    archive = source.archive
    store = Counted(archive.store)
    counted = replace(archive, repository=replace(archive.repository, store=store))
    assert measure_score(source.cluster, counted, now()).ok
    assert store.read.count(archive.layout.backup_record(backup.label)) == 1


def with_one_that_cannot_be_read(source: Source) -> None:
    source.write_config(extra=ELSEWHERE)
    code, out, _ = answer(source, "fleet")
    assert code == 1
    assert out.startswith("1 of 2 clusters in order\n")
    lines = out.splitlines()
    assert lines[-2].split() == ["lost", "NOT", "READ", *["unknown"] * 5]
    assert lines[-1] == (
        'lost: it could not be read: there is no repository at "file:///nowhere/at/all": pgproof doctor lost'
    )
    assert score(source, "main")[0] == 0
    code, found = score(source, "lost", "lost")
    assert (code, found["ok"]) == (1, False)
    assert found["error"] == 'there is no repository at "file:///nowhere/at/all"'


def old(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    at = now() + timedelta(days=8.5)
    monkeypatch.setattr(fleet_command, "now", lambda: at)
    code, found = score(source)
    assert code == 1
    assert missed(found) == [
        ("the newest backup is older than backup_age", "pgproof backup main"),
        ("the newest proof is older than stale_after", "pgproof drill main"),
    ]
    assert ", stale " in answer(source, "fleet")[1]


def a_gap(source: Source, backup: BackupRecord, tmp_path: Path) -> None:
    source.sql("INSERT INTO orders VALUES (1)")
    name = source.archive_now()
    source.sql("INSERT INTO orders VALUES (2)")
    source.archive_now()
    path = source.stored(name)
    kept = path.rename(tmp_path / path.name)
    try:
        code, found = score(source)
    finally:
        kept.rename(path)
    assert (code, found["missing_segments"]) == (1, 1)
    assert missed(found)[0] == (f"{name} missing", "pgproof wal check main")


def the_source_is_away(source: Source) -> None:
    source.write_config(dsn="host=/nowhere user=pgproof dbname=postgres")
    code, found = score(source)
    assert code == 1
    ((what, command),) = missed(found)
    assert what.startswith(
        "the source did not answer, and nobody knows what it has that is not archived: could not connect"
    )
    assert command == "pgproof wal check main"


def test_names_that_are_not_known(source: Source) -> None:
    code, out, err = answer(source, "fleet", "mian")
    assert (code, out) == (2, "")
    assert err == (
        'pgproof: cluster "mian" is not configured\n'
        f'DETAIL: {source.config_path} has: "main".\nHINT: did you mean "main"?\n'
    )
    source.config_path.write_text("")
    code, out, err = answer(source, "fleet")
    assert (code, out) == (2, "")
    assert err == ("pgproof: no cluster is configured\nHINT: pgproof init NAME --dsn ... --repository ...\n")
