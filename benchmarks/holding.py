"""Holding: what the source loses while a drill keeps its snapshots open, and while it reads under them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import psycopg

from benchmarks.errors import BenchmarkError
from benchmarks.series import Contender, Section, take_turns
from benchmarks.shop import Shop
from pgproof.postgres.connection import connect
from pgproof.validation.fences.burst import take_snapshots
from pgproof.validation.fences.counting import Counter
from pgproof.validation.fences.fingerprint import pin_settings
from pgproof.validation.fences.holding import Holding

CLIENTS = 8
DATABASE = "postgres"
ALONE, HELD, COUNTED = "nothing else", "fence held", "fence held, tables counted"
_TPS = re.compile(r"^tps = ([\d.]+)", re.M)


def holding(shop: Shop, rounds: int, seconds: int) -> Section:
    """Transactions per second of pgbench beside nothing, beside open snapshots, and beside counting under them."""
    _run(shop, seconds)  # the first pages are imaged, and the caches are filled

    def contender(name: str, beside: Callable[[], AbstractContextManager[None]]) -> Contender:
        def measure(_: int) -> float:
            shop.rest()
            with beside():
                return _run(shop, seconds)

        return Contender(name, measure)

    contenders = (
        contender(ALONE, nullcontext),
        contender(HELD, lambda: fenced(shop)),
        contender(COUNTED, lambda: counted(shop, seconds)),
    )
    drill = shop.source.cluster.drill
    notes = (
        f"pgbench, scale {shop.scale}, {CLIENTS} clients for {seconds} s on the machine that it measures, after VACUUM "
        f"and CHECKPOINT; fsync is on, and every WAL segment is archived by pgproof. *{HELD[0].upper()}{HELD[1:]}*: "
        f"{drill.candidates} snapshots, as a drill takes them. *Counted*: {drill.workers} connections fingerprint "
        "tables all the time, as a drill does once.",
    )
    return Section(
        "The source meanwhile",
        "transactions per second",
        True,
        ALONE,
        take_turns("pgbench", contenders, rounds),
        notes,
    )


def _run(shop: Shop, seconds: int) -> float:
    said = shop.pgbench("-n", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds))
    found = _TPS.search(said)
    if found is None:
        raise BenchmarkError(f"pgbench said no tps: {said[-400:]}")
    return float(found[1])


@contextmanager
def _opened(shop: Shop) -> Iterator[psycopg.Connection]:
    cluster = shop.source.cluster
    with connect(cluster, DATABASE) as connection:
        pin_settings(connection, cluster.drill.statement_timeout)
        yield connection


@contextmanager
def fenced(shop: Shop) -> Iterator[None]:
    """The snapshots of a fence are open for the time of a block."""
    with ExitStack() as stack:
        for _ in range(shop.source.cluster.drill.candidates):
            take_snapshots([stack.enter_context(_opened(shop))])
        yield


@contextmanager
def counted(shop: Shop, seconds: int) -> Iterator[None]:
    """A fence is held, and its tables are read under it again and again, for some seconds.

    Raises:
        BenchmarkError: not one table was read.
    """
    with fenced(shop), _opened(shop) as holder, ThreadPoolExecutor(1) as pool:
        take_snapshots([holder])
        reading = pool.submit(_count, shop, holder, Holding.begin(seconds))
        yield
        if not reading.result():
            raise BenchmarkError(f"no table was counted in {seconds} s")


def _count(shop: Shop, holder: psycopg.Connection, limit: Holding) -> int:
    """Count until the limit, which ends a statement too; how many tables were read."""
    drill, read = shop.source.cluster.drill, 0
    while not limit.over:
        read += len(Counter(drill, DATABASE, holder, lambda: _opened(shop), limit, turn=read).count())
    return read
