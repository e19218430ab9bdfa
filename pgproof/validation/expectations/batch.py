"""A batch is the rows that a suite looks at: a data frame, or a table where it lies, counted there in SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgproof.validation.expectations.suite import Expected


@dataclass(frozen=True)
class Batch:
    """Rows, as Great Expectations finds them.

    Args:
        definition: Great Expectations' own.
        parameters: given when it is run.
        key: columns that name an unexpected row, where the expectations name none.
    """

    definition: Any
    parameters: dict[str, Any] | None = None
    key: tuple[str, ...] = ()


class Batches:
    """Makes the batch of one suite.

    Args:
        context: of Great Expectations.
        name: of the suite.
    """

    def __init__(self, context: Any, name: str) -> None:
        self._context, self._name = context, name

    def frame(self, kind: str, frame: Any) -> Batch:
        """A data frame; that of the comparison has its rows named by table."""
        source = self._context.data_sources.add_or_update_pandas(self._name)
        asset = source.add_dataframe_asset(self._name)
        definition = asset.add_batch_definition_whole_dataframe("restored")
        return Batch(definition, {"dataframe": frame}, ("table",) if kind == "comparison" else ())

    def rows(self, wanted: Expected, dsn: str) -> Batch:
        """All rows of a table or a query, read into memory, as the expectations of pgproof.toml have them."""
        import pandas

        with psycopg.connect(dsn, autocommit=True) as connection:
            query: Any = wanted.query
            if wanted.table is not None:
                query = sql.SQL("SELECT * FROM {}").format(sql.Identifier(*wanted.table.split(".", 1)))
            cursor = connection.execute(query)
            columns = [column.name for column in cursor.description or ()]
            return self.frame("rows", pandas.DataFrame(cursor.fetchall(), columns=columns))

    def inside(self, wanted: Expected, dsn: str) -> Batch:
        """A table of a suite's file, counted in the restored database: it may be larger than memory."""
        if wanted.table is None:
            return self.rows(wanted, dsn)
        from sqlalchemy.engine import URL

        # psycopg's dialect hands every query parameter to libpq
        query = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
        url = URL.create("postgresql+psycopg", query=query).render_as_string(hide_password=False)
        source = self._context.data_sources.add_or_update_sql(
            self._name, connection_string=url, create_temp_table=False
        )
        schema, _, table = wanted.table.rpartition(".")
        asset = source.add_table_asset(self._name, table_name=table, schema_name=schema or None)
        return Batch(asset.add_batch_definition_whole_table("restored"))
