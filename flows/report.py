"""The report of a ``protect`` run, for a person at a terminal."""

from __future__ import annotations

from rich.console import Console

from flows.protect import Protection
from pgproof.commands.console import table
from pgproof.commands.drill import not_checked_lines, show_as_restored, show_checks, show_objects
from pgproof.config import ClusterConfig
from pgproof.retention.table import COLUMNS, rows
from pgproof.validation.comparison import MOST_SHOWN, most_telling
from pgproof.validation.proof import Proof
from pgproof.validation.speeds import RESTORING
from pgproof.wording import counted, duration, size


def report(console: Console, cluster: ClusterConfig, repository: str, done: Protection) -> None:
    """Show what was taken, what was proved, what recovery would cost, and what is kept."""
    record, proof, wal = done.taken.record, done.stored.proof, done.wal
    rate = record.raw_size / max(done.taken.seconds, 0.001)
    console.rule(f"[green]PROVEN[/green]: cluster {cluster.name}, backup {record.label}")
    console.print(
        f"[bold]backup[/bold]     {size(record.raw_size)} read, {size(record.stored_size)} stored in "
        f"{counted(len(record.volumes), 'volume')}, {duration(done.taken.seconds)}, {size(rate)}/s"
    )
    console.print(
        f"[bold]WAL[/bold]        {counted(wal.report.segments, 'segment')} archived, "
        f"{wal.report.oldest} to {wal.report.newest}, "
        f"{counted(len(wal.report.gaps), 'gap')}, {wal.report.in_flight} in flight"
    )
    cuts = ", ".join(f"{database} at {lsn}" for database, lsn in proof.cuts.items())
    fence = done.stored.fence
    console.print(
        f"[bold]exact cut[/bold]  {cuts} ({fence.exact_candidates} of {fence.candidates} candidate fences exact)"
    )
    console.print(f"[bold]compared[/bold]   {proof.summary}")
    _show_tables(console, proof)
    show_checks(console, proof)
    show_objects(console, proof)
    if proof.as_restored:
        show_as_restored(console, proof)
    for warning in [*not_checked_lines(proof), *([f"retention {done.waits}"] if done.waits else [])]:
        console.print(warning, markup=False, style="yellow")
    rpo = "unknown" if wal.rpo_seconds is None else f"at most {duration(wal.rpo_seconds)}"
    console.print(
        f"[bold]RPO[/bold]        {rpo}, measured from the newest commit in the repository; "
        f"target {_target(wal.rpo_seconds, cluster.targets.rpo)}"
    )
    console.print(
        f"[bold]RTO[/bold]        {duration(proof.rto_seconds)} measured {proof.rto_way} ({_phases(proof)}); "
        f"target {_target(proof.rto_seconds, cluster.targets.rto)}"
    )
    console.print(table("[bold]retention[/bold]", COLUMNS, [tuple(row) for row in rows(done.plan)]))
    console.print(f"[bold]records[/bold]    {repository}")
    console.print(f"[bold]proof[/bold]      {done.stored.key}")
    console.print(
        f"[bold]checks[/bold]     Great Expectations: {proof.expectations.get('summary', '')}", markup=True
    )
    console.print(f"[bold]Data Docs[/bold]  {proof.expectations.get('data_docs', '')}")


def _show_tables(console: Console, proof: Proof) -> None:
    """The tables that differ, then the biggest."""
    shown, hidden = most_telling(proof.tables, MOST_SHOWN)
    console.print(
        table(
            "",
            ("database", "table", "source rows", "restored rows", "content hash", ""),
            [
                (
                    item["database"],
                    item["table"],
                    f"{item['source_rows']:,}",
                    f"{item['restored_rows']:,}",
                    item["source_hash"],
                    "[green]equal[/green]" if item["equal"] else "[red]DIFFERENT[/red]",
                )
                for item in shown
            ],
        )
    )
    if hidden:
        console.print(f"{counted(hidden, 'more table')}; the proof has all")


def _phases(proof: Proof) -> str:
    restoring = {name: seconds for name, seconds in proof.phases.items() if name in RESTORING}
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in restoring.items())


def _target(measured: float | None, target: int) -> str:
    """A target, and whether it was met."""
    met = "" if measured is None else (", met" if measured <= target else ", [red]MISSED[/red]")
    return f"{duration(target)}{met}"
