"""A crash is a session that ended and took the whole server with it: every other one is ended, too, and told so.

Reading a damaged row can do that. Trying again would do it again, so it must not pass for a connection that broke.
"""

from __future__ import annotations

import contextlib
import time

import psycopg

from pgproof.errors import ServerNotReady

_CRASH_SHUTDOWN = "57P02"  # what quickdie tells the sessions that did nothing (manual, appendix A)
_PATIENCE = 3.0  # seconds until the server has told them


class CrashWatch:
    """Listens on the connections of one count, and knows whose table ended the server.

    Args:
        database: that is counted.
        holder: a connection that does nothing else meanwhile.
    """

    def __init__(self, database: str, holder: psycopg.Connection) -> None:
        self._database, self._holder = database, holder
        self._told: set[int] = set()
        self._lost: list[tuple[str, int]] = []
        self.listen(holder)

    def listen(self, connection: psycopg.Connection) -> None:
        """Note when the server tells a connection that another one crashed."""
        connection.add_notice_handler(
            lambda said: self._told.add(id(connection)) if said.sqlstate == _CRASH_SHUTDOWN else None
        )

    def lost(self, table: str, connection: psycopg.Connection) -> None:
        """A connection broke while it read a table.

        Args:
            table: its title.
            connection: that is closed now.
        """
        self._lost.append((table, id(connection)))

    def refuse_crash(self, error: psycopg.Error) -> None:
        """Raise where the server crashed over one of our tables; return where only a connection broke.

        Args:
            error: that came of it.

        Raises:
            ServerNotReady: with the table.
        """
        table = next((table for table, connection in self._lost if connection not in self._told), None)
        if table is None or not self._crashed():
            return
        raise ServerNotReady(
            f'the source crashed while table "{table}" of database "{self._database}" was read',
            "Its session was killed, and the server restarted: a damaged row does that, or want of memory.",
            f'the source\'s log names the signal; drill.exclude_tables = ["{self._database}.{table}"] leaves the '
            "table out; docs/runbooks/backup-fails.md, step 4",
        ) from error

    def _crashed(self) -> bool:
        end = time.monotonic() + _PATIENCE
        with contextlib.suppress(psycopg.Error):
            while time.monotonic() < end:
                self._holder.execute("SELECT 1")
                time.sleep(0.05)
        return id(self._holder) in self._told
