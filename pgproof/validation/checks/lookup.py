"""A lookup asks an index for a row by the row's own key: a sound index answers with the row.

Here is what an index can be asked, from the catalog, and the SQL that asks it. No kind of index is known here: of the
search operators of its operator class, one is taken with which a value finds itself (``pg_amop``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import psycopg
from psycopg import sql

from pgproof.validation.checks.elsewhere import DOUBTS, SORTED_OTHERWISE

# Operators with which a value finds itself, the one that finds the fewest others first. A value with which it is not
# so, such as an empty range with &&, is left out: each is tried on the row before the index is asked.
_OPERATORS = ("=", "~=", "@>", "<@", "&&", "@@", "%")
_MOST_WORDS = 200  # of one tsvector, that it is asked by
# Key columns of every index that amcheck cannot compare with its table. The names that pg_get_indexdef and
# pg_get_expr give have their schema, as the session searches only pg_catalog.
_KEYS = f"""
SELECT i.indexrelid::bigint, i.indrelid::bigint, c.oid::regclass::text, c.relname::text, a.amname::text,
       n.nspname::text, t.relname::text, coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'),
       i.indisvalid AND i.indisready AND i.indislive, m.amname = 'heap', t.reltuples::float8,
       substr(pg_get_indexdef(i.indexrelid),
              strpos(pg_get_indexdef(i.indexrelid), quote_ident(c.relname)) + length(quote_ident(c.relname))),
       coalesce(pg_index_has_property(i.indexrelid, 'index_scan')
                AND pg_index_column_has_property(i.indexrelid, 1, 'search_nulls'), false),
       coalesce(pg_index_column_has_property(i.indexrelid, 1, 'search_nulls'), false),
       coalesce(pg_index_column_has_property(i.indexrelid, 1, 'returnable'), false) AND i.indkey[0] <> 0,
       coalesce((SELECT option_value FROM pg_options_to_table(c.reloptions)
                  WHERE option_name = 'pages_per_range'), '128')::int,
       {DOUBTS},
       pg_get_indexdef(i.indexrelid, k.number::int, false),
       CASE WHEN p.typtype <> 'p' THEN format('%I.%I', p_n.nspname, p.typname) END, p.typcategory <> 'S',
       CASE WHEN l.oid IS NOT NULL THEN format('%I.%I', l_n.nspname, l.collname) END,
       o.operator, coalesce(o.of_words, false), coalesce(minmax.is, false),
       {SORTED_OTHERWISE} AND NOT (a.amname = 'hash' AND l.collisdeterministic)
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
  JOIN pg_class t ON t.oid = i.indrelid JOIN pg_am m ON m.oid = t.relam
  JOIN pg_namespace n ON n.oid = t.relnamespace
 CROSS JOIN LATERAL (SELECT number, (i.indclass::oid[])[number - 1], (i.indcollation::oid[])[number - 1]
                       FROM generate_series(1, i.indnkeyatts) AS number) AS k(number, class, coll)
  JOIN pg_opclass s ON s.oid = k.class
  LEFT JOIN pg_collation l ON l.oid = k.coll LEFT JOIN pg_namespace l_n ON l_n.oid = l.collnamespace
  LEFT JOIN LATERAL (
       SELECT format('OPERATOR(%I.%s)', q_n.nspname, q.oprname) AS operator,
              f.amoplefttype AS type, f.amoplefttype <> f.amoprighttype AS of_words
         FROM pg_amop f JOIN pg_operator q ON q.oid = f.amopopr JOIN pg_namespace q_n ON q_n.oid = q.oprnamespace
        WHERE f.amopfamily = s.opcfamily AND f.amoppurpose = 's' AND q.oprresult = 'bool'::regtype
          AND q.oprname = ANY (ARRAY{list(_OPERATORS)})
          AND (f.amoplefttype = s.opcintype OR EXISTS (
               SELECT FROM pg_cast WHERE castsource = s.opcintype AND casttarget = f.amoplefttype AND castmethod = 'b'))
          AND (f.amoprighttype = f.amoplefttype
               OR f.amoplefttype = 'tsvector'::regtype AND f.amoprighttype = 'tsquery'::regtype AND q.oprname = '@@')
        ORDER BY array_position(ARRAY{list(_OPERATORS)}, q.oprname::text), f.amoplefttype <> s.opcintype
        LIMIT 1) o ON true
  JOIN pg_type p ON p.oid = coalesce(o.type, s.opcintype) JOIN pg_namespace p_n ON p_n.oid = p.typnamespace
  LEFT JOIN LATERAL (
       SELECT true AS is FROM pg_amproc r WHERE r.amprocfamily = s.opcfamily AND r.amprocnum = 1
          AND r.amproclefttype = s.opcintype AND r.amproc = 'brin_minmax_opcinfo'::regproc) minmax ON true
 WHERE c.relkind = 'i' AND c.relpersistence <> 't' AND a.amname <> 'btree'
 ORDER BY t.relpages DESC, i.indrelid, i.indexrelid, k.number
"""

# Of the sessions that ask. The table is read once; whatever else reads it must go through the index.
_TAKEN = sql.Identifier("pgproof taken")
_ASKED = sql.Identifier("pgproof asked")
READ = {"enable_seqscan": "on", "enable_indexscan": "off", "enable_bitmapscan": "off"}
ASK = {"enable_seqscan": "off", "enable_indexscan": "on", "enable_bitmapscan": "on"}
LIST = {"enable_seqscan": "off", "enable_indexscan": "on", "enable_bitmapscan": "off"}
KEPT = LIST | {"enable_indexonlyscan": "on"}


@dataclass(frozen=True, slots=True)
class Key:
    """One key column of an index, with the operator that it is asked with; without, it cannot be asked.

    Args:
        expression: the column's name, or an expression.
        type: that the operator is for; None for a polymorphic one.
        numbers: whether it is no text, so that NaN in it means that.
        collation: of the index.
        operator: with its schema.
        of_words: whether its right side is a tsquery, of a tsvector's words.
        minmax: whether a BRIN index keeps its least and greatest value.
    """

    expression: str
    type: str | None
    numbers: bool
    collation: str | None
    operator: str | None
    of_words: bool
    minmax: bool

    @property
    def value(self) -> sql.Composable:
        """The value of a row, as the operator takes it."""
        cast = f"::{self.type}" if self.type else ""
        collate = f" COLLATE {self.collation}" if self.collation else ""
        return _text(f"(({self.expression}){cast}{collate})")

    def asked(self, value: sql.Composable) -> sql.Composed:
        """The condition that a value finds itself by.

        Args:
            value: the right side.
        """
        if self.of_words:
            value = sql.SQL(
                r"""(SELECT string_agg('''' || replace(replace(word, '\', '\\'), '''', '''''') || '''', ' & ')
                       FROM (SELECT word FROM unnest(tsvector_to_array({})) AS word
                              ORDER BY hashtext(word) LIMIT {}) AS words)::tsquery"""
            ).format(value, sql.Literal(_MOST_WORDS))
        return sql.SQL("{} {} {}").format(self.value, _text(self.operator or ""), value)


@dataclass(frozen=True, slots=True)
class Index:
    """An index that is asked for the rows of its table.

    Args:
        table: its oid.
        title: as shown.
        name: without schema.
        kind: its access method.
        schema: of the table.
        relation: the table's name.
        predicate: of a partial index; else ``true``.
        usable: whether it is valid.
        heap: whether the table's access method is heap.
        rows: that PostgreSQL thinks the table has.
        definition: CREATE INDEX, from its ON on.
        listed: whether it can give row after row, without a bitmap.
        nulls: whether it can be asked for NULL.
        returns: whether it can give the value of its first column itself.
        pages: of a range of a BRIN index.
        doubts: functions and text search configurations that it depends on, and may answer otherwise here.
        foreign_order: whether this machine sorts otherwise than the source.
    """

    oid: int
    table: int
    title: str
    name: str
    kind: str
    schema: str
    relation: str
    predicate: str
    usable: bool
    heap: bool
    rows: float
    definition: str
    listed: bool
    nulls: bool
    returns: bool
    pages: int
    doubts: str
    foreign_order: bool
    keys: tuple[Key, ...]

    @property
    def refusal(self) -> str:
        """Why it is not asked; empty when it is."""
        if not self.usable:
            return "an index that is invalid, in the source as well"
        if not self.heap:
            return "an index of a table that is no heap"
        if self.foreign_order:
            return f"a {self.kind} index of text, and this machine sorts text by another version of its collation"
        if not any(key.operator for key in self.keys):
            return f"a {self.kind} index: no operator of its class finds a value by itself"
        return ""

    @property
    def extremes(self) -> bool:
        """Whether it keeps of every range of blocks the least and the greatest value, and nothing between."""
        return all(key.minmax for key in self.keys)


def list_indexes(connection: psycopg.Connection) -> list[Index]:
    """Every index of another kind than b-tree, those of one table together, of the largest table first.

    Args:
        connection: that searches no schema but pg_catalog.
    """
    rows = connection.execute(_KEYS.encode()).fetchall()
    indexes = []
    for _, group in groupby(rows, key=lambda row: row[0]):
        columns = list(group)
        keys = tuple(Key(*row[17:24]) for row in columns)
        foreign_order = any(row[24] for row in columns)
        indexes.append(Index(*(*columns[0][:17], foreign_order, keys)))
    return indexes


def take(index: Index, per_cent: float) -> sql.Composed:
    """Read the rows of the table with their keys, into a table of the session.

    Rows with the same key are asked for once. ``pattern`` has a letter for each key column: k is asked by value, n
    by IS NULL, and - is not asked, nor is x, a value that does not find itself. Numbers follow a hash, so that the
    first ones are a sample of all.

    Args:
        index: whose keys.
        per_cent: of the table's blocks.
    """
    names = [sql.Identifier(f"key {n}") for n in range(len(index.keys))]
    values = [
        sql.SQL("{} AS {}").format(key.value, name) for key, name in zip(index.keys, names, strict=True)
    ]
    letters = [
        sql.SQL("CASE WHEN {name} IS NULL THEN {null} {else_} END").format(
            name=name,
            null=sql.Literal("n" if index.nulls else "-"),
            else_=_itself(key, name),
        )
        for key, name in zip(index.keys, names, strict=True)
    ]
    return sql.SQL(
        """CREATE TEMP TABLE {taken} AS
           SELECT t.*, dense_rank() OVER (PARTITION BY pattern ORDER BY hash) AS number,
                  row_number() OVER (PARTITION BY pattern, hash) = 1 AS asks
             FROM (SELECT v.*, concat({letters}) AS pattern,
                          hashtextextended(ROW({names})::text COLLATE "C", 0) AS hash
                     FROM ({rows}) AS v) AS t
            WHERE pattern ~ '[knx]'"""
    ).format(
        taken=_TAKEN,
        letters=sql.SQL(", ").join(letters),
        names=sql.SQL(", ").join(names),
        rows=_of_ranges(index, names, values, per_cent) if index.extremes else _rows(index, values, per_cent),
    )


def take_index() -> sql.Composed:
    """What makes the numbers of ``take`` quick to find."""
    return sql.SQL("CREATE INDEX {} ON {} (pattern, number)").format(
        sql.Identifier("pgproof numbers"), _TAKEN
    )


def taken() -> sql.Composed:
    """Patterns that were taken, with the numbers and rows of each."""
    return sql.SQL("SELECT pattern, max(number), count(*) FROM {} GROUP BY 1 ORDER BY 1").format(_TAKEN)


def ask(index: Index, pattern: str) -> sql.Composed:
    """Ask for the rows whose numbers are from $1 to $2: each that the index does not give, or gives and should not.

    Args:
        index: the only one of its table that is valid now.
        pattern: of the rows.
    """
    conditions = []
    for n, (key, letter) in enumerate(zip(index.keys, pattern, strict=True)):
        if letter == "k":
            conditions.append(key.asked(sql.SQL("{}.{}").format(_ASKED, sql.Identifier(f"key {n}"))))
        elif letter == "n":
            conditions.append(sql.SQL("{} IS NULL").format(key.value))
    return sql.SQL(
        """WITH found AS MATERIALIZED (
                SELECT f.at, f.fits
                  FROM (SELECT * FROM {taken}
                         WHERE asks AND pattern = {pattern} AND number BETWEEN $1 AND $2 ORDER BY at) AS {asked}
                 CROSS JOIN LATERAL (
                       SELECT ctid AS at, ({wanted} AND {predicate}) IS TRUE AS fits
                         FROM ONLY {table} WHERE {wanted} AND {predicate} OFFSET 0) AS f)
           SELECT at::text, 'missing' FROM {taken} AS t
            WHERE pattern = {pattern} AND number BETWEEN $1 AND $2
              AND NOT EXISTS (SELECT FROM found WHERE found.at = t.at)
            UNION SELECT at::text, 'wrong' FROM found WHERE NOT fits"""
    ).format(
        taken=_TAKEN,
        asked=_ASKED,
        wanted=sql.SQL(" AND ").join(conditions),
        predicate=_text(f"({index.predicate})"),
        table=sql.Identifier(index.schema, index.relation),
        pattern=sql.Literal(pattern),
    )


def listed_twice(index: Index) -> sql.Composed:
    """Read the index from end to end, where it can give row after row: rows that it has more than one entry of."""
    return sql.SQL(
        """SELECT at::text, 'twice' FROM (SELECT ctid AS at FROM ONLY {} WHERE {} IS NOT NULL AND {} OFFSET 0) AS f
            GROUP BY at HAVING count(*) > 1 ORDER BY at"""
    ).format(
        sql.Identifier(index.schema, index.relation),
        index.keys[0].value,
        _text(f"({index.predicate})"),
    )


def kept_otherwise(index: Index) -> sql.Composed:
    """Read the values that the index keeps, and compare them with those of the rows that were taken."""
    hashed = sql.SQL('hashtextextended(ROW({})::text COLLATE "C", 0)')
    name = sql.Identifier("key 0")
    return sql.SQL(
        """WITH kept AS MATERIALIZED (
                SELECT {} AS hash, count(*) AS rows FROM ONLY {} WHERE {} IS NOT NULL AND {} GROUP BY 1)
           SELECT min(at)::text, 'otherwise'
             FROM (SELECT {} AS hash, count(*) AS rows, min(at) AS at FROM {} WHERE {} IS NOT NULL GROUP BY 1) AS held
             LEFT JOIN kept USING (hash) WHERE held.rows IS DISTINCT FROM kept.rows GROUP BY hash ORDER BY 1"""
    ).format(
        hashed.format(index.keys[0].value),
        sql.Identifier(index.schema, index.relation),
        index.keys[0].value,
        _text(f"({index.predicate})"),
        hashed.format(name),
        _TAKEN,
        name,
    )


def has_nan(index: Index) -> sql.Composed:
    """Whether a key of the table has a number that is none."""
    keys = [key.value for key in index.keys if key.numbers and index.kind not in ("hash", "gin")]
    return sql.SQL("SELECT EXISTS (SELECT FROM ONLY {} WHERE ROW({})::text LIKE '%NaN%' AND {})").format(
        sql.Identifier(index.schema, index.relation),
        sql.SQL(", ").join(keys),
        _text(f"({index.predicate})"),
    )


def _itself(key: Key, name: sql.Identifier) -> sql.Composable:
    """The letter of a value that was read: k when it finds itself."""
    if key.operator is None:
        return sql.SQL("ELSE '-'")
    read = Key(name.as_string(), None, key.numbers, key.collation, key.operator, key.of_words, key.minmax)
    return sql.SQL("WHEN ({}) IS TRUE THEN 'k' ELSE 'x'").format(read.asked(name))


def _rows(index: Index, values: Sequence[sql.Composable], per_cent: float) -> sql.Composed:
    return sql.SQL("SELECT ctid AS at, {} FROM ONLY {} {} WHERE {} OFFSET 0").format(
        sql.SQL(", ").join(values),
        sql.Identifier(index.schema, index.relation),
        sql.SQL("TABLESAMPLE SYSTEM ({}) REPEATABLE (7)").format(sql.Literal(per_cent))
        if per_cent < 100
        else sql.SQL(""),
        _text(f"({index.predicate})"),
    )


def _of_ranges(
    index: Index, names: Sequence[sql.Identifier], values: Sequence[sql.Composable], per_cent: float
) -> sql.Composed:
    """Of each range of blocks a row with the least, the greatest and no value: what is between is covered by them."""
    ranks, chosen = [], []
    for n, (key, name) in enumerate(zip(index.keys, names, strict=True)):
        collate = _text(f" COLLATE {key.collation}" if key.collation else "")
        for order in ("ASC", "DESC"):
            rank = sql.Identifier(f"{order} {n}")
            chosen.append(sql.SQL("{} = 1").format(rank))
            ranks.append(
                sql.SQL(
                    "row_number() OVER (PARTITION BY range, {0} IS NULL ORDER BY {0}{1} {2}) AS {3}"
                ).format(name, collate, _text(order), rank)
            )
    return sql.SQL(
        """SELECT at, {names} FROM (
                  SELECT r.*, {ranks} FROM (
                         SELECT b.*, (at::text::point)[0]::bigint / {pages} AS range FROM ({rows}) AS b) AS r) AS o
            WHERE {chosen}"""
    ).format(
        names=sql.SQL(", ").join(names),
        ranks=sql.SQL(", ").join(ranks),
        pages=sql.Literal(index.pages),
        rows=_rows(index, values, per_cent),
        chosen=sql.SQL(" OR ").join(chosen),
    )


def _text(text: str) -> sql.SQL:
    """SQL that the server wrote, such as the expression of an index."""
    return sql.SQL(text)
