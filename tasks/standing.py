"""A cluster's standing in its repository: how old the newest backup and proof are, and how full the repository."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from prefect import task

from pgproof.backups.age import BackupAge, backup_age
from pgproof.backups.catalog import read_catalog
from pgproof.backups.state import ProofAge, proof_age
from pgproof.repository.usage import Usage, measure_usage
from pgproof.wording import duration, size
from tasks.events import Event, words
from tasks.proof_events import age_events
from tasks.retries import RETRY, settings
from tasks.work import now, open_work

OVERDUE = "pgproof.backup.overdue"  # there is no backup, or the newest one is older than backup_age
RECENT = "pgproof.backup.recent"  # the newest backup is younger, whoever took it
ABOVE = "pgproof.storage.above"  # the repository is fuller than one of its limits
BELOW = "pgproof.storage.below"  # it is not


@dataclass(frozen=True, slots=True)
class Standing:
    """What the repository itself says, whoever wrote it.

    Args:
        age: of the newest backup.
        usage: of the repository.
        proof: age of the newest proof.
    """

    age: BackupAge
    usage: Usage
    proof: ProofAge


@task(**settings("look at backups and storage", 3600), **RETRY)
def look_at_standing(cluster: str, config: str | None = None) -> Standing:
    """How old the newest backup and proof are, and how full the repository: noticed also when nothing else runs."""
    work = open_work(cluster, config)
    catalog = read_catalog(work.archive)
    at = now()
    age = backup_age(catalog, work.cluster.targets.backup_age, at)
    usage = measure_usage(work.config.repository_of(work.cluster), work.repository.store)
    return Standing(age, usage, proof_age(catalog, at, work.cluster.drill.stale_after))


def standing_events(cluster: str, standing: Standing) -> list[Event]:
    """One event of the newest backup, one of the newest proof, and one of the storage where it has a limit."""
    storage = [_storage(cluster, standing.usage)] if standing.usage.known else []
    return [_age(cluster, standing.age), *age_events(cluster, standing.proof), *storage]


def _age(cluster: str, age: BackupAge) -> Event:
    values = {
        "backup": age.label,
        "stopped_at": age.stopped_at.isoformat() if age.stopped_at else None,
        "age_seconds": age.seconds,
        "limit_seconds": age.limit,
    }
    if age.seconds is None:
        what = f"cluster {cluster} has no backup"
        meaning = "nothing can be recovered, whatever WAL is archived"
    elif age.overdue:
        what = f"the newest backup of cluster {cluster} is {duration(age.seconds)} old"
        meaning = (
            f"a recovery replays all WAL since then, and every hour makes it longer; the limit is "
            f"{duration(age.limit)}"
        )
    else:
        what = f"cluster {cluster} has a recent backup, {age.label}"
        meaning = f"it is {duration(age.seconds)} old; the limit is {duration(age.limit)}"
    command = f"pgproof backup {cluster}" if age.overdue else f"pgproof list {cluster}"
    return Event(OVERDUE if age.overdue else RECENT, {**words(what, meaning, command), **values})


def _storage(cluster: str, usage: Usage) -> Event:
    measured = []
    if usage.used_percent is not None and usage.used_limit:
        measured.append(
            f"{usage.used_percent:.0f} % of its file system is used, the limit is {usage.used_limit:g} %"
        )
    if usage.stored is not None and usage.size_limit:
        measured.append(f"{size(usage.stored)} are stored, the limit is {size(usage.size_limit)}")
    values = {key: value for key, value in asdict(usage).items() if key != "url"}
    values |= {"repository": usage.url, "used_percent": usage.used_percent}
    if usage.above:
        what = f"the repository of cluster {cluster} fills up: {'; '.join(measured)}"
        meaning = "when it is full no WAL is archived: every new commit is on the source alone, whose disk fills next"
        return Event(ABOVE, {**words(what, meaning, f"pgproof expire {cluster} --dry-run"), **values})
    what = f"the repository of cluster {cluster} has room: {'; '.join(measured)}"
    return Event(
        BELOW, {**words(what, "WAL and backups have a place to go", f"pgproof list {cluster}"), **values}
    )
