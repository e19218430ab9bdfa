"""The tasks of restore validation: each can be tried again without the ones before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast, get_args

from prefect import task

from pgproof.backups.catalog import read_catalog
from pgproof.errors import Finding, RecoveryFailed
from pgproof.postgres.programs import account
from pgproof.validation.as_restored import AsRestored, restore_as_user
from pgproof.validation.choice import Policy, choose_label, last_drills
from pgproof.validation.comparison import Comparison
from pgproof.validation.drill import Restored, make_proof, restore_scratch
from pgproof.validation.evidence import store_evidence
from pgproof.validation.expectations.judgement import judge
from pgproof.validation.expectations.suites import ExpectationOutcome
from pgproof.validation.fences.fence import Fence, read_fence, write_fence
from pgproof.validation.fences.fencing import take_fence
from pgproof.validation.frames import frames_of
from pgproof.validation.origins.choice import OriginKind, open_origin
from pgproof.validation.origins.foreign_drill import prove_foreign
from pgproof.validation.origins.origin import choose
from pgproof.validation.proof import Proof
from tasks.progress import progress
from tasks.retries import HOUR, RETRY, settings
from tasks.work import now, open_work


@dataclass(frozen=True)
class Compared:
    """A comparison, what Great Expectations says of it, and the restored copy with all its phases.

    Args:
        frames: the comparison as pandas data frames, as they are stored beside the proof.
    """

    restored: Restored
    comparison: Comparison
    outcome: ExpectationOutcome | None
    frames: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class StoredProof:
    """A proof, and where it lies."""

    proof: Proof
    key: str
    fence: Fence
    repository: str


@task(**settings("choose backup", 600), **RETRY)
def choose_backup(
    cluster: str, config: str | None = None, backup: str | None = None, policy: Policy = "newest"
) -> str:
    """The label of the backup to prove: the one that is named, or one by a policy."""
    archive = open_work(cluster, config).archive
    catalog = read_catalog(archive)
    if backup in get_args(Policy):  # as older deployments say it
        return choose_label(catalog, cast(Policy, backup), last_drills(archive))
    if backup:
        return catalog.entry(backup).label
    return choose_label(catalog, policy, last_drills(archive))


@task(**settings("fence source", 24 * HOUR), **RETRY)
def fence_source(cluster: str, config: str | None = None) -> str:
    """Take a fence with an exact cut, and count the source under it; the fence's identifier."""
    work = open_work(cluster, config)
    fence = take_fence(work.cluster, lambda system: work.archive, now)
    write_fence(work.archive, fence)
    return fence.identifier


def restores_as_user(cluster: str, config: str | None = None) -> bool:
    """Whether drills of a cluster restore as a user is told to, now and then."""
    return open_work(cluster, config).cluster.drill.as_restored > 0


@task(**settings("restore as a user does", 24 * HOUR), **RETRY)
def restore_as_a_user_does(cluster: str, fence: str, backup: str, config: str | None = None) -> AsRestored:
    """Restore a backup and start it exactly as a user is told to, and compare where it stands with the plan."""
    work = open_work(cluster, config)
    blocks = [f"{block} is a Prefect block, which restore_command cannot read" for block in work.blocks]
    read = read_fence(work.archive, fence)
    return restore_as_user(work.config, work.cluster, work.archive, read, backup, now, "; ".join(blocks))


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
    with progress(cluster, "compare", f"comparison of {restored.label}", read.rows, "row") as done:
        found = judge(work.config, work.cluster, read, restored, told=done)
    comparison, cuts = found.comparison, {d.database: str(d.cut) for d in read.databases}
    objects = [kind.as_record() for kind in comparison.objects]
    checks = [check.as_record() for check in comparison.checks]
    frames = frames_of(comparison.as_records(), objects, checks, cuts, comparison.targets.as_records())
    return Compared(restored, comparison, found.outcome, frames)


@task(**settings("record proof", 600), **RETRY)
def record_proof(
    cluster: str,
    fence: str,
    backup: str,
    restored: Restored | None = None,
    compared: Compared | None = None,
    failure: Exception | None = None,
    config: str | None = None,
    as_restored: AsRestored | None = None,
) -> StoredProof:
    """Store the evidence, whatever the verdict."""
    work = open_work(cluster, config)
    archive, outcome = work.archive, compared.outcome if compared else None
    drilled = (archive, read_fence(archive, fence), backup)
    proof = make_proof(
        *drilled,
        now,
        restored=restored,
        failure=failure,
        comparison=compared.comparison if compared else None,
        expectations=outcome.as_dict() if outcome else None,
        rto_target=work.cluster.targets.rto,
        as_restored=as_restored,
    )
    return StoredProof(*store_evidence(archive, proof, outcome), drilled[1], archive.store.url)


@task(**settings("prove another tool's backup", 24 * HOUR), **RETRY)
def prove_elsewhere(
    cluster: str,
    origin: OriginKind,
    backup: str | None = None,
    oldest: bool = False,
    config: str | None = None,
) -> StoredProof:
    """Let another tool restore its backup, and recover, compare and record it as one of ours."""
    work = open_work(cluster, config)
    tool = open_origin(work.cluster, origin, account(work.cluster.drill.run_as))
    chosen = choose(tool, backup, oldest=oldest)
    proof, key, fence = prove_foreign(work.config, work.cluster, work.repository, tool, chosen, now)
    return StoredProof(proof, key, fence, work.repository.store.url)


# What says something of the backup rather than of its surroundings: it ends the drill with a verdict
VERDICTS = (RecoveryFailed, Finding)
