"""``restore``."""

from __future__ import annotations

import contextlib
import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pgproof.backups.catalog import read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.commands.backups import now
from pgproof.commands.console import Session
from pgproof.config import ClusterConfig, Config
from pgproof.errors import InvalidTarget, ObjectDamaged, ObjectMissing, ProgramMissing
from pgproof.postgres.connection import role_of
from pgproof.postgres.facts import timeline_of
from pgproof.postgres.programs import account, find_bin_directory
from pgproof.postgres.wal_commands import restore_command
from pgproof.repository.repository import Archive
from pgproof.restore.border import read_border
from pgproof.restore.cautions import stale_proof
from pgproof.restore.execute import execute
from pgproof.restore.locate import WalReader
from pgproof.restore.needs import ask_needs, programs_for
from pgproof.restore.plan import RestorePlan, RestoreRequest, plan_restore
from pgproof.restore.reading import AT_ONCE, Reading, read_wal
from pgproof.restore.record import Site
from pgproof.restore.running import noted
from pgproof.restore.start import by_hand, has_taken
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import WalListing, end_of_path, list_for_recovery, present_between
from pgproof.wal.own_tablespaces import DIRECTORY, own_tablespaces_option
from pgproof.wal.planned import planned_option
from pgproof.wording import counted, duration, size


def restore(session: Session, name: str, request: RestoreRequest, dry_run: bool) -> int:
    """Plan a restore, show the plan, and do it."""
    cluster = session.cluster(name)
    archive = session.archive(cluster)
    with session.progress("read WAL", None) as reading:
        plan = make_plan(session.config, cluster, archive, request, reading)
    said: tuple[str, ...] = ()
    content: dict[str, Any] = {
        "backup": plan.record.label,
        "destination": str(request.destination),
        "target": str(request.target),
        "timeline": plan.history.timeline,
        "segments": len(plan.segments),
        "room": plan.room,
        "steps": plan.steps(),
        "warnings": list(plan.warnings),
        "done": not dry_run,
    }
    if not session.json:
        show_plan(session.console, plan)
    if not dry_run:
        with session.progress(f"restore {name}", sum(record.raw_size for record in plan.chain)) as progress:
            said = run_plan(session.config.path, cluster, archive, plan, progress)
            content["warnings"] += said
    content["next"] = next_steps(
        cluster, plan
    )  # they depend on which configuration files came with the backup
    session.show(content, lambda console: show_end(console, cluster, plan, dry_run, said))
    return 0


def make_plan(
    config: Config,
    cluster: ClusterConfig,
    archive: Archive,
    request: RestoreRequest,
    progress: Callable[[int], None] = lambda size: None,
) -> RestorePlan:
    """The plan, with WAL read by the programs of the backup's major version, and all asked for that a start needs.

    Args:
        config, cluster: of the restore.
        archive: to restore from.
        request: what is asked for.
        progress: told the bytes of WAL that are read.
    """
    catalog = read_catalog(archive, tolerant=True)

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
    old = stale_proof(catalog.entry(plan.record.label), now(), cluster.drill.stale_after)
    plan = replace(plan, warnings=(*old, *plan.warnings, *needed, *_not_read(plan)))
    # shown to whoever decides; a restore does not depend on it
    with contextlib.suppress(ObjectMissing, ObjectDamaged, ProgramMissing):
        listing = listing_of(plan.record.segment_size)
        end = end_of_path(listing, plan.history)
        present = present_between(listing, plan.history, plan.record.first_segment, end)
        border = read_border(reader_of(plan.record.major), present, request.target, plan.reach)
        return replace(plan, border=border)
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
    progress: Any = lambda size: None,
) -> tuple[str, ...]:
    """Restore as planned, with a restore_command that names this program and configuration; what was warned of."""

    def told(size: int) -> None:
        note.keep()
        progress(size)

    options = (own_tablespaces_option(plan.places.until), planned_option(plan.segments))
    with noted(archive, plan, now) as note:
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
        )
    return (*warned, *([note.fault] if note.fault else []))


def parse_tablespaces(options: list[str]) -> Mapping[str, str]:
    """``OLD=NEW`` options as a mapping."""
    pairs = {}
    for option in options:
        old, equals, new = option.partition("=")
        if not equals or not old or not Path(new).is_absolute():
            raise InvalidTarget(
                f'invalid tablespace mapping "{option}"',
                "It is OLD=NEW with absolute paths.",
                "--tablespace /old=/new",
            )
        pairs[old] = new
    return pairs


def next_steps(cluster: ClusterConfig, plan: RestorePlan) -> list[str]:
    """What to type next."""
    data = shlex.quote(str(plan.request.destination))
    try:
        directory = find_bin_directory(plan.record.major, cluster.bin_directory)
    except ProgramMissing:
        directory = None
    made = plan.request.destination
    missing = made.is_dir() and not (made / "postgresql.conf").exists() and not has_taken(made)
    named = " --config-file FILE  # the source kept its postgresql.conf elsewhere" if missing else ""
    steps = [f"pgproof start {data}{named}"]
    if plan.request.target_action == "shutdown" and plan.request.target.kind != "end":
        steps.append(
            f"pgproof start {data} --pause  # it shuts down at its target, and pauses there this time"
        )
    if plan.request.isolated:
        steps.append(f"pgproof accept {data}  # when it becomes the server; until then it is isolated")
    elif not plan.request.standby:
        steps.append(f"pgproof accept {data}  # takes the recovery settings out, and starts it for everybody")
    return [*steps, f"{by_hand(plan.request.destination, directory)}  # the first step without pgproof"]


def show_plan(console: Console, plan: RestorePlan) -> None:
    """The plan as numbered steps."""
    console.print(f"restore of cluster {plan.record.cluster} to {plan.request.target}")
    for number, step in enumerate(plan.steps(), 1):
        console.print(f"  {number}. {step}")
    first, last = plan.segments[0], plan.segments[-1]
    read = f", read in {duration(plan.reading.seconds)}" if plan.reading else ""
    console.print(
        f"  needs {size(plan.room)} of room and WAL {first} to {last} "
        f"({counted(len(plan.segments), 'segment')}, all there{read})"
    )
    for warning in plan.warnings:
        console.print(f"  [yellow]warning[/yellow]: {escape(warning)}")


def show_end(
    console: Console, cluster: ClusterConfig, plan: RestorePlan, dry_run: bool, said: Sequence[str]
) -> None:
    """What was done, what PostgreSQL's programs warned of, and what to type next."""
    if dry_run:
        console.print("dry run: nothing was written")
        return
    for warning in said:
        console.print(f"  [yellow]warning[/yellow]: {escape(warning)}")
    console.print(f"[green]restored[/green] into {plan.request.destination}; it recovers when it is started:")
    for step in next_steps(cluster, plan):
        console.print(f"  {step}", soft_wrap=True)
