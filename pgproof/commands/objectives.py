"""``objectives``: RTO and RPO, each measured, beside what the configuration allows."""

from __future__ import annotations

from pgproof.commands.backups import now
from pgproof.commands.console import Console, Session, line, table
from pgproof.validation.forecast import Forecast
from pgproof.validation.objectives import Objectives, measure_objectives
from pgproof.validation.proof import Proof
from pgproof.wording import counted, duration, load_of, size

COLUMNS = ("date (UTC)", "backup", "verdict", "size", "WAL", "extract", "replay", "total", "target")
_WORDS = {True: ("met", "green"), False: ("MISSED", "red"), None: ("not measured", "red")}


def objectives(session: Session, name: str) -> int:
    """Show what recovery costs now, and what it may cost."""
    cluster = session.cluster(name)
    found = measure_objectives(cluster, session.archive(cluster), now(), session.copies(cluster))
    session.show(found.as_dict(), lambda console: show(console, name, found))
    return 0 if found.met else 1


def show(console: Console, name: str, found: Objectives) -> None:
    """A page about both targets: the verdicts first, then the drills that they rest on."""
    console.print(line(f"RTO target {duration(found.rto)}: ", _WORDS[found.rto_met]))
    newest = found.trend.newest
    if newest is None:
        console.print(f"  no drill has measured it: pgproof drill {name}")
    else:
        age = duration(max(0.0, (found.at - newest.at).total_seconds()))
        told = f"measured {duration(newest.rto_seconds)} by the newest drill, {age} ago: {_amount(newest)}"
        console.print(f"  {told}")
    if found.outlook.forecast is not None:
        console.print(f"  {_forecast(found.outlook.backup, found.outlook.forecast)}")
    if found.outlook.fault:
        console.print(f"  {found.outlook.fault}", style="red")
    for note in found.notes:
        console.print(line("  ", ("note", "yellow"), f": {note}"))
    console.print(line(f"RPO target {duration(found.rpo)}: ", _WORDS[found.rpo_met]))
    console.print(f"  {_loss(found)}")
    if found.trend.drills:
        rows = [_row(proof, found.rto) for proof in found.trend.drills]
        console.print(table(f"the last drills of cluster {name}", COLUMNS, rows))


def _amount(proof: Proof) -> str:
    return f"{load_of(proof.restored_bytes, proof.wal_bytes)} of backup {proof.backup}"


def _forecast(backup: str, made: Forecast) -> str:
    what = f"a restore now, {load_of(made.load.backup, made.load.wal)} from backup {backup}"
    if made.seconds is None:
        return f"{what}: no forecast"
    spread = f"{duration(made.fastest)} to {duration(made.slowest)} by {counted(made.drills, 'drill')}"
    return f"{what}: forecast {duration(made.seconds)} ({spread})"


def _loss(found: Objectives) -> str:
    wal = found.wal
    if wal.rpo_seconds is None:
        reason = wal.source_error or "; ".join(wal.doubts) or "there is no backup"
        return f"what would be lost now is not known: {reason}"
    lost = f"at most {duration(wal.rpo_seconds)}" if wal.rpo_seconds else "nothing"
    newest = f"; newest commit in the repository {wal.newest_commit:%F %T} UTC" if wal.newest_commit else ""
    return f"lost if the source died now: {lost}{newest}"


def _row(proof: Proof, target: float) -> tuple[str, ...]:
    phases = proof.phases
    extract, replay = phases.get("extract", 0) + phases.get("combine", 0), phases.get("replay", 0)
    return (
        f"{proof.at:%F %R}",
        proof.backup,
        proof.verdict,
        size(proof.restored_bytes),
        size(proof.wal_bytes) if proof.wal_bytes else f"{proof.wal[2]} segm.",
        duration(extract),
        duration(replay),
        duration(proof.rto_seconds),
        "met" if proof.rto_seconds <= target else "MISSED",
    )
