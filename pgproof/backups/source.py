"""The source of a backup: what is asked of a server before its first byte is read."""

from __future__ import annotations

import time

import psycopg

from pgproof.config import ClusterConfig
from pgproof.errors import PrivilegeMissing, ServerNotReady
from pgproof.postgres.facts import ServerFacts, read_archiver
from pgproof.postgres.versions import IN_PLACE_TABLESPACES
from pgproof.repository.repository import Archive
from pgproof.wal.archive import is_archived


def check_tablespaces(connection: psycopg.Connection, facts: ServerFacts) -> None:
    """Refuse a server with a tablespace that BASE_BACKUP would leave out without a word.

    Raises:
        ServerNotReady: one lies in place, as a directory of pg_tblspc.
    """
    if facts.major >= IN_PLACE_TABLESPACES:
        return
    row = connection.execute(
        "SELECT spcname, oid FROM pg_tablespace WHERE pg_tablespace_location(oid) = 'pg_tblspc/' || oid ORDER BY oid"
    ).fetchone()
    if row is not None:
        raise ServerNotReady(
            f'tablespace "{row[0]}" lies in place, and PostgreSQL {facts.major} leaves it out of base backups',
            f"It is the directory pg_tblspc/{row[1]} of the data directory, where others have a link.",
            f"stop the server; in its data directory: mv pg_tblspc/{row[1]} /new/place && ln -s /new/place "
            f"pg_tblspc/{row[1]}",
        )


def check_ready(cluster: ClusterConfig, facts: ServerFacts) -> None:
    """Refuse before the first byte what cannot become a backup.

    Raises:
        PrivilegeMissing: the role may not replicate.
        ServerNotReady: wal_level or archiving stand in the way.
    """
    if not (facts.role.replication or facts.role.superuser):
        raise PrivilegeMissing(
            f'role "{facts.role.name}" of cluster "{cluster.name}" cannot take base backups',
            "It lacks the REPLICATION attribute.",
            f"psql -c 'ALTER ROLE \"{facts.role.name}\" REPLICATION'",
        )
    if facts.settings["wal_level"] == "minimal":
        raise ServerNotReady(
            f'cluster "{cluster.name}" has wal_level = minimal',
            "Such WAL cannot be archived or recovered from.",
            "psql -c \"ALTER SYSTEM SET wal_level = 'replica'\" and restart the server",
        )
    if not facts.archiving and not facts.in_recovery:  # of a standby it is the primary that archives
        raise ServerNotReady(
            f'cluster "{cluster.name}" does not archive WAL',
            f"archive_mode is {facts.settings['archive_mode']}, "
            f'archive_command is "{facts.settings.get("archive_command", "")}".',
            f"pgproof init {cluster.name} shows the settings; without WAL no backup can be restored",
        )


def check_archiving(
    connection: psycopg.Connection, archive: Archive, facts: ServerFacts, timeout: float = 30
) -> None:
    """Refuse a server whose WAL does not arrive in **this** archive.

    The last segment that the archiver reports must be here. When it reports none yet, or one that is not
    here, a segment is switched and must arrive.

    Args:
        connection: to the source.
        archive: that must receive.
        facts: of the source.
        timeout: seconds to wait for a switched segment.

    Raises:
        ServerNotReady: with what the archiver says.
    """
    last = facts.archiver.last_archived
    if not facts.archiver.failing and last is not None and is_archived(archive, last):
        return
    if "pg_switch_wal()" in facts.role.missing_functions:
        if last is None and not facts.archiver.failing:
            return  # nothing was archived ever; the backup's own WAL will tell
        raise _not_here(connection, archive, facts)
    name = switch_segment(connection)
    end = time.monotonic() + timeout
    said = False
    while not is_archived(archive, name):
        if said or time.monotonic() > end:
            raise _not_here(connection, archive, facts)
        # when the archiver says that it is done, one more look is enough
        said = read_archiver(connection).last_archived == name
        if not said:
            time.sleep(0.1)


def switch_segment(connection: psycopg.Connection) -> str:
    """Finish the current segment, which is then archived; its name."""
    connection.execute("SELECT pg_current_xact_id()")  # an idle server would switch nothing
    # named by the server: right after a promotion its control data still tell the old timeline
    row = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
    assert row is not None
    return str(row[0])


def _not_here(connection: psycopg.Connection, archive: Archive, facts: ServerFacts) -> ServerNotReady:
    archiver = read_archiver(connection)
    failed = (
        f"{archiver.last_failed} failed at {archiver.last_failed_at:%F %T}" if archiver.last_failed_at else ""
    )
    said = failed if archiver.failing else f"it last archived {archiver.last_archived or 'nothing'}"
    return ServerNotReady(
        f'WAL of cluster "{archive.layout.cluster}" does not arrive in the repository "{archive.store.url}"',
        f'The archiver says: {said}. archive_command is "{facts.settings.get("archive_command", "")}".',
        "run the archive_command by hand as the server's account, and look in the server's log; "
        "it must be: pgproof --config /path/pgproof.toml wal push %p",
    )
