"""docs/runbooks/proof-fails.md: every command of it, run in its order while the newest backup is damaged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.backups.catalog import NOT_EQUAL, NOT_EXACT, NOT_RECOVERED, NOT_SOUND, read_catalog
from pgproof.validation.expectations import suites
from tests.docs.pages import PROJECT, table_under
from tests.docs.test_commands import command_lines
from tests.drills.damage import answer, flip_bit
from tests.servers.postgres import Source, running_source

RUNBOOK = PROJECT / "docs" / "runbooks" / "proof-fails.md"
OLDER, NEWER = "20261122T013000Z-full", "20261123T013000Z-full"  # as the runbook calls the two
# What each command finds while the newer backup is damaged; after `backup` there is a good one
CODES = {
    "list": [0, 0],
    "objectives": [0],
    "restore": [0],
    "hold": [0, 0, 0, 0],
    "drill": [0, 0, 0, 0],
    "verify": [1, 1],
    "wal": [0],
    "backup": [0],
    "doctor": [0],
}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    monkeypatch.setattr(suites, "available", lambda: False)
    with running_source(17) as made:
        made.sql("CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, 1000) g")
        made.archive_now()
        yield made


def test_every_verdict_has_its_step() -> None:
    rows = table_under(RUNBOOK, "2. What the verdict says")
    verdicts = [row[0] for row in rows]
    assert verdicts == [*(v.upper() for v in (NOT_EQUAL, NOT_RECOVERED, NOT_SOUND, NOT_EXACT)), "stale"]
    text = RUNBOOK.read_text()
    for verdict, _, step in rows:
        number = re.fullmatch(r"step (\d)", step)
        assert number is not None
        assert f"\n## {number[1]}. {verdict[0].upper()}{verdict[1:]}\n" in text


def test_every_command_works(source: Source, tmp_path: Path) -> None:
    older = source.backup()
    source.sql("SELECT pg_sleep(1.1)")  # labels are of whole seconds
    newer = source.backup()
    assert answer(source, "drill", "main", "--backup", older.label)[0] == 0
    flip_bit(source.repository_path / newer.volumes[0].object.key)
    code, out, _ = answer(source, "drill", "main")
    assert code == 1
    assert "\nNOT RECOVERED: object " in out
    names = {OLDER: older.label, NEWER: newer.label, "shop": "main"}
    names["/var/lib/postgresql/17/restored"] = str(tmp_path / "restored")
    found: dict[str, list[int]] = {}
    for words in command_lines(RUNBOOK):
        source.write_config()
        code, out, err = answer(source, *(names.get(word, word) for word in words))
        assert err == "", f"{words}: {err}"
        if words[0] == "restore":
            assert (
                out.splitlines()[1]
                .strip()
                .startswith(f"1. backup {older.label} (full, the newest proven one")
            )
        found.setdefault(words[0], []).append(code)
    assert found == CODES
    states = [(entry.label, entry.state) for entry in read_catalog(source.archive).entries]
    assert states[:2] == [(older.label, "proven"), (newer.label, "failed")]
    assert [state for _, state in states[2:]] == ["proven"]
    assert [entry.hold for entry in read_catalog(source.archive).entries] == [None] * 3
