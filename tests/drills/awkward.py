"""Awkward sources: what has made a restored cluster another one than the drill's, each as a thing to have."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from pgproof.postgres.programs import account, as_account
from pgproof.repository.repository import create_repository
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, running_source

CAFE = b"caf\xe9"
ROWS = 300


def nothing(source: Source) -> None:
    """What most of them do at most moments."""


def same(source: Source, data: Path) -> tuple[str, ...]:
    """The options of a restore that most of them need."""
    return ()


@dataclass(frozen=True)
class Awkward:
    """One thing that a source has.

    Args:
        configuration: lines of postgresql.conf; what the source's own command line has wins over them.
        settings: of that command line.
        before: done to the source before its backup.
        after: done between backup and cut.
        incremental: the newest backup is one, and this is done before it.
        options: of the restore.
        probes: database, and a query that source and restored cluster must answer alike.
        not_checked: databases that no drill reads.
        initdb: its options, by the first major version that takes them.
        segment: size of WAL segments in MB.
        since: the first major version that has it.
    """

    configuration: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[Source], None] = nothing
    after: Callable[[Source], None] = nothing
    incremental: Callable[[Source], None] | None = None
    options: Callable[[Source, Path], tuple[str, ...]] = same
    probes: tuple[tuple[str, str], ...] = ()
    not_checked: tuple[str, ...] = ()
    initdb: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    segment: int = 1
    since: int = 15


def run_sql(statements: str, database: str = "postgres") -> Callable[[Source], None]:
    """Statements, each in a transaction of its own."""

    def run(source: Source) -> None:
        for statement in statements.format(root=source.root, data=source.data).split(";\n"):
            source.sql(statement, database=database)

    return run


def directory(path: Path) -> None:
    """A directory for a tablespace."""
    path.mkdir(exist_ok=True)
    give_to_server(path)


ACTING = """
archive_mode = 'on'
archive_command = 'touch {root}/marker-archive'
archive_cleanup_command = 'touch {root}/marker-cleanup'
recovery_end_command = 'touch {root}/marker-end'
primary_conninfo = 'host={root}/s user=postgres'
primary_slot_name = 'node2'
shared_preload_libraries = 'not_here'
external_pid_file = '{root}/marker-pid'
logging_collector = 'on'
log_directory = '{root}/marker-log'
ssl = 'on'
huge_pages = 'on'
cluster_name = 'production'
"""
WAITING = """
recovery_min_apply_delay = '2h'
hot_standby = 'off'
synchronous_standby_names = 'node2'
recovery_target_time = '2001-01-01'
recovery_target_action = 'shutdown'
"""
ELSEWHERE = """
data_directory = '{data}'
hba_file = '{root}/nobody.conf'
ident_file = '{root}/nobody.conf'
unix_socket_directories = '{root}/s'
port = 5432
listen_addresses = '*'
"""
RAISED = {
    "max_connections": "150",
    "max_worker_processes": "12",
    "max_wal_senders": "14",
    "max_prepared_transactions": "7",
    "max_locks_per_transaction": "96",
}
DAY = f"""
CREATE SCHEMA app;
CREATE FUNCTION app.day(timestamptz) RETURNS date IMMUTABLE LANGUAGE sql AS 'SELECT $1::date';
CREATE TABLE visits AS SELECT timestamptz '2026-01-01' + g * interval '1 hour' AS at FROM generate_series(1, {ROWS}) g;
CREATE INDEX visits_day ON visits (app.day(at))"""
BY_INDEX = """
SET enable_seqscan = off;
SELECT at, app.day(at) FROM visits WHERE app.day(at) = (SELECT app.day('2026-01-05 23:30+00')) ORDER BY at"""


def _nobody(source: Source) -> None:
    """The access rules of another cluster."""
    (source.root / "nobody.conf").write_text("local all all reject\n")
    give_to_server(source.root / "nobody.conf")


def _subscribes(source: Source) -> None:
    """To itself: another database publishes, and nobody uses the slot now."""
    source.sql("CREATE DATABASE publisher")
    source.sql("CREATE TABLE sent (g int)", database="publisher")
    source.sql("CREATE PUBLICATION p FOR TABLE sent", database="publisher")
    source.sql("SELECT pg_create_logical_replication_slot('sub', 'pgoutput')", database="publisher")
    source.sql("CREATE TABLE sent (g int)")
    source.sql(
        f"CREATE SUBSCRIPTION sub CONNECTION '{source.dsn('publisher')}' PUBLICATION p"
        " WITH (create_slot = false, copy_data = false)"
    )


def _later_tablespace(source: Source) -> None:
    directory(source.root / "later")
    run_sql(
        f"CREATE TABLESPACE later LOCATION '{{root}}/later';\n"
        f"CREATE TABLE orders TABLESPACE later AS SELECT g, 'old' v FROM generate_series(1, {ROWS}) g;\n"
        "CREATE DATABASE other TABLESPACE later;\n"
        "CREATE TABLE moved AS SELECT 1 AS g;\n"
        "ALTER TABLE moved SET TABLESPACE later"
    )(source)


def _inside(source: Source) -> None:
    directory(source.data / "inside")
    source.sql(f"CREATE TABLESPACE inside LOCATION '{source.data}/inside'")
    source.sql(f"CREATE TABLE within TABLESPACE inside AS SELECT g FROM generate_series(1, {ROWS}) g")


def _moved_inside(source: Source, data: Path) -> tuple[str, ...]:
    return ("--tablespace", f"{source.data}/inside={data}/inside")


def _dropped_later(source: Source) -> None:
    directory(source.root / "shelf")
    source.sql(f"CREATE TABLESPACE shelf LOCATION '{source.root}/shelf'")
    for name in ("gone", "wanders"):
        source.sql(f"CREATE DATABASE {name}")
        source.sql("CREATE TABLE t AS SELECT 1 AS g", database=name)


def _with_shelf(source: Source, data: Path) -> tuple[str, ...]:
    return ("--tablespace", f"{source.root}/shelf={data.parent}/{data.name}-shelf")


def _several(source: Source) -> None:
    for name in ("one", "two", "three"):
        source.sql(f"CREATE DATABASE {name}")
        source.sql("CREATE TABLE t AS SELECT 1 AS g", database=name)


def _latin(source: Source) -> None:
    source.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    source.sql("CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with psycopg.connect(source.dsn("latin"), autocommit=True, client_encoding="LATIN1") as connection:
        for statement in (
            b'CREATE DATABASE "%s"',
            b'CREATE ROLE "%s"',
            b'CREATE TABLE "%s" AS SELECT 1 AS a',
        ):
            connection.execute(statement % CAFE)


def _promoted(source: Source) -> None:
    """On timeline 2, with an archive that never got its history from the server."""
    source.server.stop("fast")
    (source.data / "standby.signal").touch()
    give_to_server(source.data / "standby.signal")
    source.server.start()
    source.server.wait_ready()
    source.sql("SELECT pg_promote()")
    source.archive_now()
    place = source.root / "second"
    source.write_config(repository=f"file://{place}")
    create_repository(source.config.repositories["main"])
    give_to_server(place)


def _checksums(source: Source) -> None:
    owner = account(None)
    with source.away():
        subprocess.run(
            [source.bin / "pg_checksums", "--enable", "-D", source.data],
            check=True,
            capture_output=True,
            **as_account(owner),  # type: ignore[call-overload]
        )


THINGS = {
    "acts on others": Awkward(
        ACTING, {"shared_preload_libraries": "", "ssl": "off", "huge_pages": "off", "external_pid_file": ""}
    ),
    "waits": Awkward(WAITING, {"synchronous_standby_names": "", "recovery_target_time": ""}),
    "names another cluster": Awkward(ELSEWHERE, before=_nobody),
    "settings raised": Awkward(after=lambda source: source.set(**RAISED)),
    "subscriber": Awkward(
        settings={"wal_level": "logical", "max_logical_replication_workers": "0"}, before=_subscribes
    ),
    "later tablespace": Awkward(after=_later_tablespace),
    "tablespace inside": Awkward(
        settings={"summarize_wal": "on"},
        before=_inside,
        incremental=run_sql("UPDATE within SET g = -g WHERE g < 9"),
        options=_moved_inside,
        since=17,
    ),
    "64 MB segments": Awkward(settings={"max_wal_size": "256MB"}, segment=64),
    "timeline 2": Awkward(before=_promoted),
    "databases dropped and moved": Awkward(
        before=_dropped_later,
        after=run_sql("DROP DATABASE gone;\nALTER DATABASE wanders SET TABLESPACE shelf"),
        options=_with_shelf,
    ),
    "time zone": Awkward(
        "timezone = 'Europe/Berlin'\n", before=run_sql(DAY), probes=(("postgres", BY_INDEX),)
    ),
    "names in LATIN1": Awkward(before=_latin, not_checked=("bytes",)),
    "separators in a value": Awkward(before=run_sql(r"ALTER SYSTEM SET log_line_prefix = E'%m\x1e%p\x1e'")),
    "tables of users in information_schema": Awkward(
        before=run_sql(
            "CREATE TABLE information_schema.mine AS SELECT generate_series(1, 9) AS g;\n"
            "CREATE TABLE reg AS SELECT generate_series(1, 9) AS g;\nALTER TABLE reg SET SCHEMA pg_catalog"
        ),
        settings={"allow_system_table_mods": "on"},
    ),
    "connection limit": Awkward(
        before=run_sql("CREATE DATABASE limited CONNECTION LIMIT 2"), not_checked=("limited",)
    ),
    "several databases": Awkward(before=_several),
    "checksums enabled": Awkward(
        settings={"summarize_wal": "on"},
        incremental=_checksums,
        initdb={18: ("--no-data-checksums",)},
        since=17,
    ),
}


@contextmanager
def awkward_source(
    major: int, things: Sequence[Awkward], *, debian: bool, settings: Mapping[str, str] | None = None
) -> Iterator[Source]:
    """A source that has some of them, with its backup, in the state of the cut.

    Args:
        major: version of PostgreSQL.
        things: that do not hide each other.
        debian: its configuration lies outside the data directory, in ``etc``, and names that directory.
        settings: of its command line besides.
    """
    options = [
        option
        for thing in things
        for since, words in thing.initdb.items()
        if major >= since
        for option in words
    ]
    merged = {name: value for thing in things for name, value in thing.settings.items()}
    # the source itself does nothing of what its files say
    with running_source(
        major,
        segment_size=max(thing.segment for thing in things),
        options=tuple(options),
        **{"autovacuum": "off", **merged, **(settings or {})},
    ) as source:
        configure(source, "".join(thing.configuration for thing in things), debian=debian)
        source.sql(f"CREATE TABLE t AS SELECT g FROM generate_series(1, {ROWS}) g")
        for thing in things:
            thing.before(source)
        source.backup()
        if changes := [thing.incremental for thing in things if thing.incremental]:
            source.sql("SELECT pg_sleep(1.1)")  # labels are of whole seconds
            for change in changes:
                change(source)
            source.backup(incremental=True)
        source.sql("INSERT INTO t VALUES (-1)")
        for thing in things:
            thing.after(source)
        yield source


def configure(source: Source, text: str, *, debian: bool) -> None:
    """Give a source its configuration, which it reads at once as far as its command line says nothing else."""
    directory, own = source.data, {}
    if debian:
        directory = source.root / "etc"
        directory.mkdir()
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            shutil.move(source.data / name, directory / name)
        own = {"config_file": f"{directory}/postgresql.conf"}
        text = f"data_directory = '{source.data}'\n{text}"
    if source.sql("SHOW ssl_library") == [("",)]:  # such a build starts with no file that has it on
        text = text.replace("ssl = 'on'\n", "")
    with open(directory / "postgresql.conf", "a") as file:
        file.write(text.format(root=source.root, data=source.data))
    give_to_server(directory)
    access = {name: f"{directory}/pg_{name[:-5]}.conf" for name in ("hba_file", "ident_file")}
    source.set(**access, **own)
