"""A moment in which this program cannot run must stop recovery, and never end it early (invariant 9)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.drills.damage import answer
from tests.servers.postgres import PROJECT, Source, running_source

ROWS = 6
# Python reads it before it imports anything of ours; a file beside it says what fails for which WAL file
MOMENT = """
import os, sys
try:
    segment, fault = open(os.path.join(os.path.dirname(__file__), "moment")).read().split()
except OSError:
    segment, fault = "", ""
if segment and segment in sys.argv:
    import resource
    if fault == "import":
        sys.modules["pgproof"] = None
    elif fault == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
    elif fault == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
"""


@dataclass
class Life:
    """A source whose commits lie each in a segment of its own."""

    source: Source
    segments: list[str]


@pytest.fixture(scope="module", params=[15, 18])
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    with running_source(request.param) as source:
        source.sql("CREATE TABLE t (g int)")
        source.backup()
        segments = []
        for row in range(ROWS):
            source.sql(f"INSERT INTO t VALUES ({row})")
            segments.append(source.archive_now(commit=False))
        yield Life(source, segments)


@pytest.mark.parametrize("fault", ["import", "memory", "files"])
def test_invariant_9_recovery_stops_and_goes_on_later(
    life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(MOMENT)
    (tmp_path / "moment").write_text(f"{life.segments[3]} {fault}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{PROJECT}")
    monkeypatch.setenv("PGPROOF_SPOOL", str(tmp_path / "spool"))
    data = tmp_path / "restored"
    assert answer(life.source, "restore", "main", "--to", str(data))[0] == 0

    copy = life.source.start_copy(data, fault)
    assert copy._process is not None
    try:
        assert copy._process.wait(60) != 0
    finally:
        copy.stop("immediate")
    log = copy.log.read_text()
    assert (
        f'could not restore file "{life.segments[3]}" from archive: child process exited with exit code 254'
        in log
    )
    assert "archive recovery complete" not in log

    os.unlink(tmp_path / "moment")
    with life.source.copy(data) as connection:
        assert connection.execute("SELECT array_agg(g ORDER BY g) FROM t").fetchone() == (list(range(ROWS)),)
