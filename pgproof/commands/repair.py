"""``wal check --repair``, and what a content check shows."""

from __future__ import annotations

from collections.abc import Callable

from pgproof.commands.backups import now
from pgproof.commands.console import Console, Session, line
from pgproof.gaps.check import WalCheck, check_wal
from pgproof.gaps.places import open_copies
from pgproof.gaps.repair import RepairReport, lost_windows, repair_wal
from pgproof.wal.catch_up import CopyReport
from pgproof.wal.content import ContentReport
from pgproof.wording import counted, size


def repair(
    session: Session, name: str, content: bool, everything: bool, show: Callable[[Console, WalCheck], None]
) -> int:
    """Bring back what a check finds missing or damaged, and check again.

    Args:
        session: of this run.
        name: of the cluster.
        content, everything: of the check.
        show: prints a check.
    """
    cluster = session.cluster(name)
    archive, copies = session.archive(cluster), session.copies(cluster)
    found = check_wal(cluster, archive, content=content, everything=everything, now=now(), copies=copies)
    report = repair_wal(cluster, archive, open_copies(copies, archive), found, now())
    after = found
    if report.changed:
        after = check_wal(cluster, archive, content=content, now=now(), copies=copies)
    done = report.ok and after.ok
    windows = [window for window, _ in lost_windows(report, after)]
    tree = {**report.as_dict(), "lost_windows": windows}
    session.show(
        {**after.as_dict(), "ok": done, "repair": tree},
        lambda console: _show(console, cluster.name, report, after, show),
    )
    return 0 if done else 1


def show_content(console: Console, read: ContentReport) -> None:
    """What reading the segments gave."""
    console.print(
        f"{counted(read.read, 'segment')} read, {size(read.bytes)}; {read.remembered:,} known to be good"
    )
    if not read.crc:
        console.print(
            line(("CRCs were not checked", "yellow"), ": pg_waldump of the cluster's version is not here")
        )
    for warning in read.warnings:
        console.print(line(("warning", "yellow"), f": {warning}"))


def _show(
    console: Console,
    name: str,
    report: RepairReport,
    after: WalCheck,
    show: Callable[[Console, WalCheck], None],
) -> None:
    """What was brought back, what was not and what that costs, and the archive as it is now."""
    for one in report.repaired:
        console.print(line(("repaired", "green"), f": {one.name} was {one.was}, now from {one.place}"))
    for segment in report.intact:
        console.print(f"intact: {segment} is the same elsewhere")
    for lost in report.lost:
        console.print(line(("lost", "red"), f": {lost.name} {lost.was}"))
        for place, answer in lost.answers:
            console.print(f"  {place}: {answer}")
    for _, text in lost_windows(report, after):
        console.print(line(("lost recovery window", "red"), f": {text}"))
    for copy in report.copies:
        _show_copy(console, copy)
    if not report.repaired and report.ok and after.ok:
        console.print("nothing to repair")
    show(console, after)
    if report.lost:
        console.print(f"hint: pgproof backup {name} begins a new recovery window; take it now")


def _show_copy(console: Console, copy: CopyReport) -> None:
    where = f'repository "{copy.name}"'
    if copy.error:
        console.print(line((f"{where} was not brought up to date", "red"), f": {copy.error}"))
    elif copy.brought or copy.mended:
        console.print(f"{where}: {counted(len(copy.brought), 'file')} brought, {len(copy.mended):,} mended")
    for file, reason in copy.failed:
        console.print(line((f"{where} lacks {file}", "red"), f": {reason}"))
