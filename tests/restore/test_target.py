"""Recovery targets: what an operator's options mean, and what they cannot mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import InvalidTarget
from pgproof.restore.target import RecoveryTarget, parse_time
from pgproof.timelines.lsn import LSN


@pytest.mark.parametrize(
    ("options", "kind", "value", "text"),
    [
        ({}, "end", "", "the end of the archived WAL"),
        ({"immediate": True}, "immediate", "immediate", "the end of the backup"),
        (
            {"time": "2026-11-23T20:15:00+01:00"},
            "time",
            "2026-11-23 19:15:00+00:00",
            "time 2026-11-23 19:15:00+00:00",
        ),
        ({"lsn": "a/b"}, "lsn", "A/B", "lsn A/B"),
        ({"xid": "800", "exclusive": True}, "xid", "800", "xid 800 (exclusive)"),
        ({"name": "before; the 'mistake'"}, "name", "before; the 'mistake'", "name before; the 'mistake'"),
    ],
)
def test_options(options: dict[str, Any], kind: str, value: str, text: str) -> None:
    target = RecoveryTarget.build(**options)
    assert (target.kind, target.value, str(target)) == (kind, value, text)
    assert target.exclusive == options.get("exclusive", False)


def test_values() -> None:
    assert RecoveryTarget.build(lsn="1/2").lsn == LSN.parse("1/2")
    assert RecoveryTarget.build(time="2026-11-23 20:15:00.25Z").time == datetime(
        2026, 11, 23, 20, 15, 0, 250000, UTC
    )


@pytest.mark.parametrize(
    ("text", "timeline"), [(None, None), ("latest", None), ("1", 1), ("0x1A", 26), (" 2 ", 2)]
)
def test_timelines(text: str | None, timeline: int | None) -> None:
    assert RecoveryTarget.build(timeline=text).timeline == timeline


BAD: list[tuple[dict[str, Any], str]] = [
    ({"time": ""}, 'invalid target time ""'),
    ({"time": "2026-11-23"}, 'target time "2026-11-23" has no time zone'),
    ({"time": "2026-11-23 25:00:00Z"}, 'invalid target time "2026-11-23 25:00:00Z"'),
    ({"time": "9999-12-31T23:59:59-01:00"}, 'invalid target time "9999-12-31T23:59:59-01:00"'),
    ({"time": "0001-01-01T00:00:00+01:00"}, 'invalid target time "0001-01-01T00:00:00+01:00"'),
    ({"lsn": ""}, 'invalid LSN ""'),
    ({"lsn": "0/123456789"}, 'invalid LSN "0/123456789"'),
    ({"xid": ""}, 'invalid transaction ID ""'),
    ({"xid": "2"}, 'invalid transaction ID "2"'),
    ({"xid": "²"}, 'invalid transaction ID "²"'),
    ({"xid": "٣٣٣"}, 'invalid transaction ID "٣٣٣"'),
    ({"xid": str(1 << 64)}, f'invalid transaction ID "{1 << 64}"'),
    ({"name": ""}, 'invalid restore point name ""'),
    ({"name": "ü" * 32}, f'invalid restore point name "{"ü" * 32}"'),
    ({"timeline": "0"}, 'invalid target timeline "0"'),
    ({"timeline": "-1"}, 'invalid target timeline "-1"'),
    ({"timeline": ""}, 'invalid target timeline ""'),
    ({"exclusive": True}, "--exclusive has no meaning for recovery target end"),
    ({"name": "x", "exclusive": True}, "--exclusive has no meaning for recovery target name"),
    ({"time": "2026-11-23T00:00Z", "immediate": True}, "more than one recovery target was given"),
    ({"name": "", "xid": "800"}, "more than one recovery target was given"),
]


@pytest.mark.parametrize(("options", "fact"), BAD)
def test_options_bad(options: dict[str, Any], fact: str) -> None:
    with pytest.raises(InvalidTarget) as caught:
        RecoveryTarget.build(**options)
    assert caught.value.fact == fact
    assert caught.value.exit_code == 2


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_a_time_with_its_zone_is_that_moment(time: datetime, zone: timezone) -> None:
    local = time.replace(tzinfo=zone)
    parsed = parse_time(local.isoformat())
    assert (parsed, parsed.tzinfo) == (local, UTC)
    target = RecoveryTarget.build(time=local.isoformat(sep=" "))
    assert target.time == local


@given(st.datetimes())
def test_a_time_without_a_zone_is_never_guessed(time: datetime) -> None:
    with pytest.raises(InvalidTarget, match="has no time zone"):
        parse_time(time.isoformat())


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for option in ("time", "lsn", "xid", "name", "timeline"):
        try:
            RecoveryTarget.build(**{option: text})  # type: ignore[arg-type]
        except InvalidTarget:
            continue
