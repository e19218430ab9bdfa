"""The table of a plan, whole, as the golden file has it."""

from __future__ import annotations

import pickle
from datetime import timedelta
from pathlib import Path

import pytest

from pgproof.backups.catalog import Hold
from pgproof.repository.store import ObjectInfo
from pgproof.retention.plan import ExpirePlan, plan_expire
from pgproof.retention.table import COLUMNS, rows
from pgproof.timelines.history import Fork, TimelineHistory
from pgproof.timelines.lsn import LSN
from tests.retention.archives import LAYOUT, NOON, SIZE, entry, facts, history_object, wal

GOLDEN = Path(__file__).parent / "golden" / "plan.txt"


def eventful_plan() -> ExpirePlan:
    """Three months with a failover, incremental backups, a hold, a failed drill and torn data."""

    def at(days: float) -> str:
        return f"{NOON - timedelta(days=days):%Y%m%dT%H%M%SZ}"

    def backup(days: float, segment: int, **values: object) -> object:
        return entry(at(days), NOON - timedelta(days=days), segment, **values)  # type: ignore[arg-type]

    entries = [
        backup(70, 10, proven=True),
        backup(69, 20, proven=True),
        backup(40, 30, proven=True, hold=Hold(at(40), "audit", NOON + timedelta(days=30))),
        backup(39, 40, hold=Hold(at(39), "migration", NOON - timedelta(days=5))),
        backup(15, 60, timeline=2, proven=True),
        backup(14, 70, timeline=2, parent=at(15)),
        backup(13, 80, timeline=2, parent=at(15)),
        backup(8, 90, timeline=2, parent=at(13), proven=True),
        backup(7.5, 95, timeline=2, failed="shop.public.orders: 3 rows fewer"),
        backup(3, 100, timeline=2, proven=True),
        backup(2, 110, timeline=2),
        backup(1.5, 114, timeline=2),
        backup(1, 118, timeline=2),
        backup(0, 120, timeline=2, parent=at(1)),
    ]
    objects = [
        *wal(1, range(8, 50)),
        *wal(1, [50], ".partial"),
        *wal(2, range(50, 122)),
        history_object(2),
        ObjectInfo(LAYOUT.wal + "README", 1),
    ]
    torn = "20261122T030000Z"
    found = facts(
        entries,  # type: ignore[arg-type]
        objects,
        histories={2: TimelineHistory(2, (Fork(1, LSN(50 * SIZE + 99)),))},
        torn=(torn,),
        torn_data=(ObjectInfo(LAYOUT.backup(torn) + "base-000.tar.zst", 4096),),
        daily=3,
        weekly=2,
        monthly=3,
        wal_window=7 * 86400,
    )
    return plan_expire(found)


def test_golden_table() -> None:
    table = [COLUMNS, *rows(eventful_plan())]
    assert "".join(" | ".join(row) + "\n" for row in table) == GOLDEN.read_text()


def test_every_row_has_every_column() -> None:
    assert {len(row) for row in rows(eventful_plan())} == {len(COLUMNS)}


def test_the_bytes_of_the_table_add_up_to_what_is_freed() -> None:
    plan = eventful_plan()
    units = {"B": 1, "kB": 1000}
    stored = [row[3].split() for row in rows(plan) if row[2] in ("expire", "remove")]
    assert sum(float(count) * units[unit] for count, unit in stored) == pytest.approx(plan.freed, rel=0.001)


def test_a_plan_pickles_and_is_no_table_when_empty() -> None:
    plan = eventful_plan()
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert rows(ExpirePlan("shop/1", NOON)) == []
    assert ExpirePlan("shop/1", NOON).is_empty and not plan.is_empty
