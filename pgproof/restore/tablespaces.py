"""Where the tablespaces of a restored cluster lie: those of the backup, and later ones, which recovery creates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgproof.backups.record import BackupRecord
from pgproof.errors import DestinationRefused
from pgproof.timelines.lsn import LSN
from pgproof.wal.own_tablespaces import DIRECTORY
from pgproof.wal.tablespaces import TablespaceRecord


@dataclass(frozen=True, slots=True)
class LaterTablespace:
    """A tablespace that recovery creates.

    Args:
        oid: of it.
        path: where the source has it.
        lsn: of the record that creates it.
        place: where it will lie.
        chosen: whether ``--tablespace`` named that place.
    """

    oid: int
    path: str
    lsn: LSN
    place: Path
    chosen: bool

    def __str__(self) -> str:
        verb = "put" if self.chosen else "keep"
        source = f'the source has it in "{self.path}"' if self.path else "the source has it in place"
        return f"{verb} tablespace {self.oid} in {self.place}: recovery creates it at LSN {self.lsn}, and {source}"


@dataclass(frozen=True, slots=True)
class TablespacePlaces:
    """The places of all of them.

    Args:
        backed_up: OID to directory, of those in the backup.
        later: those that recovery creates.
        until: LSN that recovery will not pass; None when it goes on for as long as there is WAL.
    """

    backed_up: Mapping[int, Path]
    later: tuple[LaterTablespace, ...] = ()
    until: LSN | None = None

    @property
    def chosen(self) -> list[Path]:
        """The directories that a restore makes for later ones; one that was dropped and made again shares its own."""
        return [one.place for one in self.later if one.chosen and one.place not in self.backed_up.values()]


def place_tablespaces(
    record: BackupRecord,
    created: Iterable[TablespaceRecord],
    until: LSN | None,
    data: Path,
    chosen: Mapping[str, str],
) -> TablespacePlaces:
    """Decide where each tablespace lies.

    Args:
        record: of the backup.
        created: records of WAL after its start, in the order of WAL.
        until: LSN that recovery will not pass; None when it goes on for as long as there is WAL.
        data: data directory of the restored cluster.
        chosen: old path to new path.

    Raises:
        DestinationRefused: a chosen path is that of none.
    """
    there = {tablespace.oid for tablespace in record.tablespaces}
    later = _later([one for one in created if one.oid not in there], until, data, chosen)
    known = [tablespace.path for tablespace in record.tablespaces]
    names = [one.path for one in later]
    if unknown := set(chosen) - {*known, *names}:
        raise DestinationRefused(
            f'tablespace "{sorted(unknown)[0]}" is not in backup "{record.label}"',
            f"It has: {', '.join(known) or 'none'}. Recovery creates: {', '.join(names) or 'none'}.",
        )
    # one that lies in place has a path relative to the data directory
    backed_up = {t.oid: data / chosen.get(t.path, t.path) for t in record.tablespaces}
    return TablespacePlaces(backed_up, later, until)


def _later(
    records: Iterable[TablespaceRecord], until: LSN | None, data: Path, chosen: Mapping[str, str]
) -> tuple[LaterTablespace, ...]:
    """The tablespaces that records leave behind."""
    found: dict[int, LaterTablespace] = {}
    for record in records:
        if until is not None and record.lsn > until:
            break
        if record.path is None:
            found.pop(record.oid, None)
            continue
        place = Path(chosen.get(record.path, data / DIRECTORY / str(record.oid)))
        found[record.oid] = LaterTablespace(record.oid, record.path, record.lsn, place, record.path in chosen)
    return tuple(found.values())
