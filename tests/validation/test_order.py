"""Which of a backup and a fence came first: the message tells what can have happened."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pgproof.errors import NotProven
from pgproof.timelines.lsn import LSN
from pgproof.validation.order import require_before
from tests.retention.archives import NOON, entry
from tests.validation.values import AT, database, fence

FENCE = fence(database("shop", "0/5000028"), database("other", "0/4000028"))
RECORD = replace(entry("20261123T120000Z-full", NOON, 3, last=5).record, stop_lsn=LSN.parse("0/4000028"))


def test_a_backup_that_ended_before_every_cut() -> None:
    require_before(
        replace(RECORD, stopped_at=AT + timedelta(hours=1)), FENCE
    )  # clocks decide nothing by themselves


def test_a_backup_that_was_taken_after_the_fence() -> None:
    late = replace(RECORD, stop_lsn=LSN.parse("0/4000030"), stopped_at=AT + timedelta(minutes=1))
    with pytest.raises(NotProven) as caught:
        require_before(late, FENCE)
    assert str(caught.value) == (
        'backup "20261123T120000Z-full" ended after fence "20261123T212715112664Z" was taken\n'
        "DETAIL: It ended at LSN 0/4000030; the cut is 0/4000028.\n"
        "HINT: pgproof drill main takes a new fence"
    )


def test_a_backup_that_ends_beyond_a_later_fence() -> None:
    beyond = replace(RECORD, stop_lsn=LSN.parse("0/4000030"), stopped_at=AT - timedelta(hours=1))
    with pytest.raises(NotProven) as caught:
        require_before(beyond, FENCE)
    assert str(caught.value) == (
        'backup "20261123T120000Z-full" ends beyond fence "20261123T212715112664Z", which was taken later\n'
        f"DETAIL: It ended at LSN 0/4000030 at {AT - timedelta(hours=1):%F %T} UTC; the source was at 0/4000028 at "
        f"{AT:%F %T} UTC. Its record was altered, or the server was set back to a state before the backup.\n"
        "HINT: pgproof verify main --backup 20261123T120000Z-full compares the record with its backup manifest"
    )
