"""``wal check``."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from pgproof.commands.backups import now
from pgproof.commands.console import Session, counted, duration, size, table
from pgproof.commands.repair import show_content
from pgproof.wal.check import WalCheck, check_wal
from pgproof.wal.gaps import describe


def check(session: Session, name: str, content: bool, everything: bool = False) -> int:
    """Check the archive for gaps."""
    cluster = session.cluster(name)
    found = check_wal(cluster, session.archive(cluster), content=content, everything=everything, now=now())
    session.show(found.as_dict(), lambda console: show(console, found))
    return 0 if found.ok else 1


def show(console: Console, found: WalCheck) -> None:
    """A page about the archive."""
    report = found.report
    reach = f", {report.oldest} to {report.newest}" if report.oldest else ""
    console.print(f"{counted(report.segments, 'segment')} archived{reach}, {size(report.stored_size)} stored")
    for gap in report.gaps:
        console.print(f"[red]gap[/red]: {gap} missing, LSN {gap.first.start} to {gap.last.end}")
    for segment, fault in report.damaged:
        console.print(f"[red]damaged[/red]: {segment}: {escape(fault)}")
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
