"""Proofs: whether a backup is proven, how long ago, and whether the newest one failed."""

from __future__ import annotations

from datetime import UTC, datetime

from pgproof.backups.catalog import read_catalog
from pgproof.backups.state import proof_age
from pgproof.readiness.check import Answer, Question, Subject


def _proof(subject: Subject) -> Answer:
    cluster = subject.cluster
    now = datetime.fromtimestamp(subject.now, UTC)
    catalog = read_catalog(subject.archive)
    if not catalog.entries:
        return Answer(
            False, "there is no backup that a restore could begin with", f"pgproof backup {cluster.name}"
        )
    age, drill = proof_age(catalog, now, cluster.drill.stale_after), f"pgproof drill {cluster.name}"
    days = age.seconds / 86400
    if all(entry.failed for entry in catalog.entries):
        again = f"pgproof list {cluster.name}; pgproof backup {cluster.name}; then {drill}"
        return Answer(False, f"every backup has failed; {age.failed}", again, blocks="restore")
    if age.at is None:
        fact = f"no backup is proven; {age.failed}" if age.failed else "no backup is proven"
        return Answer(False, fact, drill)
    fact = f"backup {age.label} was proven {days:.1f} days ago"
    if age.stale:
        limit = cluster.drill.stale_after / 86400
        return Answer(False, f"{fact}: stale after {limit:g} days", drill)
    if age.failed:
        return Answer(False, f"{age.failed}; {fact}", f"pgproof list {cluster.name}")
    return Answer(True, fact)


QUESTIONS = (Question("newest proof", "", _proof),)
