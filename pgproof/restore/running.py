"""A running restore is noted in the repository: what the restored cluster still reads, so that expire leaves it alone.

The note is there from before the first byte is read until a day after the files are in place, for recovery needs WAL
long after, or until an acceptance ends recovery. No lease is taken, as of a hold: the note, then a second look at the
backup, because an expire may have been quicker; and expire looks for notes right before it removes anything.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from pgproof.errors import NoBackup, ObjectDamaged, ObjectMissing, PgproofError
from pgproof.repository.repository import Archive
from pgproof.repository.shape import moment
from pgproof.restore.plan import RestorePlan
from pgproof.timelines.segment import SEGMENT_NAME

TERM = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RunningRestore:
    """What a restore needs, and how long expire waits for it.

    Args:
        identifier: of the note.
        backup: label of the backup.
        wal: first and last name of the segments, of each timeline.
        destination: host and directory.
        until: aware; the note counts no more then.
    """

    identifier: str
    backup: str
    wal: tuple[tuple[str, str], ...]
    destination: str
    until: datetime

    def active(self, now: datetime) -> bool:
        return now < self.until

    def as_dict(self) -> dict[str, Any]:
        return {
            "backup": self.backup,
            "wal": [{"first": first, "last": last} for first, last in self.wal],
            "destination": self.destination,
            "until": self.until.isoformat(),
        }

    @classmethod
    def from_dict(cls, identifier: str, tree: dict[str, Any]) -> RunningRestore:
        """Read a note as the repository holds it; raises KeyError, TypeError or ValueError."""
        wal = tuple((str(run["first"]), str(run["last"])) for run in tree["wal"])
        if not all(SEGMENT_NAME.fullmatch(name) for run in wal for name in run):
            raise ValueError("a name of its WAL is none")
        until = moment(tree["until"])
        return cls(identifier, str(tree["backup"]), wal, str(tree["destination"]), until)


def read_running(archive: Archive) -> tuple[RunningRestore, ...]:
    """Every note, also those that are over.

    Raises:
        ObjectDamaged: one cannot be read; nothing may expire by guess.
    """
    found = []
    for name in archive.record_names(archive.layout.restores):
        key = f"{archive.layout.restores}{name}.json"
        try:
            found.append(RunningRestore.from_dict(name, archive.read_json(key)))
        except ObjectMissing:  # over since
            continue
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _unreadable(key, f"{error!r}.") from error
        except ObjectDamaged as error:
            raise _unreadable(key, error.detail) from error
    return tuple(found)


def _unreadable(key: str, detail: str) -> ObjectDamaged:
    return ObjectDamaged(
        f'note of a restore "{key}" cannot be read',
        f"{detail} Nothing expires while nobody knows what that restore needs.",
        "when no restore runs, remove this object",
    )


def end_note(opened: Callable[[], Archive] | None, data: Path) -> None:
    """Remove the notes of a restored cluster whose recovery is over; where that fails they end by themselves.

    Args:
        opened: opens its archive; None when nothing says where it is.
        data: its directory, on this machine.
    """
    if opened is None:
        return
    with suppress(PgproofError):
        archive = opened()
        for running in read_running(archive):
            if running.destination == _place(data):
                archive.store.delete(f"{archive.layout.restores}{running.identifier}.json")


def _place(data: Path) -> str:
    return f"{socket.gethostname()}:{os.path.abspath(data)}"


@dataclass
class Note:
    """The note of the restore that this process carries out.

    Args:
        archive: that is read.
        plan: of the restore.
        clock: of this machine, aware.
        fault: why there is none; empty when there is one.
    """

    archive: Archive
    plan: RestorePlan
    clock: Callable[[], datetime]
    fault: str = ""
    _until: datetime = field(default_factory=lambda: datetime.min.replace(tzinfo=UTC))
    _identifier: str = ""

    @property
    def _key(self) -> str:
        return f"{self.archive.layout.restores}{self._identifier}.json"

    def write(self) -> None:
        """Write it, or write it again with a later end."""
        at = self.clock().astimezone(UTC)
        label, data = self.plan.record.label, self.plan.request.destination
        self._identifier = self._identifier or f"{at:%Y%m%dT%H%M%S%fZ}-{label}"
        groups = [list(group) for _, group in groupby(self.plan.segments, key=lambda one: one.timeline)]
        wal = tuple((group[0].name, group[-1].name) for group in groups)
        where = _place(data)
        running = RunningRestore(self._identifier, label, wal, where, at + TERM)
        self.archive.write_json(self._key, running.as_dict(), create=False)
        self._until = running.until

    def keep(self) -> None:
        """Called often while files are read: writes it again when half of its time is over."""
        if not self.fault and self.clock() > self._until - TERM / 2:
            with suppress(PgproofError):
                self.write()

    def remove(self) -> None:
        with suppress(PgproofError):
            self.archive.store.delete(self._key)


@contextmanager
def noted(archive: Archive, plan: RestorePlan, clock: Callable[[], datetime]) -> Iterator[Note]:
    """A note for the time of a block and a day more; none is left when the block fails.

    A repository that takes none, such as one that may only be read, stops no restore.

    Raises:
        NoBackup: an expire was quicker.
    """
    note = Note(archive, plan, clock)
    try:
        note.write()
    except PgproofError as error:
        note.fault = (
            "the repository takes no note of this restore, so that an expire may remove what it needs: "
            f"{error.fact}"
        )
    try:
        for record in plan.chain:
            _require(archive, record.label)
        yield note
    except BaseException:
        note.remove()
        raise
    if not note.fault:
        with suppress(PgproofError):
            note.write()  # recovery begins only now


def _require(archive: Archive, label: str) -> None:
    try:
        archive.store.head(archive.layout.backup_record(label))
    except ObjectMissing as error:
        raise NoBackup(
            f'backup "{label}" expired before it was restored', hint="pgproof list NAME"
        ) from error
