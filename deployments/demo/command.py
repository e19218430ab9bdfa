"""``pgproof demo``: the main job on a real PostgreSQL, from nothing to a restored table."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from deployments.demo.place import Place, prepare, start_writer
from pgproof.commands.backups import now
from pgproof.commands.console import Console, line, make_console
from pgproof.commands.init import initialise as initialise_cluster
from pgproof.config import load
from pgproof.errors import ProgramMissing, RecoveryFailed
from pgproof.postgres.programs import find_bin_directory
from pgproof.postgres.server import LocalServer, initialise
from pgproof.repository.repository import find_archive, open_repository
from pgproof.restore.plan import RestoreRequest
from pgproof.restore.procedure import make_plan, run_plan
from pgproof.restore.restored import open_restored
from pgproof.restore.start import begin, stop
from pgproof.restore.target import RecoveryTarget
from pgproof.wording import duration

MAJOR = 17
NAME = "demo"
LOST = "SELECT count(*), sum(hashtextextended(p::text, 0)::numeric)::text, min(title) FROM shop.product p"


def demo(
    directory: Annotated[
        str | None, typer.Option("--directory", help="Default: /var/tmp/pgproof-demo-UID.")
    ] = None,
) -> int:
    """Protect an embedded PostgreSQL with a writer that never stops, lose a table, and bring it back."""
    from flows.command import quiet_prefect

    _require_extra()
    _forget_servers()
    console = make_console()
    started = time.monotonic()
    place = prepare(directory)
    quiet_prefect(place.root / "prefect")
    with ExitStack() as stack:
        server = _start(console, place, stack)
        stack.callback(start_writer(_dsn(server, "shop"), place.root / "writer.log").kill)
        _step(console, "a writer commits without pause")
        _protect(console, place)
        _lose_and_restore(console, place, server, stack)
        console.rule(f"done in {duration(time.monotonic() - started)}")
        _say_next(console, place)
    return 0


def _require_extra() -> None:
    """Say what is missing before anything is made.

    Raises:
        ModuleNotFoundError: Prefect is not installed.
        ProgramMissing: PostgreSQL is not.
    """
    if find_spec("prefect") is None:
        raise ModuleNotFoundError("No module named 'prefect'", name="prefect")
    try:
        find_bin_directory(MAJOR)
    except ProgramMissing as error:
        raise ProgramMissing(error.fact, error.detail, "pip install 'pgproof[demo]' brings them") from error


def _forget_servers() -> None:
    """Whatever server the environment leads libpq to, the demo drops its table in its own."""
    for name in [name for name in os.environ if name.startswith("PG") and not name.startswith("PGPROOF")]:
        del os.environ[name]


def _dsn(server: LocalServer, database: str, user: str = "postgres") -> str:
    return f"host={server.socket} port={server.port} user={user} dbname={database}"


def _step(console: Console, *parts: str | tuple[str, str]) -> None:
    console.print(line(("> ", "bold cyan"), *parts))


def _start(console: Console, place: Place, stack: ExitStack) -> LocalServer:
    """A server with a schema worth protecting, set up by ``pgproof init --apply``."""
    bin_directory = find_bin_directory(MAJOR)
    for warning in initialise(
        bin_directory, place.data, options=("--locale-provider=libc", "--data-checksums")
    ):
        _step(console, warning)
    settings = {"listen_addresses": "", "max_wal_size": "256MB"}
    server = LocalServer(bin_directory, place.data, place.socket, place.root / "source.log", settings)
    server.start()
    stack.callback(lambda: server.stop("fast"))
    server.wait_ready()
    here = Path(__file__).parent
    with psycopg.connect(_dsn(server, "postgres"), autocommit=True) as connection:
        version: Any = connection.execute("SHOW server_version").fetchone()
        for name in ("shop", "second"):
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    for name, file in (("shop", "schema.sql"), ("second", "second.sql")):
        with psycopg.connect(_dsn(server, name), autocommit=True) as connection:
            connection.execute((here / file).read_text().encode())
    _step(console, f"PostgreSQL {version[0]} runs in {place.data}, with databases shop and second")
    initialise_cluster(
        NAME,
        _dsn(server, "postgres", "pgproof"),
        f"file://{place.repository}",
        config_path=place.config,
        apply=True,
        optional=True,
        admin_dsn=_dsn(server, "postgres"),
    )
    server.stop("fast")  # archive_mode needs a restart
    server.start()
    server.wait_ready()
    _step(
        console,
        f"pgproof init {NAME} --apply made the role pgproof (no superuser), the settings and the repository",
    )
    return server


def _protect(console: Console, place: Place) -> None:
    from flows.command import plain_errors
    from flows.protect import protect
    from flows.report import report
    from flows.writer import ensure_limit

    plain_errors()
    ensure_limit(NAME)
    _step(
        console, f"pgproof protect {NAME}: base backup, WAL gap check, restore validation, retention pruning"
    )
    config = load(place.config)
    done = protect(NAME, str(place.config))
    report(console, config.cluster(NAME), f"file://{place.repository}", done)


def _lose_and_restore(console: Console, place: Place, server: LocalServer, stack: ExitStack) -> None:
    console.rule(line(("the disaster", "red")))
    with psycopg.connect(_dsn(server, "shop"), autocommit=True) as connection:
        before: Any = connection.execute(LOST).fetchone()
        time.sleep(1.1)
        moment: Any = connection.execute("SELECT clock_timestamp()").fetchone()
        target: datetime = moment[0]
        time.sleep(1.1)
        connection.execute("DROP TABLE shop.product")
        _step(console, f"DROP TABLE shop.product: {before[0]:,} rows are gone, and the writer goes on")
        _archive_all(connection)
    begun = time.monotonic()
    config = load(place.config)
    cluster = config.cluster(NAME)
    archive = find_archive(open_repository(config.repository_of(cluster)), cluster)
    request = RestoreRequest(place.restored, RecoveryTarget.build(time=target.isoformat()))
    plan = make_plan(config, cluster, archive, request, now())
    run_plan(config.path, cluster, archive, plan, now)
    _step(console, f'pgproof restore {NAME} --to {place.restored} --target-time "{target:%F %T.%f%z}"')
    dsn = _start_restored(console, place, stack)
    seconds = time.monotonic() - begun
    with psycopg.connect(f"{dsn} user=postgres dbname=shop", autocommit=True) as connection:
        after: Any = connection.execute(LOST).fetchone()
        last: Any = connection.execute(
            "SELECT max(placed) FROM shop.orders WHERE placed <= %s", (target,)
        ).fetchone()
        later: Any = connection.execute(
            "SELECT count(*) FROM shop.orders WHERE placed > %s", (target,)
        ).fetchone()
    if after != before or later[0]:
        raise RecoveryFailed(
            "the restored table is not the lost one", f"{before} became {after}, {later[0]} later orders."
        )
    _step(
        console,
        ("shop.product is back", "green"),
        f" after {duration(seconds)}: {after[0]:,} rows, content hash {after[1]}, as before",
    )
    _step(console, f"the newest order in the copy is of {last[0]:%T.%f}, the target was {target:%T.%f}")


def _start_restored(console: Console, place: Place, stack: ExitStack) -> str:
    """Start the restored cluster as ``pgproof start`` does; how to connect to it."""
    restored = open_restored(place.restored)
    stack.callback(stop, restored)
    started = begin(restored, 120, detached=False)
    running = restored.running
    if started.findings or running is None:
        raise RecoveryFailed(
            f'"{place.restored}" is not what its plan said',
            "; ".join(started.findings),
            f"see {restored.log}",
        )
    _step(console, f"pgproof start {place.restored}: it is {started.standing}")
    return running.dsn


def _archive_all(connection: psycopg.Connection) -> None:
    """Finish the current segment and wait until the archiver has it."""
    row: Any = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done: Any = connection.execute(
            "SELECT last_archived_wal >= %s FROM pg_stat_archiver", (row[0],)
        ).fetchone()
        if done[0]:
            return
        time.sleep(0.1)
    raise RecoveryFailed(f"segment {row[0]} was not archived within a minute")


def _say_next(console: Console, place: Place) -> None:
    config = f"--config {place.config}"
    console.print("next, on what the demo left:")
    for text in (
        f"pgproof list {NAME} {config}",
        f"pgproof wal check {NAME} {config} --content",
        f"pgproof restore {NAME} {config} --to /var/tmp/copy --dry-run",
        "and on your own server:",
        "pgproof init NAME --dsn 'host=... user=pgproof' --repository file:///srv/pgproof",
        "pgproof protect NAME",
        "pgproof up      # Prefect's UI with every flow, its schedule and a worker",
    ):
        console.print(f"  {text}")
