"""A restore that cannot end well is refused before the first write: its backup, its target, its destination."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from tests.drills.damage import answer, assert_refused, tree
from tests.drills.shop import Shop


def test_unknown_backup(shop: Shop) -> None:
    message = (
        'backup "20200101T000000Z-full" does not exist\n'
        f"DETAIL: There are: {shop.record.label}.\n"
        "HINT: pgproof list NAME"
    )
    for words in (["verify", "main"], shop.restore()):
        assert_refused(shop.source, [*words, "--backup", "20200101T000000Z-full"], 41, message)


def test_unknown_timeline(shop: Shop) -> None:
    assert_refused(
        shop.source,
        shop.restore("--target-timeline", "7"),
        2,
        "timeline 7 is not in the archive\nDETAIL: Archived are timelines [1].",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--target-time", "2026-11-23 20:15:00"],
            'target time "2026-11-23 20:15:00" has no time zone\n'
            "DETAIL: Without a zone it could be hours off.\n"
            'HINT: write "2026-11-23 20:15:00Z" for UTC or "2026-11-23 20:15:00+01:00" for an offset',
        ),
        (
            ["--target-time", "yesterday"],
            'invalid target time "yesterday"\n'
            "DETAIL: Invalid isoformat string: 'yesterday'.\n"
            'HINT: such as "2026-11-23 20:15:00+01:00" or "...Z"',
        ),
        (
            ["--target-xid", "800", "--target-lsn", "0/5000000"],
            "more than one recovery target was given\n"
            "DETAIL: Given were --target-lsn, --target-xid.\n"
            "HINT: choose one",
        ),
        (
            ["--target-lsn", "5000000"],
            'invalid LSN "5000000"\n'
            "DETAIL: An LSN is two hexadecimal numbers of up to 8 digits with a slash between.\n"
            "HINT: such as 16/B374D848; SELECT pg_current_wal_lsn() shows one",
        ),
        (["--target-xid", "-1"], 'invalid transaction ID "-1"\nDETAIL: It is a number of 3 or more.'),
        (["--target-name", ""], 'invalid restore point name ""\nDETAIL: It has 1 to 63 bytes.'),
        (
            ["--target-immediate", "--exclusive"],
            "--exclusive has no meaning for recovery target immediate\n"
            "HINT: it goes with --target-time, --target-lsn and --target-xid",
        ),
        (
            ["--standby", "--target-immediate"],
            "a standby has no recovery target\nHINT: leave out --standby or the target",
        ),
        (["--target-action", "stop"], 'invalid target action "stop"\nHINT: pause, promote or shutdown'),
        (["--target-timeline", "newest"], 'invalid target timeline "newest"\nHINT: a number, or "latest"'),
        (
            ["--tablespace", "/old:/new"],
            'invalid tablespace mapping "/old:/new"\n'
            "DETAIL: It is OLD=NEW with absolute paths.\n"
            "HINT: --tablespace /old=/new",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_target_that_makes_no_sense(shop: Shop, options: list[str], message: str) -> None:
    assert_refused(shop.source, shop.restore(*options), 2, message)


NOT_YET = (
    "SELECT pg_switch_wal();  -- on the server, while it lives: it archives what it has not archived yet"
)


def outside(
    shop: Shop, target: str, detail: str, hint: str = "pgproof wal check NAME shows the recovery windows"
) -> str:
    first = f"The first backup ended at {shop.record.stopped_at:%F %T%z}, LSN {shop.record.stop_lsn}."
    return (
        f"recovery target {target} is outside the recovery window\n"
        f"DETAIL: {detail}{' ' if detail else ''}{first}\nHINT: {hint}"
    )


def test_target_time_before_the_first_backup(shop: Shop) -> None:
    time = shop.record.started_at - timedelta(days=1)
    message = outside(shop, f"time {time.isoformat(sep=' ')}", "")
    assert_refused(shop.source, shop.restore("--target-time", time.isoformat()), 42, message)


def test_target_time_after_the_newest_wal(shop: Shop) -> None:
    # archive_now commits once more after the insert: the one that the message names
    _, out, _ = answer(shop.source, "wal", "check", "main", "--json")
    commit = datetime.fromisoformat(json.loads(out)["newest_commit"])
    assert commit > shop.newest_commit
    assert_refused(
        shop.source,
        shop.restore("--target-time", "2099-01-01T00:00:00Z"),
        42,
        outside(
            shop,
            "time 2099-01-01 00:00:00+00:00",
            f"The newest commit in the archive is of {commit:%F %T%z}.",
            NOT_YET,
        ),
    )


def test_target_lsn_outside_the_archive(shop: Shop) -> None:
    end = int(shop.newest[16:], 16) + 1
    reach = f"The archive reaches from {shop.record.stop_lsn} to 0/{end << 20:X}."
    words = [shop.restore("--target-lsn", lsn) for lsn in ("0/28", "FF/0")]
    assert_refused(shop.source, words[0], 42, outside(shop, "lsn 0/28", reach))
    assert_refused(shop.source, words[1], 42, outside(shop, "lsn FF/0", reach, NOT_YET))


@pytest.mark.parametrize(("option", "value"), [("xid", "4000000"), ("name", "after the mistake")])
def test_target_that_no_wal_holds(shop: Shop, option: str, value: str) -> None:
    end = int(shop.newest[16:], 16) + 1
    detail = f"It is in no archived WAL from {shop.record.stop_lsn} to 0/{end << 20:X}."
    assert_refused(
        shop.source,
        shop.restore(f"--target-{option}", value),
        42,
        outside(shop, f"{option} {value}", detail, NOT_YET),
    )


def test_xid_from_before_the_first_backup(shop: Shop) -> None:
    xid = str(shop.source.sql("SELECT xmin FROM pg_class WHERE relname = 't'")[0][0])
    code, _, err = answer(shop.source, *shop.restore("--target-xid", xid))
    assert code == 42, err
    assert err.startswith(f"pgproof: recovery target xid {xid} is outside the recovery window\n")


def test_destination_not_empty(shop: Shop) -> None:
    data = shop.source.root / "restored"
    data.mkdir()
    (data / "precious").write_text("do not touch")
    try:
        before = tree(shop.source.root / "restored")
        assert_refused(
            shop.source,
            shop.restore(),
            43,
            f'cannot restore into "{data}"\n'
            "DETAIL: Reason: it is not empty: it has 1 entries, such as precious. Nothing was written.\n"
            "HINT: name a new directory; a tablespace's with --tablespace OLD=NEW",
        )
        assert tree(data) == before
    finally:
        (data / "precious").unlink()
        data.rmdir()


def test_destination_that_is_a_file_or_not_writable(shop: Shop) -> None:
    hint = "HINT: name a new directory; a tablespace's with --tablespace OLD=NEW"
    for place, reason in (
        (str(shop.source.config_path), "it is not a directory"),
        ("/proc/restored", "/proc is not writable"),
    ):
        assert_refused(
            shop.source,
            ["restore", "main", "--to", place],
            43,
            f'cannot restore into "{place}"\nDETAIL: Reason: {reason}. Nothing was written.\n{hint}',
        )
