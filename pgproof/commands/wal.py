"""``wal check``."""

from __future__ import annotations

from pgproof.commands.backups import now
from pgproof.commands.console import Console, Line, Session, line, table
from pgproof.commands.repair import show_content
from pgproof.gaps import table as windows
from pgproof.gaps.check import WalCheck, check_wal
from pgproof.gaps.copies import CopyCheck
from pgproof.postgres.slots import Slot
from pgproof.wording import counted, duration, size

_SHOWN = 20  # gaps on a page


def check(session: Session, name: str, content: bool, everything: bool = False) -> int:
    """Check the archive for gaps."""
    cluster = session.cluster(name)
    archive, copies = session.archive(cluster), session.copies(cluster)
    found = check_wal(cluster, archive, content=content, everything=everything, now=now(), copies=copies)
    session.show(found.as_dict(), lambda console: show(console, found))
    return 0 if found.ok else 1


def show(console: Console, found: WalCheck) -> None:
    """A page about the archive: the verdict, what was found, then how far it reaches."""
    report = found.report
    console.print(verdict(found))
    for gap in report.gaps[:_SHOWN]:
        console.print(line(("gap", "red"), f": {gap} missing, LSN {gap.start} to {gap.end}"))
    if len(report.gaps) > _SHOWN:
        console.print(
            line((f"and {len(report.gaps) - _SHOWN:,} more gaps", "red"), ": --json shows all of them")
        )
    for finding in found.other_findings:
        console.print(line(("finding", "red"), f": {finding}"))
    for note in found.notes:
        console.print(line(("note", "yellow"), f": {note}"))
    reach = f", {report.oldest} to {report.newest}" if report.oldest and report.newest else ""
    console.print(f"archive: {counted(report.segments, 'segment')}{reach}, {size(report.stored_size)} stored")
    if report.received:
        console.print(f"received: {report.received.segment} up to LSN {report.received.end}")
    if report.lag is not None:
        console.print(f"source: {_behind(found)}")
    if found.newest_commit is not None:
        console.print(f"newest commit that can be recovered: {found.newest_commit:%F %T.%f} UTC{_rpo(found)}")
    for slot in found.slots:
        console.print(f"slot: {_slot(slot, found.slot)}")
    for copy in found.copies:
        console.print(f"copy: {_copy(copy)}")
    if report.windows:
        console.print(table("recovery windows", windows.COLUMNS, windows.rows(report)))
    if found.content is not None:
        show_content(console, found.content)


def verdict(found: WalCheck) -> Line:
    """The first line: whether recovery is possible from every backup to the end."""
    report = found.report
    if found.no_backup:
        return line(("nothing can be recovered", "red"), ": there is no backup")
    if not found.ok:
        gaps = counted(len(report.gaps), "gap") if report.gaps else "no gap"
        return line(("not in order", "red"), f": {gaps}, {counted(len(found.findings), 'finding')} in all")
    backups = {window.backup for window in report.windows}
    windows = f"{counted(len(report.windows), 'recovery window')} from {counted(len(backups), 'backup')}"
    return line(("no gap", "green"), f": {windows}")


def _behind(found: WalCheck) -> str:
    report = found.report
    if found.ahead:
        return "it writes before the end of the archive, which is of another future"
    if not report.lag and found.archiver_failing:
        return "nothing in flight by name, but the archiver is failing"
    if not report.lag:
        return "nothing in flight, the archive has all of it"
    seconds = f" and {duration(found.lag_seconds)}" if found.lag_seconds is not None else ""
    return f"{counted(report.in_flight, 'segment')} in flight, {size(report.lag)}{seconds} behind"


def _rpo(found: WalCheck) -> str:
    if found.rpo_seconds is None:
        return ""
    target = f" (target {duration(found.rpo_target)})" if found.rpo_target is not None else ""
    lost = f"at most {duration(found.rpo_seconds)}" if found.rpo_seconds else "nothing"
    return f"; lost if the source died now: {lost}{target}"


def _slot(slot: Slot, ours: str) -> str:
    own = " (wal receive)" if slot.name == ours else ""
    lag = f"{size(slot.lag)} behind" if slot.lag is not None else "keeps no WAL"
    left = f", {size(slot.safe_wal_size)} until it may be lost" if slot.safe_wal_size is not None else ""
    state = "active" if slot.active else "nobody reads from it"
    return f"{slot.name}{own}: {state}, {lag}, WAL {slot.wal_status or 'not reserved'}{left}"


def _copy(copy: CopyCheck) -> str:
    if copy.error:
        return f"{copy.name}: {copy.error}"
    segments = sum(gap.count for gap in copy.lacks)
    lacks = f"lacks {counted(segments, 'segment')}, first {copy.lacks[0].first}" if copy.lacks else "has all"
    state = "" if copy.overdue or not copy.lacks else ", still on their way"
    fills = f"; has {sum(gap.count for gap in copy.fills)} that are missing here" if copy.fills else ""
    return f"{copy.name}: {lacks}{state}{fills}"
