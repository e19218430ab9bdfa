"""Fencing: a burst of candidate fences on the source, the exact one chosen from archived WAL, then counted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from pgproof import __version__
from pgproof.backups.source import switch_segment
from pgproof.config import DRILL_CONNECTIONS, ClusterConfig, DrillConfig
from pgproof.errors import ObjectMissing, PgproofError, ServerNotReady, WalNotArchived
from pgproof.held import temporary_directory
from pgproof.postgres.connection import connect, mapped
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.postgres.programs import find_bin_directory
from pgproof.repository.repository import Archive, check_system
from pgproof.timelines.lsn import LSN
from pgproof.timelines.segment import WalSegment
from pgproof.validation.catalogs.inventory import SourceInventory, collation_versions
from pgproof.validation.catalogs.objects import DatabaseObjects, ObjectSpool
from pgproof.validation.catalogs.sequences import SequenceState, read_sequences
from pgproof.validation.catalogs.settings import answering_settings
from pgproof.validation.fences.admission import Admission, undecodable
from pgproof.validation.fences.burst import (
    Candidate,
    choose,
    cuts_of,
    find_cuts,
    take_snapshots,
    waiting_commits,
)
from pgproof.validation.fences.counting import Counter, unknown_names
from pgproof.validation.fences.fence import WHOLE_DATABASE, DatabaseFence, Fence, NotChecked
from pgproof.validation.fences.fingerprint import pin_settings, read_large_objects_freely
from pgproof.validation.fences.holding import Holding
from pgproof.validation.origins.wal_source import OwnWal, WalSource
from pgproof.validation.targets.canary import plant_canaries
from pgproof.wal.records import CommitRecord, read_records

_ROUNDS = 5  # bursts before giving up on an exact cut
_COMMON_ROUNDS = 3  # and before giving up on one for all databases

Burst = dict[str, list[Candidate]]


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
        RepositoryReadOnly: what is found could not be stored.
        WalNotArchived: the fence's WAL did not reach the archive in time.
    """
    with connect(cluster) as connection:
        facts = read_facts(connection)
        _check_source(cluster, facts)
        archive = archive_of(facts.system_identifier)
        check_system(
            archive.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"'
        )
        archive.ask_to_write()  # now, and not when everything was counted
        pin_settings(connection, cluster.drill.statement_timeout)
        # the commit that ends a fence must not wait for a synchronous standby that is away
        connection.execute("SET synchronous_commit = local")
        role = _reading_role(connection)
        admission = Admission(cluster.drill, connection, facts.role.name, superuser=facts.role.superuser)
        if cluster.drill.targets:
            plant_canaries(connection)
        fencer = _Fencer(cluster, wal or OwnWal(archive), facts, connection, admission)
        databases = fencer.fence_all()
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
        not_checked=tuple(fencer.not_checked),
        candidates=fencer.tried,
        exact_candidates=fencer.exact,
        held_seconds=round(fencer.held, 3),
        software={"pgproof": __version__, "postgresql": facts.version_text},
        objects=fencer.objects.store(archive, identifier),
        count_seconds=round(fencer.count_seconds, 3),
        several_cuts=fencer.several_cuts(databases),
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


class _Fencer:
    """The steps of fencing, with what they gather."""

    def __init__(
        self,
        cluster: ClusterConfig,
        wal: WalSource,
        facts: ServerFacts,
        control: psycopg.Connection,
        admission: Admission,
    ) -> None:
        self._cluster, self._wal, self._facts, self._control = cluster, wal, facts, control
        self._admission = admission
        self._drill: DrillConfig = cluster.drill
        self.not_checked: list[NotChecked] = admission.left_out()
        self.end_lsn = self._start = LSN(0)
        self.tried = 0
        self.exact = 0
        self.count_seconds = 0.0
        self.held = 0.0
        self.objects = ObjectSpool()
        self._sequences: dict[str, tuple[list[SequenceState], LSN]] = {}
        self._waiting: frozenset[int] = frozenset()
        self._groups = 0
        self._names: set[str] = set()

    def fence_all(self) -> tuple[DatabaseFence, ...]:
        """Fence every database that lets us in, as many at once as there may be connections.

        Raises:
            ServerNotReady: none does.
        """
        closed = {item.database for item in self.not_checked}
        names = [name for name in self._facts.databases if name not in closed]
        starts = range(0, len(names), self._drill.connections)
        self._groups = len(starts)
        groups = [names[start : start + self._drill.connections] for start in starts]
        fences = tuple(fence for group in groups for fence in self.fence(group))
        if not fences:
            raise ServerNotReady(
                f'no database of cluster "{self._cluster.name}" can be fenced',
                "; ".join(f"{item.database}: {item.reason}" for item in self.not_checked) + ".",
                f"pgproof doctor {self._cluster.name}",
            )
        if all(fence.cut is not None for fence in fences):  # each was looked at
            closed = {item.database for item in self.not_checked if item.what == WHOLE_DATABASE}
            self.not_checked += unknown_names(self._drill, self._names, closed)
        return fences

    def fence(self, databases: Sequence[str]) -> list[DatabaseFence]:
        """Fence some databases: bursts until they have an exact cut, best one for all, then counting under it."""
        waiting, done = list(databases), dict[str, DatabaseFence]()
        for number in range(_ROUNDS):
            waiting = self._admitted(waiting)
            if not waiting:
                break
            with contextlib.ExitStack() as stack:
                burst, holding = self._burst(waiting, stack)
                commits = self._archived_commits(burst)
                self.exact += find_cuts(
                    (c for candidates in burst.values() for c in candidates), commits, self._waiting
                )
                chosen = choose(burst)
                common = len(chosen) == len(waiting) and len(cuts_of(chosen.values())) == 1
                if not common and number < _COMMON_ROUNDS - 1 and len(waiting) > 1:
                    continue  # their snapshots are given back
                _release(burst, chosen)
                done |= self._count(chosen, holding)
            waiting = [name for name in waiting if name not in done]
            if not waiting:
                break
        without = {name: burst[name][0] for name in waiting}
        done |= {name: DatabaseFence(name, one.snapshot, None, one.reason) for name, one in without.items()}
        return [done[name] for name in databases if name in done]

    def several_cuts(self, databases: Sequence[DatabaseFence]) -> str:
        """Why the databases do not share one cut; empty when they do."""
        count = len({database.cut for database in databases if database.cut is not None})
        if count < 2:
            return ""
        if self._groups > 1:
            return (
                f"{count} cuts, as {len(databases)} databases are more than the {self._drill.connections} of "
                "drill.connections"
            )
        return f"{count} cuts, as transactions ended between the snapshots of the databases in every burst"

    def _admitted(self, databases: Sequence[str]) -> list[str]:
        """Those of some databases that can be opened, with where their sequences stand; the others are named."""
        admitted = []
        for database in databases:
            try:
                with self._opened(database) as connection:
                    # WAL says a value before anybody can see it, so all that is read here lies before this LSN
                    if odd := undecodable(connection):
                        self.not_checked.append(NotChecked(database, WHOLE_DATABASE, odd))
                        continue
                    self._sequences[database] = (read_sequences(connection), _insert_lsn(connection))
            except PgproofError:
                refused = self._admission.refused(database)
                if refused is None:
                    raise
                self.not_checked.append(refused)
                continue
            admitted.append(database)
        return admitted

    def _burst(self, databases: Sequence[str], stack: contextlib.ExitStack) -> tuple[Burst, Holding]:
        room = self._admission.room(databases) - DRILL_CONNECTIONS + 1
        each = min(self._drill.candidates, max(1, self._drill.connections // len(databases)), max(1, room))
        rows = [[stack.enter_context(self._opened(name)) for name in databases] for _ in range(each)]
        self._start = _insert_lsn(self._control)
        holding = Holding.begin(self._drill.hold_limit)
        burst: Burst = {name: [] for name in databases}
        for connections in rows:
            snapshots = take_snapshots(connections)
            for name, connection, snapshot in zip(databases, connections, snapshots, strict=True):
                burst[name].append(Candidate(name, connection, snapshot))
        self._waiting = waiting_commits(self._control)
        self.tried += each * len(databases)
        return burst, holding

    @contextlib.contextmanager
    def _opened(self, database: str) -> Iterator[psycopg.Connection]:
        with connect(self._cluster, database) as connection:
            pin_settings(connection, self._drill.statement_timeout)
            read_large_objects_freely(connection)
            yield connection

    def _archived_commits(self, burst: Burst) -> list[CommitRecord]:
        """The commits around the fences of a burst, from the archive alone.

        The burst is ended by a transaction that only takes an xid: its commit record is one that no
        candidate sees, so a cut exists on an idle server too.
        """
        self._control.execute("SELECT pg_current_xact_id()")
        self.end_lsn = _insert_lsn(self._control)
        if "pg_switch_wal()" not in self._facts.role.missing_functions:
            switch_segment(self._control)
        size, timeline = self._facts.segment_size, self._facts.timeline
        first = WalSegment.containing(timeline, self._start, size)
        last = WalSegment.ending_at(timeline, self.end_lsn, size)
        self._wait(last)
        with temporary_directory("fence") as directory:
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

    def _count(self, chosen: dict[str, Candidate], holding: Holding) -> dict[str, DatabaseFence]:
        """Read all that the fences hold: first what is no row of a table, which takes seconds, then the tables."""
        found: dict[str, DatabaseFence] = {}
        try:
            with mapped(self._cluster):
                for candidate in chosen.values():
                    self._read_objects(candidate)
                for name, candidate in _in_turn(chosen):
                    found[name] = self._count_database(candidate, holding)
        finally:
            self.held = max(self.held, holding.seconds)
        return found

    def _count_database(self, chosen: Candidate, holding: Holding) -> DatabaseFence:
        name = chosen.database
        workers = min(self._drill.workers, self._admission.room([name]) - DRILL_CONNECTIONS + 1)
        drill = self._drill.model_copy(update={"workers": workers})
        counter = Counter(
            drill, name, chosen.connection, lambda: self._opened(name), holding, turn=chosen.lsn or 0
        )
        started = time.monotonic()
        contents = counter.count()
        self.count_seconds += time.monotonic() - started
        chosen.connection.execute("ROLLBACK")  # holds back vacuum no longer
        self._names |= counter.names
        self.not_checked += sorted(counter.not_checked, key=lambda item: item.what)
        return DatabaseFence(name, chosen.snapshot, chosen.lsn, "", tuple(contents), counter.listed)

    def _read_objects(self, chosen: Candidate) -> None:
        """What is no row of a table; the cluster's own catalogs once, with the first database."""
        shared = not self.objects.databases
        inventory = SourceInventory(chosen.database, chosen.connection, shared=shared)
        before, lsn = self._sequences.pop(chosen.database)
        with self._opened(chosen.database) as connection:  # after the cut, and under no snapshot
            after = read_sequences(connection)
            collations, settings = collation_versions(connection), answering_settings(connection)
        held = DatabaseObjects(inventory.read(), lsn, tuple(before), tuple(after), collations, settings)
        self.objects.add(chosen.database, held)
        self.not_checked += inventory.not_checked


def _release(burst: Burst, chosen: dict[str, Candidate]) -> None:
    """Give back the snapshots and the connections of the candidates that are not chosen."""
    for name, candidates in burst.items():
        for candidate in candidates:
            if candidate is not chosen.get(name):
                candidate.connection.close()


def _in_turn(chosen: dict[str, Candidate]) -> list[tuple[str, Candidate]]:
    """Another database first each time, lest a limit leave out the same ones in every drill."""
    items = list(chosen.items())
    start = sum(candidate.lsn or 0 for _, candidate in items[:1]) % len(items) if items else 0
    return items[start:] + items[:start]


def _insert_lsn(connection: psycopg.Connection) -> LSN:
    row: Any = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    return LSN.parse(row[0])
