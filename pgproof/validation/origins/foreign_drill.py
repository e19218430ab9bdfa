"""A foreign drill proves a backup that another tool took, with the WAL that it archived: all steps in one.

The tool restores its own backup; the proof lies in the cluster's repository here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pgproof.config import ClusterConfig, Config
from pgproof.errors import Finding, RecoveryFailed
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.postgres.programs import account
from pgproof.repository.repository import Archive, Repository, check_system
from pgproof.validation.catalogs.object_recount import bring_objects
from pgproof.validation.comparison import Comparison
from pgproof.validation.drill import Restored, make_proof
from pgproof.validation.evidence import store_evidence
from pgproof.validation.expectations.judgement import judge
from pgproof.validation.expectations.suites import ExpectationOutcome
from pgproof.validation.fences.fence import Fence, write_fence
from pgproof.validation.fences.fencing import take_fence
from pgproof.validation.origins.foreign import (
    ForeignCopy,
    ForeignWal,
    fetch_foreign_wal,
    restore_foreign,
    unfenced,
)
from pgproof.validation.origins.origin import ForeignBackup, Origin
from pgproof.validation.proof import Proof

Clock = Callable[[], datetime]
Say = Callable[[str], None]


def prove_foreign(
    config: Config,
    cluster: ClusterConfig,
    repository: Repository,
    origin: Origin,
    backup: ForeignBackup,
    clock: Clock,
    say: Say = lambda text: None,
) -> tuple[Proof, str, Fence]:
    """Prove another tool's backup; whatever comes of it is recorded in the cluster's own repository.

    Args:
        config: where the suite and the Data Docs lie.
        cluster: of the backup.
        repository: the cluster's own.
        origin: the tool.
        backup: of the tool.
        clock: the time, aware.
        say: told of each step.

    Returns:
        the proof, its key, and the fence.

    Raises:
        TransientError, ToolFailed and others: what says nothing of the backup.
    """
    with connect(cluster) as connection:
        facts = read_facts(connection)
    check_system(cluster.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"')
    archive = repository.archive(cluster.name, facts.system_identifier)
    named = {"kind": origin.kind, "title": origin.title, "version": origin.version()}
    steps = _Steps(config, cluster, origin, archive, facts, clock, say)
    failure: Exception | None = None
    try:
        steps.run(backup)
    except (RecoveryFailed, Finding) as error:
        failure = error
    finally:
        steps.clean()
    fence = steps.fence or unfenced(cluster, facts, clock)
    proof = make_proof(
        archive,
        fence,
        backup.label,
        clock,
        restored=steps.restored,
        comparison=steps.comparison,
        failure=failure,
        expectations=steps.outcome.as_dict() if steps.outcome else None,
        origin=named,
        rto_target=cluster.targets.rto,
    )
    proof, key = store_evidence(archive, proof, steps.outcome)
    return proof, key, fence


class _Steps:
    """The steps of one drill, with what they gather."""

    def __init__(
        self,
        config: Config,
        cluster: ClusterConfig,
        origin: Origin,
        archive: Archive,
        facts: ServerFacts,
        clock: Clock,
        say: Say,
    ) -> None:
        self._config, self._cluster, self._origin = config, cluster, origin
        self._archive, self._facts, self._clock, self._say = archive, facts, clock, say
        self._copy: ForeignCopy | None = None
        self.fence: Fence | None = None
        self.restored: Restored | None = None
        self.comparison: Comparison | None = None
        self.outcome: ExpectationOutcome | None = None

    def run(self, backup: ForeignBackup) -> None:
        cluster = self._cluster
        copy = self._copy = restore_foreign(cluster, self._origin, backup, self._facts, self._clock)
        self._say(f"restored {copy.size:,} bytes into {copy.scratch.root}")
        wal = ForeignWal(
            self._origin, copy.scratch.data, self._facts.system_identifier, account(cluster.drill.run_as)
        )
        fence = self.fence = take_fence(cluster, lambda system: self._archive, self._clock, wal)
        write_fence(self._archive, fence)
        self._say(
            f"fenced the source: databases: {len(fence.databases)}, {fence.rows} rows counted, cut "
            f"at LSN {fence.cut}"
        )
        restored = self.restored = fetch_foreign_wal(cluster, self._origin, copy, fence)
        bring_objects(self._archive, fence, copy.scratch)
        self._say(f"fetched WAL from the archive of {self._origin.title}, segments: {restored.wal[2]}")
        judgement = judge(self._config, cluster, fence, restored)
        self.comparison, self.outcome = judgement.comparison, judgement.outcome
        self._say(f"recovered to the cut and compared: {self.comparison.summary()}")
        if self.outcome is not None:
            self._say(f"Great Expectations: {self.outcome.summary}")

    def clean(self) -> None:
        """Remove the scratch copy."""
        if self._copy is not None:
            self._copy.scratch.remove()
