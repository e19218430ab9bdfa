"""The base of the window moves on while backups come, drills prove them and each expire takes what it can."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pgproof.repository.lease import hold_lease
from pgproof.repository.posix import PosixStore
from pgproof.retention.expire import expire, gather_facts
from pgproof.retention.plan import plan_expire
from tests.retention.archives import (
    NOON,
    archive_on,
    entry,
    facts,
    policy,
    positions,
    store_backup,
    wal,
)

WEEK = 7 * 86400


@pytest.mark.parametrize("drilled", [1, 3], ids=["every backup is drilled", "every third one"])
def test_wal_does_not_grow_without_end(drilled: int) -> None:
    """With one backup a day, ``daily = 1`` and a window of a week, WAL reaches back two windows at most."""
    entries, numbers, kept = [], set[int](), []
    for day in range(60):
        numbers |= {2 * day, 2 * day + 1}
        made = entry(f"{day:02}", NOON + timedelta(days=day), 2 * day, proven=day % drilled == 0)
        entries = [*entries, made]
        found = facts(entries, wal(1, sorted(numbers)), now=made.record.stopped_at, daily=1, wal_window=WEEK)
        plan = plan_expire(found)
        entries = [one for one in entries if one.label in plan.kept]
        numbers -= {number for _, number in positions(plan.remove_wal)}
        kept.append((len(numbers) // 2, len(entries)))
    days, backups = (max(some) for some in zip(*kept[20:], strict=True))
    assert days <= 2 * 7 + drilled + 1
    assert backups <= 5
    assert min(number // 2 for number in numbers) <= 59 - 7, "the window itself"


def test_in_a_repository(tmp_path: Path) -> None:
    archive, limits = archive_on(PosixStore(tmp_path)), policy(daily=1, wal_window=2 * 86400)
    for day in range(14):
        for info in wal(1, [2 * day, 2 * day + 1]):
            archive.store.put(info.key, b"segment")
        made = entry(f"{day:02}", NOON + timedelta(days=day), 2 * day, proven=True)
        store_backup(archive, made)
        with hold_lease(archive.store, archive.layout.lease, "expire") as lease:
            plan = plan_expire(gather_facts(archive, limits, made.record.stopped_at))
            expire(archive, plan, lease)
    left = gather_facts(archive, limits, NOON + timedelta(days=13))
    assert [found.label for found in left.catalog.entries] == ["11", "12", "13"]
    assert positions(sorted(left.wal)) == [(1, number) for number in range(22, 28)]
