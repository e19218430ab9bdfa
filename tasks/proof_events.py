"""Events of proofs and targets: a proof made, failed or stale; RTO and RPO breached or met.

As all events they tell what a run found, at every run: whoever listens is told of a change by its automation.
"""

from __future__ import annotations

from typing import Any

from pgproof.backups.catalog import NOT_EXACT
from pgproof.backups.state import ProofAge
from pgproof.gaps.check import WalCheck
from pgproof.validation.proof import Proof
from pgproof.wording import duration, load_of
from tasks.events import Event, words

MADE = "pgproof.proof.made"  # a backup was proven
FAILED = "pgproof.proof.failed"  # a drill ended without a proof
STALE = "pgproof.proof.stale"  # the newest proof is too old, or there was time for one and there is none
FRESH = "pgproof.proof.fresh"  # the newest proof is not too old: the end of a stale one
RTO_BREACHED = "pgproof.rto.breached"  # the recovery that a drill measured took longer than the target
RTO_MET = "pgproof.rto.met"
RESTORE_BROKEN = (
    "pgproof.restoring.broken"  # a restore as a user is told to make it does not give what was proven
)
RESTORE_WORKS = "pgproof.restoring.works"
RPO_BREACHED = "pgproof.rpo.breached"  # more would be lost now than the target allows, or nobody knows
RPO_MET = "pgproof.rpo.met"


def proof_events(cluster: str, proof: Proof, key: str) -> list[Event]:
    """The events of one drill.

    Args:
        cluster: its name.
        proof: that was recorded, whatever its verdict.
        key: where it lies.
    """
    payload: dict[str, Any] = {
        "backup": proof.backup,
        "verdict": proof.verdict,
        "summary": proof.summary,
        "proof": key,
        "tables": len(proof.tables),
        "rows": proof.rows,
        "not_checked": len(proof.not_checked),
    }
    return [
        Event(MADE if proof.proven else FAILED, _words(cluster, proof) | payload),
        *_rto(cluster, proof),
        *_restore(cluster, proof),
    ]


def _restore(cluster: str, proof: Proof) -> list[Event]:
    if not proof.tried_as_restored:
        return []
    payload = {"backup": proof.backup, "findings": list(proof.restore_findings)}
    what = f"a restore of cluster {cluster} as a user is told to make it"
    if not proof.restore_findings:
        said = words(f"{what} works", "it started, and stood where it should", f"pgproof list {cluster}")
        return [Event(RESTORE_WORKS, said | payload)]
    said = words(
        f"{what} does not work: {'; '.join(proof.restore_findings)}",
        "in a disaster the restored cluster would not come up as README says; its data is judged apart from that",
        f"pgproof backup {cluster}",
    )
    return [Event(RESTORE_BROKEN, said | payload)]


def _words(cluster: str, proof: Proof) -> dict[str, Any]:
    if proof.proven:
        what = f"backup {proof.backup} of cluster {cluster} is proven: {proof.summary}"
        return words(what, "it can be restored and is equal to the source", f"pgproof list {cluster}")
    what = f"backup {proof.backup} of cluster {cluster} is {proof.verdict}: {proof.summary}"
    if proof.verdict == NOT_EXACT:
        meaning = "this says nothing of the backup, and an older proof of it still holds"
        return words(what, meaning, f"pgproof drill {cluster} --backup {proof.backup}")
    meaning = "a restore no longer chooses this backup by itself; older proven ones are kept"
    return words(what, meaning, f"pgproof list {cluster}")


def _rto(cluster: str, proof: Proof) -> list[Event]:
    if proof.rto_met is None:
        return []
    amount = load_of(proof.restored_bytes, proof.wal_bytes)
    took = f"recovery of cluster {cluster} took {duration(proof.rto_seconds)} for {amount}"
    target = f"the target is {duration(proof.rto_target or 0)}"
    slowest = max(proof.phases, key=lambda name: proof.phases[name] if name in proof.bytes_per_second else 0)
    meaning = f"{target}: met" if proof.rto_met else f"{target}: a real recovery would miss it, too"
    payload = {
        "seconds": proof.rto_seconds,
        "target_seconds": proof.rto_target,
        "backup": proof.backup,
        "slowest_phase": slowest,
        "phases": dict(proof.phases),
    }
    said = words(took, meaning, f"pgproof objectives {cluster}")
    return [Event(RTO_MET if proof.rto_met else RTO_BREACHED, said | payload)]


def rpo_events(cluster: str, found: WalCheck) -> list[Event]:
    """The event of what would be lost now; where nobody knows, the target is not met.

    Args:
        cluster: its name.
        found: by the gap check.
    """
    if found.rpo_target is None:
        return []
    if found.rpo_seconds is None:
        why = "; ".join(found.doubts) or "there is no backup"
        said = words(
            f"nobody knows what of cluster {cluster} would be lost if the source died now",
            f"the target is {duration(found.rpo_target)}: not met, because {why}",
            f"pgproof doctor {cluster}",
        )
        unknown = {"seconds": None, "target_seconds": found.rpo_target, "newest_commit": None}
        return [Event(RPO_BREACHED, said | unknown)]
    lost = f"at most {duration(found.rpo_seconds)} of commits" if found.rpo_seconds else "nothing"
    what = f"{lost} of cluster {cluster} would be lost if the source died now"
    met = "exceeded" if found.rpo_breached else "met"
    payload = {
        "seconds": found.rpo_seconds,
        "target_seconds": found.rpo_target,
        "newest_commit": found.newest_commit.isoformat() if found.newest_commit else None,
    }
    meaning = f"the target is {duration(found.rpo_target)}: {met}"
    command = f"pgproof doctor {cluster}" if found.rpo_breached else f"pgproof objectives {cluster}"
    said = words(what, meaning, command)
    return [Event(RPO_BREACHED if found.rpo_breached else RPO_MET, said | payload)]


def age_events(cluster: str, age: ProofAge) -> list[Event]:
    """The event of the newest proof: too old, or fresh; none while there are no backups, or none for long.

    Args:
        cluster: its name.
        age: of the newest proof.
    """
    if not age.stale and age.at is None:
        return []
    payload = {
        "backup": age.label or None,
        "proven_at": age.at.isoformat() if age.at else None,
        "age_seconds": round(age.seconds, 3),
        "limit_seconds": age.limit,
    }
    what = f"the newest proof of cluster {cluster} is {duration(age.seconds)} old"
    if not age.stale:
        said = words(what, "a backup was restored, and was equal to the source", f"pgproof list {cluster}")
        return [Event(FRESH, said | payload)]
    if age.at is None:
        what = f"no backup of cluster {cluster} is proven, and there have been backups for {duration(age.seconds)}"
    meaning = f"nobody has seen for over {duration(age.limit)} that a backup can be restored"
    return [Event(STALE, words(what, meaning, f"pgproof drill {cluster}") | payload)]
