"""Fencing: a burst of candidate fences on the source, the exact one chosen from archived WAL, then counted."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
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
from pgproof.validation.counting import Counter
from pgproof.validation.cut import Cut, Snapshot, find_cut
from pgproof.validation.fence import WHOLE_DATABASE, DatabaseFence, Fence, NotChecked
from pgproof.validation.fingerprint import pin_settings, read_large_objects_freely
from pgproof.validation.inventory import SourceInventory, collation_versions
from pgproof.validation.objects import DatabaseObjects, write_objects
from pgproof.validation.sequences import SequenceState, read_sequences
from pgproof.validation.targets.canary import plant_canaries
from pgproof.validation.wal_source import OwnWal, WalSource
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
    cluster: ClusterConfig,
    archive_of: Callable[[int], Archive],
    clock: Callable[[], datetime],
    wal: WalSource | None = None,
) -> Fence:
    """Fence every database of a cluster, and count under the fences.

    Args:
        cluster: the source.
        archive_of: the archive for a system identifier.
        clock: the time, aware, for the fence's identifier.
        wal: where the source's WAL arrives; None is the archive.

    Raises:
        ServerNotReady: the source is a standby, where no fence can be made.
        WalNotArchived: the fence's WAL did not reach the archive in time.
    """
    with connect(cluster) as connection:
        facts = read_facts(connection)
        _check_source(cluster, facts)
        archive = archive_of(facts.system_identifier)
        check_system(
            archive.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"'
        )
        pin_settings(connection, cluster.drill.statement_timeout)
        # the commit that ends a fence must not wait for a synchronous standby that is away
        connection.execute("SET synchronous_commit = local")
        role = _reading_role(connection)
        closed = _closed_databases(connection)
        if cluster.drill.targets:
            plant_canaries(connection)
        fencer = _Fencer(cluster, wal or OwnWal(archive), facts, connection)
        started = time.monotonic()
        databases = fencer.fence_all({item.database for item in closed})
    at = facts.clock.astimezone(UTC)
    identifier = f"{clock().astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
    return Fence(
        identifier=identifier,
        cluster=cluster.name,
        system_identifier=facts.system_identifier,
        at=at,
        timeline=facts.timeline,
        server_version=facts.version,
        segment_size=facts.segment_size,
        end_lsn=fencer.end_lsn,
        bootstrap_role=role,
        databases=databases,
        not_checked=(*closed, *fencer.not_checked),
        candidates=fencer.tried,
        exact_candidates=fencer.exact,
        held_seconds=round(time.monotonic() - started, 3),
        software={"pgproof": __version__, "postgresql": facts.version_text},
        objects=write_objects(archive, identifier, fencer.objects),
    )


def _check_source(cluster: ClusterConfig, facts: ServerFacts) -> None:
    """Refuse a server that is not the source, or one that cannot be fenced."""
    check_system(cluster.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"')
    if facts.in_recovery:
        raise ServerNotReady(
            f'cluster "{cluster.name}" is a standby',
            "A fence needs a server that writes.",
            "name its primary",
        )


def _reading_role(connection: psycopg.Connection) -> str:
    """A superuser that may log in to the restored copy, best the bootstrap one (OID 10)."""
    row: Any = connection.execute(
        """SELECT rolname FROM pg_roles WHERE oid = 10 OR (rolsuper AND rolcanlogin)
            ORDER BY rolcanlogin DESC, oid = 10 DESC, oid LIMIT 1"""
    ).fetchone()
    return str(row[0])


def _closed_databases(connection: psycopg.Connection) -> list[NotChecked]:
    """Databases that nobody can connect to; -2 is DATCONNLIMIT_INVALID_DB."""
    rows = connection.execute(
        """SELECT datname, CASE WHEN datconnlimit = -2 THEN 'invalid: its DROP DATABASE was interrupted'
                                ELSE 'it allows no connections' END
             FROM pg_database
            WHERE datname NOT IN ('template0', 'template1') AND (datconnlimit = -2 OR NOT datallowconn)
            ORDER BY datname"""
    ).fetchall()
    return [NotChecked(name, WHOLE_DATABASE, reason) for name, reason in rows]


class _Fencer:
    """The steps of fencing, with what they gather."""

    def __init__(
        self, cluster: ClusterConfig, wal: WalSource, facts: ServerFacts, control: psycopg.Connection
    ) -> None:
        self._cluster, self._wal, self._facts, self._control = cluster, wal, facts, control
        self._drill: DrillConfig = cluster.drill
        self.not_checked: list[NotChecked] = []
        self.end_lsn = LSN(0)
        self.tried = 0
        self.exact = 0
        self.objects: dict[str, DatabaseObjects] = {}
        self._sequences: dict[str, tuple[list[SequenceState], LSN]] = {}

    def fence_all(self, closed: Collection[str]) -> tuple[DatabaseFence, ...]:
        """Fence every database but the closed ones, as many at once as there may be connections."""
        names = [name for name in self._facts.databases if name not in closed]
        groups = max(1, _CONNECTIONS // self._drill.candidates)
        starts = range(0, len(names), groups)
        return tuple(fence for start in starts for fence in self.fence(names[start : start + groups]))

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
        with self._opened(database) as connection:
            # WAL says a value before anybody can see it, so all that is read here lies before this LSN
            self._sequences[database] = (read_sequences(connection), _insert_lsn(connection))
        connections = [stack.enter_context(self._opened(database)) for _ in range(self._drill.candidates)]
        candidates = []
        for connection in connections:  # one straight after the other, about a millisecond each
            before = _insert_lsn(connection)
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            seen: Any = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
            candidates.append(_Candidate(database, connection, Snapshot.parse(seen[0]), before))
        self.tried += len(candidates)
        return candidates

    @contextlib.contextmanager
    def _opened(self, database: str) -> Iterator[psycopg.Connection]:
        with connect(self._cluster, database) as connection:
            pin_settings(connection, self._drill.statement_timeout)
            read_large_objects_freely(connection)
            yield connection

    def _archived_commits(self, burst: dict[str, list[_Candidate]]) -> list[CommitRecord]:
        """The commits around the fences, from the archive alone.

        The burst is ended by a transaction that only takes an xid: its commit record is one that no
        candidate sees, so a cut exists on an idle server too.
        """
        start = min(candidate.before for candidates in burst.values() for candidate in candidates)
        self._control.execute("SELECT pg_current_xact_id()")
        self.end_lsn = _insert_lsn(self._control)
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
                self._wal.fetch(segment.name, path)
            except ObjectMissing:
                return False
        return True

    def _wait(self, segment: WalSegment) -> None:
        end = time.monotonic() + self._drill.archive_timeout
        while True:
            if self._wal.has(segment.name):
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
            time.sleep(self._wal.interval)

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
        counter = Counter(
            self._drill, chosen.database, chosen.connection, lambda: self._opened(chosen.database)
        )
        with mapped(self._cluster):
            contents = counter.count()
            self.objects[chosen.database] = self._objects(chosen)
            chosen.connection.execute("ROLLBACK")
        self.not_checked += sorted(counter.not_checked, key=lambda item: item.what)
        return DatabaseFence(chosen.database, chosen.snapshot, chosen.cut.lsn, "", tuple(contents))

    def _objects(self, chosen: _Candidate) -> DatabaseObjects:
        """What is no row of a table; the cluster's own catalogs once, with the first database."""
        inventory = SourceInventory(chosen.database, chosen.connection, shared=not self.objects)
        catalogs = inventory.read()
        self.not_checked += inventory.not_checked
        before, lsn = self._sequences[chosen.database]
        with self._opened(chosen.database) as connection:  # after the cut, and under no snapshot
            after = read_sequences(connection)
            collations = collation_versions(connection)
        return DatabaseObjects(tuple(catalogs), lsn, tuple(before), tuple(after), collations)


def _insert_lsn(connection: psycopg.Connection) -> LSN:
    row: Any = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    return LSN.parse(row[0])
