"""An old system is what an archive keeps of a system identifier that the cluster has no more: initdb, pg_upgrade.

No policy looks at it, and nothing newer can prove it unnecessary: a person decides, and names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pgproof.backups.catalog import read_catalog
from pgproof.config import ClusterConfig
from pgproof.errors import ApprovalMissing, PermanentError, PgproofError, UsageError
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import read_facts
from pgproof.repository.lease import Lease
from pgproof.repository.repository import Archive
from pgproof.repository.store import ObjectInfo
from pgproof.restore.running import read_running
from pgproof.wording import counted, size


@dataclass(frozen=True, slots=True)
class OldSystem:
    """What there is of one.

    Args:
        identifier: of the system.
        backups: labels, oldest first.
        newest: end of the newest backup; None without one.
        needed: why backups must not go, such as a hold; empty when nothing keeps them.
        objects: all that would go but the lease, in the order of removal.
    """

    identifier: int
    backups: tuple[str, ...]
    newest: datetime | None
    needed: tuple[str, ...]
    objects: tuple[ObjectInfo, ...]

    @property
    def stored_size(self) -> int:
        return sum(info.size for info in self.objects)

    def __str__(self) -> str:
        newest = f", the newest of {self.newest:%F}" if self.newest else ""
        return f"{counted(len(self.backups), 'backup')}{newest}, {size(self.stored_size)} stored"


def old_systems(cluster: ClusterConfig, archive: Archive) -> tuple[int, ...]:
    """The other system identifiers that have objects under the cluster's name."""
    systems = archive.repository.system_identifiers(cluster.name)
    return tuple(system for system in systems if system != archive.system_identifier)


def old_system_notes(cluster: str, systems: Iterable[int]) -> list[str]:
    """What whoever lists backups should know of old systems.

    Args:
        cluster: its name.
        systems: of ``old_systems``.
    """
    return [
        f"note: system identifier {system} has objects under this name, too, and they never expire by themselves; "
        f"pgproof expire {cluster} --old-system {system} --dry-run"
        for system in systems
    ]


def look_at_old(archive: Archive, now: datetime) -> OldSystem:
    """What there is of a system.

    Args:
        archive: of it.
        now: aware, for holds and running restores.

    Raises:
        ObjectDamaged: a record cannot be read; nothing goes by guess.
    """
    catalog, layout = read_catalog(archive), archive.layout
    needed = [f"{e.label} is held: {e.hold.reason}" for e in catalog.entries if e.hold and e.hold.active(now)]
    needed += [
        f"{running.backup} is restored into {running.destination}"
        for running in read_running(archive)
        if running.active(now)
    ]
    infos = [info for info in archive.store.list(f"{layout.root}/") if info.key != layout.lease]
    records = [layout.backup_record(entry.label) for entry in reversed(catalog.entries)]  # children first
    place = {key: number for number, key in enumerate(records)}
    infos.sort(
        key=lambda one: (place.get(one.key, len(place)), not one.key.startswith(layout.backups), one.key)
    )
    newest = max((entry.record.stopped_at for entry in catalog.entries), default=None)
    return OldSystem(
        archive.system_identifier,
        tuple(entry.label for entry in catalog.entries),
        newest,
        tuple(needed),
        tuple(infos),
    )


def remove_old(
    cluster: ClusterConfig, current: Archive, archive: Archive, now: datetime, lease: Lease
) -> OldSystem:
    """Remove all of an old system: backup records first, then their data, then the rest.

    Args:
        cluster: its name is in errors.
        current: the archive of the system that the cluster has.
        archive: of the old system.
        now: aware.
        lease: of the old system's archive, held.

    Raises:
        UsageError: it is the one that the cluster has.
        PermanentError: something is held, or is being restored.
        LeaseHeld: the lease was lost.
    """
    if archive.system_identifier in (current.system_identifier, _of_source(cluster)):
        raise UsageError(
            f'{archive.system_identifier} is the system identifier that cluster "{cluster.name}" has',
            hint=f"pgproof expire {cluster.name}",
        )
    found = look_at_old(archive, now)
    if found.needed:
        raise PermanentError(
            f'cannot remove system identifier {found.identifier} of cluster "{cluster.name}"',
            f"{'; '.join(found.needed)}. Nothing was removed.",
        )
    for number, info in enumerate(found.objects):
        if number % 64 == 0:
            lease.check()
        archive.store.delete(info.key)
    return found


def _of_source(cluster: ClusterConfig) -> int | None:
    """The system identifier of the source, whatever is configured; None when it does not answer."""
    try:
        with connect(cluster) as connection:
            return read_facts(connection).system_identifier
    except PgproofError:
        return None


def refuse_unagreed(cluster: str, found: OldSystem, *, agreed: bool) -> None:
    """What no policy removes needs somebody's yes.

    Raises:
        ApprovalMissing: nobody agreed.
    """
    if not agreed:
        raise ApprovalMissing(
            f'cannot remove system identifier {found.identifier} of cluster "{cluster}" without an approval',
            f"It has {found}. Nothing was removed.",
            f"pgproof expire {cluster} --old-system {found.identifier} --yes",
        )
