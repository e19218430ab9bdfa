"""The background processes of wal push and wal fetch, found by the directory that they work for."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def processes(root: Path) -> list[int]:
    """Background processes of the spool below a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"pgproof.commands.wal_background" in words and any(str(root).encode() in w for w in words):
                found.append(int(entry.name))
    return found


def end_background(root: Path) -> None:
    """End them: a pusher that an earlier archive_command started would go on archiving."""
    end = time.monotonic() + 10
    while found := processes(root):
        assert time.monotonic() < end
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        time.sleep(0.02)
