"""Fences, comparisons and proofs as values, for the tests that need no server."""

from __future__ import annotations

from datetime import UTC, datetime

from pgproof.config import RepositoryConfig
from pgproof.repository.repository import Archive, create_repository
from pgproof.timelines.lsn import LSN
from pgproof.validation.comparison import Comparison, TableComparison
from pgproof.validation.fences.cut import Snapshot
from pgproof.validation.fences.fence import LARGE_OBJECTS, DatabaseFence, Fence, NotChecked, TableContent
from pgproof.validation.fences.fingerprint import Fingerprint

AT = datetime(2026, 11, 23, 21, 27, 15, 112664, UTC)
SYSTEM = 7576129391221604354  # over 2^53


def archive(name: str) -> Archive:
    return create_repository(RepositoryConfig(url=f"memory://{name}")).archive("main", SYSTEM)


def content(name: str, rows: int = 3, digest: str = "-12345678901234567890") -> TableContent:
    return TableContent("public", name, ("id", "ü"), Fingerprint(rows, digest))


def database(name: str = "shop", cut: str | None = "0/5000028", *tables: TableContent) -> DatabaseFence:
    snapshot = Snapshot(4294967301, 4294967310, frozenset({4294967301, 4294967309}))
    return DatabaseFence(
        name, snapshot, LSN.parse(cut) if cut else None, "" if cut else "no commit after the fence", tables
    )


def fence(*databases: DatabaseFence) -> Fence:
    large = TableContent("", LARGE_OBJECTS, (), Fingerprint(2, "77"))
    sampled = TableContent("a.b", 'c "d"', (), Fingerprint(9, "0", True), 12.5)
    return Fence(
        identifier="20261123T212715112664Z",
        cluster="main",
        system_identifier=SYSTEM,
        at=AT,
        timeline=3,
        server_version=170010,
        segment_size=1 << 20,
        end_lsn=LSN.parse("0/6000000"),
        bootstrap_role="postgres",
        databases=databases or (database("shop", "0/5000028", content("t"), large, sampled),),
        not_checked=(NotChecked("shop", "public.lost", "unlogged"),),
        candidates=6,
        exact_candidates=5,
        held_seconds=0.25,
        software={"pgproof": "0.1.0", "postgresql": "PostgreSQL 17.10"},
        count_seconds=0.125,
    )


def compared(table: str = "public.t", source: int = 3, restored: int = 3, note: str = "") -> TableComparison:
    same = "11" if source == restored else "12"
    return TableComparison("shop", table, source, restored, "11", same, note=note)


def comparison(*tables: TableComparison, not_checked: tuple[NotChecked, ...] = ()) -> Comparison:
    return Comparison(tables or (compared(),), not_checked)
