"""Schedules as pgproof.toml has them: what is taken, what is refused and why, and that Prefect takes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.schemas.schedules import CronSchedule

from pgproof.config import parse
from pgproof.errors import ConfigError
from pgproof.schedule import AUTO, OFF, Schedule, read_schedule

CRONS = [
    "30 1 * * *",
    "*/5 * * * *",
    "0 4 * * SUN",
    "0 4 * * 7",
    "15,45 0-6/2 1 jan-mar mon-fri",
    "5/10 * * * *",
]


@pytest.mark.parametrize("text", CRONS)
def test_a_cron_line_that_prefect_takes_too(text: str) -> None:
    assert read_schedule(text) == Schedule(cron=text)
    assert CronSchedule(cron=text, timezone="UTC").cron == text


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("5min", Schedule(interval=300)),
        ("1 h", Schedule(interval=3600)),
        (90, Schedule(interval=90)),
        ("off", OFF),
        (False, OFF),
        ("auto", AUTO),
        ("  0  4 * *   * ", Schedule(cron="0 4 * * *")),
    ],
)
def test_other_forms(value: object, wanted: Schedule) -> None:
    assert read_schedule(value) == wanted
    assert read_schedule(str(wanted)) == wanted


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("60 1 * * *", '"60" is no minute of 0 to 59'),
        ("0 24 * * *", '"24" is no hour of 0 to 23'),
        ("0 1 0 * *", '"0" is no day of the month of 1 to 31'),
        ("0 1 * 13 *", '"13" is no month of 1 to 12'),
        ("0 1 * * 8", '"8" is no day of the week of 0 to 7'),
        ("0 1 * * sunday", '"sunday" is no day of the week of 0 to 7'),
        ("0 5-1 * * *", '"5-1" goes backwards'),
        ("*/0 * * * *", '"*/0" has a step of 0'),
        ("*-5 * * * *", '"*-5" is no minute'),
        ("a;b * * * *", '"a;b" is no minute'),
        ("30s", '"30s" is shorter than 60 s'),
        (
            True,
            '"True" is no schedule: cron such as "30 1 * * *", an interval such as "5min", "off" or "auto"',
        ),
        (
            "daily",
            '"daily" is no schedule: cron such as "30 1 * * *", an interval such as "5min", "off" or "auto"',
        ),
    ],
)
def test_what_is_refused_bad(value: object, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_schedule(value)
    assert str(caught.value) == says


def test_a_slip_in_pgproof_toml_is_named() -> None:
    schedules = {"base_backup": "61 1 * * *", "timezone": "Europe/Berlinn"}
    tree = {"clusters": {"shop": {"dsn": "host=x", "schedules": schedules}}, "repositories": {}}
    with pytest.raises(ConfigError) as caught:
        parse(tree, Path("pgproof.toml"))
    assert caught.value.fact == 'configuration "pgproof.toml" has wrong values'
    assert caught.value.detail == (
        'clusters.shop.schedules.base_backup: Value error, "61" is no minute of 0 to 59.'
    )
    del schedules["base_backup"]
    with pytest.raises(ConfigError) as caught:
        parse(tree, Path("pgproof.toml"))
    assert caught.value.detail == (
        'clusters.shop.schedules: Value error, timezone "Europe/Berlinn" is not known here.'
    )
