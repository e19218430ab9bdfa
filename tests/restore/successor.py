"""A successor is what takes over for a source: a restored copy of it that is promoted and archives in its place."""

from __future__ import annotations

import psycopg

from pgproof.postgres.server import LocalServer
from tests.drills.damage import answer
from tests.servers.postgres import Source


def succeed(source: Source, point: str) -> None:
    """From now on the source is its successor, which left its timeline at a restore point."""
    old, data = source.server, source.root / "successor"
    words = ["--target-name", point, "--target-action", "promote", "--take-over"]
    code, _, err = answer(source, "restore", "main", "--to", str(data), *words)
    assert code == 0, err
    old.stop("fast")
    new = LocalServer(
        source.bin, data, source.root / "s2", source.root / "log2", old.settings, old.owner, secrets=True
    )
    source.server = new
    new.start()
    new.wait(lambda: _writable(new), 30, "to be promoted")
    source.write_config(dsn=f"host={source.root}/s2 user=pgproof dbname=postgres")


def _writable(server: LocalServer) -> bool:
    try:
        with psycopg.connect(f"{server.dsn} user=postgres dbname=postgres") as connection:
            return connection.execute("SELECT NOT pg_is_in_recovery()").fetchone() == (True,)
    except psycopg.OperationalError:
        return False
