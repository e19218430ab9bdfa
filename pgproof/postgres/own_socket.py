"""The socket of a server that we started: no variable of the environment leads a connection elsewhere.

libpq takes from the variables ``PG*`` and from a service file whatever a connection string does not say. One that names
a socket and no address goes to ``PGHOSTADDR``: production would be asked, and opened, instead of a restored cluster.
"""

from __future__ import annotations

from pathlib import Path

# What libpq would look for elsewhere, each with the value that changes nothing on a Unix socket
_SAID = {
    "hostaddr": "",
    "options": "",
    "target_session_attrs": "any",
    "load_balance_hosts": "disable",
    "require_auth": "",
    "requirepeer": "",
    "channel_binding": "disable",
    "gssencmode": "disable",
    "sslmode": "disable",
    "sslnegotiation": "postgres",
    "sslcertmode": "allow",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
}


def socket_dsn(directory: str | Path, port: int) -> str:
    """How to connect to a server of ours, without role and database.

    Args:
        directory: of its socket.
        port: in the socket's name.
    """
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    known = {
        option.keyword.decode() for option in pq.Conninfo.get_defaults()
    }  # an older libpq has not all of them
    said = {name: value for name, value in _SAID.items() if name in known}
    return make_conninfo(host=str(directory), port=port, **said)


def for_programs(dsn: str) -> str:
    """The same for a program of PostgreSQL: its libpq may be older than ours and refuses words that it does not know.

    It starts without any variable ``PG*`` (``programs.environment``), so that it needs none of them.

    Args:
        dsn: of a server of ours.
    """
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    kept = {name: value for name, value in conninfo_to_dict(dsn).items() if _SAID.get(name) != value}
    return make_conninfo("", **kept)
