"""A restore drill: fence the source, restore a backup, recover it to the exact cut, compare, write the proof.

Each step is one function that can be run again by itself: a comparison that could not be made does not restore
again. The steps hand each other plain identifiers and paths.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgproof import __version__
from pgproof.backups.catalog import (
    NOT_EQUAL,
    NOT_EXACT,
    NOT_RECOVERED,
    NOT_SOUND,
    PROVEN,
    Catalog,
    read_catalog,
)
from pgproof.config import ClusterConfig
from pgproof.errors import NotProven, ObjectDamaged, RecoveryFailed
from pgproof.postgres.control import read_control
from pgproof.postgres.programs import account, find_bin_directory
from pgproof.repository.repository import Archive
from pgproof.restore.locate import WalReader
from pgproof.restore.plan import RestorePlan, RestoreRequest, plan_restore
from pgproof.restore.target import RecoveryTarget
from pgproof.validation.checking import Checking, refuse_beyond, refuse_opened
from pgproof.validation.claim import claim, remove_leftovers
from pgproof.validation.comparison import Comparison
from pgproof.validation.fence import NEVER_CHECKED, DatabaseFence, Fence, NotChecked
from pgproof.validation.object_recount import bring_objects, brought_objects, recount_objects
from pgproof.validation.objects import DatabaseObjects
from pgproof.validation.progress import AtCut, progress_of
from pgproof.validation.proof import Proof
from pgproof.validation.recount import recount
from pgproof.validation.replay import recovered
from pgproof.validation.scratch import Scratch, prepare
from pgproof.wal.archive import list_wal

OnDatabase = Callable[[str, str], None]


@dataclass(frozen=True)
class Restored:
    """A scratch cluster that is ready to be recovered.

    Args:
        scratch: where.
        label: the backup.
        timeline: to follow.
        wal: first and last segment, and how many.
        size: raw bytes of the backup's files.
        phases: seconds so far.
        not_checked: what could not be checked of the files.
    """

    scratch: Scratch
    label: str
    timeline: int
    wal: tuple[str, str, int]
    size: int
    phases: dict[str, float] = field(default_factory=dict)
    not_checked: tuple[NotChecked, ...] = ()


def restore_scratch(
    cluster: ClusterConfig, archive: Archive, fence: Fence, label: str | None = None
) -> Restored:
    """Restore a backup for a drill, with all WAL up to the fence's last cut.

    What a drill left behind that was killed is removed first, of whichever cluster.

    Args:
        cluster: its drill settings.
        archive: to restore from.
        fence: with an exact cut.
        label: of the backup; None takes the newest.

    Raises:
        NotProven: the fence has no exact cut, or the backup ended after it.
        WalGap, NoBackup, ObjectDamaged, NoRoom: it cannot be restored.
    """
    if fence.cut is None or not fence.exact:
        reasons = "; ".join(f"{d.database}: {d.reason}" for d in fence.databases if d.cut is None)
        raise NotProven(
            f'fence "{fence.identifier}" has no exact cut',
            reasons,
            f"pgproof drill {cluster.name} tries again",
        )
    owner = account(cluster.drill.run_as)
    directory = cluster.drill.scratch_directory.absolute()
    remove_leftovers(directory)
    scratch = Scratch(directory / f"{cluster.name}-{fence.identifier}")
    scratch.remove()  # of an earlier try of the same drill
    catalog = read_catalog(archive)
    chosen = catalog.entry(label) if label else catalog.newest
    first_cut = min(database.cut for database in fence.databases if database.cut is not None)
    if first_cut < chosen.record.stop_lsn:
        raise NotProven(
            f'backup "{chosen.label}" ended after fence "{fence.identifier}" was taken',
            f"It ended at LSN {chosen.record.stop_lsn}; the cut is {first_cut}.",
            f"pgproof drill {cluster.name} takes a new fence",
        )
    bin_directory = find_bin_directory(chosen.record.major, cluster.bin_directory)
    try:
        plan = plan_scratch(archive, catalog, fence, scratch, chosen.label)
        phases = prepare(scratch, plan, archive, bin_directory, owner, cluster.backup.workers)
        bring_objects(archive, fence, scratch)
    except BaseException:
        scratch.remove()
        raise
    wal = (plan.segments[0].name, plan.segments[-1].name, len(plan.segments))
    return Restored(
        scratch, chosen.label, plan.history.timeline, wal, sum(r.raw_size for r in plan.chain), phases
    )


def plan_scratch(
    archive: Archive, catalog: Catalog, fence: Fence, scratch: Scratch, label: str
) -> RestorePlan:
    """The plan of a drill: up to the end of the fence, whose commit record the cut points at."""
    record = catalog.entry(label).record
    request = RestoreRequest(
        scratch.data,
        RecoveryTarget("lsn", str(fence.end_lsn), timeline=fence.timeline),
        label,
        tablespaces={t.path: str(scratch.tablespaces / str(t.oid)) for t in record.tablespaces},
    )
    return plan_restore(
        request,
        catalog,
        lambda size: list_wal(archive, size),
        lambda major: WalReader(archive, find_bin_directory(major)),
    )


def compare_restored(
    cluster: ClusterConfig,
    fence: Fence,
    restored: Restored,
    on_database: OnDatabase = lambda database, dsn: None,
) -> Comparison:
    """Recover the scratch cluster to each cut in turn, compare every database at its own, then check the copy.

    Args:
        cluster: its drill settings.
        fence: what the source held.
        restored: from restore_scratch; ``phases`` gains ``replay``, ``compare`` and ``check``.
        on_database: called with a database's name and connection string while the copy is at its cut.

    Raises:
        RecoveryFailed: a cut was not reached, or the copy cannot be read.
        NotProven: a transaction is committed in the copy that the fence did not see.
        ScratchKilled: the copy's server was ended from outside; calling this again goes on with the copy.
        DestinationRefused: the scratch directory is gone, or its copy was opened, or left its cut, already.
    """
    bin_directory = find_bin_directory(fence.server_version // 10000, cluster.bin_directory)
    owner = account(cluster.drill.run_as)
    claim(restored.scratch.root)
    refuse_opened(restored.scratch)
    fenced = [d for d in fence.databases if d.cut is not None]
    cuts = sorted({d.cut for d in fenced if d.cut is not None})
    done = progress_of(restored.scratch.root).cuts
    waiting = [cut for cut in cuts if cut not in done]
    checking = Checking(cluster, restored.scratch, bin_directory, owner)
    for cut in done:
        checking.resume(done[cut].databases, done[cut].checks)
    if waiting:
        control = read_control(bin_directory, restored.scratch.data)
        refuse_beyond(restored.scratch, control.minimum_recovery_lsn, waiting[0])
    held = brought_objects(restored.scratch)
    for cut in waiting:
        started, known = time.monotonic(), len(checking.results)
        with recovered(
            restored.scratch,
            bin_directory,
            cut,
            restored.timeline,
            fence.bootstrap_role,
            owner,
            cluster.drill.replay_timeout,
            last=cut == cuts[-1],
            shutdown=checking.needs_shutdown,
            preload=cluster.drill.preload_libraries,
        ) as dsn:
            ready = time.monotonic()
            names = {d.database: f"{dsn} dbname={_quoted(d.database)}" for d in fenced}
            here = {d.database: d for d in fenced if d.cut == cut}
            parts = []
            for name, database in here.items():
                parts.append(_compare_one(cluster, fence, database, held.get(name), names[name]))
                on_database(name, names[name])
            compared = time.monotonic()
            checking.at_cut({name: names[name] for name in here})
            own = tuple(checking.results[known:])
            if cut == cuts[-1]:
                checking.after_cut(names)
        found = AtCut(tuple(parts), own, frozenset(here), ready - started, compared - ready)
        if cut == cuts[-1]:
            checking.after_shutdown()  # before anything is final: a try after a fault does the last cut again
        done[cut] = found
    seconds = {
        "replay": sum(found.replay for found in done.values()),
        "compare": sum(found.compare for found in done.values()),
        "check": checking.seconds,
    }
    restored.phases.update({name: round(took, 3) for name, took in seconds.items()})
    return Comparison.joined((part for cut in cuts for part in done[cut].parts), checking.results)


def _compare_one(
    cluster: ClusterConfig, fence: Fence, database: DatabaseFence, objects: DatabaseObjects | None, dsn: str
) -> Comparison:
    """Compare one database, without what the fence left out."""
    left_out = {item.what for item in fence.not_checked if item.database == database.database}
    tables = recount(cluster.drill, database, dsn, left_out)
    others = recount_objects(cluster.drill, database, objects, dsn)
    return Comparison(
        tuple(tables.rows), (*tables.not_checked, *others.not_checked), objects=tuple(others.rows)
    )


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def make_proof(
    archive: Archive,
    fence: Fence,
    label: str,
    clock: Callable[[], datetime],
    *,
    restored: Restored | None = None,
    comparison: Comparison | None = None,
    failure: Exception | None = None,
    expectations: dict[str, Any] | None = None,
    origin: dict[str, str] | None = None,
) -> Proof:
    """The proof record of a drill, whatever came of it.

    Args:
        archive: of the backup.
        fence: of the source.
        label: of the backup.
        clock: the time, aware.
        restored, comparison: as far as the drill came.
        failure: what ended it early.
        expectations: ``success`` and a summary of the Great Expectations suites.
        origin: of another tool's backup: ``kind``, ``title`` and ``version``.
    """
    verdict, summary = _verdict(fence, comparison, failure, expectations or {})
    phases = restored.phases if restored else {}
    at = clock().astimezone(UTC)
    not_checked = [*fence.not_checked, *(restored.not_checked if restored else ())]
    not_checked += _left_out(comparison)
    kind = f"{origin['kind']}-" if origin else ""
    return Proof(
        # a directory may have any name, and this one becomes a key
        identifier=f"{at:%Y%m%dT%H%M%S%fZ}-{kind}{re.sub(r'[^A-Za-z0-9._-]', '_', label)}",
        at=at,
        cluster=fence.cluster,
        system_identifier=archive.system_identifier,
        backup=label,
        verdict=verdict,
        summary=summary,
        fence=fence.identifier,
        timeline=fence.timeline,
        wal=restored.wal if restored else ("", "", 0),
        cuts={d.database: str(d.cut) for d in fence.databases if d.cut is not None},
        tables=tuple(comparison.as_records()) if comparison else (),
        not_checked=(*not_checked, NEVER_CHECKED),
        phases=dict(phases),
        rto_seconds=round(sum(phases.get(name, 0.0) for name in ("extract", "fetch", "replay")), 3),
        restored_bytes=restored.size if restored else 0,
        software={"pgproof": __version__, **fence.software},
        expectations=expectations or {},
        origin=origin or {},
        checks=tuple(check.as_record() for check in comparison.checks) if comparison else (),
        objects=tuple(kind.as_record() for kind in comparison.objects) if comparison else (),
    )


def _left_out(comparison: Comparison | None) -> list[NotChecked]:
    if comparison is None:
        return []
    return [*comparison.not_checked, *(item for check in comparison.checks for item in check.not_checked)]


def _verdict(
    fence: Fence, comparison: Comparison | None, failure: Exception | None, expectations: dict[str, Any]
) -> tuple[str, str]:
    if not fence.exact:
        return NOT_EXACT, "; ".join(f"{d.database}: {d.reason}" for d in fence.databases if d.cut is None)
    if isinstance(failure, NotProven):  # of the fence, and says nothing of the backup
        return NOT_EXACT, str(failure).replace("\n", " ")
    if failure is not None:
        return NOT_RECOVERED, str(failure).replace("\n", " ")
    if comparison is None or not comparison.tables:
        return NOT_EXACT, "nothing was compared"
    if not comparison.equal:
        return NOT_EQUAL, comparison.summary()
    if expectations and not expectations.get("success"):
        return NOT_EQUAL, f"expectations failed: {expectations.get('summary', '')}"
    if finding := comparison.finding():
        return NOT_SOUND, finding
    return PROVEN, comparison.summary()


def is_verdict(error: Exception) -> bool:
    """Whether an error says something of the backup, rather than of the drill's surroundings."""
    return isinstance(error, (RecoveryFailed, ObjectDamaged))


def scratch_of(path: str | Path) -> Scratch:
    """The scratch of a path that a step handed on."""
    return Scratch(Path(path))
