"""The database of a local Prefect: a PostgreSQL of its own, in the state directory, that ends with `pgproof up`.

On SQLite Prefect answers some requests with 503, because one writer waits for another and gives up: a run ordered in
the UI now and then. It is used only where no PostgreSQL is installed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg

from pgproof.errors import ProgramMissing
from pgproof.held import temporary_directory
from pgproof.postgres.programs import account, find_bin_directory, run
from pgproof.postgres.server import LocalServer, initialise

URL = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_MAJORS = (18, 17, 16, 15)
_ROLE = "postgres"
# Prefect asks for three times five connections a process
_SETTINGS = {"listen_addresses": "", "max_connections": "60", "shared_buffers": "64MB", "archive_mode": "off"}


@contextlib.contextmanager
def local_database(state: Path) -> Iterator[str | None]:
    """A server for the time of a block; why there is none, when Prefect has to use SQLite.

    The environment's URL is set, unless it is there already: a database of the user's own.

    Args:
        state: where its data are kept.

    Raises:
        ProgramMissing: the data are of a version that is not installed any more, or cannot be made.
        RecoveryFailed: the server does not start.
    """
    if os.environ.get(URL):
        yield None
        return
    data, owner = state / "database", account(None)
    programs = _programs(data)
    if programs is None:
        yield "no PostgreSQL is installed: Prefect uses SQLite, and may answer 503 at times; try again then"
        return
    if owner is not None and not _reaches(owner, state):
        yield f"account {owner.pw_name} cannot enter {state}: Prefect uses SQLite, and may answer 503 at times"
        return
    with _socket(owner) as socket:
        if not (data / "PG_VERSION").exists():
            _make(programs, data, owner)
        server = LocalServer(programs, data, socket, state / "prefect-database.log", _SETTINGS, owner)
        with server.run():
            if not _has_contrib(server):
                yield f"{programs} has no contrib package: Prefect uses SQLite, and may answer 503 at times"
                return
            os.environ[URL] = (
                f"postgresql+asyncpg://{_ROLE}@/postgres?host={quote(str(socket), safe='')}&port={server.port}"
            )
            yield None


def _programs(data: Path) -> Path | None:
    """Of the version that made the data, else the newest that is installed."""
    version = data / "PG_VERSION"
    if version.exists():
        return find_bin_directory(int(version.read_text()))
    for major in _MAJORS:
        with contextlib.suppress(ProgramMissing):
            return find_bin_directory(major)
    return None


def _has_contrib(server: LocalServer) -> bool:
    """Prefect's tables need the extension pg_trgm."""
    query = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'"
    with psycopg.connect(f"{server.dsn} user={_ROLE} dbname=postgres") as connection:
        return connection.execute(query).fetchone() == (1,)


def _make(programs: Path, data: Path, owner: pwd.struct_passwd | None) -> None:
    """Make the data beside their place, so that what was begun is never taken for whole."""
    begun = data.with_name("database.new")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(mode=0o700)
    if owner is not None:
        os.chown(begun, owner.pw_uid, owner.pw_gid)
    initialise(programs, begun, owner=owner, superuser=_ROLE)
    begun.rename(data)


def _reaches(owner: pwd.struct_passwd, directory: Path) -> bool:
    return run(["/usr/bin/test", "-x", directory], timeout=10, owner=owner).returncode == 0


@contextlib.contextmanager
def _socket(owner: pwd.struct_passwd | None) -> Iterator[Path]:
    """A directory that only the server's account enters: whoever reaches the socket is the database's superuser."""
    with temporary_directory("up", owner=owner, place=Path("/tmp")) as path:
        yield path
