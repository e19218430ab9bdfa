"""Limits of a fence: for how long the source's snapshots are held, and which tables are sampled."""

from __future__ import annotations

import time
from typing import Any

import pytest
from psycopg import sql

from pgproof.validation.fences import fingerprint
from tests.servers.postgres import Source
from tests.validation.drilling import drill, fence_of, meanwhile, sessions

REASON = "the snapshots were held for drill.hold_limit, 1 s, before it was counted"


def test_what_is_not_counted_when_the_limit_is_over_is_named(
    shared: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement that runs is cancelled."""
    shared.sql("CREATE TABLE slow AS SELECT 1 AS a")
    query = fingerprint.fingerprint_query

    def sleeping(table: fingerprint.Table, sample: float | None, **options: Any) -> sql.Composed:
        made = query(table, sample, **options)
        return (
            made + sql.SQL(" CROSS JOIN LATERAL (SELECT pg_sleep(3600)) AS s")
            if table.name == "slow"
            else made
        )

    monkeypatch.setattr(fingerprint, "fingerprint_query", sleeping)
    shared.write_config('drill.hold_limit = "1s"\ndrill.workers = 1\n')
    try:
        fence = fence_of(shared)
    finally:
        shared.write_config()
        shared.sql("DROP TABLE slow")
    assert fence.exact
    named = {item.what: item.reason for item in fence.not_checked}
    assert named.pop("public.slow") == REASON
    assert set(named.values()) <= {REASON}  # those whose turn would have come later
    assert 1 <= fence.held_seconds < 30
    assert sessions(shared) == []


def test_a_limit_that_is_over_before_counting_leaves_out_every_table(
    shared: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: time.sleep(1.1))
    shared.write_config('drill.hold_limit = "1s"\n')
    try:
        found = drill(shared, checked=False)
    finally:
        shared.write_config()
    assert found.proof.verdict == "not exact"
    assert found.proof.summary == f"nothing was compared: postgres: (large objects): {REASON} (and 1 more)"
    assert found.not_checked == {"t": REASON, "(large objects)": REASON}


def test_a_table_may_be_sampled_or_read_whole_whatever_its_size(shared: Source) -> None:
    shared.sql("CREATE TABLE big AS SELECT g, repeat('x', 500) AS v FROM generate_series(1, 5000) g")
    shared.write_config(
        'drill.sample_above = "8kB"\ndrill.sample_percent = 50\n'
        'drill.sample_tables = { "postgres.public.t" = 100, "postgres.public.big" = 20 }\n'
    )
    try:
        found = drill(shared, checked=False)
    finally:
        shared.write_config()
        shared.sql("DROP TABLE big")
    assert found.proof.proven
    assert found.not_checked == {"big": "sampled: 20 % of its blocks were compared"}
    rows = {row.table: row.source_rows for row in found.comparison.tables}
    assert rows["public.t"] == 100
    assert 0 < rows["public.big"] < 5000
