"""Minima are what five settings must be at least, or recovery pauses early.

The backup's pg_control has them as they were, and WAL tells of each restart with others.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgproof.errors import ObjectDamaged, ObjectMissing
from pgproof.postgres.control import read_control
from pgproof.repository.repository import Archive
from pgproof.restore.extract import CONTROL, CONTROL_ASIDE
from pgproof.restore.locate import WalReader
from pgproof.timelines.segment import WalSegment
from pgproof.wal.parameters import largest


@contextlib.contextmanager
def reading_ahead(
    segments: Sequence[WalSegment], archive: Archive, bin_directory: Path | None
) -> Iterator[Callable[[], dict[str, int]]]:
    """Read the WAL of a restore for the time of a block, in which its files are put in place.

    Args:
        segments: that recovery will read.
        archive: to read them from.
        bin_directory: with pg_waldump; None reads nothing.

    Yields:
        what waits for the end, and says what WAL raises; what cannot be read raises nothing, as recovery says more.
    """
    if bin_directory is None:
        yield dict
        return
    reader, ended = WalReader(archive, bin_directory), threading.Event()

    def wanted() -> Iterator[WalSegment]:
        yield from (segment for segment in segments if not ended.is_set())

    def read() -> dict[str, int]:
        try:
            return largest(wanted(), reader.content, lambda row: reader.records(*row, rmgrs=("XLOG",)))
        except (ObjectDamaged, ObjectMissing):
            return {}

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(read).result
        finally:
            ended.set()


def backed_up(bin_directory: Path, data: Path) -> dict[str, int]:
    """The settings that the source had when a backup was taken, from its pg_control, which is still aside."""
    with tempfile.TemporaryDirectory(prefix="pgproof-control-") as text:
        control = Path(text) / CONTROL
        control.parent.mkdir()
        control.symlink_to(data / CONTROL_ASIDE)
        return read_control(bin_directory, Path(text)).minima
