"""A clock that jumped: nothing that a window promises goes by it."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from pgproof.errors import PermanentError
from pgproof.retention.clock import plan_now
from pgproof.retention.plan import plan_expire
from tests.drills.damage import answer
from tests.retention.archives import NOON, entry, facts, wal
from tests.servers.postgres import Source, now

DAYS = timedelta(days=10)
WINDOW = 'retention = { daily = 9, weekly = 0, monthly = 0, wal_window = "7d", approve_above = 1 }'


@pytest.mark.parametrize("jump", [DAYS, -DAYS], ids=["ahead", "behind"])
def test_a_clock_that_the_source_contradicts_expires_nothing(source: Source, jump: timedelta) -> None:
    """And without the source nothing that is younger than the window goes."""
    source.backup()
    source.write_config(cluster=WINDOW)
    source.archive_now()
    time.sleep(1)
    source.backup()
    source.archive_now()
    with pytest.raises(PermanentError) as caught:
        plan_now(source.cluster, source.archive, lambda: now() + jump)
    assert caught.value.fact == 'cannot expire backups of cluster "main" by a clock that is wrong'
    way = "ahead of" if jump > timedelta(0) else "behind"
    assert f"This machine's clock is 10 d {way} the server's" in caught.value.detail
    assert answer(source, "expire", "main")[0] == 0

    source.server.stop("fast")
    plan = plan_now(source.cluster, source.archive, lambda: now() + jump)
    assert (plan.remove_wal, plan.remove_backups) == ((), ())


def test_a_window_reaches_back_from_the_newest_backup() -> None:
    entries = [entry(f"{n}", NOON - timedelta(days=8 - n), 10 * n + 5, proven=True) for n in range(9)]
    limits = {"daily": 9, "wal_window": 7 * 86400}
    today = plan_expire(facts(entries, wal(1, range(1, 90)), **limits))
    later = plan_expire(facts(entries, wal(1, range(1, 90)), now=NOON + DAYS, **limits))
    assert later.remove_wal == today.remove_wal
