"""Page checksums of the stopped copy, every page of every file, with pg_checksums."""

from __future__ import annotations

import pwd
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from pgproof.postgres.programs import run, warnings_of
from pgproof.validation.checks.check import EVERY_DATABASE, CheckResult, not_possible, shortened

NAME = "checksums"
_BAD = re.compile(
    r'checksum verification failed in file "(?P<file>[^"]+)", block (?P<block>\d+): (?P<what>.*)'
)
OFF = (
    "data checksums are not enabled in cluster: a bit that rots in a table is the same in source and copy, and only an "
    "older backup shows it; pg_checksums --enable -D DATA_DIRECTORY turns them on while the server is down"
)
_BLOCKS = re.compile(r"Blocks scanned:\s+(\d+)")
_FORK = re.compile(r"(?:_(?P<fork>fsm|vm|init))?(?:\.\d+)?$")


def check_pages(
    bin_directory: Path,
    data: Path,
    owner: pwd.struct_passwd | None,
    timeout: float,
    relations: Mapping[str, str],
) -> CheckResult:
    """Read every page and compare its checksum (``pg_checksums --check``).

    Args:
        bin_directory: of the cluster's major version.
        data: directory of a server that was shut down.
        owner: account of the server when we are root.
        timeout: seconds.
        relations: path of a relation's first file, below the data directory, to its database and name.
    """
    started = time.monotonic()
    command: list[str | Path] = [bin_directory / "pg_checksums", "--check", "-D", data]
    try:
        done = run(command, timeout=timeout, owner=owner)
    except subprocess.TimeoutExpired:
        reason = f"drill.check_timeout of {timeout:g} s is over"
        return not_possible(NAME, EVERY_DATABASE, reason, time.monotonic() - started)
    except OSError as error:
        return not_possible(NAME, EVERY_DATABASE, f"pg_checksums cannot be run: {error.strerror}")
    seconds = time.monotonic() - started
    findings = [_place(match, data, relations) for match in _BAD.finditer(done.stderr)]
    blocks = _BLOCKS.search(done.stdout)
    if findings or (done.returncode == 0 and blocks):
        scanned = int(blocks[1]) if blocks else len(findings)
        warnings = shortened(warnings_of(done)) if not findings else ()
        return CheckResult(NAME, EVERY_DATABASE, scanned, seconds, shortened(findings), warnings=warnings)
    said = " ".join((done.stderr or done.stdout).split()).removeprefix("pg_checksums: error: ")
    said = OFF if said and OFF.startswith(said) else said
    return not_possible(NAME, EVERY_DATABASE, said[:300] or f"exit code {done.returncode}", seconds)


def _place(match: re.Match[str], data: Path, relations: Mapping[str, str]) -> str:
    """A bad page with the name of its relation, as far as it is known."""
    file = match["file"].removeprefix(f"{data}/")
    fork = _FORK.search(file)
    name = relations.get(_FORK.sub("", file), "")
    where = (
        f"{name}, {fork['fork']} fork, " if name and fork and fork["fork"] else f"{name}, " if name else ""
    )
    return f'{where}file "{file}", block {match["block"]}: {match["what"]}'
