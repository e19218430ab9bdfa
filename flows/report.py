"""The report of a ``protect`` run, for a person at a terminal."""

from __future__ import annotations

from flows.protect import Protection
from pgproof.commands.console import Console, line, table
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

    def say(title: str, *parts: str | tuple[str, str]) -> None:
        console.print(line((f"{title:11}", "bold"), *parts))

    rate = record.raw_size / max(done.taken.seconds, 0.001)
    console.rule(line(("PROVEN", "green"), f": cluster {cluster.name}, backup {record.label}"))
    say(
        "backup",
        f"{size(record.raw_size)} read, {size(record.stored_size)} stored in "
        f"{counted(len(record.volumes), 'volume')}, {duration(done.taken.seconds)}, {size(rate)}/s",
    )
    say(
        "WAL",
        f"{counted(wal.report.segments, 'segment')} archived, {wal.report.oldest} to {wal.report.newest}, "
        f"{counted(len(wal.report.gaps), 'gap')}, {wal.report.in_flight} in flight",
    )
    cuts = ", ".join(f"{database} at {lsn}" for database, lsn in proof.cuts.items())
    fence = done.stored.fence
    say("exact cut", f"{cuts} ({fence.exact_candidates} of {fence.candidates} candidate fences exact)")
    say("compared", proof.summary)
    _show_tables(console, proof)
    show_checks(console, proof)
    show_objects(console, proof)
    if proof.as_restored:
        show_as_restored(console, proof)
    for warning in [*not_checked_lines(proof), *([f"retention {done.waits}"] if done.waits else [])]:
        console.print(warning, style="yellow")
    rpo = "unknown" if wal.rpo_seconds is None else f"at most {duration(wal.rpo_seconds)}"
    say(
        "RPO",
        f"{rpo}, measured from the newest commit in the repository; target ",
        *_target(wal.rpo_seconds, cluster.targets.rpo),
    )
    say(
        "RTO",
        f"{duration(proof.rto_seconds)} measured {proof.rto_way} ({_phases(proof)}); target ",
        *_target(proof.rto_seconds, cluster.targets.rto),
    )
    console.print(table("retention", COLUMNS, [tuple(row) for row in rows(done.plan)]))
    say("records", repository)
    say("proof", done.stored.key)
    say("checks", f"Great Expectations: {proof.expectations.get('summary', '')}")
    say("Data Docs", proof.expectations.get("data_docs", ""))


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
                    line(("equal", "green") if item["equal"] else ("DIFFERENT", "red")),
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


def _target(measured: float | None, target: int) -> list[str | tuple[str, str]]:
    """A target, and whether it was met."""
    if measured is None:
        return [duration(target)]
    return [f"{duration(target)}, ", "met" if measured <= target else ("MISSED", "red")]
