"""The estimate of a base backup: about how many bytes there are to read, for whoever shows how far it is."""

from __future__ import annotations

import psycopg

from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import read_facts


def estimated_size(cluster: ClusterConfig, *, incremental: bool) -> int | None:
    """Bytes that a full backup reads; None when nobody tells, as of an incremental one."""
    if incremental:
        return None
    try:
        with connect(cluster) as connection:
            return read_facts(connection).database_size or None
    except (PgproofError, psycopg.Error):  # the backup says what is wrong
        return None
