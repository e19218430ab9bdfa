"""``wal check``."""

from __future__ import annotations

from rich.console import Console

from pgproof.commands.backups import now
from pgproof.commands.console import Session, counted, duration, size, table
from pgproof.wal.check import WalCheck, check_wal
from pgproof.wal.content import ContentReport
from pgproof.wal.copies import CopyReport
from pgproof.wal.gaps import describe
from pgproof.wal.places import open_copies
from pgproof.wal.repair import RepairReport, repair_wal


def check(session: Session, name: str, *, content: bool, everything: bool, repair: bool) -> int:
    """Check the archive for gaps; with ``repair`` bring back what is missing, and check again."""
    cluster = session.cluster(name)
    archive = session.archive(cluster)
    found = check_wal(cluster, archive, content=content, everything=everything, now=now())
    if not repair:
        session.show(found.as_dict(), lambda console: show(console, found))
        return 0 if found.ok else 1
    copies = open_copies(session.config, cluster, archive.system_identifier)
    report = repair_wal(cluster, archive, copies, found, now())
    after = check_wal(cluster, archive, content=content, now=now()) if report.repaired else found
    done = report.ok and after.ok
    session.show(
        {**after.as_dict(), "ok": done, "repair": report.as_dict()},
        lambda console: show_repair(console, cluster.name, report, after),
    )
    return 0 if done else 1


def show(console: Console, found: WalCheck) -> None:
    """A page about the archive."""
    report = found.report
    reach = f", {report.oldest} to {report.newest}" if report.oldest else ""
    console.print(f"{counted(report.segments, 'segment')} archived{reach}, {size(report.stored_size)} stored")
    for gap in report.gaps:
        console.print(f"[red]gap[/red]: {gap} missing, LSN {gap.first.start} to {gap.last.end}")
    for segment, fault in report.damaged:
        console.print(f"[red]damaged[/red]: {segment}: {fault}")
    if found.source_error:
        console.print(f"[yellow]the source was not asked[/yellow]: {found.source_error}")
    if found.archiver_failing:
        console.print(f"[red]the archiver is failing[/red]: {found.archiver_failing}")
    if report.lag is not None:
        console.print(
            f"{counted(report.in_flight, 'segment')} in flight, {size(report.lag)} behind the source"
        )
    if found.rpo_seconds is not None and found.newest_commit is not None:
        console.print(
            f"newest commit in the repository: {found.newest_commit:%F %T.%f} UTC; "
            f"lost if the source died now: at most {duration(found.rpo_seconds)}"
        )
    if report.windows:
        console.print(table("recovery windows", ("backup", "timeline", "LSN", ""), describe(report)))
    if found.content is not None:
        show_content(console, found.content)
    if report.ok:
        console.print("[green]no gap[/green]")


def show_content(console: Console, read: ContentReport) -> None:
    """What reading the segments gave."""
    console.print(
        f"{counted(read.read, 'segment')} read, {size(read.bytes)}; {read.remembered:,} known to be good"
    )
    if not read.crc:
        console.print(
            "[yellow]CRCs were not checked[/yellow]: pg_waldump of the cluster's version is not here"
        )
    for warning in read.warnings:
        console.print(f"[yellow]{warning}[/yellow]")


def show_repair(console: Console, name: str, report: RepairReport, after: WalCheck) -> None:
    """What was brought back, what was not and what that costs, and the archive as it is now."""
    for one in report.repaired:
        console.print(f"[green]repaired[/green]: {one.name} was {one.was}, now from {one.place}")
    for segment in report.intact:
        console.print(f"intact: {segment} is the same elsewhere")
    for lost in report.lost:
        console.print(f"[red]lost[/red]: {lost.name} {lost.was}")
        for place, answer in lost.answers:
            console.print(f"  {place}: {answer}")
    for copy in report.copies:
        _show_copy(console, copy)
    if not report.repaired and report.ok and after.ok:
        console.print("nothing to repair")
    show(console, after)
    if report.lost:
        console.print(f"hint: pgproof backup {name} begins a new recovery window; take it now")


def _show_copy(console: Console, copy: CopyReport) -> None:
    if copy.error:
        console.print(f'[red]repository "{copy.name}" was not brought up to date[/red]: {copy.error}')
    elif copy.brought or copy.mended:
        console.print(
            f'repository "{copy.name}": {counted(len(copy.brought), "file")} brought, {len(copy.mended):,} mended'
        )
    for file, reason in copy.failed:
        console.print(f'[red]repository "{copy.name}" lacks {file}[/red]: {reason}')
