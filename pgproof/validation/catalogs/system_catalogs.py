"""A system catalog is a table of PostgreSQL's own; its rows say everything of a database but what its tables hold.

A copy that was recovered from files has the same rows in them, byte by byte and with the same OIDs. So the rows
themselves are compared, as they are under the snapshot of the fence. ``pg_get_*def`` and ``pg_dump`` read the newest
catalog besides, whatever the snapshot is (decision 9).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import sql

from pgproof.validation.catalogs.identities import IDENTITIES

FIRST_NORMAL_OID = 16384  # FirstNormalObjectId of access/transam.h: what is below is PostgreSQL's own

# Not read at all: what ANALYZE found out, and the bytes of large objects, which are compared as rows
_LEFT_OUT = ("pg_statistic", "pg_statistic_ext_data", "pg_largeobject")
# Read as count and hash only: no row of them has a name, or there may be millions
_SUMMED = ("pg_depend", "pg_shdepend", "pg_init_privs", "pg_largeobject_metadata")
# A password never leaves the server, not even as a hash
_SECRET = {
    "pg_authid": ("rolpassword",),
    "pg_subscription": ("subconninfo",),
    "pg_user_mapping": ("umoptions",),
}
# Changed in place by heap_inplace_update, by VACUUM, ANALYZE, CREATE INDEX and logins, so under no snapshot
_IN_PLACE = {
    "pg_class": (
        *("relpages", "reltuples", "relallvisible", "relallfrozen", "relfrozenxid", "relminmxid"),
        *("relhasindex", "relhasrules", "relhastriggers"),
    ),
    "pg_database": ("datfrozenxid", "datminmxid", "dathasloginevt"),
    # the values that rows from before an ALTER TABLE have: they are compared with the rows
    "pg_attribute": ("attmissingval", "attcacheoff"),
}
# Few enough to be kept one by one, although most of them are PostgreSQL's own
_FEW = ("pg_extension", "pg_language", "pg_namespace")
_READ_FROM = {"pg_authid": "pg_roles"}  # a view without the passwords; the same names of columns

_LIST = """
SELECT c.relname::text, c.relisshared, keys.names,
       array_agg(a.attname::text ORDER BY a.attnum), array_agg(t.typname::text ORDER BY a.attnum),
       array_agg(c.relname = 'pg_authid' OR has_column_privilege(c.oid, a.attnum, 'SELECT') ORDER BY a.attnum)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 CROSS JOIN LATERAL (
       SELECT coalesce(array_agg(k.attname::text ORDER BY part.number), '{}') AS names
         FROM pg_catalog.pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY part(attnum, number)
         JOIN pg_catalog.pg_attribute k ON k.attrelid = c.oid AND k.attnum = part.attnum
        WHERE i.indrelid = c.oid AND i.indisprimary) keys
 WHERE c.relkind = 'r' AND c.relnamespace = 11 AND c.oid < 16384
 GROUP BY 1, 2, 3 ORDER BY 1"""

# Names rather than OIDs, from the catalog under the snapshot: the output of aclitem asks the newest one
_PRIVILEGES = """CASE WHEN {column} IS NULL THEN NULL ELSE (
  SELECT coalesce(string_agg(line, ', ' ORDER BY line COLLATE "C"), '')
    FROM (SELECT concat(CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE coalesce(g.rolname::text, x.grantee::text) END, '=',
                        x.privilege_type, CASE WHEN x.is_grantable THEN '*' END, '/',
                        coalesce(o.rolname::text, x.grantor::text)) AS line
            FROM aclexplode({column}) x LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
            LEFT JOIN pg_catalog.pg_roles o ON o.oid = x.grantor) lines) END"""
_OWNER = (
    """coalesce((SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.oid = {column}), {column}::text)"""
)
_FORMS = {
    "text": "{column}::text",
    "oid": "{column}::oid::text",  # a reg type prints the name that its object has now
    "oids": "{column}::oid[]::text",
    "privileges": _PRIVILEGES,
    "owner": _OWNER,
    "tree": 'hashtextextended({column}::text COLLATE "C", 0)::text',
}


@dataclass(frozen=True, slots=True)
class SystemCatalog:
    """One catalog, and how its rows are read: the same way on both sides.

    Args:
        name: such as ``pg_proc``.
        shared: one for the whole cluster.
        key: its primary key; empty when it has none.
        columns: name and form of each column that is compared.
        refused: columns that the role may not read; without any column the catalog cannot be read at all.
    """

    name: str
    shared: bool
    key: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    refused: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``asdict`` copies each part of each column."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def summed(self) -> bool:
        return self.name in _SUMMED or not self.key

    @property
    def named(self) -> sql.Composable:
        """Which rows are kept one by one: of users' objects, and of PostgreSQL's own with privileges."""
        if self.summed:
            return sql.SQL("false")
        if self.shared or self.name in _FEW:
            return sql.SQL("true")
        users = sql.SQL("{}::oid >= {}").format(_column(self.key[0]), sql.Literal(FIRST_NORMAL_OID))
        if self.name == "pg_attribute":  # ctid, xmin and the like are the same in every table
            users = sql.SQL("({} AND c.attnum > 0)").format(users)
        parts = [users]
        parts += [
            sql.SQL("{} IS NOT NULL").format(_column(n)) for n, form in self.columns if form == "privileges"
        ]
        return sql.SQL(" OR ").join(parts)

    @property
    def values(self) -> sql.Composable:
        """The row as one text, from which each column can be read again."""
        return sql.SQL("json_build_array({})::text").format(self._columns)

    @property
    def _columns(self) -> sql.Composable:
        return sql.SQL(", ").join(
            sql.SQL(_FORMS[form]).format(column=_column(name)) for name, form in self.columns
        )

    @property
    def table(self) -> sql.Composable:
        return sql.SQL("{} c").format(sql.Identifier("pg_catalog", _READ_FROM.get(self.name, self.name)))

    def rows_query(self) -> sql.Composed:
        """Key, identity and values of every named row."""
        key: sql.Composable = sql.SQL(", ").join(
            sql.SQL(_FORMS["text"]).format(column=_column(name)) for name in self.key
        )
        if self.name == "pg_aggregate":
            key = sql.SQL("c.aggfnoid::oid::text")
        return sql.SQL("SELECT concat_ws('/', {}), {}, {} FROM {} WHERE {}").format(
            key, sql.SQL(IDENTITIES.get(self.name, "NULL")), self.values, self.table, self.named
        )

    def sum_query(self) -> sql.Composed:
        """Count and hash of all other rows; a row's own text takes the server half the time of JSON."""
        return sql.SQL(
            'SELECT count(*), coalesce(sum(hashtextextended(ROW({})::text COLLATE "C", 0)::numeric), 0)::text '
            "FROM {} WHERE NOT ({})"
        ).format(self._columns, self.table, self.named)


def _column(name: str) -> sql.Identifier:
    return sql.Identifier("c", name)


@lru_cache(maxsize=512)  # asked on both sides of every drill; composing them takes longer than asking
def _queries(catalog: SystemCatalog) -> tuple[bytes, bytes]:
    rows = b"" if catalog.summed else catalog.rows_query().as_bytes()
    return rows, catalog.sum_query().as_bytes()


def list_catalogs(connection: psycopg.Connection) -> list[SystemCatalog]:
    """Every catalog of this version, with the columns that are compared."""
    found = []
    for name, shared, key, columns, types, readable in connection.execute(_LIST).fetchall():
        if name in _LEFT_OUT:
            continue
        hidden = {*_SECRET.get(name, ()), *_IN_PLACE.get(name, ())}
        parts = [part for part in zip(columns, types, readable, strict=True) if part[0] not in hidden]
        kept = tuple((column, _form(column, kind)) for column, kind, may in parts if may)
        refused = tuple(column for column, _, may in parts if not may)
        found.append(SystemCatalog(name, shared, tuple(key), kept, refused))
    return found


def _form(column: str, kind: str) -> str:
    if kind == "_aclitem":
        return "privileges"
    if kind == "pg_node_tree":
        return "tree"
    if kind.startswith("reg"):
        return "oid"
    if kind.startswith("_reg"):
        return "oids"
    owner = kind == "oid" and (column.endswith("owner") or column == "datdba")
    return "owner" if owner else "text"


def read_rows(
    connection: psycopg.Connection, catalog: SystemCatalog
) -> tuple[list[tuple[str, str, str]], int, str]:
    """The named rows of a catalog, then count and hash of the others, under the connection's snapshot."""
    named, others = _queries(catalog)
    rows = []
    if named:
        rows = [(key, title or key, values) for key, title, values in connection.execute(named).fetchall()]
    rest: Any = connection.execute(others).fetchone()
    return rows, rest[0], rest[1]
