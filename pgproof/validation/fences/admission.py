"""Admission is whether a database lets a drill in. One that does not is named and left out; the others are proven.

What stands in the way is asked of the server itself and not read from an error's text, which is in its language.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import psycopg

from pgproof.config import DRILL_CONNECTIONS, DrillConfig
from pgproof.postgres.grants import identifier
from pgproof.postgres.names import in_bytes, name_of
from pgproof.validation.checks.check import EVERY_DATABASE
from pgproof.validation.fences.fence import WHOLE_DATABASE, NotChecked

_INVALID = -2  # DATCONNLIMIT_INVALID_DB
_ANY = 1 << 30
_STATE = f"""
SELECT {in_bytes("datname")}, datallowconn, datconnlimit, has_database_privilege(d.oid, 'connect'),
       (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND a.pid <> pg_backend_pid())
  FROM pg_database d WHERE datname NOT IN ('template0', 'template1') ORDER BY datname"""

_CATALOGS = """
SELECT relname FROM pg_catalog.pg_class
 WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND has_table_privilege(oid, 'select')
   AND relname NOT IN ('pg_statistic', 'pg_statistic_ext_data', 'pg_largeobject') ORDER BY relname"""


@dataclass(frozen=True, slots=True)
class _State:
    """One database, as the server sees it for our role."""

    allows: bool
    limit: int
    may: bool
    sessions: int


class Admission:
    """Which databases of a source let a drill in.

    Args:
        drill: settings.
        control: a connection that is open all the time.
        role: that connects.
        superuser: whether it is one; connection limits do not hold for it.
    """

    def __init__(
        self, drill: DrillConfig, control: psycopg.Connection, role: str, *, superuser: bool
    ) -> None:
        self._drill, self._control, self._role, self._superuser = drill, control, role, superuser
        self._states = self._look()

    def left_out(self) -> list[NotChecked]:
        """The databases that are left out from the start, and names in ``exclude_databases`` that there are not."""
        found = [(name, self._reason(name)) for name in self._states]
        unknown = [
            NotChecked(
                EVERY_DATABASE, f'"{name}" of drill.exclude_databases', "no such database: correct the name"
            )
            for name in self._drill.exclude_databases
            if name not in self._states
        ]
        return [*(NotChecked(name, WHOLE_DATABASE, reason) for name, reason in found if reason), *unknown]

    def refused(self, name: str) -> NotChecked | None:
        """Why a database could not be opened just now; None where the fault is not the database's.

        Args:
            name: of a database that was listed.
        """
        self._states = self._look()
        reason = self._reason(name) if name in self._states else "it was dropped meanwhile"
        return NotChecked(name, WHOLE_DATABASE, reason) if reason else None

    def room(self, names: Collection[str]) -> int:
        """How many connections each of some databases lets us have."""
        return min((self._room(self._states[name]) for name in names if name in self._states), default=_ANY)

    def _look(self) -> dict[str, _State]:
        return {
            name_of(row[0]): _State(*row[1:]) for row in self._control.execute(_STATE.encode()).fetchall()
        }

    def _room(self, state: _State) -> int:
        if state.limit < 0 or self._superuser:
            return _ANY
        return max(0, state.limit - state.sessions)

    def _reason(self, name: str) -> str:
        state = self._states[name]
        if name in self._drill.exclude_databases:
            return "excluded by drill.exclude_databases"
        if state.limit == _INVALID:
            return "invalid: its DROP DATABASE was interrupted"
        if not state.allows:
            return "it allows no connections"
        if not state.may:
            grant = f"GRANT CONNECT ON DATABASE {identifier(name)} TO {identifier(self._role)}"
            return f'role "{self._role}" may not connect to it: {grant}'
        if self._room(state) < DRILL_CONNECTIONS:
            left = f"leaves {self._room(state)} of the {DRILL_CONNECTIONS} connections that a drill needs"
            return f"its CONNECTION LIMIT of {state.limit} {left}"
        return ""


def undecodable(connection: psycopg.Connection) -> str:
    """Why the catalogs of a database cannot be read as UTF-8; empty when they can.

    A database in SQL_ASCII takes any bytes for names, comments and definitions, and sends none to a session in UTF-8
    that are no UTF-8. The others convert, or hold what they say.

    Args:
        connection: to the database, outside a transaction.
    """
    if connection.info.parameter_status("server_encoding") != "SQL_ASCII":
        return ""
    for (catalog,) in connection.execute(_CATALOGS).fetchall():
        query = f"SELECT count(pg_catalog.convert_from({in_bytes('t')}, 'UTF8')) FROM pg_catalog.{catalog} t"
        try:
            connection.execute(query.encode())
        except psycopg.errors.CharacterNotInRepertoire:
            return f"it is in SQL_ASCII, and {catalog} holds a name or text that is not UTF-8"
    return ""
