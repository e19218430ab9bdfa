"""Processes: programs run to their end, commands run as the server runs them, and background work ended."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.errors import BenchmarkError
from pgproof.postgres.programs import environment

_DEADLINE = 900.0


def run(words: Sequence[str | Path], *, cwd: Path | None = None) -> str:
    """Run a program to its end.

    Returns:
        what it said.

    Raises:
        BenchmarkError: it failed.
    """
    command = [str(word) for word in words]
    with tempfile.TemporaryFile() as file:  # a pipe would be kept open by what the program leaves behind
        code = subprocess.call(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=_DEADLINE,
            env=environment(),
            cwd=cwd,
        )
        file.seek(0)
        output = file.read().decode(errors="replace")
    if code != 0:
        raise BenchmarkError(f"{' '.join(command)} ended with {code}: {output.strip()[-800:]}")
    return output


def run_as_server(command: str, data: Path, path: str, log: Path) -> float:
    """Run an archive_command as the archiver does (``shell_archive_file``, pgarch.c): by sh, in the data directory.

    Args:
        command: with ``%p`` and ``%f``.
        data: directory of the cluster.
        path: of the WAL file, relative to it.
        log: receives what the command says.

    Returns:
        the seconds it took.

    Raises:
        BenchmarkError: it did not end with 0.
    """
    filled = command.replace("%p", path).replace("%f", Path(path).name)
    with open(log, "ab") as file:
        began = time.perf_counter()
        process = subprocess.Popen(
            ["/bin/sh", "-c", filled],
            cwd=data,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment(),
        )
        # not wait(timeout=...), which looks at doubling intervals: 15, 31, 63 ms would be all that it can see
        limit = threading.Timer(_DEADLINE, process.kill)
        limit.start()
        code = process.wait()
        took = time.perf_counter() - began
        limit.cancel()
    if code != 0:
        raise BenchmarkError(f"{filled} ended with {code}: {tail(log)}")
    return took


def end_leftovers(mark: Path, patience: float = 5.0) -> None:
    """End the background processes that a tool left behind; they are known by a path that only they were given.

    Args:
        mark: a directory of one run, named in their command line or environment.
        patience: seconds that they get to end by themselves, then after SIGTERM.
    """
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        left = list(_mentioning(mark))
        for pid in left if number is not None else []:
            try:
                os.kill(pid, number or 0)
            except ProcessLookupError:
                continue
        end = time.monotonic() + (0.3 if number is None else patience)
        while left and time.monotonic() < end:
            time.sleep(0.02)
            left = list(_mentioning(mark))
        if not left:
            return
    raise BenchmarkError(f"processes of {mark} cannot be ended: {left}")


def _mentioning(mark: Path) -> Iterator[int]:
    needle = os.fsencode(mark)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            told = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
            zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:  # it has ended, or is another account's
            continue
        if needle in told and not zombie:
            yield int(entry.name)


def tail(log: Path, characters: int = 800) -> str:
    """The end of a log, for an error."""
    return log.read_text(errors="replace").strip()[-characters:] if log.exists() else ""
