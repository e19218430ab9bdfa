"""``drill``: restore validation without Prefect."""

from __future__ import annotations

from collections.abc import Callable

from pgproof.backups.catalog import read_catalog
from pgproof.commands.backups import now
from pgproof.commands.console import Console, Session, line, table
from pgproof.config import ClusterConfig
from pgproof.errors import Finding, RecoveryFailed
from pgproof.repository.repository import Archive
from pgproof.validation.as_restored import in_words, restore_as_user
from pgproof.validation.catalogs.object_comparison import difference_lines, kind_lines
from pgproof.validation.checks.check import result_of
from pgproof.validation.comparison import MOST_SHOWN, most_telling
from pgproof.validation.drill import make_proof, restore_scratch
from pgproof.validation.evidence import store_evidence
from pgproof.validation.expectations.judgement import judge
from pgproof.validation.expectations.suites import ExpectationOutcome
from pgproof.validation.fences.fence import write_fence
from pgproof.validation.fences.fencing import take_fence
from pgproof.validation.proof import Proof
from pgproof.validation.speeds import RESTORING
from pgproof.validation.targets.trial import result_in_words, title_of
from pgproof.wording import counted, duration, load_of, size

Say = Callable[[str], None]


def drill(
    session: Session,
    name: str,
    label: str | None,
    oldest: bool,
    targets: int | None = None,
    seed: int | None = None,
) -> int:
    """Prove a backup, and show the proof."""
    cluster = with_targets(session.cluster(name), targets)
    archive = session.archive(cluster)
    catalog = read_catalog(archive)
    entry = catalog.entry(label) if label else catalog.newest
    if oldest:
        entry = catalog.entries[0]
    say: Say = (lambda text: None) if session.json else (lambda text: session.console.print(f"  {text}"))
    if not session.json:
        session.console.print(f"drill of backup {entry.label}")
    proof, key = run_drill(session, cluster, archive, entry.label, say, seed)
    session.show({**proof.as_dict(), "key": key}, lambda console: show(console, proof, key))
    return 0 if proof.proven and not proof.restore_findings else 1


def with_targets(cluster: ClusterConfig, targets: int | None) -> ClusterConfig:
    """The cluster with another number of recovery targets than is configured; None leaves it."""
    if targets is None:
        return cluster
    return cluster.model_copy(update={"drill": cluster.drill.model_copy(update={"targets": targets})})


def run_drill(
    session: Session,
    cluster: ClusterConfig,
    archive: Archive,
    label: str,
    say: Say,
    seed: int | None = None,
) -> tuple[Proof, str]:
    """All steps of a drill, one after the other; whatever comes of it is recorded.

    Raises:
        TransientError and others: what says nothing of the backup, such as a source that does not answer.
    """
    fence = take_fence(cluster, lambda system: archive, now)
    write_fence(archive, fence)
    say(
        f"fenced the source: {counted(len(fence.databases), 'database')}, {fence.rows} rows counted, cut "
        f"at LSN {fence.cut}"
    )
    restored = comparison = failure = as_restored = None
    outcome: ExpectationOutcome | None = None
    if fence.exact:
        try:
            as_restored = restore_as_user(session.config, cluster, archive, fence, label, now)
            say(in_words(as_restored.as_dict()))
            restored = restore_scratch(cluster, archive, fence, label)
            say(
                f"restored {size(restored.size)} and {restored.wal[2]} WAL segments into {restored.scratch.root}"
            )
            judgement = judge(session.config, cluster, fence, restored, seed)
            comparison, outcome = judgement.comparison, judgement.outcome
            say(f"recovered to the cut and compared: {comparison.summary()}")
            if outcome is not None:
                say(f"Great Expectations: {outcome.summary}")
        except (RecoveryFailed, Finding) as error:
            failure = error
        finally:
            if restored is not None:
                restored.scratch.remove()
    proof = make_proof(
        archive,
        fence,
        label,
        now,
        restored=restored,
        comparison=comparison,
        failure=failure,
        expectations=outcome.as_dict() if outcome else None,
        rto_target=cluster.targets.rto,
        as_restored=as_restored,
    )
    return store_evidence(archive, proof, outcome)


def _named(origin: dict[str, str]) -> str:
    return f"{origin['title']} ({origin['version']})" if origin["version"] else origin["title"]


def show(console: Console, proof: Proof, key: str) -> None:
    """A page about a proof: the verdict first."""
    colour = "green" if proof.proven else "red"
    console.print(line((proof.verdict.upper(), colour), f": {proof.summary}"))
    if proof.as_restored:
        show_as_restored(console, proof)
    if proof.origin:
        restored = ", restored by it" if proof.restored_bytes and proof.origin["version"] else ""
        console.print(f"  backup {proof.backup} of {_named(proof.origin)}{restored}")
    cuts = ", ".join(f"{database} {lsn}" for database, lsn in proof.cuts.items())
    if len(proof.cuts) > 1 and len(set(proof.cuts.values())) == 1:
        cuts = f"{next(iter(proof.cuts.values()))} of all {len(proof.cuts)} databases"
    wal = f"{proof.wal[0]} to {proof.wal[1]} ({counted(proof.wal[2], 'segment')})" if proof.wal[2] else "none"
    console.print(f"  exact cut: {cuts or 'none'}; WAL {wal}")
    if proof.several_cuts:
        console.print(f"  {proof.several_cuts}")
    show_speeds(console, proof)
    shown, hidden = most_telling(proof.tables, MOST_SHOWN)
    rows = [
        (
            t["database"],
            t["table"],
            str(t["source_rows"]),
            str(t["restored_rows"]),
            "equal" if t["equal"] else "DIFFERENT",
        )
        for t in shown
    ]
    if rows:
        console.print(table("", ("database", "table", "source rows", "restored rows", "content"), rows))
    if hidden:
        console.print(f"  {counted(hidden, 'more table')}; the proof and --json have all")
    show_targets(console, proof)
    show_checks(console, proof)
    show_objects(console, proof)
    for text in not_checked_lines(proof):
        console.print(f"  {text}")
    for warning in proof.warnings:
        console.print(f"  warning: {warning}", style="yellow")
    if proof.expectations:
        console.print(f"  Great Expectations: {proof.expectations['summary']}")
        console.print(f"  Data Docs: {proof.expectations['data_docs']}")
    console.print(f"  proof: {key}")


def show_as_restored(console: Console, proof: Proof) -> None:
    """What came of a restore as a user is told to make it."""
    style = "red" if proof.restore_findings else None
    console.print(f"  {in_words(proof.as_restored)}", style=style)


def not_checked_lines(proof: Proof) -> list[str]:
    """What the proof does not say, a line each; not more than a person reads."""
    lines = [f"not checked: {n.database}: {n.what}: {n.reason}" for n in proof.not_checked[:MOST_SHOWN]]
    more = len(proof.not_checked) - MOST_SHOWN
    return [*lines, f"not checked: {more:,} more; the proof and --json have all"] if more > 0 else lines


def show_targets(console: Console, proof: Proof) -> None:
    """Every recovery target that was tried, and what was found there."""
    for target in proof.targets:
        text = f"  recovery target {title_of(target)}: {result_in_words(target)}"
        console.print(text, style="red" if target["ok"] is False else None)


def show_speeds(console: Console, proof: Proof) -> None:
    """What a recovery took, phase by phase, against its target; then what the drill took besides, and with what."""
    if proof.recovered:
        amount = load_of(proof.restored_bytes, proof.wal_bytes)
        took = f"{duration(proof.rto_seconds)} {proof.rto_way}, for {amount}"
        console.print(line(f"  RTO measured: {took}", *_target(proof)))
    elif proof.restore_findings:
        console.print("  RTO not counted: a restore as a user is told to make it does not work")
    else:
        console.print("  RTO not measured: no server came to the cut")
    restoring = [_phase(proof, name) for name in RESTORING if name in proof.phases]
    besides = [_phase(proof, name) for name in proof.phases if name not in RESTORING]
    if restoring:
        console.print(f"    restore: {', '.join(restoring)}")
    if besides:
        console.print(f"    besides: {', '.join(besides)}")
    software = {"source": "postgresql", "copy": "restored", "pgproof": "pgproof", "on": "platform"}
    named = [f"{word} {proof.software[key]}" for word, key in software.items() if proof.software.get(key)]
    console.print(f"  software: {', '.join(named)}")


def _target(proof: Proof) -> tuple[str | tuple[str, str], ...]:
    if proof.rto_target is None:
        return ()
    return f"; target {duration(proof.rto_target)}, ", "met" if proof.rto_met else ("MISSED", "red")


def _phase(proof: Proof, name: str) -> str:
    """One phase with its seconds and its speed."""
    speed = f" ({size(proof.bytes_per_second[name])}/s)" if name in proof.bytes_per_second else ""
    side = {"fence": "source", "count": "copy"}.get(name, "")
    if side in proof.rows_per_second:
        speed = f" ({proof.rows_per_second[side]:,.0f} rows/s)"
    return f"{name} {duration(proof.phases[name])}{speed}"


def show_checks(console: Console, proof: Proof) -> None:
    """What was looked at besides the comparison, and every finding below its check."""
    for check in proof.checks:
        took = f"{check['checked']} checked in {duration(check['seconds'])}" if check["checked"] else ""
        console.print(
            f"  check {check['name']} of {check['database']}: {result_of(check)}{', ' + took if took else ''}",
        )
        for finding in check["findings"]:
            console.print(f"    {finding}", style="red")
        for warning in check.get("warnings", ()):
            console.print(f"    {warning}", style="yellow")


def show_objects(console: Console, proof: Proof) -> None:
    """What was compared besides tables, one line a kind; then every difference, long ones line by line."""
    rows = [
        (kind, source, restored, f"{different:,} DIFFERENT" if different else "equal")
        for kind, source, restored, different in kind_lines(proof.objects)
    ]
    if rows:
        columns = ("objects of all databases", "source", "restored", "content")
        console.print(table("", columns, rows))
    for text in difference_lines(proof.objects):
        console.print(f"  {text}", style="red")
