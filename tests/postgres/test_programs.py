"""Programs end with the process that started them, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.descent import descendants
from pgproof.postgres.programs import ending_with_us, lines_of, run, warnings_of
from pgproof.validation.catalogs.object_comparison import unequal
from pgproof.validation.checks.server_log import check_log
from tests.deployments.upped import until
from tests.servers.postgres import PROJECT

RUN = 'from pgproof.postgres.programs import run; run(["sleep", "120"], timeout=120)'
WAL = """
from pathlib import Path
from pgproof.timelines.lsn import LSN
from pgproof.wal.records import read_records
list(read_records(Path({bin!r}), Path("/"), LSN(0), LSN(1), 1))
"""


def ends(process: int) -> bool:
    return until(lambda: Path(f"/proc/{process}").exists(), lambda there: not there, 10) is False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_that_runs(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN], cwd=PROJECT) as process:
        (child,) = until(lambda: descendants(process.pid), bool, 20)
        process.send_signal(number)
    assert ends(child)


def test_a_program_that_is_read_from(tmp_path: Path) -> None:
    """pg_waldump that finds nothing writes nothing, so that no broken pipe would end it."""
    program = tmp_path / "pg_waldump"
    program.write_text("#!/bin/sh\nexec sleep 120\n")
    program.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", WAL.format(bin=str(tmp_path))], cwd=PROJECT) as process:
        (child,) = until(lambda: descendants(process.pid), bool, 20)
        process.kill()
    assert ends(child)


def test_what_a_program_warned_of() -> None:
    """A warning with its hint is one sentence; so is what follows it."""
    said = "pg_x: warning: some\npg_x: hint: more\nPG_X: WARNING: other\n"
    done = run(["sh", "-c", f"printf '{said}' >&2"], timeout=10)
    assert warnings_of(done) == ("pg_x: warning: some; pg_x: hint: more", "PG_X: WARNING: other")
    assert warnings_of(run(["true"], timeout=10)) == ()


def test_lines_end_with_a_line_feed_alone(tmp_path: Path) -> None:
    """Python breaks text at eight other characters, all of which a name or setting may have."""
    odd = "a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\rb"
    assert lines_of(f"{odd}\n{odd}\n") == [odd, odd]
    assert (lines_of(""), lines_of("\n"), lines_of("a\n\nb")) == ([], [""], ["a", "", "b"])
    log = tmp_path / "log"
    log.write_text('2026-11-23 10:00:00.000 UTC [12] checkpointer PANIC:  could not write "x\x1ey"\n')
    assert check_log(log).findings == ('checkpointer: PANIC: could not write "x\x1ey"',)
    long = "-- a\rb\n" * 40
    assert unequal("f", "source", long, long.replace("\r", " ")).diff.count("\n-") == 40


def test_a_parent_that_died_before_the_kernel_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between fork and prctl nothing tells: the child finds another parent than it was promised."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)
        command = ending_with_us(["sleep", "120"], signal.SIGTERM)
    assert subprocess.run(command, timeout=20).returncode == -signal.SIGKILL


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory: 'no-such-program'"):
        run(["no-such-program"], timeout=1)
    (tmp_path / "closed").touch(mode=0o644)
    with pytest.raises(PermissionError, match=f"Permission denied: '{tmp_path}/closed'"):
        run([tmp_path / "closed"], timeout=1)


def test_arguments_come_as_they_are() -> None:
    words = ["", "a b", "$HOME", "'\"", "-n", "--", "\n"]
    done = run(["/usr/bin/printf", "%s|", *words], timeout=10)
    assert done.stdout == "".join(f"{word}|" for word in words)
