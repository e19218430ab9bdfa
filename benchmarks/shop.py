"""The shop: a protected cluster that is as large as wanted, with four kinds of tables beside those of pgbench."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import run
from tests.servers.postgres import Source

# What one row takes on disk with its index entry, measured; the sizes that come out are read from the server.
_PER_SCALE = 15_500_000  # pgbench at scale 1
_PGBENCH_SHARE = 0.4
_EMPTY = 23_000_000  # of a new cluster
_SETTINGS = {
    "fsync": "on",  # as on a server that is worth protecting
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",  # a checkpoint comes when we ask for it, or when much was written
}


@dataclass(frozen=True)
class Kind:
    """A kind of table.

    Args:
        name: of the table.
        title: what is special about it.
        bytes_per_row: with its primary key, in bytes.
        create: its columns.
        fill: a query of its rows, from ``g``, the number of a row.
    """

    name: str
    title: str
    bytes_per_row: float
    create: str
    fill: str


KINDS = (
    Kind(
        "narrow",
        "narrow: three integers",
        67,
        "CREATE TABLE narrow (id bigint, shop int, amount int)",
        "g, g % 977, (g * 7919) % 100003",
    ),
    Kind(
        "wide",
        "wide: 30 columns of eight types",
        434,
        "CREATE TABLE wide (id bigint, "
        + ", ".join(
            f"i{n} int, m{n} numeric(12, 2), t{n} timestamptz, d{n} date, v{n} text, "
            f"f{n} float8, b{n} boolean, u{n} uuid, w{n} varchar(80), s{n} bigint"
            for n in (1, 2, 3)
        )
        + ")",
        "g, "
        + ", ".join(
            f"g % {n}0007, (g % 1000003) * {n}.07, timestamptz '2026-01-01 00:00+00' + g * interval '{n} second', "
            f"date '2020-01-01' + (g % 3000)::int, md5((g + {n})::text), sqrt(g + {n}), g % {n + 1} = 0, "
            f"md5((g * {n})::text)::uuid, 'street ' || g % 10007 || ', house ' || g % 99, g * {n}00000007"
            for n in (1, 2, 3)
        ),
    ),
    Kind(
        "toasted",
        "TOASTed: a text of 20 kB, compressed and out of line",
        6320,
        "CREATE TABLE toasted (id bigint, body text)",
        "g, (SELECT string_agg(repeat(md5((g * 1000 + part)::text), 4), '') FROM generate_series(1, 156) part)",
    ),
    Kind(
        "partitioned",
        "partitioned: eight partitions of six columns",
        132,
        "CREATE TABLE partitioned (id bigint, at timestamptz, customer int, amount numeric(10, 2), state text, "
        "note text) PARTITION BY HASH (id)",
        "g, timestamptz '2026-01-01 00:00+00' + g * interval '3 second', (g * 7919) % 100003, (g % 100000) * 0.37, "
        "(ARRAY['open', 'paid', 'sent'])[1 + g % 3], 'order ' || md5(g::text)",
    ),
)
_PARTITIONS = 8


@dataclass(frozen=True)
class Shop:
    """A running cluster that is filled.

    Args:
        source: it, with its repository and configuration.
        scale: of pgbench.
    """

    source: Source
    scale: int

    @property
    def size(self) -> int:
        """Bytes of all databases."""
        return int(self.source.sql("SELECT sum(pg_database_size(oid)) FROM pg_database")[0][0])

    def pgbench(self, *words: str) -> str:
        """What pgbench says."""
        place = ["-h", str(self.source.server.socket), "-U", "postgres"]
        return run([self.source.bin / "pgbench", *place, *words, "postgres"])

    def rest(self) -> None:
        """Begin as every other run does: nothing to vacuum, a checkpoint just made, all WAL archived."""
        self.source.sql("VACUUM")
        self.source.sql("CHECKPOINT")
        self.source.archive_now()


@contextmanager
def running_shop(major: int, root: Path, size: int) -> Iterator[Shop]:
    """A filled cluster, protected by pgproof, for the time of a block.

    Args:
        major: of PostgreSQL.
        root: an empty directory of our own.
        size: bytes that its databases shall have, roughly.
    """
    source = Source(major, root, _SETTINGS)
    try:
        source.create(segment_size=16)
        wanted = size - _EMPTY
        shop = Shop(source, max(1, int(wanted * _PGBENCH_SHARE / _PER_SCALE)))
        shop.pgbench("-i", "-q", "-s", str(shop.scale))
        each = (wanted - shop.scale * _PER_SCALE) / len(KINDS)
        for kind in KINDS:
            create(source, kind, max(1, int(each / kind.bytes_per_row)))
        source.sql("ANALYZE")
        shop.rest()
        yield shop
    finally:
        if hasattr(source, "server"):
            source.server.stop("fast")


def create(source: Source, kind: Kind, rows: int) -> None:
    """Make and fill a table."""
    source.sql(kind.create)
    if "PARTITION BY" in kind.create:
        for number in range(_PARTITIONS):
            source.sql(
                f"CREATE TABLE {kind.name}_{number} PARTITION OF {kind.name} "
                f"FOR VALUES WITH (MODULUS {_PARTITIONS}, REMAINDER {number})"
            )
    source.sql(f"INSERT INTO {kind.name} SELECT {kind.fill} FROM generate_series(1, {rows}::bigint) g")
    source.sql(f"ALTER TABLE {kind.name} ADD PRIMARY KEY (id)")
