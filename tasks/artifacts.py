"""Artifacts: what a person reads in Prefect's UI. Keys are stable, so that each keeps its history."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact

from pgproof.gaps import table as windows
from pgproof.gaps.check import WalCheck
from pgproof.gaps.loss import newest_is_lost
from pgproof.gaps.repair import RepairReport
from pgproof.postgres.names import shown
from pgproof.retention.approval import Removal
from pgproof.retention.plan import ExpirePlan
from pgproof.retention.table import rows
from pgproof.validation.as_restored import in_words
from pgproof.validation.catalogs.object_comparison import difference_lines, kind_lines
from pgproof.validation.checks.check import result_of
from pgproof.validation.comparison import MISSING
from pgproof.validation.fences.fence import NotChecked
from pgproof.validation.proof import Proof
from pgproof.validation.targets.trial import result_in_words, title_of
from pgproof.wording import duration, load_of, size
from tasks.base_backup import TakenBackup
from tasks.keys import key_for
from tasks.outage import through_outage
from tasks.phases import draw_phases, sketch_phases
from tasks.picture import data_url, draw
from tasks.sketch import sketch
from tasks.validation import StoredProof
from tasks.windows import view_of
from tasks.work import now

_LONGEST = 500  # lines of one kind; the records hold all of them
_TABLES = 100  # of those that are different, and of the biggest that are equal


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table; cells are escaped."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in cells)])


def count(number: int, noun: str) -> str:
    """1 gap, 2 gaps."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _store(cluster: str, noun: str, lines: Sequence[str], description: str) -> None:
    key, text = key_for(cluster, noun), shown("\n".join(lines))
    through_outage(
        f"artifact {key}", lambda: create_markdown_artifact(text, key=key, description=shown(description))
    )


def show_backup(cluster: str, taken: TakenBackup) -> None:
    """The artifact of a base backup."""
    record, took = taken.record, duration(taken.seconds)
    stored = f"{size(record.stored_size)} in {count(len(record.volumes), 'volume')}"
    lines = [
        ("builds on", f"`{record.parent}`" if record.parent else "nothing: it is a full backup"),
        ("server", record.software.get("postgresql", "")),
        ("raw size", size(record.raw_size)),
        ("stored size", stored),
        ("duration", f"{took}, {size(record.raw_size / max(taken.seconds, 0.001))}/s"),
        ("timeline", record.timeline),
        ("LSN", f"{record.start_lsn} to {record.stop_lsn}"),
        ("WAL", f"`{record.first_segment}` to `{record.last_segment}`"),
        ("repository", f"`{taken.repository}`"),
    ]
    text = [f"# Base backup of {cluster}", "", markdown_table(("backup", f"`{record.label}`"), lines)]
    text += [line for warning in record.warnings for line in ("", f"**Warning**: {warning}")]
    text += ["", "Complete: its WAL is archived. Not proven yet: a restore validation does that."]
    _store(cluster, "backup", text, f"Base backup {record.label} of {cluster}: {stored}, {took}")


def show_wal(cluster: str, found: WalCheck, repair: RepairReport | None = None) -> None:
    """The artifact of a gap check: the verdict first, then what a repair did."""
    report, verdict = found.report, verdict_of(found)
    view = view_of(found, now())
    picture = data_url(draw(f"Recovery windows of {cluster}", view))
    text = [f"# WAL of {cluster}: {verdict}", ""]
    text += [f"- **gap**: `{gap}`, LSN {gap.first.start} to {gap.last.end}" for gap in report.gaps]
    text += [f"- **damaged**: `{name}`: {fault}" for name, fault in report.damaged]
    text += [f"- **break**: {one}" for one in report.breaks]
    if found.archiver_failing:
        text.append(f"- **the archiver is failing**: {found.archiver_failing}")
    text += [f"- **not known**: {doubt}" for doubt in found.doubts]
    text += [f"- **timelines**: {stray}" for stray in found.strays]
    text += _repaired(repair) if repair is not None else []
    if report.gaps or report.damaged or report.breaks:
        text += ["", _outlook(found)]
    lag = size(report.lag) if report.lag is not None else "unknown"
    rpo = "at most " + duration(found.rpo_seconds) if found.rpo_seconds is not None else "unknown"
    facts = [
        ("archived", f"{count(report.segments, 'segment')}, {size(report.stored_size)}"),
        ("newest", f"`{report.newest}`" if report.newest else "none"),
        ("in flight", count(report.in_flight, "segment")),
        ("behind the source", lag),
        ("lost if the source died now", f"**{rpo}**"),
    ]
    text += ["", f"![recovery windows of {cluster}]({picture})", ""]
    text += [markdown_table(("WAL archive", cluster), facts), "", "## Recovery windows", ""]
    text.append(markdown_table(windows.COLUMNS, windows.rows(report)))
    text += ["", "## The picture in characters", "", "```", sketch(view), "```"]
    _store(cluster, "wal", text, f"WAL of {cluster}: {verdict}")


def _outlook(found: WalCheck) -> str:
    """Whether what is written now can still be recovered."""
    if newest_is_lost(found.report):
        return "No recovery window is left that new commits continue: take a base backup at once."
    return "Points in time behind the gap are lost to the backups before it; new commits are not."


def _repaired(repair: RepairReport) -> list[str]:
    """What was brought back, and what each place answered for what was not."""
    text = [
        f"- **repaired**: `{one.name}` was {one.was}, is back from {one.place}" for one in repair.repaired
    ]
    for lost in repair.lost[:_LONGEST]:
        answers = "; ".join(f"{place}: {answer}" for place, answer in lost.answers)
        text.append(f"- **nobody has** `{lost.name}`: {answers or 'there is no place to ask'}")
    for copy in repair.copies:
        if copy.brought or copy.mended:
            text.append(f"- copy `{copy.name}`: {len(copy.brought):,} brought, {len(copy.mended):,} mended")
        reasons = [copy.error] if copy.error else [f"{name}: {reason}" for name, reason in copy.failed]
        text += [f"- **copy `{copy.name}`**: {reason}" for reason in reasons[:_LONGEST]]
    return text


def verdict_of(found: WalCheck) -> str:
    """The verdict of a gap check in a few words."""
    report = found.report
    parts = [count(len(report.gaps), "gap")] if report.gaps else []
    parts += [count(len(report.damaged), "damaged segment")] if report.damaged else []
    parts += [count(len(report.breaks), "break")] if report.breaks else []
    parts += ["the archiver is failing"] if found.archiver_failing else []
    parts += ["no backup"] if found.no_backup else []
    parts += ["RPO breached"] if found.rpo_breached else []
    parts += ["not known what would be lost"] if found.doubts else []
    return ", ".join(parts) or ("no gap" if found.ok else count(len(found.findings), "finding"))


def show_proof(cluster: str, stored: StoredProof) -> None:
    """The artifact of a restore drill: a verdict one can read in ten seconds."""
    proof, fence = stored.proof, stored.fence
    cuts = ", ".join(f"{database} at {lsn}" for database, lsn in proof.cuts.items())
    exact = f"{fence.exact_candidates} of {fence.candidates} candidates exact"
    lines = [
        ("exact cut", cuts or "none"),
        ("WAL", f"`{proof.wal[0]}` to `{proof.wal[1]}`, {count(proof.wal[2], 'segment')}"),
        ("RTO measured", _recovery_time(proof)),
        *([("as restored", in_words(proof.as_restored))] if proof.as_restored else []),
        ("fence", f"{exact}, held {duration(fence.held_seconds)}"),
        ("software", "<br>".join(f"{name} {version}" for name, version in proof.software.items())),
        ("Great Expectations", proof.expectations.get("summary", "did not run")),
        ("Data Docs", f"`{proof.expectations.get('data_docs', '')}`"),
        ("proof", f"`{stored.key}`"),
    ]
    text = [f"# {proof.verdict.upper()}: {cluster}", "", proof.summary, ""]
    if proof.restore_findings:
        text += [f"**{in_words(proof.as_restored)}**", ""]
    text += [
        markdown_table(("backup", f"`{proof.backup}`"), lines),
        "",
        *_compared(proof.tables, proof.proven),
    ]
    text += _phases(cluster, proof)
    text += ["", *_objects(proof.objects), "", *_targets(proof.targets), "", *_checked(proof.checks), ""]
    text += ["## Not checked", "", *_left_out(proof.not_checked)]
    text += [line for warning in proof.warnings for line in ("", f"**Warning**: {warning}")]
    noun = f"proof-{proof.origin['kind']}" if proof.origin else "proof"  # each keeps a history of its own
    _store(cluster, noun, text, f"{proof.verdict}: {proof.summary}")


def _left_out(items: Sequence[NotChecked]) -> list[str]:
    text = [f"- {n.database}: `{n.what}`: {n.reason}" for n in items[:_LONGEST]] or ["nothing"]
    more = len(items) - _LONGEST
    return [*text, f"- {more:,} more; the proof record holds all"] if more > 0 else text


def _phases(cluster: str, proof: Proof) -> list[str]:
    """Where the time of the drill went, as a picture and in characters."""
    if not proof.phases:
        return []
    picture = data_url(draw_phases(f"Drill of {proof.backup}", proof.phases))
    text = ["", "## Phases", "", f"![phases of the drill of {cluster}]({picture})", ""]
    return [*text, "```", sketch_phases(proof.phases), "```"]


def _targets(targets: Sequence[dict[str, Any]]) -> list[str]:
    """Recovery targets, one line each: what recovery was told, and what was found there."""
    lines = [
        (
            f"`{title_of(t)}`",
            t["place"],
            {True: "reached", False: "**MISSED**", None: "not tried"}[t["ok"]],
            result_in_words(t),
            duration(t["seconds"]),
        )
        for t in targets
    ]
    columns = ("recovery target", "place", "result", "found", "took")
    return (
        ["## Recovery targets", "", markdown_table(columns, lines)] if lines else ["No targets were tried."]
    )


def _recovery_time(proof: Proof) -> str:
    if proof.restore_findings:
        return "not counted: a restore as a user is told to make it does not work"
    if not proof.recovered:
        return "not measured: no server came to the cut"
    text = (
        f"{duration(proof.rto_seconds)} {proof.rto_way}, for {load_of(proof.restored_bytes, proof.wal_bytes)}"
    )
    if proof.rto_target is None:
        return text
    return f"{text}; target {duration(proof.rto_target)}, {'met' if proof.rto_met else '**MISSED**'}"


def _checked(checks: Sequence[dict[str, Any]]) -> list[str]:
    """What was looked at besides, one line a check; its findings are in the last column."""
    lines = [
        (
            c["name"],
            c["database"],
            result_of(c),
            c["checked"],
            duration(c["seconds"]),
            "<br>".join(c["findings"]),
        )
        for c in checks
    ]
    columns = ("check", "database", "result", "checked", "took", "found")
    return ["## Checks", "", markdown_table(columns, lines)] if lines else ["No checks were made."]


def _compared(tables: Sequence[dict[str, Any]], proven: bool = False) -> list[str]:
    """What differs, both values side by side; then what is equal, the biggest first."""
    different = [table for table in tables if not table["equal"]]
    equal = sorted((t for t in tables if t["equal"]), key=lambda t: -int(t["source_rows"]))
    text = []
    if different:
        columns: tuple[str, ...] = ("database", "table", "source rows", "restored rows", "source hash")
        columns += ("restored hash", "note")
        text += [f"## Different: {count(len(different), 'table')}", ""]
        text += [markdown_table(columns, [_both(table) for table in different[:_TABLES]]), ""]
    if equal:
        lines = [
            (t["database"], f"`{t['table']}`", _rows(t["source_rows"]), t["source_hash"])
            for t in equal[:_TABLES]
        ]
        text += [f"## Equal: {count(len(equal), 'table')}", ""]
        text.append(markdown_table(("database", "table", "rows", "content hash"), lines))
    if max(len(different), len(equal)) > _TABLES:
        text += ["", f"Not more than {_TABLES} of each are shown; the proof record holds all."]
    return text or ["The source has no tables." if proven else "No table was compared."]


def _objects(objects: Sequence[dict[str, Any]]) -> list[str]:
    """Everything else of a database: what differs, then one line a kind."""
    if not objects:
        return ["No other objects were compared."]
    text = ["## Other objects", ""]
    if differences := list(difference_lines(objects)):
        text += ["```", *(line.replace("```", "` ` `") for line in differences[:_LONGEST]), "```", ""]
    lines = [
        (kind, source, restored, f"**{different:,} different**" if different else "equal")
        for kind, source, restored, different in kind_lines(objects)
    ]
    return [*text, markdown_table(("objects of all databases", "source", "restored", "content"), lines)]


def _both(table: dict[str, Any]) -> tuple[str, ...]:
    numbers = (_rows(table["source_rows"]), _rows(table["restored_rows"]))
    hashes = (table["source_hash"], table["restored_hash"])
    return (table["database"], f"`{table['table']}`", *numbers, *hashes, table["note"])


def _rows(number: int) -> str:
    return "missing" if number == MISSING else f"{number:,}"


def show_retention(cluster: str, plan: ExpirePlan, approval: str = "") -> None:
    """The artifact of a retention plan: what the dry run shows, in three columns, because the page cuts off more.

    Args:
        cluster: its name.
        plan: of an expire.
        approval: what was decided of one that removes more than usual.
    """
    lines = [_retention_line(*row) for row in rows(plan)]
    text = [f"# Retention of {cluster}", ""]
    text += (
        [f"**{approval[0].upper()}{approval[1:]}.** It removes {Removal.of(plan)}.", ""] if approval else []
    )
    text.append(markdown_table(("what", "verdict", "why"), lines))
    kept = f"keeps {len(plan.kept)} of {count(len(plan.verdicts), 'backup')}"
    _store(cluster, "retention", text, f"Retention of {cluster}: {kept}, frees {size(plan.freed)}")


def _retention_line(what: str, state: str, verdict: str, stored: str, why: str) -> tuple[str, str, str]:
    """A row of the plan, narrow: state and size below the name, one reason below the other, WAL files likewise."""
    facts = ", ".join([state, stored] if stored else [])
    reasons = re.sub(r"(?<=[0-9A-F]{24})( to|:) ", r"\1<br>", why.replace("; ", "<br>"))
    return "<br>".join([what, *([facts] if facts else [])]), verdict, reasons


def show_restore(cluster: str, steps: Sequence[str], warnings: Sequence[str], after: Sequence[str]) -> None:
    """The artifact of a restore: its plan, and what to type next once it was carried out."""
    title = f"Restore of {cluster}" if after else f"Plan of a restore of {cluster}: nothing was written"
    text = [f"# {title}", "", *(f"{n}. {step}" for n, step in enumerate(steps, 1)), ""]
    text += [f"- **warning**: {warning}" for warning in warnings]
    if after:
        text += ["", "## Next", "", "```", *after, "```"]
    _store(cluster, "restore", text, title)
