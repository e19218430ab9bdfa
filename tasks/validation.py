"""The tasks of restore validation: each can be tried again without the ones before it."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import task

from pgproof.backups.catalog import read_catalog
from pgproof.errors import Finding, RecoveryFailed
from pgproof.validation.comparison import Comparison
from pgproof.validation.drill import Restored, compare_restored, make_proof, restore_scratch
from pgproof.validation.evidence import store_evidence
from pgproof.validation.expectations import ExpectationOutcome, ExpectationRun
from pgproof.validation.fence import Fence, read_fence, write_fence
from pgproof.validation.fencing import take_fence
from pgproof.validation.proof import Proof
from tasks.progress import progress
from tasks.retries import HOUR, RETRY, settings
from tasks.work import now, open_work


@dataclass(frozen=True)
class Compared:
    """A comparison, what Great Expectations says of it, and the restored copy with all its phases."""

    restored: Restored
    comparison: Comparison
    outcome: ExpectationOutcome


@dataclass(frozen=True)
class StoredProof:
    """A proof, and where it lies."""

    proof: Proof
    key: str
    fence: Fence


@task(**settings("choose backup", 600), **RETRY)
def choose_backup(cluster: str, config: str | None = None, backup: str = "newest") -> str:
    """The label of the backup to prove: a label, ``newest``, ``oldest`` or ``least recently proven``."""
    catalog = read_catalog(open_work(cluster, config).archive)
    newest = catalog.newest
    if backup == "newest":
        return newest.label
    if backup == "oldest":
        return catalog.entries[0].label
    if backup == "least recently proven":
        return min(catalog.entries, key=lambda e: (e.proven_at is not None, e.proven_at, e.label)).label
    return catalog.entry(backup).label


@task(**settings("fence source", 24 * HOUR), **RETRY)
def fence_source(cluster: str, config: str | None = None) -> str:
    """Take a fence with an exact cut, and count the source under it; the fence's identifier."""
    work = open_work(cluster, config)
    fence = take_fence(work.cluster, lambda system: work.archive, now)
    write_fence(work.archive, fence)
    return fence.identifier


@task(**settings("restore backup to scratch", 24 * HOUR), **RETRY)
def restore_backup(cluster: str, fence: str, backup: str, config: str | None = None) -> Restored:
    """Restore a backup and the WAL up to the cut beside the source, checked against its manifests."""
    work = open_work(cluster, config)
    archive = work.archive
    catalog = read_catalog(archive)
    total = sum(record.raw_size for record in catalog.chain(backup))
    with progress(cluster, "restore", f"restore of {backup} to scratch", total) as done:
        return restore_scratch(work.cluster, archive, read_fence(archive, fence), backup, done, catalog)


@task(**settings("compare with source", 24 * HOUR), **RETRY)
def compare_with_source(cluster: str, fence: str, restored: Restored, config: str | None = None) -> Compared:
    """Recover the copy to the exact cut and compare every table, then let Great Expectations judge."""
    work = open_work(cluster, config)
    read = read_fence(work.archive, fence)
    docs = work.config.state / "data-docs" / cluster / fence
    run = ExpectationRun(work.cluster, docs)
    with progress(cluster, "compare", f"comparison of {restored.label}", read.rows, "row") as done:
        comparison = compare_restored(work.cluster, read, restored, run.on_database, progress=done)
    return Compared(restored, comparison, run.finish(comparison, sum(len(d.tables) for d in read.databases)))


@task(**settings("record proof", 600), **RETRY)
def record_proof(
    cluster: str,
    fence: str,
    backup: str,
    restored: Restored | None = None,
    compared: Compared | None = None,
    failure: Exception | None = None,
    config: str | None = None,
) -> StoredProof:
    """Store the evidence, whatever the verdict."""
    work = open_work(cluster, config)
    archive, outcome = work.archive, compared.outcome if compared else None
    read = read_fence(archive, fence)
    proof = make_proof(
        archive,
        read,
        backup,
        now,
        restored=restored,
        comparison=compared.comparison if compared else None,
        failure=failure,
        expectations=outcome.as_dict() if outcome else None,
        rto_target=work.cluster.targets.rto,
    )
    return StoredProof(proof, store_evidence(archive, proof, outcome), read)


# What says something of the backup rather than of its surroundings: it ends the drill with a verdict
VERDICTS = (RecoveryFailed, Finding)
