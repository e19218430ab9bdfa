"""``drill --from``: prove a backup that another tool took, with the WAL that it archived."""

from __future__ import annotations

from pgproof.commands.backups import now
from pgproof.commands.console import Session
from pgproof.commands.drill import Say, show
from pgproof.postgres.programs import account
from pgproof.validation.origins.choice import open_origin
from pgproof.validation.origins.foreign_drill import prove_foreign
from pgproof.validation.origins.origin import choose


def drill(session: Session, name: str, kind: str, label: str | None, oldest: bool) -> int:
    """Prove another tool's backup, and show the proof."""
    cluster = session.cluster(name)
    origin = open_origin(cluster, kind, account(cluster.drill.run_as))
    backup = choose(origin, label, oldest=oldest)
    say: Say = (lambda text: None) if session.json else (lambda text: session.console.print(f"  {text}"))
    if not session.json:
        session.console.print(f"drill of backup {backup.label} of {origin.title}")
    repository = session.repository(cluster)
    proof, key, _ = prove_foreign(session.config, cluster, repository, origin, backup, now, say)
    session.show({**proof.as_dict(), "key": key}, lambda console: show(console, proof, key))
    return 0 if proof.proven else 1
