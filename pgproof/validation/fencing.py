"""Fencing: a burst of candidate fences on the source, the exact one chosen from archived WAL, then counted."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from pgproof import __version__
from pgproof.backups.base_backup import switch_segment
from pgproof.config import ClusterConfig, DrillConfig
from pgproof.errors import ObjectMissing, ServerNotReady, WalNotArchived
from pgproof.postgres.connection import connect, mapped
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.postgres.programs import find_bin_directory
from pgproof.repository.repository import Archive, check_system
from pgproof.validation.cut import Cut, Snapshot, find_cut
from pgproof.validation.fence import LARGE_OBJECTS, DatabaseFence, Fence, NotChecked, TableContent
from pgproof.validation.fingerprint import (
    Table,
    current_filenode,
    fingerprint,
    fingerprint_large_objects,
    list_tables,
    pin_settings,
    read_large_objects_freely,
)
from pgproof.wal.archive import find_key
from pgproof.wal.fetch import fetch
from pgproof.wal.lsn import LSN
from pgproof.wal.records import CommitRecord, read_records
from pgproof.wal.segment import WalSegment

_ROUNDS = 5  # bursts before giving up on an exact cut
_CONNECTIONS = 24  # open candidates at once, over all databases


@dataclass
class _Candidate:
    """One open transaction whose snapshot may become the fence."""

    database: str
    connection: psycopg.Connection
    snapshot: Snapshot
    before: LSN
    cut: Cut | None = None


def take_fence(
    cluster: ClusterConfig, archive_of: Callable[[int], Archive], clock: Callable[[], datetime]
) -> Fence:
    """Fence every database of a cluster, and count under the fences.

    Args:
        cluster: the source.
        archive_of: the archive for a system identifier.
        clock: the time, aware, for the fence's identifier.

    Raises:
        ServerNotReady: the source is a standby, where no fence can be made.
        WalNotArchived: the fence's WAL did not reach the archive in time.
    """
    with connect(cluster) as connection:
        facts = read_facts(connection)
        check_system(
            cluster.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"'
        )
        if facts.in_recovery:
            raise ServerNotReady(
                f'cluster "{cluster.name}" is a standby',
                "A fence needs a server that writes.",
                "name its primary",
            )
        row: Any = connection.execute("SELECT rolname FROM pg_roles WHERE oid = 10").fetchone()
        fencer = _Fencer(cluster, archive_of(facts.system_identifier), facts, connection)
        started = time.monotonic()
        groups = max(1, _CONNECTIONS // cluster.drill.candidates)
        databases: list[DatabaseFence] = []
        for start in range(0, len(facts.databases), groups):
            databases += fencer.fence(facts.databases[start : start + groups])
    at = facts.clock.astimezone(UTC)
    return Fence(
        identifier=f"{clock().astimezone(UTC):%Y%m%dT%H%M%S%fZ}",
        cluster=cluster.name,
        system_identifier=facts.system_identifier,
        at=at,
        timeline=facts.timeline,
        server_version=facts.version,
        segment_size=facts.segment_size,
        end_lsn=fencer.end_lsn,
        bootstrap_role=row[0],
        databases=tuple(databases),
        not_checked=tuple(fencer.not_checked),
        candidates=fencer.tried,
        exact_candidates=fencer.exact,
        held_seconds=round(time.monotonic() - started, 3),
        software={"pgproof": __version__, "postgresql": facts.version_text},
    )


class _Fencer:
    """The steps of fencing, with what they gather."""

    def __init__(
        self, cluster: ClusterConfig, archive: Archive, facts: ServerFacts, control: psycopg.Connection
    ) -> None:
        self._cluster, self._archive, self._facts, self._control = cluster, archive, facts, control
        self._drill: DrillConfig = cluster.drill
        self.not_checked: list[NotChecked] = []
        self.end_lsn = LSN(0)
        self.tried = 0
        self.exact = 0

    def fence(self, databases: Sequence[str]) -> list[DatabaseFence]:
        """Fence some databases: bursts until each has an exact cut, then counting under it."""
        waiting, done = list(databases), {}
        for round_number in range(_ROUNDS):
            last_round = round_number == _ROUNDS - 1
            with contextlib.ExitStack() as stack:
                burst = {name: self._burst(name, stack) for name in waiting}
                commits = self._archived_commits(burst)
                for name, candidates in burst.items():
                    chosen = self._choose(candidates, commits)
                    if chosen is not None:
                        done[name] = self._count(chosen)
                    elif last_round:
                        first = candidates[0]
                        assert first.cut is not None
                        done[name] = DatabaseFence(name, first.snapshot, None, first.cut.reason)
            waiting = [name for name in waiting if name not in done]
            if not waiting:
                break
        return [done[name] for name in databases]

    def _burst(self, database: str, stack: contextlib.ExitStack) -> list[_Candidate]:
        connections = [self._open(database, stack) for _ in range(self._drill.candidates)]
        candidates = []
        for connection in connections:  # one straight after the other, about a millisecond each
            row: Any = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            seen: Any = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
            candidates.append(_Candidate(database, connection, Snapshot.parse(seen[0]), LSN.parse(row[0])))
        self.tried += len(candidates)
        return candidates

    def _open(self, database: str, stack: contextlib.ExitStack) -> psycopg.Connection:
        connection = stack.enter_context(connect(self._cluster, database))
        pin_settings(connection, self._drill.statement_timeout)
        read_large_objects_freely(connection)
        return connection

    def _archived_commits(self, burst: dict[str, list[_Candidate]]) -> list[CommitRecord]:
        """The commits around the fences, from the archive alone.

        The burst is ended by a transaction that only takes an xid: its commit record is one that no
        candidate sees, so a cut exists on an idle server too.
        """
        start = min(candidate.before for candidates in burst.values() for candidate in candidates)
        self._control.execute("SELECT pg_current_xact_id()")
        row: Any = self._control.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        self.end_lsn = LSN.parse(row[0])
        if "pg_switch_wal()" not in self._facts.role.missing_functions:
            switch_segment(self._control)
        size, timeline = self._facts.segment_size, self._facts.timeline
        first = WalSegment.containing(timeline, start, size)
        last = WalSegment.ending_at(timeline, self.end_lsn, size)
        self._wait(last)
        with tempfile.TemporaryDirectory(prefix="pgproof-fence-") as text:
            directory = Path(text)
            # one segment more in front: a commit may wait long between its record and its visibility
            before = WalSegment(timeline, first.number - 1, size)
            if first.number > 1 and self._fetched(before, directory):
                first = before
            for number in range(first.number, last.number + 1):
                segment = WalSegment(timeline, number, size)
                if not self._fetched(segment, directory):
                    raise WalNotArchived(
                        f'WAL segment "{segment}" of the fence is not in the archive',
                        hint=f"pgproof wal check {self._cluster.name}",
                    )
            bin_directory = find_bin_directory(self._facts.major, self._cluster.bin_directory)
            records = read_records(bin_directory, directory, first.start, last.end, timeline)
            return [record for record in records if isinstance(record, CommitRecord)]

    def _fetched(self, segment: WalSegment, directory: Path) -> bool:
        path = directory / segment.name
        if not path.exists():
            try:
                fetch(self._archive, segment.name, path)
            except ObjectMissing:
                return False
        return True

    def _wait(self, segment: WalSegment) -> None:
        end = time.monotonic() + self._drill.archive_timeout
        while True:
            with contextlib.suppress(ObjectMissing):
                find_key(self._archive, segment.name)
                return
            if time.monotonic() > end:
                may_switch = "pg_switch_wal()" not in self._facts.role.missing_functions
                raise WalNotArchived(
                    f'WAL segment "{segment}" of the fence did not reach the archive',
                    f"Waited {self._drill.archive_timeout} s.",
                    f"pgproof doctor {self._cluster.name}"
                    if may_switch
                    else f'GRANT EXECUTE ON FUNCTION pg_switch_wal() TO "{self._facts.role.name}"',
                )
            time.sleep(0.05)

    def _choose(self, candidates: list[_Candidate], commits: list[CommitRecord]) -> _Candidate | None:
        for candidate in candidates:
            candidate.cut = find_cut(candidate.snapshot, commits)
        exact = [c for c in candidates if c.cut is not None and c.cut.exact]
        self.exact += len(exact)
        for candidate in candidates:
            if candidate is not (exact[0] if exact else None):
                candidate.connection.execute("ROLLBACK")  # holds back vacuum no longer
        return exact[0] if exact else None

    def _count(self, chosen: _Candidate) -> DatabaseFence:
        assert chosen.cut is not None
        with mapped(self._cluster):
            contents = self._count_tables(chosen)
            chosen.connection.execute("ROLLBACK")
        return DatabaseFence(chosen.database, chosen.snapshot, chosen.cut.lsn, "", tuple(contents))

    def _count_tables(self, chosen: _Candidate) -> list[TableContent]:
        row: Any = chosen.connection.execute("SELECT pg_export_snapshot()").fetchone()
        tables = [t for t in list_tables(chosen.connection) if self._checkable(chosen.database, t)]
        workers = min(self._drill.workers, max(1, len(tables)))
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(workers, "fingerprint") as pool:
            idle = [self._share(chosen.database, row[0], stack) for _ in range(workers)]

            def one(table: Table) -> TableContent | None:
                connection = idle.pop()
                try:
                    return self._count_table(chosen.database, connection, table)
                finally:
                    idle.append(connection)

            contents = [content for content in pool.map(one, tables) if content is not None]
        if (objects := self._count_large_objects(chosen)) is not None:
            contents.append(objects)
        return contents

    def _share(self, database: str, exported: str, stack: contextlib.ExitStack) -> psycopg.Connection:
        connection = self._open(database, stack)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(psycopg.sql.SQL("SET TRANSACTION SNAPSHOT {}").format(exported))
        return connection

    def _checkable(self, database: str, table: Table) -> bool:
        reason = None
        if f"{database}.{table.title}" in self._drill.exclude_tables:
            reason = "excluded by drill.exclude_tables"
        elif table.persistence == "u":
            reason = "unlogged: it comes back empty after recovery"
        elif table.kind == "f":
            reason = "foreign table: its rows are elsewhere"
        if reason:
            self.not_checked.append(NotChecked(database, table.title, reason))
        return reason is None

    def _count_table(
        self, database: str, connection: psycopg.Connection, table: Table
    ) -> TableContent | None:
        large = 0 < self._drill.sample_above < table.size and table.kind == "r"
        sample = self._drill.sample_percent if large else None
        try:
            with _savepoint(connection):
                found = fingerprint(connection, table, sample)
                if table.filenode != current_filenode(connection, table):
                    raise psycopg.errors.ObjectNotInPrerequisiteState("it was rewritten while it was counted")
        except (psycopg.ProgrammingError, psycopg.OperationalError, psycopg.DataError) as error:
            if connection.broken:
                raise
            reason = " ".join(str(error).split())
            self.not_checked.append(NotChecked(database, table.title, reason))
            return None
        if sample is not None:
            why = f"sampled: {sample:g} % of its blocks were compared"
            self.not_checked.append(NotChecked(database, table.title, why))
        return TableContent(table.schema, table.name, table.columns, found, sample)

    def _count_large_objects(self, chosen: _Candidate) -> TableContent | None:
        try:
            with _savepoint(chosen.connection):
                found = fingerprint_large_objects(chosen.connection)
        except psycopg.errors.InsufficientPrivilege as error:
            hint = "GRANT SET ON PARAMETER lo_compat_privileges lets the role read them"
            reason = f"{' '.join(str(error).split())}; {hint}"
            self.not_checked.append(NotChecked(chosen.database, LARGE_OBJECTS, reason))
            return None
        return TableContent("", LARGE_OBJECTS, (), found) if found.rows else None


@contextlib.contextmanager
def _savepoint(connection: psycopg.Connection) -> Iterator[None]:
    """A failed statement must not end the transaction that holds the snapshot."""
    connection.execute("SAVEPOINT pgproof")
    try:
        yield
    except psycopg.Error:
        if not connection.broken:
            connection.execute("ROLLBACK TO SAVEPOINT pgproof")
        raise
    connection.execute("RELEASE SAVEPOINT pgproof")
