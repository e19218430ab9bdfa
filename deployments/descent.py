"""Descent: the processes that a process has started, and those have started, and so on."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def descendants(process: int) -> list[int]:
    """The identifiers of every process below one, nearest first (proc(5), /proc/pid/stat).

    Args:
        process: that runs; what one that ended had started belongs to nobody.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(after_name[1]), []).append(int(entry.name))
    found = list(children.get(process, []))
    for one in found:  # grows while it is read
        found += children.get(one, [])
    return found


def kill_all(processes: list[int]) -> None:
    """Kill what is left of these.

    Args:
        processes: identifiers, just found.
    """
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
