"""A damaged page is one that the server found while it read the files of a backup; here it gets its relation's name.

BASE_BACKUP tells file and block. Whose file that is only the database knows, by ``pg_relation_filepath``.
"""

from __future__ import annotations

import contextlib
import re

import psycopg

from pgproof.config import ClusterConfig
from pgproof.errors import BackupFailed, PgproofError
from pgproof.postgres.connection import connect

# Of a relation's first file: fork and number of the segment are not part of what the database calls it
_FILE = re.compile(
    r"(?P<path>global/\d+|base/(?P<database>\d+)/\d+|pg_tblspc/\d+/[^/\s]+/(?P<other>\d+)/\d+)"
    r'(?:_(?P<fork>fsm|vm|init))?(?:\.\d+)?"?'  # the name comes after its closing quote
)


def with_names(cluster: ClusterConfig, error: BackupFailed) -> BackupFailed:
    """The error with the name of the relation after each file that it tells of.

    Args:
        cluster: whose server is asked; where it does not answer, the error stays as it is.
        error: of BASE_BACKUP, in whichever language.
    """
    files = {match[0]: match for match in _FILE.finditer(error.detail)}
    names = {}
    for file, match in files.items():
        with contextlib.suppress(PgproofError, psycopg.Error):
            if name := _name(cluster, match):
                names[file] = name
    detail = _FILE.sub(lambda match: names.get(match[0], match[0]), error.detail)
    return BackupFailed(error.fact, detail, error.hint)


def _name(cluster: ClusterConfig, match: re.Match[str]) -> str:
    """The file and whose it is, to be put in its place; empty when nobody knows."""
    database = None
    if oid := match["database"] or match["other"]:
        with connect(cluster) as connection:
            row = connection.execute("SELECT datname FROM pg_database WHERE oid = %s", (oid,)).fetchone()
        if row is None:
            return ""
        database = str(row[0])
    with connect(cluster, database) as connection:
        connection.execute("SELECT set_config('search_path', 'pg_catalog', false)")
        row = connection.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE pg_relation_filepath(oid) = %s", (match["path"],)
        ).fetchone()
    if row is None:
        return ""
    fork = f", {match['fork']} fork" if match["fork"] else ""
    return f"{match[0]} ({row[0]}{fork}{f' of database {database}' if database else ''})"
