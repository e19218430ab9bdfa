"""The procedure of a restore: planned with all that a start needs, then carried out, for command, flow and drill."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from pgproof.backups.catalog import read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.config import ClusterConfig, Config
from pgproof.errors import ObjectDamaged, ObjectMissing, ProgramMissing
from pgproof.postgres.connection import role_of
from pgproof.postgres.facts import timeline_of
from pgproof.postgres.programs import account, find_bin_directory
from pgproof.postgres.wal_commands import restore_command
from pgproof.repository.repository import Archive
from pgproof.restore.border import read_border
from pgproof.restore.cautions import stale_proof
from pgproof.restore.execute import Progress, execute
from pgproof.restore.locate import WalReader
from pgproof.restore.needs import ask_needs, programs_for
from pgproof.restore.plan import RestorePlan, RestoreRequest, plan_restore
from pgproof.restore.reading import AT_ONCE, Reading, read_wal
from pgproof.restore.record import Site
from pgproof.restore.running import noted
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing, end_of_path, list_for_recovery, present_between
from pgproof.wal.own_tablespaces import DIRECTORY, own_tablespaces_option
from pgproof.wal.planned import planned_option
from pgproof.wording import counted


def make_plan(
    config: Config,
    cluster: ClusterConfig,
    archive: Archive,
    request: RestoreRequest,
    at: datetime,
    progress: Callable[[int], None] = lambda size: None,
) -> RestorePlan:
    """The plan, with WAL read by the programs of the backup's major version, and all asked for that a start needs.

    Args:
        config: that the restored server reads, to fetch WAL.
        cluster: to restore.
        archive: to restore from.
        request: what is asked for.
        at: the time, aware: a proof may be stale.
        progress: told the bytes of WAL that are read.
    """
    catalog = read_catalog(archive)

    @functools.cache  # the plan, and what lies at its border: an archive may be long
    def listing_of(segment_size: int) -> WalListing:
        return list_for_recovery(archive, segment_size)

    def reader_of(major: int) -> WalReader:
        return WalReader(archive, find_bin_directory(major, cluster.bin_directory))

    def read(record: BackupRecord, segments: Sequence[WalSegment]) -> Reading | None:
        if not request.tablespaces and len(segments) * record.segment_size > AT_ONCE:
            return None
        reader = None
        with contextlib.suppress(ProgramMissing):
            reader = reader_of(record.major)
        return read_wal(archive, segments, reader, cluster.wal.workers, progress)

    plan = plan_restore(
        request,
        catalog,
        listing_of,
        reader_of,
        read=read,
        source=lambda: timeline_of(cluster, archive.system_identifier),
    )
    needed = ask_needs(config, cluster, archive, plan)
    old = stale_proof(catalog.entry(plan.record.label), at, cluster.drill.stale_after)
    plan = replace(plan, warnings=(*old, *plan.warnings, *needed, *_not_read(plan)))
    # shown to whoever decides; a restore does not depend on it
    with contextlib.suppress(ObjectMissing, ObjectDamaged, ProgramMissing):
        listing = listing_of(plan.record.segment_size)
        end = end_of_path(listing, plan.history)
        present = present_between(listing, plan.history, plan.record.first_segment, end)
        border = read_border(reader_of(plan.record.major), present, request.target, plan.reach)
        return replace(plan, border=border, warnings=(*plan.warnings, *(border.warnings() if border else ())))
    return plan


def _not_read(plan: RestorePlan) -> list[str]:
    """What is not known yet, where there is so much WAL that a plan would take long."""
    if plan.reading is not None:
        return []
    return [
        f"{counted(len(plan.segments), 'segment')} of WAL will be read while the files are extracted: whether recovery "
        f"comes to the target, and which tablespaces it creates in {plan.request.destination}/{DIRECTORY}, is said "
        "then. A plan with --tablespace reads them"
    ]


def run_plan(
    config: Path,
    cluster: ClusterConfig,
    archive: Archive,
    plan: RestorePlan,
    clock: Callable[[], datetime],
    progress: Progress = lambda size: None,
    phases: dict[str, float] | None = None,
) -> tuple[str, ...]:
    """Restore as planned, with a restore_command that names this program and configuration; what was warned of.

    Args:
        config: path of pgproof.toml.
        cluster: of the plan.
        archive: to restore from.
        plan: from make_plan.
        clock: of this machine, aware.
        progress: told the raw bytes that are done.
        phases: gains the seconds of ``extract``, and of ``combine`` where backups were combined.
    """

    def told(size: int) -> None:
        note.keep()
        progress(size)

    options = (own_tablespaces_option(plan.places.until), planned_option(plan.segments))
    with noted(archive, plan, clock) as note:
        warned = execute(
            plan,
            archive,
            programs_for(plan, cluster),
            restore_command(config, cluster.name, *options),
            owner=account(cluster.drill.run_as),
            workers=cluster.backup.workers,
            preload=cluster.drill.preload_libraries,
            site=Site(str(config), role_of(cluster)),
            progress=told,
            phases=phases,
        )
    return (*warned, *([note.fault] if note.fault else []))
