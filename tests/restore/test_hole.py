"""A segment that goes between the restore and the replay stops recovery, and is not taken for the end of WAL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pgproof.postgres.server import LocalServer
from pgproof.restore.settings import setting_of
from tests.drills.damage import answer
from tests.servers.postgres import Source, installed, running_source


@dataclass
class Life:
    """A source with six rows after its backup, each commit in an archived segment of its own."""

    source: Source
    segments: list[str] = field(default_factory=list)


@pytest.fixture(scope="module", params=[15, 18], ids=["pg15", "pg18"])
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as source:
        source.sql("CREATE TABLE t (g int)")
        source.backup()
        lived = Life(source)
        for row in range(6):
            source.sql("INSERT INTO t VALUES (%s)", row)
            lived.segments.append(source.archive_now())
        yield lived


def restored(life: Life, tmp_path: Path, *options: str) -> Path:
    data = tmp_path / "restored"
    code, _, err = answer(life.source, "restore", "main", "--to", str(data), *options)
    assert code == 0, err
    return data


def refusal(life: Life, data: Path) -> str:
    """What the log says of a server that does not start."""
    with pytest.raises(Exception):  # noqa: B017 - whichever, the log is looked at
        life.source.start_copy(data, "refused").wait(lambda: False, 60, "to start")
    return (life.source.root / "log-refused").read_text()


def without_plan(data: Path) -> None:
    """The restore_command as somebody would write it by hand."""
    conf = data / "postgresql.auto.conf"
    lines = conf.read_text().split("\n")
    at = next(n for n, line in enumerate(lines) if (setting_of(line) or ("",))[0] == "restore_command")
    words = lines[at].split(" ")
    del words[words.index("--planned") : words.index("--planned") + 2]
    lines[at] = " ".join(words)
    conf.write_text("\n".join(lines))


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "by hand"])
def test_a_segment_that_goes_after_the_restore(life: Life, tmp_path: Path, planned: bool) -> None:
    data = restored(life, tmp_path)
    if not planned:
        without_plan(data)
    lost = life.source.stored(life.segments[3])
    shutil.move(lost, tmp_path / "away")
    try:
        log = refusal(life, data)
    finally:
        shutil.move(tmp_path / "away", lost)
    assert f'WAL segment "{life.segments[3]}" is missing from the archive' in log
    detail = f"to {life.segments[5]}." if planned else f"A newer one is archived: {life.segments[4]}"
    assert detail in log
    assert "archive recovery complete" not in log
    with life.source.copy(data) as connection:  # it is back, and recovery goes on
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (6,)


def test_a_newest_segment_that_goes_is_known_by_the_plan_alone(life: Life, tmp_path: Path) -> None:
    data = restored(life, tmp_path)
    lost = life.source.stored(life.segments[5])
    shutil.move(lost, tmp_path / "away")
    try:
        log = refusal(life, data)
    finally:
        shutil.move(tmp_path / "away", lost)
    assert "This recovery was planned with all WAL from " in log


def test_a_standby_waits_for_what_is_still_on_its_way(life: Life, tmp_path: Path) -> None:
    """Files are archived in parallel, and may arrive in another order."""
    data = restored(life, tmp_path, "--standby")
    source = life.source
    copy = source.start_copy(data, "standby", hot_standby="on")
    try:
        assert isinstance(copy, LocalServer)
        query = "SELECT count(*) FROM t"
        copy.wait(lambda: rows(copy, query) == 6, 60, "to follow")
        source.sql("INSERT INTO t VALUES (7)")
        hidden = source.archive_now()
        stored = source.stored(hidden)
        shutil.move(stored, tmp_path / "away")
        source.sql("INSERT INTO t VALUES (8)")
        source.archive_now()
        copy.wait(lambda: hidden in (source.root / "log-standby").read_text(), 60, "to ask")
        shutil.move(tmp_path / "away", stored)
        copy.wait(lambda: rows(copy, query) == 8, 60, "to go on")
    finally:
        copy.stop("fast")
        source.sql("DELETE FROM t WHERE g > 6")


def rows(copy: LocalServer, query: str) -> int:
    import psycopg

    try:
        with psycopg.connect(f"{copy.dsn} user=postgres dbname=postgres") as connection:
            row = connection.execute(query.encode()).fetchone()
            return int(row[0]) if row else 0
    except psycopg.Error:
        return 0
