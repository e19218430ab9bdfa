"""An acceptance that ended when it had reserved its timeline: the archive has its history, and nobody goes on."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgproof.postgres.lock_file import running_in
from pgproof.restore import acceptance
from pgproof.wal.archive import is_archived
from tests.drills.damage import answer
from tests.servers.postgres import Source, running_source


@pytest.fixture
def source() -> Iterator[Source]:
    with running_source(17) as made:
        made.sql("CREATE TABLE t AS SELECT 1 AS g")
        made.backup()
        made.sql("INSERT INTO t VALUES (2)")
        made.sql("SELECT pg_create_restore_point('two')")
        made.sql("INSERT INTO t VALUES (3)")
        made.archive_now()
        yield made


def abandon(source: Source, monkeypatch: pytest.MonkeyPatch, timeline: int, *options: str) -> None:
    """Accept a restored cluster, die when the number is reserved, and throw the cluster away; the source was down."""
    data = source.root / "restored"
    try:
        with source.away(), monkeypatch.context() as patched:
            for words in (["restore", "main", "--to", str(data), *options], ["start", str(data)]):
                code, out, err = answer(source, *words)
                assert code == 0, out + err
            patched.setattr(acceptance, "end_note", dies)
            with contextlib.suppress(KeyboardInterrupt):
                answer(source, "accept", str(data), "--yes")
            assert is_archived(source.archive, f"{timeline:08X}.history")
    finally:
        if server := running_in(data):
            server.stop()
        shutil.rmtree(data)


def dies(*_: object, **__: object) -> None:
    """What a killed process comes to."""
    raise KeyboardInterrupt


def restored(source: Source, to: Path, *options: str) -> tuple[dict[str, Any], list[int]]:
    """The plan of a restore, and the rows that it brings back."""
    words = ["--json", "--target-action", "promote", *options]
    code, out, err = answer(source, "restore", "main", "--to", str(to), *words)
    assert code == 0, err
    with source.copy(to) as connection:
        row: Any = connection.execute("SELECT array_agg(g ORDER BY g) FROM t").fetchone()
    return json.loads(out), list(row[0])


def notes(source: Source) -> list[str]:
    out = answer(source, "wal", "check", "main", "--json")[1]
    found: dict[str, Any] = json.loads(out)
    assert (found["findings"], found["ok"]) == ([], True)
    return [note for note in found["notes"] if "history file" in note]


def test_the_source_goes_on(source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By PostgreSQL's "latest" a restore would end where the abandoned timeline began, without a word."""
    abandon(source, monkeypatch, 2, "--target-name", "two")
    source.sql("INSERT INTO t VALUES (4)")
    source.archive_now()
    plan, rows = restored(source, tmp_path / "before")
    assert (plan["timeline"], rows) == (1, [1, 2, 3, 4])
    (said,) = [text for text in plan["warnings"] if "timeline 2" in text]
    assert said.startswith("timeline 2 is not followed from LSN ")
    assert "it has no commit and no backup of its own" in said
    (note,) = notes(source)
    assert note.startswith("timeline 2, which left timeline 1 at LSN ")

    source.backup()
    source.sql("INSERT INTO t VALUES (5)")
    source.archive_now()
    plan, rows = restored(source, tmp_path / "after")
    assert (plan["timeline"], rows) == (1, [1, 2, 3, 4, 5])
    assert len(notes(source)) == 1
    words = ["restore", "main", "--to", str(tmp_path / "asked"), "--target-timeline", "2"]
    code, _, err = answer(source, *words)
    assert (code, err.splitlines()[0]) == (
        2,
        "pgproof: timeline 2 has nothing in the archive but its history file",
    )
    hint = err.rpartition("HINT: ")[2].split(" is all")[0].split()
    assert restored(source, tmp_path / "asked", *hint)[1] == [1, 2]


def test_nobody_goes_on(source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that began at the end of all WAL, and one in the past: neither takes anything away."""
    abandon(source, monkeypatch, 2)
    abandon(source, monkeypatch, 3, "--target-name", "two")
    with source.away():
        assert restored(source, tmp_path / "r")[1] == [1, 2, 3]
    assert len(notes(source)) == 2
    data = tmp_path / "standby"
    with source.away():
        code, out, err = answer(
            source, "restore", "main", "--to", str(data), "--standby", "--json", "--dry-run"
        )
    assert code == 0, err
    assert [text for text in json.loads(out)["warnings"] if "no failover" in text]
