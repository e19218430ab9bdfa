"""Unreadable is what a transaction that had not ended where recovery pauses keeps everybody from reading.

A standby takes the source's AccessExclusiveLock, of a DROP, TRUNCATE or ALTER TABLE, and gives it back when it replays
the end of the transaction (manual, "Handling Query Conflicts"). So a recovery that stops right before the commit of a
DROP TABLE has the table, and a SELECT on it waits without an end. DROP DATABASE marks its database as invalid outside
its transaction (``dropdb``). Ending recovery ends the transaction, and gives the tables back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from pgproof.postgres.lock_file import RunningServer
from pgproof.postgres.names import in_bytes, name_of, shown
from pgproof.restore.restored import RestoredCluster
from pgproof.restore.standing import open_as_superuser

# pastes as it is; the old limit is gone
OPEN_AGAIN = "SELECT pg_promote(); UPDATE pg_database SET datconnlimit = -1 WHERE datconnlimit = -2;"
_SHOWN = 5
_LOCKS = f"""
SELECT {in_bytes("d.datname")}, array_agg(l.relation::bigint)
  FROM pg_locks l JOIN pg_stat_activity a USING (pid) JOIN pg_database d ON d.oid = l.database
 WHERE a.backend_type = 'startup' AND l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted
 GROUP BY d.datname ORDER BY d.datname
"""
_INVALID = f"SELECT {in_bytes('datname')} FROM pg_database WHERE datconnlimit = -2 ORDER BY datname"
# one that the transaction itself made is not seen yet, and missed by nobody
_TABLES = f"""
SELECT {in_bytes("n.nspname")}, {in_bytes("c.relname")} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY(%s) AND c.relkind IN ('r', 'p', 'm', 'v', 'f', 'S') AND n.nspname <> 'pg_toast' ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What nobody can read.

    Args:
        locked: tables, as database.schema.table; the database alone where that does not tell.
        invalid: databases whose DROP DATABASE had begun.
    """

    locked: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()

    def warnings(self) -> list[str]:
        """What a person who looks at the cluster has to know, and the way out."""
        found = []
        if self.locked:
            found.append(
                f"reading {_listed(self.locked)} waits: a transaction that had not committed at the target has locked "
                "it, such as a DROP TABLE. SELECT pg_promote(); ends that transaction, and the rows are there"
            )
        if self.invalid:
            found.append(
                f"database {_listed(self.invalid)} takes no connections: a DROP DATABASE of it had begun. Where "
                f"recovery stopped before that removed its files, this opens it again: {OPEN_AGAIN}"
            )
        return found


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return shown(", ".join(names[:_SHOWN]) + more)


def find_unreadable(restored: RestoredCluster, server: RunningServer) -> Unreadable:
    """Ask a paused server what nobody can read.

    Args:
        restored: the cluster.
        server: that runs in it.

    Raises:
        psycopg.Error: it does not answer.
    """
    with open_as_superuser(server.dsn, restored.roles, restored.record.major) as connection:
        rows: list[Any] = connection.execute(_LOCKS.encode()).fetchall()
        invalid = tuple(name_of(name) for (name,) in connection.execute(_INVALID.encode()).fetchall())
        user = connection.info.user
    found: list[str] = []
    for name, relations in rows:
        database = name_of(name)
        options = "-c lock_timeout=2s"
        try:
            with psycopg.connect(
                server.dsn, user=user, dbname=database, options=options, connect_timeout=5
            ) as connection:
                tables = connection.execute(_TABLES.encode(), (relations,)).fetchall()
        except psycopg.Error:  # it is closed, or its catalogs are locked themselves
            found.append(f"database {database}")
            continue
        found += [f"{database}.{name_of(schema)}.{name_of(table)}" for schema, table in tables]
    return Unreadable(tuple(found), invalid)
