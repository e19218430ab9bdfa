"""A logical dump of the copy to nowhere: pg_dump reads every object and every row, and nothing is kept."""

from __future__ import annotations

import pwd
import subprocess
import time
from pathlib import Path

from pgproof.postgres.faults import shortage_in
from pgproof.postgres.own_socket import for_programs
from pgproof.postgres.programs import run, warnings_of
from pgproof.validation.checks.check import CheckResult, not_possible, shortened

NAME = "dump"


def check_dump(
    bin_directory: Path, dsn: str, database: str, owner: pwd.struct_passwd | None, timeout: float
) -> CheckResult:
    """Dump one database of the copy to /dev/null.

    Args:
        bin_directory: with pg_dump.
        dsn: of the database in the copy.
        database: its name.
        owner: account of the server when we are root.
        timeout: seconds.
    """
    started = time.monotonic()
    command: list[str | Path] = [
        bin_directory / "pg_dump",
        "--file=/dev/null",
        "--lock-wait-timeout=5s",
        f"--dbname={for_programs(dsn)}",
    ]
    try:
        done = run(command, timeout=timeout, owner=owner)
    except subprocess.TimeoutExpired:
        reason = f"drill.check_timeout of {timeout:g} s is over"
        return not_possible(NAME, database, reason, time.monotonic() - started)
    except OSError as error:
        return not_possible(NAME, database, f"pg_dump cannot be run: {error.strerror}")
    seconds = time.monotonic() - started
    if done.returncode == 0:
        return CheckResult(NAME, database, 1, seconds, warnings=shortened(warnings_of(done)))
    said = " ".join(done.stderr.split())
    if reason := shortage_in(done.stderr):  # also of more tables than the copy can lock at once
        return not_possible(NAME, database, reason[:600], seconds)
    if "lock timeout" in said:  # of a transaction that was prepared at the cut
        return not_possible(NAME, database, said[:300], seconds)
    return CheckResult(NAME, database, 1, seconds, (said[:600] or f"exit code {done.returncode}",))
