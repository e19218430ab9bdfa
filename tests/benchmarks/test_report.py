from __future__ import annotations

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.report import number, render
from benchmarks.series import Contender, Section, Series, take_turns

PAGE = """# WAL, measured

Made by `make bench`; benchmarks/README.md says what each row means.

| machine and run | |
|---|---|
| disk | ext4 on /dev/sda |

| program | |
|---|---|
| ours | 1.0 |

## Speed

segments per second, more is better.
Ten of them.

| | median | min to max | n | ratio to theirs |
|---|---:|---:|---:|---:|
| ours | 12.0 | 11.0 to 130 | 3 | 3.00 |
| theirs | 4.00 | 4.00 to 4.00 | 1 | 1.00 |
| broken | failed: a \\| b c | | 0 | |

## Not measured

- absent: it is not installed

## More
"""


def test_a_page() -> None:
    section = Section(
        "Speed",
        "segments per second",
        True,
        "theirs",
        (
            Series("ours", (130.0, 11.0, 12.0)),
            Series("theirs", (4.0,)),
            Series("broken", failure="failed: a | b\nc"),
        ),
        ("Ten of them.",),
    )
    facts = [("disk", "ext4 on /dev/sda")]
    text = render([section], facts, [("ours", "1.0")], [("absent", "it is not installed")], "## More\n")
    assert text == PAGE


def test_no_ratio_to_what_failed() -> None:
    section = Section(
        "S", "ms", False, "theirs", (Series("ours", (2.0,)), Series("theirs", failure="failed"))
    )
    assert "| ours | 2.00 | 2.00 to 2.00 | 1 |  |" in render([section], [], [], [], "").splitlines()


def test_another_unit_and_two_ratios() -> None:
    series = (Series("ours", (2.0,)), Series("theirs", (4.0,)), Series("floor", (40.0,)))
    broken = Series("broken", failure="failed")
    section = Section("S", "rows", True, "theirs", (*series, broken), further=("floor",), also=("MB/s", 0.5))
    lines = render([section], [], [], [], "", "Other, measured", "make other").splitlines()
    assert lines[:3] == [
        "# Other, measured",
        "",
        "Made by `make other`; benchmarks/README.md says what each row means.",
    ]
    assert [line for line in lines if line.startswith("|")][4:] == [
        "| | median | min to max | n | MB/s | ratio to theirs | ratio to floor |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| ours | 2.00 | 2.00 to 2.00 | 1 | 1.00 | 0.50 | 0.050 |",
        "| theirs | 4.00 | 4.00 to 4.00 | 1 | 2.00 | 1.00 | 0.10 |",
        "| floor | 40.0 | 40.0 to 40.0 | 1 | 20.0 | 10.00 | 1.00 |",
        "| broken | failed | | 0 | | | |",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "0.12"), (9.99, "9.99"), (10, "10.0"), (99.94, "99.9"), (1234.5, "1,234")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_turns_are_taken() -> None:
    calls = []

    def contender(name: str) -> Contender:
        def measure(repetition: int) -> float:
            calls.append((name, repetition))
            return float(repetition)

        return Contender(name, measure)

    series = take_turns("x", [contender("a"), contender("b")], 2)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert series == (Series("a", (0.0, 1.0)), Series("b", (0.0, 1.0)))


def test_who_fails_has_no_value_and_the_others_go_on() -> None:
    asked = []

    def fails(repetition: int) -> float:
        asked.append(repetition)
        if repetition == 1:
            raise BenchmarkError("no room")
        return 1.0

    series = take_turns("x", [Contender("a", fails), Contender("b", float)], 3)
    assert asked == [0, 1]
    assert series == (Series("a", (), "failed: no room"), Series("b", (0.0, 1.0, 2.0)))
