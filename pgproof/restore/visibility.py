"""Visibility maps are left out of a cluster that was combined from incremental backups: they may be wrong there.

A change that clears a bit of a visibility map does not name the map's block in WAL (``heap_insert``, ``heap_delete``,
``heap_update`` of PostgreSQL 17 and 18), so that WAL summaries and incremental backups miss it. Combined, the map says
of a changed page that everybody sees all its rows: index-only scans return rows that were deleted, and VACUUM skips the
page. A table without a map is whole; VACUUM makes one, and replayed WAL does, too (``visibilitymap_pin``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_MAP = re.compile(r"\d+_vm(\.\d+)?")
STEP = "leave out the visibility maps, which incremental backups have wrong; VACUUM makes them"


def leave_out_maps(backups: int, data: Path, tablespaces: Iterable[Path]) -> None:
    """Remove the visibility map of every table from a cluster that was combined.

    Args:
        backups: of how many it was made; one backup has its maps right.
        data: the data directory, in which no server runs.
        tablespaces: directories of its tablespaces.
    """
    if backups == 1:
        return
    for directory in (data / "base", data / "global", *tablespaces):
        for path in _maps(directory):
            os.unlink(path)


def _maps(directory: Path | str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _maps(entry.path)
            elif _MAP.fullmatch(entry.name):
                yield entry.path
