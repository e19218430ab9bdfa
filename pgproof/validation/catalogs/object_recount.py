"""A recount of objects reads a restored database's system catalogs and sequences, and compares them with the fence."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import psycopg

from pgproof.config import DrillConfig
from pgproof.errors import NotProven, ObjectDamaged, ObjectMissing, RecoveryFailed
from pgproof.postgres.connection import open_session, undone
from pgproof.postgres.faults import shortage
from pgproof.repository.repository import Archive
from pgproof.validation.catalogs.identities import DEFINITIONS
from pgproof.validation.catalogs.inventory import collation_versions, definitions
from pgproof.validation.catalogs.object_comparison import (
    MISSING,
    PRESENT,
    Compared,
    Difference,
    ObjectComparison,
    by_kind,
    compare_catalog,
    different_keys,
)
from pgproof.validation.catalogs.objects import CatalogContent, CatalogRow, DatabaseObjects
from pgproof.validation.catalogs.sequences import (
    LOCKED,
    UNREAD,
    SequenceState,
    difference,
    read_sequences,
    unfit,
)
from pgproof.validation.catalogs.system_catalogs import read_rows
from pgproof.validation.fences.counting import reason_of
from pgproof.validation.fences.fence import OBJECTS, DatabaseFence, Fence, NotChecked
from pgproof.validation.fences.fingerprint import pin_settings
from pgproof.validation.scratch import Scratch

_LOCK_TIMEOUT = "500ms"  # as for tables: nothing is replayed any more


@dataclass
class ObjectRecount:
    """One restored database's objects beside its fence's.

    Args:
        rows: the comparison, one a kind.
        not_checked: what could not be compared, through no fault of the backup.
    """

    rows: list[ObjectComparison] = field(default_factory=list)
    not_checked: list[NotChecked] = field(default_factory=list)


def bring_objects(archive: Archive, fence: Fence, scratch: Scratch) -> None:
    """Put what a fence says of objects beside the copy that will be compared with it.

    Args:
        archive: that has the fence.
        fence: one of an older version brings nothing.
        scratch: where the copy is.

    Raises:
        NotProven: it is damaged or gone, which says nothing of the backup.
    """
    if fence.objects is None:
        return
    try:
        with open(scratch.objects, "wb") as file:
            file.writelines(archive.open_checked(fence.objects))
    except (ObjectDamaged, ObjectMissing) as error:
        raise NotProven(
            f'what fence "{fence.identifier}" says of objects cannot be read',
            str(error),
            f"pgproof drill {fence.cluster} takes a new fence",
        ) from error


def recount_objects(
    drill: DrillConfig, source: DatabaseFence, objects: DatabaseObjects | None, dsn: str
) -> ObjectRecount:
    """Read the objects of a restored database and compare them.

    Args:
        drill: settings.
        source: the database's fence.
        objects: what it had; None when the fence does not say.
        dsn: of the database in the copy, as a superuser.

    Raises:
        RecoveryFailed: the copy does not answer.
    """
    if objects is None:
        reason = "the fence does not say what there was of them"
        return ObjectRecount([], [NotChecked(source.database, OBJECTS, reason)])
    try:
        with open_session(dsn) as connection:
            pin_settings(connection, drill.statement_timeout)
            connection.execute("SELECT set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
            return _Recounter(drill, source, objects, connection).run()
    except psycopg.Error as error:
        if f'database "{source.database}" does not exist' in str(error):
            gone = Difference(source.database, "", PRESENT, MISSING)
            return ObjectRecount([ObjectComparison(source.database, "databases", 1, 0, 1, (gone,))])
        if reason := shortage(error):
            return ObjectRecount([], [NotChecked(source.database, OBJECTS, f"in the copy: {reason}")])
        raise RecoveryFailed(
            f'the catalogs of restored database "{source.database}" cannot be read',
            " ".join(str(error).split()),
        ) from error


class _Recounter:
    """The steps of a recount of objects, with what they gather."""

    def __init__(
        self,
        drill: DrillConfig,
        source: DatabaseFence,
        objects: DatabaseObjects,
        connection: psycopg.Connection,
    ) -> None:
        self._drill, self._source, self._objects = drill, source, objects
        self._connection = connection
        self._not_checked: list[NotChecked] = []

    def run(self) -> ObjectRecount:
        self._connection.execute("BEGIN READ ONLY")
        compared = [one for held in self._objects.catalogs if (one := self._catalog(held)) is not None]
        self._collations()
        self._connection.execute("ROLLBACK")
        compared.append(self._sequences())
        return ObjectRecount(by_kind(self._source.database, compared), self._not_checked)

    def _catalog(self, held: CatalogContent) -> Compared | None:
        """One catalog; None when it is only locked, takes too long, or the copy's machine lacks something for it."""
        name, shared = held.catalog.name, held.catalog.shared
        try:
            with undone(self._connection):
                rows, rest, rest_hash = read_rows(self._connection, held.catalog)
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            lacking = shortage(error)
            reason = lacking or reason_of(error, self._drill)
            if lacking or isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.QueryCanceled):
                self._leave_out(f"catalog {name}", f"in the copy: {reason}")
                return None
            fault = Difference(f"catalog {name}", "rows", f"{held.count} rows", f"cannot be read: {reason}")
            return Compared(name, shared, held.count, 0, (fault,))
        found = {key: CatalogRow(identity, values) for key, identity, values in rows}
        restored = CatalogContent(held.catalog, found, rest, rest_hash)
        if name in DEFINITIONS and (keys := different_keys(held, restored)):
            for key, text in definitions(self._connection, held.catalog, keys).items():
                found[key] = replace(found[key], definition=text)
        return Compared(name, shared, held.count, restored.count, tuple(compare_catalog(held, restored)))

    def _collations(self) -> None:
        """Another version sorts differently: what this machine finds in an index on text says nothing then."""
        try:
            with undone(self._connection):
                here = collation_versions(self._connection)
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            self._leave_out("collation versions", reason_of(error, self._drill))
            return
        for name, version in sorted(self._objects.collations.items()):
            if here.get(name) != version:
                self._leave_out(
                    f"order of text in indexes, collation {name}",
                    f"the source's machine has version {version}, this one {here.get(name, 'none')}; where the "
                    "cluster is restored onto such a machine, those indexes need REINDEX",
                )

    def _sequences(self) -> Compared:
        """Every sequence's state; how many of them there are is counted with the catalogs."""
        cut, objects = self._source.cut, self._objects
        restored = {state.key: state for state in read_sequences(self._connection)}
        if cut is None or cut < objects.sequences_lsn:
            if restored:
                self._leave_out(
                    "positions of sequences", f"read up to LSN {objects.sequences_lsn}; the cut is {cut}"
                )
            return Compared("pg_sequence", False, 0, 0)
        after = {state.key: state for state in objects.after}
        found = []
        for before in objects.before:
            here = restored.pop(before.key, None)
            if here is not None and (bad := self._position(before, after.get(before.key), here)):
                found.append(bad)
        for state in restored.values():
            self._leave_out(f"position of sequence {state.title}", "it was made while the source was fenced")
        return Compared("pg_sequence", False, 0, 0, tuple(found))

    def _position(
        self, before: SequenceState, after: SequenceState | None, restored: SequenceState
    ) -> Difference | None:
        excused = restored.fault == LOCKED or restored.fault.startswith(UNREAD)
        reason = unfit(before, after) or (f"in the copy: {restored.fault}" if excused else "")
        if reason:
            self._leave_out(f"position of sequence {before.title}", reason)
            return None
        assert after is not None
        fault = difference(before, after, restored)
        return Difference(before.title, "position", str(before), f"{restored}, {fault}") if fault else None

    def _leave_out(self, what: str, reason: str) -> None:
        self._not_checked.append(NotChecked(self._source.database, what, reason))
