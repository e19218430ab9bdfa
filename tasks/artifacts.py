"""Artifacts: what a person reads in Prefect's UI. Keys are stable, so that each keeps its history."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from prefect.artifacts import create_markdown_artifact

from pgproof.gaps import table as windows
from pgproof.gaps.check import WalCheck
from pgproof.gaps.loss import newest_is_lost
from pgproof.gaps.repair import RepairReport
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
from tasks.markdown import Markdown, below, block, code, joined, picture, strong, table, text
from tasks.outage import through_outage
from tasks.phases import draw_phases, sketch_phases
from tasks.picture import data_url, draw
from tasks.sketch import sketch
from tasks.validation import StoredProof
from tasks.windows import view_of
from tasks.work import now

Page = list[Markdown | Literal[""]]  # its lines
_LONGEST = 500  # lines of one kind; the records hold all of them
_TABLES = 100  # of those that are different, and of the biggest that are equal


def count(number: int, noun: str) -> str:
    """1 gap, 2 gaps."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def store(key: str, lines: Sequence[Markdown | Literal[""]], description: str) -> None:
    """Store an artifact.

    Args:
        key: of its history.
        lines: of its page; an empty one ends a paragraph.
        description: one line.
    """
    page, about = "\n".join(lines), text(description)
    through_outage(f"artifact {key}", lambda: create_markdown_artifact(page, key=key, description=about))


def heading(title: object, level: int = 1) -> Markdown:
    """A heading, and nothing below it yet."""
    return joined(Markdown("#" * level + " "), title)


def item(*parts: object) -> Markdown:
    """An item of a list."""
    return joined(Markdown("- "), *parts)


def show_backup(cluster: str, taken: TakenBackup) -> None:
    """The artifact of a base backup."""
    record, took = taken.record, duration(taken.seconds)
    stored = f"{size(record.stored_size)} in {count(len(record.volumes), 'volume')}"
    lines = [
        ("builds on", code(record.parent) if record.parent else "nothing: it is a full backup"),
        ("server", record.software.get("postgresql", "")),
        ("raw size", size(record.raw_size)),
        ("stored size", stored),
        ("duration", f"{took}, {size(record.raw_size / max(taken.seconds, 0.001))}/s"),
        ("timeline", record.timeline),
        ("LSN", f"{record.start_lsn} to {record.stop_lsn}"),
        ("WAL", joined(code(record.first_segment), " to ", code(record.last_segment))),
        ("repository", code(taken.repository)),
    ]
    page: Page = [heading(f"Base backup of {cluster}"), "", table(("backup", code(record.label)), lines)]
    page += _warnings(record.warnings)
    page += ["", text("Complete: its WAL is archived. Not proven yet: a restore validation does that.")]
    store(key_for(cluster, "backup"), page, f"Base backup {record.label} of {cluster}: {stored}, {took}")


def _warnings(warnings: Sequence[str]) -> Page:
    return [line for one in warnings for line in ("", joined(strong("Warning"), ": ", one))]


def show_wal(cluster: str, found: WalCheck, repair: RepairReport | None = None) -> None:
    """The artifact of a gap check: the verdict first, then what a repair did."""
    report, verdict = found.report, verdict_of(found)
    view = view_of(found, now())
    url = data_url(draw(f"Recovery windows of {cluster}", view))
    page: Page = [heading(f"WAL of {cluster}: {verdict}"), ""]
    page += [
        item(strong("gap"), ": ", code(gap), f", LSN {gap.first.start} to {gap.last.end}")
        for gap in report.gaps
    ]
    page += [item(strong("damaged"), ": ", code(name), f": {fault}") for name, fault in report.damaged]
    page += [item(strong("break"), f": {one}") for one in report.breaks]
    if found.archiver_failing:
        page.append(item(strong("the archiver is failing"), f": {found.archiver_failing}"))
    page += [item(strong("not known"), f": {doubt}") for doubt in found.doubts]
    page += [item(strong("timelines"), f": {stray}") for stray in found.strays]
    page += _repaired(repair) if repair is not None else []
    if report.gaps or report.damaged or report.breaks:
        page += ["", text(_outlook(found))]
    lag = size(report.lag) if report.lag is not None else "unknown"
    rpo = "at most " + duration(found.rpo_seconds) if found.rpo_seconds is not None else "unknown"
    facts = [
        ("archived", f"{count(report.segments, 'segment')}, {size(report.stored_size)}"),
        ("newest", code(report.newest) if report.newest else "none"),
        ("in flight", count(report.in_flight, "segment")),
        ("behind the source", lag),
        ("lost if the source died now", strong(rpo)),
    ]
    page += ["", picture(f"recovery windows of {cluster}", url), ""]
    page += [table(("WAL archive", cluster), facts), "", heading("Recovery windows", 2), ""]
    page.append(table(windows.COLUMNS, windows.rows(report)))
    page += ["", heading("The picture in characters", 2), "", *block(sketch(view).splitlines())]
    store(key_for(cluster, "wal"), page, f"WAL of {cluster}: {verdict}")


def _outlook(found: WalCheck) -> str:
    """Whether what is written now can still be recovered."""
    if newest_is_lost(found.report):
        return "No recovery window is left that new commits continue: take a base backup at once."
    return "Points in time behind the gap are lost to the backups before it; new commits are not."


def _repaired(repair: RepairReport) -> Page:
    """What was brought back, and what each place answered for what was not."""
    page: Page = [
        item(strong("repaired"), ": ", code(one.name), f" was {one.was}, is back from {one.place}")
        for one in repair.repaired
    ]
    for lost in repair.lost[:_LONGEST]:
        answers = "; ".join(f"{place}: {answer}" for place, answer in lost.answers)
        page.append(
            item(strong("nobody has"), " ", code(lost.name), f": {answers or 'there is no place to ask'}")
        )
    for copy in repair.copies:
        if copy.brought or copy.mended:
            done = f": {len(copy.brought):,} brought, {len(copy.mended):,} mended"
            page.append(item("copy ", code(copy.name), done))
        reasons = [copy.error] if copy.error else [f"{name}: {reason}" for name, reason in copy.failed]
        page += [item(strong(f"copy {copy.name}"), f": {reason}") for reason in reasons[:_LONGEST]]
    return page


def verdict_of(found: WalCheck) -> str:
    """The verdict of a gap check in a few words."""
    report = found.report
    parts = [count(len(report.gaps), "gap")] if report.gaps else []
    parts += [count(len(report.damaged), "damaged segment")] if report.damaged else []
    parts += [count(len(report.breaks), "break")] if report.breaks else []
    parts += ["the archiver is failing"] if found.archiver_failing else []
    parts += ["no backup"] if found.no_backup else []
    parts += ["RPO breached"] if found.rpo_breached else []
    parts += ["the archive is ahead of its source"] if found.ahead else []
    parts += ["not known what would be lost"] if found.doubts and not found.ahead else []
    return ", ".join(parts) or ("no gap" if found.ok else count(len(found.findings), "finding"))


def show_proof(cluster: str, stored: StoredProof) -> None:
    """The artifact of a restore drill: a verdict one can read in ten seconds."""
    proof, fence = stored.proof, stored.fence
    cuts = ", ".join(f"{database} at {lsn}" for database, lsn in proof.cuts.items())
    exact = f"{fence.exact_candidates} of {fence.candidates} candidates exact"
    lines = [
        ("exact cut", cuts or "none"),
        (
            "WAL",
            joined(code(proof.wal[0]), " to ", code(proof.wal[1]), f", {count(proof.wal[2], 'segment')}"),
        ),
        ("RTO measured", _recovery_time(proof)),
        *([("as restored", in_words(proof.as_restored))] if proof.as_restored else []),
        ("fence", f"{exact}, held {duration(fence.held_seconds)}"),
        ("software", below(f"{name} {version}" for name, version in proof.software.items())),
        ("Great Expectations", proof.expectations.get("summary", "did not run")),
        ("Data Docs", code(proof.expectations.get("data_docs", ""))),
        ("proof", code(stored.key)),
    ]
    page: Page = [heading(f"{proof.verdict.upper()}: {cluster}"), "", text(proof.summary), ""]
    if proof.restore_findings:
        page += [strong(in_words(proof.as_restored)), ""]
    page += [
        table(("backup", code(proof.backup)), lines),
        "",
        *_compared(proof.tables, proof.proven),
    ]
    page += _phases(cluster, proof)
    page += ["", *_objects(proof.objects), "", *_targets(proof.targets), "", *_checked(proof.checks), ""]
    page += [heading("Not checked", 2), "", *_left_out(proof.not_checked)]
    page += _warnings(proof.warnings)
    noun = f"proof-{proof.origin['kind']}" if proof.origin else "proof"  # each keeps a history of its own
    store(key_for(cluster, noun), page, f"{proof.verdict}: {proof.summary}")


def _left_out(items: Sequence[NotChecked]) -> Page:
    page: Page = [item(f"{n.database}: ", code(n.what), f": {n.reason}") for n in items[:_LONGEST]]
    more = len(items) - _LONGEST
    if more > 0:
        page.append(item(f"{more:,} more; the proof record holds all"))
    return page or [text("nothing")]


def _phases(cluster: str, proof: Proof) -> Page:
    """Where the time of the drill went, as a picture and in characters."""
    if not proof.phases:
        return []
    url = data_url(draw_phases(f"Drill of {proof.backup}", proof.phases))
    page: Page = ["", heading("Phases", 2), "", picture(f"phases of the drill of {cluster}", url), ""]
    return [*page, *block(sketch_phases(proof.phases).splitlines())]


def _targets(targets: Sequence[dict[str, Any]]) -> Page:
    """Recovery targets, one line each: what recovery was told, and what was found there."""
    lines = [
        (
            code(title_of(t)),
            t["place"],
            {True: "reached", False: strong("MISSED"), None: "not tried"}[t["ok"]],
            result_in_words(t),
            duration(t["seconds"]),
        )
        for t in targets
    ]
    columns = ("recovery target", "place", "result", "found", "took")
    if not lines:
        return [text("No targets were tried.")]
    return [heading("Recovery targets", 2), "", table(columns, lines)]


def _recovery_time(proof: Proof) -> str:
    if proof.restore_findings:
        return "not counted: a restore as a user is told to make it does not work"
    if not proof.recovered:
        return "not measured: no server came to the cut"
    took = (
        f"{duration(proof.rto_seconds)} {proof.rto_way}, for {load_of(proof.restored_bytes, proof.wal_bytes)}"
    )
    if proof.rto_target is None:
        return took
    met = "met" if proof.rto_met else strong("MISSED")
    return joined(f"{took}; target {duration(proof.rto_target)}, ", met)


def _checked(checks: Sequence[dict[str, Any]]) -> Page:
    """What was looked at besides, one line a check; its findings are in the last column."""
    lines = [
        (
            c["name"],
            c["database"],
            result_of(c),
            c["checked"],
            duration(c["seconds"]),
            below(c["findings"]),
        )
        for c in checks
    ]
    columns = ("check", "database", "result", "checked", "took", "found")
    return [heading("Checks", 2), "", table(columns, lines)] if lines else [text("No checks were made.")]


def _compared(tables: Sequence[dict[str, Any]], proven: bool = False) -> Page:
    """What differs, both values side by side; then what is equal, the biggest first."""
    different = [t for t in tables if not t["equal"]]
    equal = sorted((t for t in tables if t["equal"]), key=lambda t: -int(t["source_rows"]))
    page: Page = []
    if different:
        columns: tuple[str, ...] = ("database", "table", "source rows", "restored rows", "source hash")
        columns += ("restored hash", "note")
        page += [heading(f"Different: {count(len(different), 'table')}", 2), ""]
        page += [table(columns, [_both(t) for t in different[:_TABLES]]), ""]
    if equal:
        lines = [
            (t["database"], code(t["table"]), _rows(t["source_rows"]), t["source_hash"])
            for t in equal[:_TABLES]
        ]
        page += [heading(f"Equal: {count(len(equal), 'table')}", 2), ""]
        page.append(table(("database", "table", "rows", "content hash"), lines))
    if max(len(different), len(equal)) > _TABLES:
        page += ["", text(f"Not more than {_TABLES} of each are shown; the proof record holds all.")]
    return page or [text("The source has no tables." if proven else "No table was compared.")]


def _objects(objects: Sequence[dict[str, Any]]) -> Page:
    """Everything else of a database: what differs, then one line a kind."""
    if not objects:
        return [text("No other objects were compared.")]
    page: Page = [heading("Other objects", 2), ""]
    if differences := list(difference_lines(objects)):
        page += [*block(differences[:_LONGEST]), ""]
    lines = [
        (kind, source, restored, strong(f"{different:,} different") if different else "equal")
        for kind, source, restored, different in kind_lines(objects)
    ]
    return [*page, table(("objects of all databases", "source", "restored", "content"), lines)]


def _both(found: dict[str, Any]) -> tuple[str, ...]:
    numbers = (_rows(found["source_rows"]), _rows(found["restored_rows"]))
    hashes = (found["source_hash"], found["restored_hash"])
    return (found["database"], code(found["table"]), *numbers, *hashes, found["note"])


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
    page: Page = [heading(f"Retention of {cluster}"), ""]
    if approval:
        decided = strong(f"{approval[0].upper()}{approval[1:]}.")
        page += [joined(decided, f" It removes {Removal.of(plan)}."), ""]
    page.append(table(("what", "verdict", "why"), lines))
    kept = f"keeps {len(plan.kept)} of {count(len(plan.verdicts), 'backup')}"
    store(key_for(cluster, "retention"), page, f"Retention of {cluster}: {kept}, frees {size(plan.freed)}")


def _retention_line(what: str, state: str, verdict: str, stored: str, why: str) -> tuple[str, str, str]:
    """A row of the plan, narrow: state and size below the name, one reason below the other, WAL files likewise."""
    facts = ", ".join([state, stored] if stored else [])
    reasons = [
        part
        for one in why.split("; ")
        for part in re.split(r"(?<=[0-9A-F]{24} to) |(?<=[0-9A-F]{24}:) ", one)
    ]
    return below([what, *([facts] if facts else [])]), verdict, below(reasons)


def show_restore(cluster: str, steps: Sequence[str], warnings: Sequence[str], after: Sequence[str]) -> None:
    """The artifact of a restore: its plan, and what to type next once it was carried out."""
    title = f"Restore of {cluster}" if after else f"Plan of a restore of {cluster}: nothing was written"
    numbered = [joined(Markdown(f"{n}. "), step) for n, step in enumerate(steps, 1)]
    page: Page = [heading(title), "", *numbered, ""]
    page += [item(strong("warning"), f": {warning}") for warning in warnings]
    if after:
        page += ["", heading("Next", 2), "", *block(after)]
    store(key_for(cluster, "restore"), page, title)
