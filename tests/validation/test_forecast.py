"""Trend and forecast of the recovery time: arithmetic that can be checked with a pencil, and its cautions."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from pgproof.validation.forecast import Forecast, Load, forecast
from pgproof.validation.proof import Proof, write_proof
from pgproof.validation.trend import Trend, read_trend
from tests.validation.test_proof import RESTORED, proof
from tests.validation.values import AT, archive

MB = 1_000_000


def drill(number: int = 0, **changes: Any) -> Proof:
    """A drill of 100 MB at 10 MB/s, with 20 MB of WAL fetched at 20 MB/s and replayed at 5 MB/s, started in 1 s."""
    at = AT + timedelta(days=number)
    values = {
        "identifier": f"{at:%Y%m%dT%H%M%S%fZ}-label",
        "at": at,
        "rto_seconds": 16.0,
        "restored_bytes": 100 * MB,
        "wal_bytes": 20 * MB,
        "phases": {"extract": 10.0, "fetch": 1.0, "start": 1.0, "replay": 4.0},
        "bytes_per_second": {"extract": 10.0 * MB, "fetch": 20.0 * MB, "replay": 5.0 * MB},
    }
    return replace(proof(restored=RESTORED), **(values | changes))


def slower(factor: float) -> Proof:
    made = drill()
    speeds = {name: speed / factor for name, speed in made.bytes_per_second.items()}
    return replace(made, bytes_per_second=speeds)


class TestForecast:
    def test_what_was_drilled_takes_what_it_took(self) -> None:
        load = Load(100 * MB, 1, 20 * MB)
        assert forecast(load, [drill(), drill(1), drill(2)]) == Forecast(load, 16.0, 16.0, 16.0, 3)

    def test_twice_as_much_takes_twice_as_long_but_for_the_start(self) -> None:
        load = Load(200 * MB, 1, 40 * MB)
        assert forecast(load, [drill(), drill(1), drill(2)]).seconds == 31.0

    def test_the_median_of_the_drills_with_their_spread(self) -> None:
        load = Load(100 * MB, 1, 20 * MB)
        found = forecast(load, [slower(1), slower(4), slower(2)])
        assert (found.seconds, found.fastest, found.slowest, found.drills) == (31.0, 16.0, 61.0, 3)
        assert found.cautions == ()

    def test_backups_that_are_combined(self) -> None:
        combined = drill(bytes_per_second={**drill().bytes_per_second, "combine": 50.0 * MB})
        load = Load(100 * MB, 2, 20 * MB)
        assert forecast(load, [combined] * 3).seconds == 18.0
        found = forecast(load, [drill()] * 3)
        assert found.seconds == 26.0
        assert found.cautions == ("no drill has combined backups yet; taken to be as fast as extracting",)

    def test_too_few_drills(self) -> None:
        load = Load(100 * MB, 1, 20 * MB)
        found = forecast(load, [drill()])
        assert found.seconds == 16.0
        assert found.cautions == ("made from 1 of the 3 drills that a spread needs",)

    def test_no_drill_or_only_such_of_an_older_version(self) -> None:
        load = Load(100 * MB, 1, 20 * MB)
        none = Forecast(load, None, cautions=("no drill has measured how fast a restore is",))
        assert forecast(load, []) == none
        assert forecast(load, [drill(bytes_per_second={})]) == none

    def test_far_beyond_what_was_drilled(self) -> None:
        found = forecast(Load(1001 * MB, 1, 201 * MB), [drill()] * 3)
        assert found.cautions == (
            "it replays 201,000,000 bytes of WAL, and no drill replayed more than 20,000,000",
            "it puts back 1,001,000,000 bytes of files, and no drill put back more than 100,000,000",
        )


class TestTrend:
    def test_the_newest_drills_that_measured_a_recovery_time(self) -> None:
        stored = archive("trend")
        wanted = [drill(number) for number in range(5)]
        for made in wanted:
            write_proof(stored, made)
        write_proof(stored, drill(6, rto_seconds=0.0, verdict="not recovered"))
        write_proof(stored, drill(7, origin={"kind": "barman", "title": "Barman", "version": "3"}))
        broken = drill(8).identifier
        stored.write_json(f"{stored.layout.proofs}{broken}.json", {"identifier": broken})
        stored.write_json(f"{stored.layout.proofs}{drill(9).identifier}/great_expectations.json", {})
        assert read_trend(stored, 3) == Trend(tuple(reversed(wanted[2:])), (broken,))
        assert read_trend(stored).newest == wanted[-1]

    def test_no_drill(self) -> None:
        assert read_trend(archive("no trend")) == Trend()
        assert Trend().newest is None
