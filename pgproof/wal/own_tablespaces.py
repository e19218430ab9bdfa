"""Own tablespaces: a restored cluster keeps what replayed WAL creates inside its data directory.

The records are contained (:mod:`pgproof.wal.tablespaces`), and ``pg_tblspc/OID`` is made beforehand: a link to
``tablespaces/OID`` of the data directory. A link rather than nothing, with which replay would make a directory in its
place: backups that PostgreSQL 15 sends as tar leave such a directory out (``sendDir`` of basebackup.c), and a standby
refuses one (``CheckTablespaceDirectory``). A link that is there is left alone, so that a tablespace lies elsewhere
when somebody made a link to that place.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pgproof.postgres.rights import acting_as
from pgproof.timelines.lsn import LSN
from pgproof.wal.beside import Beside
from pgproof.wal.tablespaces import TablespaceRecord, contain

DIRECTORY = "tablespaces"  # in the data directory
ALL = "all"


@dataclass(frozen=True, slots=True)
class OwnTablespaces:
    """Where the tablespaces that replayed WAL creates are to lie.

    Args:
        data: the data directory.
        until: LSN that replay will not pass, so that nothing is made for records beyond it; None replays all.
    """

    data: Path
    until: LSN | None = None

    def contain(self, path: Path, beside: Beside) -> None:
        """Contain a segment that is about to be replayed, and make the places of its tablespaces."""
        self.place(contain(path, beside))

    def place(self, records: Iterable[TablespaceRecord], owner: pwd.struct_passwd | None = None) -> None:
        """Make the places of tablespaces that have none yet.

        Args:
            records: of tablespaces.
            owner: account of the server when we are root.

        Raises:
            OSError: one cannot be made.
        """
        with acting_as(owner):
            for record in records:
                if record.path is not None and (self.until is None or record.lsn <= self.until):
                    self._place(record.oid)

    def _place(self, oid: int) -> None:
        place, link = self.data / DIRECTORY / str(oid), self.data / "pg_tblspc" / str(oid)
        if link.exists():
            return
        if link.is_symlink():
            if Path(os.readlink(link)).parts[-2:] != (DIRECTORY, str(oid)):
                return  # to a place that somebody chose, and that is not there: replay will say so
            link.unlink()  # of a data directory that was moved
        for directory in (place.parent, place):
            directory.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # somebody else has fetched the same segment
            link.symlink_to(place)


def own_tablespaces_option(until: LSN | None) -> str:
    """The option of ``wal fetch`` in the restore_command of a restored cluster; ``own_tablespaces_of`` reads it."""
    return f"--own-tablespaces {ALL if until is None else until}"


def own_tablespaces_of(data: Path, text: str) -> OwnTablespaces | None:
    """What the option ``--own-tablespaces`` says: an LSN, ``all``, or nothing.

    Raises:
        InvalidTarget: it is none of them.
    """
    if not text:
        return None
    return OwnTablespaces(data, None if text == ALL else LSN.parse(text))
