"""The needs of a start: what a restored cluster takes from the repository and from this machine to come up.

A plan is made from names: which backup, which WAL, which directories. All that a start needs besides is asked here, in
one place, for the dry run as for the restore, before the first write.

| need | who asks |
|---|---|
| every object of the backup and of those that it builds on | here |
| the key of an encrypted repository, for backup and WAL | here |
| the history file of the timeline | the plan, which falls back; the backup stores it; ``wal check``, ``doctor`` |
| all WAL from the backup to the target | the plan; ``wal check`` |
| room for files | the plan; for the WAL that recovery keeps in ``pg_wal``: here |
| the programs of the major version, and pg_combinebackup for a chain | here; ``doctor`` |
| the locales of the source, and the C library that sorted its text | here; the backup stores them |
| the account of the server, which reads configuration, repository and key to fetch WAL | here; ``init`` |
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pgproof.backups.locales import Locale, library_version, missing_here, sorted_otherwise
from pgproof.backups.verify import check_present
from pgproof.config import ClusterConfig, Config
from pgproof.errors import ObjectDamaged, ObjectMissing, ProgramMissing
from pgproof.postgres.programs import account, can_use, find_bin_directory
from pgproof.repository.repository import Archive
from pgproof.restore.destination import existing
from pgproof.restore.plan import RestorePlan
from pgproof.wal.archive import find_key
from pgproof.wording import size

_KEPT_WAL = 1 << 30  # bytes that recovery keeps in pg_wal until a restartpoint: max_wal_size by default


def ask_needs(config: Config, cluster: ClusterConfig, archive: Archive, plan: RestorePlan) -> tuple[str, ...]:
    """Ask for everything that a start needs.

    Args:
        config: that the restored server reads, to fetch WAL.
        cluster: of the plan.
        archive: to restore from.
        plan: of the restore; nothing is written yet.

    Returns:
        warnings: what somebody has to see to before the start.

    Raises:
        ObjectMissing: an object of the backup is gone.
        ConfigError: the key is missing or is another; the account does not exist.
        ObjectDamaged: an encrypted object does not begin as one.
        ProgramMissing: a chain cannot be combined here.
    """
    for record in plan.chain:
        check_present(archive, record)
    _check_key(archive, plan)
    directory = programs_for(plan, cluster)
    owner = account(cluster.drill.run_as)
    return (
        *([] if directory else [_no_programs(plan.record.major)]),
        *other_locales(plan.record.locales),
        *closed_to(config, cluster, owner),
        *little_room(plan),
    )


def programs_for(plan: RestorePlan, cluster: ClusterConfig) -> Path | None:
    """The directory of the server programs; None where there are none, and the files alone can be put back.

    Raises:
        ProgramMissing: a chain of backups cannot be combined without them.
    """
    try:
        directory = find_bin_directory(plan.record.major, cluster.bin_directory)
    except ProgramMissing:
        if len(plan.chain) > 1:
            raise
        return None
    if len(plan.chain) > 1 and not os.access(directory / "pg_combinebackup", os.X_OK):
        raise ProgramMissing(
            f'pg_combinebackup is not in "{directory}"',
            f"Backup {plan.record.label} builds on others, which it combines.",
            f"apt-get install postgresql-{plan.record.major}, or --backup with a full one",
        )
    return directory


def _check_key(archive: Archive, plan: RestorePlan) -> None:
    """Decrypt the beginning of an object of every backup, and of the first and the last WAL segment.

    Keys may have been changed in between, so that one object says nothing of the others.
    """
    for key in (*_one_of_each(plan), *_ends_of_wal(archive, plan)):
        if key.endswith(".age"):
            try:
                next(archive.open(key), b"")
            except ObjectDamaged as error:  # a key that is wrong is told as what it is
                raise ObjectDamaged(f'object "{key}" is damaged', f"{error}", error.hint) from error


def _one_of_each(plan: RestorePlan) -> Iterator[str]:
    for record in plan.chain:
        yield record.manifest.key
        yield from (volume.object.key for volume in record.volumes[:1])


def _ends_of_wal(archive: Archive, plan: RestorePlan) -> Iterator[str]:
    for segment in {plan.segments[0], plan.segments[-1]}:
        try:
            yield find_key(archive, segment.name)
        except ObjectMissing:
            continue  # received so far, and not archived


def _no_programs(major: int) -> str:
    return (
        f"PostgreSQL {major} is not installed here: the files can be put back, and started where it is "
        f"(apt-get install postgresql-{major})"
    )


def other_locales(locales: tuple[Locale, ...]) -> list[str]:
    """Warnings about locales that this machine lacks, or whose text it sorts in another way."""
    found = [
        f'locale "{name}" of the source is not installed here: no database that has it can be opened, and a server '
        f"with such a setting does not start (locale-gen {name})"
        for name in missing_here(locales)
    ]
    if version := sorted_otherwise(locales):
        found.append(
            f"the source sorted text with C library {version}, this machine has {library_version()}: where they "
            "differ, indexes over text find less than there is until REINDEX"
        )
    return found


def closed_to(config: Config, cluster: ClusterConfig, owner: pwd.struct_passwd | None) -> list[str]:
    """What the server's account cannot use of what its restore_command reads."""
    repository = config.repository_of(cluster)
    url = urlsplit(repository.url)
    places = [("-r", str(config.path))] + ([("-x", unquote(url.path))] if url.scheme == "file" else [])
    if repository.age_identity and repository.age_identity.startswith("file:"):
        places.append(("-r", repository.age_identity.removeprefix("file:")))
    if owner is None:  # the server runs as we do, and we have read all of it
        return []
    return [
        f'account "{owner.pw_name}" of the server cannot use {place}, which its restore_command needs'
        for flag, place in places
        if not can_use(owner, flag, place)
    ]


def little_room(plan: RestorePlan) -> list[str]:
    """A warning where files and WAL do not fit: recovery keeps what it fetched in pg_wal until a restartpoint."""
    wal = min(sum(segment.size for segment in plan.segments), _KEPT_WAL)
    state = os.statvfs(existing(plan.request.destination))
    left = state.f_bavail * state.f_frsize - plan.room
    if left >= wal:
        return []
    return [
        f"{size(max(0, left))} will be free beside the files, and recovery keeps up to {size(wal)} of WAL there"
    ]
