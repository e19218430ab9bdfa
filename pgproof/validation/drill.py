"""A restore drill: fence the source, restore a backup, recover it to the exact cut, compare, write the proof.

Each step is one function that can be run again by itself: a comparison that could not be made does not restore
again. The steps hand each other plain identifiers and paths.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping
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
from pgproof.postgres.programs import account, find_bin_directory
from pgproof.repository.repository import Archive
from pgproof.restore.locate import WalReader
from pgproof.restore.plan import RestorePlan, RestoreRequest, plan_restore
from pgproof.restore.target import RecoveryTarget
from pgproof.validation.as_restored import WHAT, AsRestored
from pgproof.validation.catalogs.object_recount import bring_objects
from pgproof.validation.checks.check import EVERY_DATABASE
from pgproof.validation.claim import remove_leftovers
from pgproof.validation.comparison import Comparison
from pgproof.validation.coverage import NOTHING, gap_in
from pgproof.validation.fences.fence import NEVER_CHECKED, Fence, NotChecked, damage_in
from pgproof.validation.order import require_before
from pgproof.validation.proof import AS_RESTORED, IN_ISOLATION, Proof
from pgproof.validation.scratch import Scratch, contain_wal, own, prepare
from pgproof.validation.speeds import RESTORING, byte_speeds, recovery_seconds, replayed_bytes, row_speeds
from pgproof.validation.targets.attempt import WalOfCopy
from pgproof.validation.targets.stretch import bring_forks
from pgproof.wal.archive import list_for_recovery

OnDatabase = Callable[[str, str], None]
Done = Callable[[int], None]


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
        warnings: what PostgreSQL's programs warned of when they ended well.
        replayable: what recovery can replay, for recovery targets; None when it is not known.
        software: of the copy; ``restored`` is its PostgreSQL, once it ran.
    """

    scratch: Scratch
    label: str
    timeline: int
    wal: tuple[str, str, int]
    size: int
    phases: dict[str, float] = field(default_factory=dict)
    not_checked: tuple[NotChecked, ...] = ()
    warnings: tuple[str, ...] = ()
    replayable: WalOfCopy | None = None
    software: dict[str, str] = field(default_factory=dict)


def restore_scratch(
    cluster: ClusterConfig,
    archive: Archive,
    fence: Fence,
    label: str | None = None,
    progress: Done = lambda size: None,
    catalog: Catalog | None = None,
) -> Restored:
    """Restore a backup for a drill, with all WAL up to the fence's last cut.

    What a drill left behind that was killed is removed first, of whichever cluster.

    Args:
        cluster: its drill settings.
        archive: to restore from.
        fence: with an exact cut.
        label: of the backup; None takes the newest.
        progress: told the raw bytes as they are restored.
        catalog: read just now; None reads it.

    Raises:
        NotProven: the fence has no exact cut, or the backup ends beyond it.
        WalGap, NoBackup, ObjectDamaged, NoRoom: it cannot be restored.
    """
    if fence.cut is None or not fence.exact:
        raise NotProven(
            f'fence "{fence.identifier}" has no exact cut',
            fence.why_not_exact,
            f"pgproof drill {cluster.name} tries again",
        )
    owner = account(cluster.drill.run_as)
    directory = cluster.scratch
    remove_leftovers(directory)
    scratch = Scratch(directory / f"{cluster.name}-{fence.identifier}")
    scratch.remove()  # of an earlier try of the same drill
    catalog = catalog or read_catalog(archive)
    chosen = catalog.entry(label) if label else catalog.newest
    require_before(chosen.record, fence)
    bin_directory = find_bin_directory(chosen.record.major, cluster.bin_directory)
    try:
        plan = plan_scratch(archive, catalog, fence, scratch, chosen.label)
        prepared = prepare(scratch, plan, archive, bin_directory, owner, cluster.backup.workers, progress)
        bring_objects(archive, fence, scratch)
        if cluster.drill.targets:
            for path in bring_forks(archive, plan, scratch):
                own(path, owner)
            contain_wal(scratch, owner)
    except BaseException:
        scratch.remove()
        raise
    wal = (plan.segments[0].name, plan.segments[-1].name, len(plan.segments))
    replayable = WalOfCopy(plan.history.timeline, wal[0], plan.record.start_lsn, plan.record.stop_lsn)
    size = sum(record.raw_size for record in plan.chain)
    said = (*plan.record.warnings, *prepared.warnings)
    return Restored(
        scratch, chosen.label, plan.history.timeline, wal, size, prepared.phases, (), said, replayable
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
        lambda size: list_for_recovery(archive, size),
        lambda major: WalReader(archive, find_bin_directory(major)),
    )


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
    rto_target: float | None = None,
    as_restored: AsRestored | None = None,
) -> Proof:
    """The proof record of a drill, whatever came of it.

    Args:
        archive: of the backup.
        fence: of the source.
        clock: the time, aware.
        restored, comparison: as far as the drill came.
        failure: what ended it early.
        expectations: ``success`` and a summary of the Great Expectations suites.
        origin: of another tool's backup: ``kind``, ``title`` and ``version``.
        rto_target: seconds that a recovery may take.
        as_restored: what came of a restore as a user is told to make it.
    """
    verdict, summary = _verdict(fence, comparison, failure, expectations or {})
    phases = phases_of(restored.phases if restored else {}, as_restored)
    wal, size = (restored.wal, restored.size) if restored else (("", "", 0), 0)
    replayed = replayed_bytes(fence, wal[0], first=as_restored is not None and as_restored.measured)
    at = clock().astimezone(UTC)
    return Proof(
        identifier=_identifier(at, label, origin),
        at=at,
        cluster=fence.cluster,
        system_identifier=archive.system_identifier,
        backup=label,
        verdict=verdict,
        summary=summary,
        fence=fence.identifier,
        timeline=fence.timeline,
        wal=wal,
        cuts={d.database: str(d.cut) for d in fence.databases if d.cut is not None},
        **_found(comparison),
        not_checked=(*_left_out(fence, restored, comparison), *_not_tried(as_restored), NEVER_CHECKED),
        warnings=_warnings(restored, as_restored),
        phases={"fence": fence.held_seconds, **phases},
        restored_bytes=size,
        software=_software(fence, restored),
        expectations=expectations or {},
        origin=origin or {},
        wal_bytes=replayed,
        bytes_per_second=byte_speeds(phases, size, replayed),
        rows_per_second=row_speeds(fence, phases, comparison),
        rto_target=rto_target,
        several_cuts=fence.several_cuts,
        **_recovery_time(phases, as_restored),
    )


def _warnings(restored: Restored | None, as_restored: AsRestored | None) -> tuple[str, ...]:
    """What the drill's copy and a restore as a user makes it warned of, each thing once."""
    said = (*(restored.warnings if restored else ()), *(as_restored.warnings if as_restored else ()))
    return tuple(dict.fromkeys(said))


def _found(comparison: Comparison | None) -> dict[str, Any]:
    """What a proof keeps of a comparison."""
    if comparison is None:
        return {"tables": ()}
    return {
        "tables": tuple(comparison.as_records()),
        "checks": tuple(check.as_record() for check in comparison.checks),
        "objects": tuple(kind.as_record() for kind in comparison.objects),
        "targets": tuple(comparison.targets.as_records()),
    }


def _recovery_time(phases: Mapping[str, float], as_restored: AsRestored | None) -> dict[str, Any]:
    """The recovery time of a proof, and how it was measured."""
    if as_restored is None:
        return {"rto_seconds": recovery_seconds(phases)}
    return {
        "rto_seconds": 0.0 if as_restored.findings else recovery_seconds(phases),
        "rto_way": AS_RESTORED if as_restored.measured else IN_ISOLATION,
        "as_restored": as_restored.as_dict(),
    }


def phases_of(isolated: Mapping[str, float], as_restored: AsRestored | None) -> dict[str, float]:
    """Seconds of a drill's phases: those that restore are of the restore that the recovery time is measured by.

    Args:
        isolated: of the drill's copy.
        as_restored: what came of a restore as a user makes it.
    """
    if as_restored is None or as_restored.skipped:
        return dict(isolated)
    if not as_restored.measured:
        return {"tried": round(as_restored.seconds, 3), **isolated}
    besides = {name: seconds for name, seconds in isolated.items() if name not in RESTORING}
    copied = sum(seconds for name, seconds in isolated.items() if name in RESTORING)
    return {**as_restored.phases, "copy": round(copied, 3), **besides}


def _not_tried(as_restored: AsRestored | None) -> list[NotChecked]:
    if as_restored is None:
        return []
    return [NotChecked(EVERY_DATABASE, WHAT, reason) for reason in as_restored.not_checked]


def _identifier(at: datetime, label: str, origin: Mapping[str, str] | None) -> str:
    """The name of a proof; a directory of another tool may have any name, and this one becomes a key."""
    kind = f"{origin['kind']}-" if origin else ""
    return f"{at:%Y%m%dT%H%M%S%fZ}-{kind}{re.sub(r'[^A-Za-z0-9._-]', '_', label)}"


def _software(fence: Fence, restored: Restored | None) -> dict[str, str]:
    """Versions of all that took part: what a proof says, it says of these."""
    copy = restored.software if restored else {}
    return {"pgproof": __version__, **fence.software, **copy, "platform": platform.platform()}


def _left_out(fence: Fence, restored: Restored | None, comparison: Comparison | None) -> list[NotChecked]:
    left_out = [*fence.not_checked, *(restored.not_checked if restored else ())]
    if comparison is not None:
        left_out += [*comparison.not_checked, *comparison.targets.not_checked]
        left_out += [item for check in comparison.checks for item in check.not_checked]
    return left_out


def _verdict(
    fence: Fence, comparison: Comparison | None, failure: Exception | None, expectations: dict[str, Any]
) -> tuple[str, str]:
    if not fence.exact:
        return NOT_EXACT, fence.why_not_exact
    if isinstance(failure, NotProven):  # of the fence, and says nothing of the backup
        return NOT_EXACT, str(failure).replace("\n", " ")
    if failure is not None:
        return NOT_RECOVERED, str(failure).replace("\n", " ")
    unreadable = damage_in(_left_out(fence, None, comparison))
    if comparison is None:
        return NOT_EXACT, unreadable or NOTHING
    if not comparison.equal:
        return NOT_EQUAL, comparison.summary()
    if gap := gap_in(fence, comparison):
        return NOT_EXACT, unreadable or gap
    if expectations and not expectations.get("success"):
        return NOT_EQUAL, f"expectations failed: {expectations.get('summary', '')}"
    if missed := comparison.targets.finding:
        return NOT_RECOVERED, missed
    if finding := comparison.finding():
        return NOT_SOUND, finding
    # damage of the source says nothing of the backup, which may be what it is mended from
    return (NOT_EXACT, unreadable) if unreadable else (PROVEN, comparison.summary())


def is_verdict(error: Exception) -> bool:
    """Whether an error says something of the backup, rather than of the drill's surroundings."""
    return isinstance(error, (RecoveryFailed, ObjectDamaged))


def scratch_of(path: str | Path) -> Scratch:
    """The scratch of a path that a step handed on."""
    return Scratch(Path(path))
