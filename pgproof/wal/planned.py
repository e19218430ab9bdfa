"""Planned WAL is what the plan of a recovery counted on: where it is gone, recovery must stop, not end.

PostgreSQL takes "not archived" for the end of WAL: it opens the server there, and the log looks normal. A segment
cannot be the end where the plan found it, nor where a newer one of its timeline is archived. A standby waits for what
is still on its way, perhaps out of order, so that only the plan counts for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pgproof.errors import UsageError, WalGap
from pgproof.repository.repository import Archive
from pgproof.timelines.segment import SEGMENT_NAME, WalSegment
from pgproof.wal.archive import wal_name

_HINT = (
    "pgproof wal check NAME --repair brings it back while a server, a standby or a copy still has it; then start the "
    "server again, and recovery goes on"
)


@dataclass(frozen=True, slots=True)
class PlannedWal:
    """What recovery into a data directory counts on.

    Args:
        data: the data directory.
        runs: first and last name of the segments that the plan found, of each timeline.
    """

    data: Path
    runs: tuple[tuple[str, str], ...] = ()

    def refuse_hole(self, name: str, openers: Iterable[Callable[[], Archive]]) -> None:
        """Refuse to take a file that no repository has for the end of WAL, where it cannot be.

        Args:
            name: of the file.
            openers: open the archives.

        Raises:
            WalGap: the plan counted on it, or a newer segment of its timeline is archived.
        """
        if not SEGMENT_NAME.fullmatch(name):
            return
        for first, last in self.runs:
            if first <= name <= last:
                raise _gap(name, f"This recovery was planned with all WAL from {first} to {last}.")
        recovers = (self.data / "recovery.signal").exists() and not (self.data / "standby.signal").exists()
        newer = _newer(name, openers) if recovers else None
        if newer is not None:
            raise _gap(name, f"A newer one is archived: {newer}.")


def _gap(name: str, detail: str) -> WalGap:
    fact = f'WAL segment "{name}" is missing from the archive'
    return WalGap(fact, f"{detail} Recovery stops, as it would end too early.", _HINT)


def _newer(name: str, openers: Iterable[Callable[[], Archive]]) -> str | None:
    """The next segment of the same timeline that is there, looked for as far as the end of the next log."""
    timeline, log = name[:8], int(name[8:16], 16)
    names = [
        wal_name(archive.layout, info.key) or ""
        for archive in (opener() for opener in openers)
        for place in (log, log + 1)
        for info in archive.store.list(f"{archive.layout.wal}{timeline}/{place:08X}/")
    ]
    return min((found for found in names if SEGMENT_NAME.fullmatch(found) and found > name), default=None)


def planned_option(segments: Sequence[WalSegment]) -> str:
    """The option of ``wal fetch`` in the restore_command of a restored cluster; ``planned_of`` reads it."""
    groups = [list(group) for _, group in groupby(segments, key=lambda segment: segment.timeline)]
    return f"--planned {','.join(f'{group[0].name}-{group[-1].name}' for group in groups)}"


def planned_of(data: Path, text: str) -> PlannedWal:
    """What the option ``--planned`` says of a data directory; without it only newer segments count.

    Raises:
        UsageError: it is no list of runs.
    """
    runs = []
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        if not (SEGMENT_NAME.fullmatch(first) and SEGMENT_NAME.fullmatch(last) and first[:8] == last[:8]):
            raise UsageError(
                f'"{text}" is no list of WAL segments', "It is FIRST-LAST,FIRST-LAST, by their names."
            )
        runs.append((first, last))
    return PlannedWal(data, tuple(runs))
