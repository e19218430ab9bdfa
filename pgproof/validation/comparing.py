"""Comparing: a restored copy is recovered to each cut of its fence, and every database is compared at its own.

Called again after a fault it goes on behind what is done: a copy never goes back to an earlier cut.
"""

from __future__ import annotations

import pwd
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg

from pgproof.config import ClusterConfig
from pgproof.errors import ScratchKilled
from pgproof.postgres.control import read_control
from pgproof.postgres.programs import account, find_bin_directory
from pgproof.timelines.lsn import LSN
from pgproof.validation.catalogs.object_recount import recount_objects
from pgproof.validation.catalogs.objects import DatabaseObjects, HeldObjects
from pgproof.validation.checks.checking import Checking, is_opened, refuse_beyond, refuse_opened
from pgproof.validation.claim import claim
from pgproof.validation.comparison import Comparison
from pgproof.validation.drill import Done, Restored
from pgproof.validation.fences.fence import DatabaseFence, Fence
from pgproof.validation.progress import AtCut, progress_of
from pgproof.validation.recount import recount
from pgproof.validation.replay import recovered
from pgproof.validation.sessions import Sessions, sessions_of
from pgproof.validation.speeds import rounded
from pgproof.validation.targets.attempt import Targets, try_targets

OnDatabase = Callable[[str, str], None]


def compare_restored(
    cluster: ClusterConfig,
    fence: Fence,
    restored: Restored,
    on_database: OnDatabase = lambda database, dsn: None,
    seed: int | None = None,
    progress: Done = lambda rows: None,
) -> Comparison:
    """Recover the scratch cluster to recovery targets, then to each cut; compare every database at its own; check.

    Args:
        cluster: its drill settings.
        fence: what the source held.
        restored: from restore_scratch; ``phases`` gains ``targets``, ``start``, ``replay``, ``count``, ``compare``
            and ``check``.
        on_database: called with a database's name and connection string while the copy is at its cut.
        seed: of the choice of recovery targets; None takes that of the fence.
        progress: told the source's rows of each table that is compared.

    Raises:
        RecoveryFailed: a cut was not reached, or the copy cannot be read.
        NotProven: a transaction is committed in the copy that the fence did not see; or its server was ended from
            outside while the opened copy was checked, with the check.
        ScratchKilled: the copy's server was ended from outside; calling this again goes on with the copy.
        DestinationRefused: the scratch directory is gone, or its copy was opened, or left its cut, already.
    """
    claim(restored.scratch.root)
    refuse_opened(restored.scratch)
    return _Comparing(cluster, fence, restored, on_database, progress).run(seed)


class _Comparing:
    """The comparison of one copy, as far as this try comes."""

    def __init__(
        self,
        cluster: ClusterConfig,
        fence: Fence,
        restored: Restored,
        on_database: OnDatabase,
        told: Done,
    ) -> None:
        self._cluster, self._fence, self._restored = cluster, fence, restored
        self._on_database, self._told = on_database, told
        self._bin, self._owner = _of_server(cluster, fence)
        self._fenced = [d for d in fence.databases if d.cut is not None]
        self._cuts = sorted({d.cut for d in self._fenced if d.cut is not None})
        self._done = progress_of(restored.scratch.root, fence)
        self._held = HeldObjects(restored.scratch.objects)
        self._checking = Checking(cluster, restored.scratch, self._bin, self._owner)

    def run(self, seed: int | None) -> Comparison:
        """Whatever is not done yet, in the order of WAL."""
        cuts = self._done.cuts
        for found in cuts.values():
            self._checking.resume(found.databases, found.checks)
        waiting = [cut for cut in self._cuts if cut not in cuts]
        if waiting:
            control = read_control(self._bin, self._restored.scratch.data)
            refuse_beyond(self._restored.scratch, control.minimum_recovery_lsn, waiting[0])
        targets = self._targets(seed)
        for cut in waiting:
            try:
                found = self._at(cut)
            except ScratchKilled as error:
                if is_opened(self._restored.scratch):  # no try can go on with it
                    raise self._checking.killed(error) from error
                raise
            if cut == self._cuts[-1]:  # before anything is final: a try after a fault does the last cut again
                self._checking.after_shutdown()
            cuts[cut] = found
        self._restored.phases.update(self._phases(targets))
        parts = (part for cut in self._cuts for part in cuts[cut].parts)
        return Comparison.joined(parts, self._checking.results, targets)

    def _targets(self, seed: int | None) -> Targets:
        """Recover the copy to recovery targets, once, before its first cut."""
        if self._done.targets is None:
            self._done.targets = try_targets(
                self._cluster.drill,
                self._fence,
                self._restored.scratch,
                self._restored.replayable,
                self._bin,
                self._owner,
                seed,
            )
        return self._done.targets

    def _at(self, cut: LSN) -> AtCut:
        """Hold the copy at one cut, and compare and check what has this cut."""
        last, took = cut == self._cuts[-1], dict[str, float]()
        known = len(self._checking.results)
        with recovered(
            self._restored.scratch,
            self._bin,
            cut,
            self._restored.timeline,
            self._fence.bootstrap_role,
            self._owner,
            self._cluster.drill.replay_timeout,
            last=last,
            shutdown=self._checking.needs_shutdown,
            preload=self._cluster.drill.preload_libraries,
            phases=took,
        ) as dsn:
            wanted = [d.database for d in self._fenced if last or d.cut == cut]
            names = {name: self._sessions(dsn, name) for name in wanted}
            here = {d.database: names[d.database] for d in self._fenced if d.cut == cut}
            parts = self._compare(here, took)
            self._restored.software["restored"] = _version_of(dsn)
            self._checking.at_cut({name: sessions.users for name, sessions in here.items()})
            own = tuple(self._checking.results[known:])
            if last:
                self._checking.after_cut({name: sessions.indexes for name, sessions in names.items()})
        return AtCut(parts, own, frozenset(here), took)

    def _sessions(self, dsn: str, database: str) -> Sessions:
        held = self._held.of(database)
        return sessions_of(dsn, database, held.settings if held else {})

    def _compare(self, here: Mapping[str, Sessions], took: dict[str, float]) -> tuple[Comparison, ...]:
        """Compare the databases of one cut; ``took`` gains the seconds of ``count`` and ``compare``."""
        started, parts = time.monotonic(), []
        for database in (d for d in self._fenced if d.database in here):
            sessions = here[database.database]
            held = self._held.of(database.database)
            parts.append(_compare_one(self._cluster, self._fence, database, held, sessions, took, self._told))
            self._on_database(database.database, sessions.users)
        took["compare"] = time.monotonic() - started - took.get("count", 0.0)
        return tuple(parts)

    def _phases(self, targets: Targets) -> dict[str, float]:
        """Seconds of all tries that were not in vain.

        All recoveries count as replay: what the targets have replayed, the one to the cut need not replay again.
        """
        found = self._done.cuts.values()
        names = ("start", "replay", "count", "compare")
        phases = {"targets": targets.seconds - targets.replay} if targets.seconds else {}
        phases |= {name: sum(at.seconds.get(name, 0.0) for at in found) for name in names}
        phases["replay"] += targets.replay
        phases["check"] = self._checking.seconds
        return rounded(phases)


def _of_server(cluster: ClusterConfig, fence: Fence) -> tuple[Path, pwd.struct_passwd | None]:
    """Programs and account of the scratch server."""
    bin_directory = find_bin_directory(fence.server_version // 10000, cluster.bin_directory)
    return bin_directory, account(cluster.drill.run_as)


def _compare_one(
    cluster: ClusterConfig,
    fence: Fence,
    database: DatabaseFence,
    held: DatabaseObjects | None,
    sessions: Sessions,
    took: dict[str, float],
    progress: Done,
) -> Comparison:
    """Compare one database, without what the fence left out; ``took`` gains the seconds of ``count``."""
    left_out = {item.what for item in fence.not_checked if item.database == database.database}
    started = time.monotonic()
    tables = recount(cluster.drill, database, sessions.ours, left_out, progress)
    took["count"] = took.get("count", 0.0) + time.monotonic() - started
    others = recount_objects(cluster.drill, database, held, sessions.ours)
    left = (*tables.not_checked, *others.not_checked, *sessions.not_checked(database.database))
    return Comparison(tuple(tables.rows), left, objects=tuple(others.rows))


def _version_of(dsn: str) -> str:
    """The PostgreSQL that runs the copy; empty when it does not say."""
    try:
        with psycopg.connect(f"{dsn} dbname=template1", autocommit=True) as connection:
            row: Any = connection.execute("SHOW server_version").fetchone()
    except psycopg.Error:  # it was compared already; its version is worth no verdict
        return ""
    return f"PostgreSQL {row[0]}"
