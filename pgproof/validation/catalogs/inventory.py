"""An inventory is the reading of a database's objects: on the source under the fence, in the copy at the cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import psycopg
from psycopg import sql

from pgproof.postgres.connection import undone
from pgproof.postgres.faults import said_by, tells_of_damage
from pgproof.validation.catalogs.identities import DEFINITIONS
from pgproof.validation.catalogs.objects import CatalogContent, CatalogRow
from pgproof.validation.catalogs.system_catalogs import SystemCatalog, list_catalogs, read_rows
from pgproof.validation.fences.fence import DAMAGED, NotChecked

# of one catalog: the session of the source keeps every relation that it has looked at in its memory
_MOST_DEFINED = 10_000
_DEFINED_AT_ONCE = 100  # a view's definition locks what it reads until the savepoint ends

# Of those that an index may depend on; PostgreSQL's pinned ones have no version
_COLLATIONS = """
SELECT '(the database)', pg_database_collation_actual_version(oid)
  FROM pg_catalog.pg_database WHERE datname = current_database()
 UNION ALL
SELECT format('%I.%I', n.nspname, c.collname), pg_collation_actual_version(c.oid)
  FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
 WHERE c.collversion IS NOT NULL
   AND EXISTS (SELECT FROM pg_catalog.pg_depend d
                WHERE d.refclassid = 'pg_catalog.pg_collation'::regclass AND d.refobjid = c.oid)"""


class SourceInventory:
    """Reads the catalogs of one fenced database.

    Args:
        database: its name.
        holder: the connection whose open transaction is the fence.
        shared: whether to read the cluster's catalogs too.
    """

    def __init__(self, database: str, holder: psycopg.Connection, shared: bool) -> None:
        self._database, self._holder, self._shared = database, holder, shared
        self.not_checked: list[NotChecked] = []

    def read(self) -> Iterator[CatalogContent]:
        """Every catalog under the snapshot, one by one; ``not_checked`` gains those that cannot be read.

        Raises:
            psycopg.Error: the connection broke.
        """
        with undone(self._holder):
            listed = list_catalogs(self._holder)
        for catalog in listed:
            if catalog.shared and not self._shared:
                continue
            if catalog.refused:
                reason = (
                    f"permission denied for {', '.join(catalog.refused)}; GRANT pg_read_all_data reads it"
                )
                self.not_checked.append(NotChecked(self._database, f"catalog {catalog.name}", reason))
            if not catalog.columns or not set(catalog.key) <= {name for name, _ in catalog.columns}:
                continue
            try:
                with undone(self._holder):
                    rows, rest, rest_hash = read_rows(self._holder, catalog)
            except (psycopg.Error, UnicodeDecodeError) as error:
                if self._holder.closed:
                    raise
                self.not_checked.append(NotChecked(self._database, f"catalog {catalog.name}", _why(error)))
                continue
            kept = {key: CatalogRow(identity, values) for key, identity, values in rows}
            yield CatalogContent(catalog, self._defined(catalog, kept), rest, rest_hash)

    def _defined(self, catalog: SystemCatalog, rows: dict[str, CatalogRow]) -> dict[str, CatalogRow]:
        """The rows with their definitions, as far as they can be had without waiting."""
        if catalog.name not in DEFINITIONS:
            return rows
        found: dict[str, str] = {}
        keys = list(rows)[:_MOST_DEFINED]
        for start in range(0, len(keys), _DEFINED_AT_ONCE):
            found |= definitions(self._holder, catalog, keys[start : start + _DEFINED_AT_ONCE])
        return {key: replace(row, definition=found.get(key, "")) for key, row in rows.items()}


def definitions(
    connection: psycopg.Connection, catalog: SystemCatalog, keys: Sequence[str]
) -> dict[str, str]:
    """How some rows of a catalog read in SQL; nothing when that fails or would wait for a lock.

    Args:
        connection: in a transaction.
        catalog: whose key is one OID.
        keys: of the rows.
    """
    query = sql.SQL("SELECT {0}::text, {1} FROM {2} WHERE {0} = ANY(%s::text[]::oid[])").format(
        sql.Identifier("c", catalog.key[0]), sql.SQL(DEFINITIONS[catalog.name]), catalog.table
    )
    try:
        with undone(connection):
            connection.execute("SELECT set_config('lock_timeout', '100ms', true)")
            rows = connection.execute(query, (list(keys),)).fetchall()
    except (psycopg.Error, UnicodeDecodeError):
        if connection.closed:
            raise
        return {}
    return {key: text or "" for key, text in rows}


def collation_versions(connection: psycopg.Connection) -> dict[str, str]:
    """The versions that this server's machine has of the collations in use; those without one are left out."""
    rows = connection.execute(_COLLATIONS).fetchall()
    return {name: version for name, version in rows if version is not None}


def _why(error: psycopg.Error | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it holds text that is not UTF-8, in a database with encoding SQL_ASCII"
    return f"{DAMAGED if tells_of_damage(error) else ''}{said_by(error)}"
