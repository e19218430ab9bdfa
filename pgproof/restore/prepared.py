"""A prepared transaction of a restored cluster waits for its second phase: nobody ends it but a person.

Until then it holds its locks, and VACUUM removes nothing that is newer. In recovery PostgreSQL does not show it
(``pg_prepared_xact`` leaves out what is not valid yet), so that only an open server can be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from pgproof.postgres.names import in_bytes, name_of, shown
from pgproof.wording import duration

# the age in rows is that of its transaction: pg_class.relfrozenxid cannot pass it
_ALL = f"""
SELECT {in_bytes("gid")}, {in_bytes("owner")}, {in_bytes("database")},
       to_char(prepared AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
       extract(epoch FROM now() - prepared)::float8, age(transaction)
  FROM pg_prepared_xacts ORDER BY prepared, gid
"""


@dataclass(frozen=True, slots=True)
class PreparedTransaction:
    """One that was prepared, and neither committed nor rolled back.

    Args:
        gid: its name.
        owner: role that prepared it.
        database: that it is of.
        since: when it was prepared, by the source's clock, in UTC.
        seconds: that this is ago.
        age: transactions that have begun since.
    """

    gid: str
    owner: str
    database: str
    since: str
    seconds: float
    age: int

    def __str__(self) -> str:
        return shown(
            f'prepared transaction "{self.gid}" of role "{self.owner}" in database "{self.database}", prepared '
            f"{self.since}+0000, {duration(max(0, self.seconds))} and {self.age:,} transactions ago, holds its locks "
            "and keeps VACUUM from removing rows until it is ended"
        )

    @property
    def hint(self) -> str:
        """What ends it."""
        gid = self.gid.replace("'", "''")
        return shown(
            f"in database \"{self.database}\", as whoever knows says: COMMIT PREPARED '{gid}'; or "
            f"ROLLBACK PREPARED '{gid}';"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "gid": shown(self.gid),
            "owner": shown(self.owner),
            "database": shown(self.database),
            "since": f"{self.since}+0000",
            "age_seconds": self.seconds,
            "age_transactions": self.age,
            "hint": self.hint,
        }


def find_prepared(connection: psycopg.Connection[Any]) -> tuple[PreparedTransaction, ...]:
    """The prepared transactions of a server, the oldest first; none where it is in recovery.

    Args:
        connection: as a superuser.
    """
    rows = connection.execute(_ALL.encode()).fetchall()
    return tuple(
        PreparedTransaction(name_of(gid), name_of(owner), name_of(database), *rest)
        for gid, owner, database, *rest in rows
    )
