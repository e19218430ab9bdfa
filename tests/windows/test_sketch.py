"""The picture in characters, whole."""

from __future__ import annotations

from datetime import timedelta

from tasks.sketch import BAR, sketch
from tests.windows.views import NOW, at, broken, gap, lsn, segment, view, window

EVERYTHING = [
    "backup                 TL 2026-11-23 12:00:00      2026-11-23 13:00:00 UTC",
    "20261123T120000Z-full   1 ██████████████████████X░░░░░░░░░░░░░░!░░░    0000000100000000000"
    "0001E (2 segments)",
    "20261123T124000Z-full   1                              ████████!░░░    000000010000000000000033",
    "20261123T125400Z-full   1                                         █▒▒?",
    "",
    "█ can be recovered  ▒ received, segment not finished  ? on the source alone  X missing"
    "  ! damaged  ░ archived, out of reach",
]


def test_everything_at_once() -> None:
    found = view(
        broken(0, 30),
        broken(40, 51),
        window(54, 56),
        gaps=(gap(30, 31),),
        damaged=((segment(51).name, "CRC differs"),),
        end=segment(55),
        newest_commit=at(58),
        received=lsn(57),
        rpo_seconds=120.0,
        insert=lsn(60),
    )
    assert sketch(found).splitlines() == EVERYTHING


def test_a_fault_is_seen_however_short_it_is() -> None:
    year = view(
        broken(0, 30, from_time=NOW - timedelta(days=365), to_time=NOW - timedelta(days=9)), gaps=(gap(30),)
    )
    line = sketch(year).splitlines()[1]
    assert line.count("X") == 1
    assert line.endswith(str(segment(30)))


def test_expired() -> None:
    lines = sketch(view(window(0, 0, expired=True), window(30))).splitlines()
    assert lines[1].endswith("█") or "-" in lines[1]
    assert lines[-1] == "█ can be recovered  - expired"


def test_names_cannot_leave_the_block_of_code() -> None:
    lines = sketch(view(window(0, backup="```\n# a heading\x1b[31m" + "x" * 90))).splitlines()
    assert lines[1].startswith("???? # a heading") or lines[1].startswith("????# a heading")
    assert len(lines[1]) == 24 + 1 + 3 + 1 + BAR


def test_no_backup() -> None:
    assert sketch(view()) == "There is no backup: nothing can be recovered."


def test_more_than_can_be_shown() -> None:
    assert "and 12 more" in sketch(view(*(window(n / 10, backup=f"b{n}") for n in range(60)))).splitlines()
