from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.processes import end_leftovers, run, run_as_server

SLEEP = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that SIGTERM does not end, known by its environment alone."""
    process = subprocess.Popen(SLEEP, env={**os.environ, "SOME_SPOOL": str(tmp_path)})
    yield process
    process.kill()
    process.wait()


def test_a_background_process_is_ended(stubborn: subprocess.Popen[bytes], tmp_path: Path) -> None:
    end_leftovers(tmp_path / "other", patience=0.2)
    assert stubborn.poll() is None
    end_leftovers(tmp_path, patience=0.5)
    assert stubborn.wait(5) == -9


def test_a_command_runs_as_the_archiver_runs_it(tmp_path: Path) -> None:
    took = run_as_server("echo %f %p $PWD > here", tmp_path, "pg_wal/0001", tmp_path / "log")
    assert (tmp_path / "here").read_text() == f"0001 pg_wal/0001 {tmp_path}\n"
    assert 0 < took < 10


def test_a_command_that_fails_gives_no_value(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError) as raised:
        run_as_server("echo no room >&2; exit 3", tmp_path, "pg_wal/0001", tmp_path / "log")
    assert str(raised.value) == "echo no room >&2; exit 3 ended with 3: no room"


def test_a_program_that_fails(tmp_path: Path) -> None:
    assert run(["/bin/echo", "yes"]) == "yes\n"
    with pytest.raises(BenchmarkError) as raised:
        run(["/bin/sh", "-c", "echo why; exit 4"])
    assert str(raised.value) == "/bin/sh -c echo why; exit 4 ended with 4: why"
