"""Clocks that differ: what is compared with commits is the server's time, whatever the backup host's clock says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from pgproof.backups.base_backup import take_backup
from pgproof.backups.record import BackupRecord
from tests.drills.damage import answer
from tests.servers.postgres import PGPROOF, PROJECT, Source, now, running_source

FAKETIME = shutil.which("faketime")
SLOW = timedelta(minutes=10)


@dataclass
class Slow:
    """A source whose backup was taken by a host that is ten minutes slow, with a commit just before it."""

    source: Source
    record: BackupRecord
    first: datetime
    second: datetime


@pytest.fixture(scope="module")
def slow() -> Iterator[Slow]:
    with running_source(15) as source:
        source.sql("CREATE TABLE t AS SELECT 1 AS a")
        first = source.sql("SELECT clock_timestamp()")[0][0]
        source.sql("INSERT INTO t VALUES (2)")
        second = source.sql("SELECT clock_timestamp()")[0][0]
        record = take_backup(source.cluster, source.repository, lambda: now() - SLOW)
        source.sql("INSERT INTO t VALUES (3)")
        source.archive_now()
        yield Slow(source, record, first, second)


def test_record_has_the_time_of_the_server(slow: Slow) -> None:
    assert slow.record.started_at < slow.first - SLOW + timedelta(minutes=1)
    assert slow.second < slow.record.stopped_at < now()
    assert slow.record.consistent_at == slow.record.stopped_at


def test_time_before_the_end_of_the_backup_is_refused(slow: Slow) -> None:
    """It would give commits that came later: those of the backup itself."""
    words = ["restore", "main", "--to", str(slow.source.root / "new"), "--dry-run", "--target-time"]
    code, _, error = answer(slow.source, *words, slow.first.isoformat())
    assert code == 42
    assert "is outside the recovery window" in error
    assert answer(slow.source, *words, slow.record.stopped_at.isoformat())[0] == 0


def test_window_begins_at_the_end_of_the_backup(slow: Slow) -> None:
    code, out, _ = answer(slow.source, "wal", "check", "main", "--json")
    (window,) = json.loads(out)["windows"]
    assert code == 0
    assert window["from_time"] == slow.record.stopped_at.isoformat()


@pytest.mark.skipif(FAKETIME is None, reason="needs faketime: apt-get install faketime")
@pytest.mark.parametrize(
    ("offset", "said"), [("-10m", "behind the server's"), ("+10m", "ahead of the server's")]
)
def test_doctor_asks_for_the_clocks(slow: Slow, offset: str, said: str) -> None:
    done = subprocess.run(
        [
            str(FAKETIME),
            "-f",
            offset,
            *PGPROOF,
            "--config",
            slow.source.config_path,
            "doctor",
            "main",
            "--json",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        timeout=120,
    )
    clock = clock_of(json.loads(done.stdout))
    assert (clock["ok"], clock["blocks"]) == (False, "")
    assert said in clock["fact"]


def test_doctor_is_content_with_one_clock(slow: Slow) -> None:
    clock = clock_of(json.loads(answer(slow.source, "doctor", "main", "--json")[1]))
    assert (clock["ok"], clock["fact"]) == (True, "this machine's clock and the server's agree within 5 s")


def clock_of(page: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(check for check in page["checks"] if check["name"] == "clock")
    return found
