"""Sessions of the copy answer as those of the source did, where the SQL is not ours.

The source's settings that change answers are given with each connection, so that no setting of the reading role
stands before them. One that this machine refuses, such as a locale or a time zone that it has not, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgproof.postgres.connection import open_session, with_database
from pgproof.postgres.faults import said_by
from pgproof.validation.fences.fence import NotChecked
from pgproof.validation.replay import as_users_connect

REFUSED = "settings of the source that this machine refuses"


@dataclass(frozen=True, slots=True)
class Sessions:
    """Connection strings of one database in the copy.

    Args:
        ours: for our own SQL.
        users: for SQL that a user wrote; psycopg reads times in ISO alone.
        indexes: for what evaluates the expressions of indexes; it finds names in pg_catalog alone.
        refused: name of a setting to its value, and why this machine does not take it.
    """

    ours: str
    users: str
    indexes: str
    refused: Mapping[str, str] = field(default_factory=dict)

    def not_checked(self, database: str) -> tuple[NotChecked, ...]:
        """What the refused settings mean, as one line."""
        if not self.refused:
            return ()
        named = "; ".join(f"{name} = {reason}" for name, reason in sorted(self.refused.items()))
        return (NotChecked(database, REFUSED, f"{named}; a function that reads one answers otherwise here"),)


def sessions_of(dsn: str, database: str, settings: Mapping[str, str]) -> Sessions:
    """The sessions of a database.

    Args:
        dsn: of the copy, with our own options.
        database: its name, in any encoding.
        settings: of the source, by name.
    """
    ours = with_database(dsn, database)
    refused = _refused(ours, settings)
    taken = {name: value for name, value in settings.items() if name not in refused}
    path = {"search_path": taken.pop("search_path")} if "search_path" in taken else {}
    readable = {name: value for name, value in taken.items() if name != "IntervalStyle"}
    if "DateStyle" in taken:  # its order decides how a date is read, and stays
        readable["DateStyle"] = f"ISO,{taken['DateStyle'].rpartition(',')[2]}"
    users, indexes = _with(as_users_connect(dsn), readable | path), _with(dsn, taken)
    return Sessions(ours, with_database(users, database), with_database(indexes, database), refused)


def _refused(dsn: str, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings that the copy does not take; none where it does not answer, which others tell."""
    found = {}
    try:
        with open_session(dsn) as connection:
            for name, value in settings.items():
                try:
                    connection.execute("SELECT set_config(%s, %s, true)", (name, value))
                except psycopg.DatabaseError as error:
                    if connection.closed:
                        raise
                    found[name] = f"{value}: {said_by(error)}"
    except psycopg.Error:
        return {}
    return found


def _with(dsn: str, settings: Mapping[str, str]) -> str:
    """A connection string with more settings among its options; the last one of a name counts."""
    options = str(conninfo_to_dict(dsn).get("options") or "")
    more = " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())
    return make_conninfo(dsn, options=f"{options} {more}".strip())


def _escaped(value: str) -> str:
    """A value within libpq's options, where white space ends it (``pg_split_opts``)."""
    return "".join(f"\\{char}" if char.isspace() or char == "\\" else char for char in value)
