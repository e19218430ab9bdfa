"""Recovery: how fast a server replays an archive through a restore_command."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.processes import tail
from benchmarks.tools.tool import Site
from benchmarks.workload import MEASURING, SETTINGS
from pgproof.postgres.server import LocalServer

_DEADLINE = 600.0
_COMPLETE = re.compile(r"^([\d.]+) .*archive recovery complete", re.M)
_END = re.compile(r"^[\d.]+ .*redo done at ([0-9A-F]+/[0-9A-F]+)", re.M)
_RESTORED = re.compile(r'restored log file "([0-9A-F]{24})" from archive')


@dataclass(frozen=True)
class Recovery:
    """One recovery: seconds from the start of the process, the segments it took, and the LSN it ended at."""

    seconds: float
    segments: int
    end: str


def recover(site: Site, command: str, log: Path) -> Recovery:
    """Start a copy of the cluster in archive recovery, to the end of the archive.

    Args:
        site: whose data directory is a copy without WAL.
        command: the restore_command.
        log: of this server alone.

    Raises:
        BenchmarkError: it ended before, or took too long.
    """
    (site.data / "recovery.signal").touch()
    settings = {
        **SETTINGS,
        **MEASURING,
        "archive_mode": "off",
        "max_wal_size": "8GB",  # no restartpoint: it would run at other moments for every tool
        "restore_command": command,
        "log_line_prefix": "%n ",  # seconds since the epoch, with milliseconds
    }
    server = LocalServer(site.workload.bin, site.data, site.data.parent / "s", log, settings)
    began = time.time()
    server.start()
    try:
        server.wait(lambda: _COMPLETE.search(log.read_text()) is not None, _DEADLINE, "to recover")
        text = log.read_text()
    except Exception as error:
        raise BenchmarkError(f"recovery did not end: {tail(log)}") from error
    finally:
        server.stop("immediate")
    complete, end = _COMPLETE.search(text), _END.search(text)
    if complete is None or end is None:
        raise BenchmarkError(f"the log does not tell how recovery went: {tail(log)}")
    return Recovery(float(complete[1]) - began, len(set(_RESTORED.findall(text))), end[1])
