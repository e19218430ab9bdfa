"""``drill --from``: prove a backup that another tool took, with the WAL that it archived."""

from __future__ import annotations

from pgproof.commands.backups import now
from pgproof.commands.console import Session, counted, size
from pgproof.commands.drill import Say, show
from pgproof.config import ClusterConfig
from pgproof.errors import Finding, RecoveryFailed
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerFacts, read_facts
from pgproof.postgres.programs import account
from pgproof.repository.repository import Archive, check_system
from pgproof.validation.comparison import Comparison
from pgproof.validation.drill import Restored, make_proof
from pgproof.validation.evidence import store_evidence
from pgproof.validation.expectations import ExpectationOutcome
from pgproof.validation.fence import Fence, write_fence
from pgproof.validation.fencing import take_fence
from pgproof.validation.foreign import ForeignCopy, ForeignWal, fetch_foreign_wal, restore_foreign, unfenced
from pgproof.validation.judgement import judge
from pgproof.validation.object_recount import bring_objects
from pgproof.validation.origins.choice import open_origin
from pgproof.validation.origins.origin import ForeignBackup, Origin, choose
from pgproof.validation.proof import Proof


def drill(session: Session, name: str, kind: str, label: str | None, oldest: bool) -> int:
    """Prove another tool's backup, and show the proof."""
    cluster = session.cluster(name)
    origin = open_origin(cluster, kind, account(cluster.drill.run_as))
    backup = choose(origin, label, oldest=oldest)
    say: Say = (lambda text: None) if session.json else (lambda text: session.console.print(f"  {text}"))
    if not session.json:
        session.console.print(f"drill of backup {backup.label} of {origin.title}", markup=False)
    proof, key = run_foreign_drill(session, cluster, origin, backup, say)
    session.show({**proof.as_dict(), "key": key}, lambda console: show(console, proof, key))
    return 0 if proof.proven else 1


def run_foreign_drill(
    session: Session, cluster: ClusterConfig, origin: Origin, backup: ForeignBackup, say: Say
) -> tuple[Proof, str]:
    """All steps of the drill; whatever comes of it is recorded in the cluster's own repository.

    Raises:
        TransientError, ToolFailed and others: what says nothing of the backup.
    """
    with connect(cluster) as connection:
        facts = read_facts(connection)
    check_system(cluster.system_identifier, facts.system_identifier, f'server of cluster "{cluster.name}"')
    archive = session.repository(cluster).archive(cluster.name, facts.system_identifier)
    named = {"kind": origin.kind, "title": origin.title, "version": origin.version()}
    steps = _Steps(session, cluster, origin, archive, facts, say)
    failure: Exception | None = None
    try:
        steps.run(backup)
    except (RecoveryFailed, Finding) as error:
        failure = error
    finally:
        steps.clean()
    proof = make_proof(
        archive,
        steps.fence or unfenced(cluster, facts, now),
        backup.label,
        now,
        restored=steps.restored,
        comparison=steps.comparison,
        failure=failure,
        expectations=steps.outcome.as_dict() if steps.outcome else None,
        origin=named,
        rto_target=cluster.targets.rto,
    )
    return store_evidence(archive, proof, steps.outcome)


class _Steps:
    """The steps of one drill, with what they gather."""

    def __init__(
        self,
        session: Session,
        cluster: ClusterConfig,
        origin: Origin,
        archive: Archive,
        facts: ServerFacts,
        say: Say,
    ) -> None:
        self._session, self._cluster, self._origin = session, cluster, origin
        self._archive, self._facts, self._say = archive, facts, say
        self._copy: ForeignCopy | None = None
        self.fence: Fence | None = None
        self.restored: Restored | None = None
        self.comparison: Comparison | None = None
        self.outcome: ExpectationOutcome | None = None

    def run(self, backup: ForeignBackup) -> None:
        cluster = self._cluster
        copy = self._copy = restore_foreign(cluster, self._origin, backup, self._facts, now)
        self._say(f"restored {size(copy.size)} into {copy.scratch.root}")
        wal = ForeignWal(
            self._origin, copy.scratch.data, self._facts.system_identifier, account(cluster.drill.run_as)
        )
        fence = self.fence = take_fence(cluster, lambda system: self._archive, now, wal)
        write_fence(self._archive, fence)
        self._say(
            f"fenced the source: {counted(len(fence.databases), 'database')}, {fence.rows} rows counted, cut "
            f"at LSN {fence.cut}"
        )
        restored = self.restored = fetch_foreign_wal(cluster, self._origin, copy, fence)
        bring_objects(self._archive, fence, copy.scratch)
        self._say(
            f"fetched {counted(restored.wal[2], 'WAL segment')} from the archive of {self._origin.title}"
        )
        judgement = judge(self._session.config, cluster, fence, restored)
        self.comparison, self.outcome = judgement.comparison, judgement.outcome
        self._say(f"recovered to the cut and compared: {self.comparison.summary()}")
        if self.outcome is not None:
            self._say(f"Great Expectations: {self.outcome.summary}")

    def clean(self) -> None:
        """Remove the scratch copy."""
        if self._copy is not None:
            self._copy.scratch.remove()
