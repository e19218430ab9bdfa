"""Where a server stands, compared with a plan: each difference is named with both values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.restore.record import Expected, RestoreRecord
from pgproof.restore.standing import Standing, differences
from pgproof.timelines.lsn import LSN

LAST, FOLLOWING = Expected("0/500", 750, "2026-11-23 20:14:59.5+0000"), Expected("0/600", 751, None)
PAUSED = RestoreRecord(
    "shop", "B", 7, 17, "time T", 1, "paused", True, "0/300", {}, last=LAST, following=FOLLOWING
)
END = replace(PAUSED, end="open", least="0/500", last=None, following=None)
IS_750 = "transaction 750 of 2026-11-23 20:14:59.5+0000 at LSN 0/500"


def standing(data: Path, state: str, replayed: str | None) -> Standing:
    return Standing(data, 7, state, LSN.parse(replayed) if replayed else None, None, "17.1")


@pytest.mark.parametrize(
    ("record", "state", "replayed", "difference"),
    [
        (PAUSED, "paused", "0/501", ""),
        (PAUSED, "paused", "0/600", ""),
        (PAUSED, "open", "0/600", ""),  # somebody has opened it
        (PAUSED, "open", None, ""),  # and has restarted it
        (PAUSED, "paused", "0/500", f"WAL was replayed up to LSN 0/500: {IS_750} must be there and is not"),
        (PAUSED, "open", "0/400", f"WAL was replayed up to LSN 0/400: {IS_750} must be there and is not"),
        (
            PAUSED,
            "paused",
            "0/601",
            "WAL was replayed up to LSN 0/601: transaction 751 at LSN 0/600 must not be there and is",
        ),
        (PAUSED, "paused", "0/2FF", "WAL was replayed up to LSN 0/2FF only; the plan reaches 0/300 at least"),
        (END, "open", "0/500", ""),
        (END, "open", "0/4FF", "WAL was replayed up to LSN 0/4FF only; the plan reaches 0/500 at least"),
        (END, "paused", "0/501", "it is paused; by the plan it is open"),
        (replace(END, end="following"), "open", None, "it is open; by the plan it is following"),
    ],
)
def test_differences(
    tmp_path: Path, record: RestoreRecord, state: str, replayed: str | None, difference: str
) -> None:
    assert differences(record, tmp_path, standing(tmp_path, state, replayed)) == (
        [difference] if difference else []
    )


def test_another_cluster(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    found = replace(standing(other, "paused", "0/501"), system_identifier=8)
    assert differences(PAUSED, tmp_path, found) == [
        f"the server that answers runs in {other}, which is not the restored directory {tmp_path}",
        "its system identifier is 8; the backup's is 7",
    ]


def test_a_target_that_was_changed_is_not_compared(tmp_path: Path) -> None:
    found = replace(standing(tmp_path, "paused", "0/900"), target_changed=True)
    assert differences(PAUSED, tmp_path, found) == []
