"""Artifacts: what a person reads in Prefect's UI. Keys are stable, so that each keeps its history."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact

from pgproof.commands.console import counted, duration, size
from pgproof.retention.plan import ExpirePlan
from pgproof.retention.table import COLUMNS, rows
from pgproof.wal.check import WalCheck
from pgproof.wal.gaps import describe
from tasks.base_backup import TakenBackup
from tasks.validation import StoredProof


def key_for(cluster: str, noun: str) -> str:
    """An artifact key: lower-case letters, digits and dashes, as Prefect wants them."""
    return re.sub(r"[^a-z0-9-]+", "-", f"pgproof-{cluster}-{noun}".lower())


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells are escaped."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in cells)])


def show_backup(cluster: str, taken: TakenBackup) -> None:
    """The artifact of a base backup."""
    record = taken.record
    lines = [
        ("backup", f"`{record.label}`"),
        ("server", record.software.get("postgresql", "")),
        ("raw size", size(record.raw_size)),
        ("stored size", f"{size(record.stored_size)} in {counted(len(record.volumes), 'volume')}"),
        ("duration", f"{duration(taken.seconds)}, {size(record.raw_size / max(taken.seconds, 0.001))}/s"),
        ("timeline", str(record.timeline)),
        ("LSN", f"{record.start_lsn} to {record.stop_lsn}"),
        ("WAL", f"`{record.first_segment}` to `{record.last_segment}`"),
        ("repository", f"`{taken.repository}`"),
    ]
    text = (
        f"# Base backup of {cluster}\n\n{markdown_table(('', ''), lines)}\n\nComplete: its WAL is archived.\n"
    )
    create_markdown_artifact(text, key=key_for(cluster, "backup"), description=f"Base backup of {cluster}")


def show_wal(cluster: str, found: WalCheck) -> None:
    """The artifact of a gap check: the verdict first."""
    report = found.report
    verdict = (
        "no gap"
        if report.ok
        else f"{counted(len(report.gaps), 'gap')}, {counted(len(report.damaged), 'damaged segment')}"
    )
    text = [f"# WAL of {cluster}: {verdict}", ""]
    text += [f"- **gap**: `{gap}`, LSN {gap.first.start} to {gap.last.end}" for gap in report.gaps]
    text += [f"- **damaged**: `{name}`: {fault}" for name, fault in report.damaged]
    if found.archiver_failing:
        text.append(f"- **the archiver is failing**: {found.archiver_failing}")
    if found.source_error:
        text.append(f"- the source was not asked: {found.source_error}")
    if report.gaps or report.damaged:
        text += ["", "Run `pgproof wal check` for the windows that remain; take a new base backup at once."]
    lag = size(report.lag) if report.lag is not None else "unknown"
    rpo = duration(found.rpo_seconds) if found.rpo_seconds is not None else "unknown"
    text += [
        "",
        f"{counted(report.segments, 'segment')}, {size(report.stored_size)} stored. {report.in_flight} in flight, ",
    ]
    text += [
        f"{lag} behind the source. Lost if the source died now: **{rpo}**.",
        "",
        "## Recovery windows",
        "",
    ]
    text.append(markdown_table(("backup", "timeline", "LSN", "state"), describe(report)))
    create_markdown_artifact(
        "\n".join(text), key=key_for(cluster, "wal"), description=f"WAL of {cluster}: {verdict}"
    )


def show_proof(cluster: str, stored: StoredProof) -> None:
    """The artifact of a restore drill: a verdict one can read in ten seconds."""
    proof, fence = stored.proof, stored.fence
    text = [f"# {proof.verdict.upper()}: backup {proof.backup} of {cluster}", "", proof.summary, ""]
    lines = [
        ("exact cut", ", ".join(f"{database} {lsn}" for database, lsn in proof.cuts.items()) or "none"),
        ("WAL", f"`{proof.wal[0]}` to `{proof.wal[1]}`, {counted(proof.wal[2], 'segment')}"),
        ("RTO measured", f"{duration(proof.rto_seconds)} for {size(proof.restored_bytes)}"),
        ("phases", ", ".join(f"{name} {duration(seconds)}" for name, seconds in proof.phases.items())),
        (
            "fence",
            f"{fence.exact_candidates} of {fence.candidates} candidates exact, held {fence.held_seconds} s",
        ),
        ("Great Expectations", str(proof.expectations.get("summary", "did not run"))),
        ("Data Docs", f"`{proof.expectations.get('data_docs', '')}`"),
        ("proof", f"`{stored.key}`"),
    ]
    text += [markdown_table(("", ""), lines), "", "## Tables", ""]
    text.append(
        markdown_table(
            ("database", "table", "source rows", "restored rows", "source hash", "restored hash", ""),
            [
                (
                    table["database"],
                    table["table"],
                    table["source_rows"],
                    table["restored_rows"],
                    table["source_hash"],
                    table["restored_hash"],
                    "equal" if table["equal"] else "**different**",
                )
                for table in sorted(proof.tables, key=lambda table: table["equal"])
            ],
        )
    )
    text += ["", "## Not checked", ""]
    text += [f"- {item.database}: {item.what}: {item.reason}" for item in proof.not_checked] or ["nothing"]
    create_markdown_artifact(
        "\n".join(text), key=key_for(cluster, "proof"), description=f"{proof.verdict}: {proof.summary}"
    )


def show_retention(cluster: str, plan: ExpirePlan) -> None:
    """The artifact of a retention plan: the same table as the dry run."""
    text = [f"# Retention of {cluster}", "", markdown_table(COLUMNS, [tuple(row) for row in rows(plan)]), ""]
    text += [f"- warning: {warning}" for warning in plan.warnings]
    create_markdown_artifact(
        "\n".join(text), key=key_for(cluster, "retention"), description=f"Retention of {cluster}"
    )


def show_restore(cluster: str, steps: Sequence[str], warnings: Sequence[str], after: Sequence[str]) -> None:
    """The artifact of a restore: its plan, and what to type next."""
    text = [f"# Restore of {cluster}", "", *(f"{n}. {step}" for n, step in enumerate(steps, 1)), ""]
    text += [f"- warning: {warning}" for warning in warnings]
    if after:
        text += ["", "## Next", "", "```", *after, "```"]
    create_markdown_artifact(
        "\n".join(text), key=key_for(cluster, "restore"), description=f"Restore of {cluster}"
    )
