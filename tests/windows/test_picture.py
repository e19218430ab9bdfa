"""The SVG of the recovery windows: well-formed, bars at their places, nothing from outside, escaped, small."""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from pgproof.timelines.history import Fork, TimelineHistory
from tasks.picture import LEFT, LOW, RIGHT, TALL, WIDTH, data_url, draw
from tasks.windows import View
from tests.windows.views import NOW, at, broken, gap, lsn, segment, view, window

SVG = "{http://www.w3.org/2000/svg}"
WHOLE = view(window(0), window(30))
GAP = view(broken(0, 30), window(45), gaps=(gap(30, 32),))


def parse(found: View, title: str = "Recovery windows of main") -> ElementTree.Element:
    return ElementTree.fromstring(draw(title, found))


def bars(tree: ElementTree.Element, kind: str) -> list[tuple[float, float, float]]:
    """x, y and width of the bars of a kind: they are one path."""
    shapes = [path.attrib["d"] for path in tree.iter(f"{SVG}path") if path.get("class") == kind]
    found = re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v\d+h-\3z", "".join(shapes))
    return [(float(at_x), float(y), float(width)) for at_x, y, width in found]


def texts(tree: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in tree.iter(f"{SVG}text")]


def x(minute: float) -> float:
    """Where a minute of the hour lies, when the first backup ended at its beginning."""
    return round(LEFT + (RIGHT - LEFT) * minute / 60, 1)


def test_bars_lie_at_their_times() -> None:
    tree = parse(WHOLE)
    (first, second) = bars(tree, "reach")
    assert first[0] == x(0) and first[2] == pytest.approx(RIGHT - LEFT)
    assert second[0] == x(30) and second[2] == pytest.approx(RIGHT - x(30))
    assert second[1] - first[1] == TALL
    assert not bars(tree, "gap")


def test_a_gap_is_red_at_its_time_and_named() -> None:
    tree = parse(GAP)
    ((at_x, _, width),) = bars(tree, "gap")
    assert at_x == x(30)
    assert width == pytest.approx(x(33) - x(30), abs=0.11)
    ((beyond, _, _),) = bars(tree, "beyond")
    assert beyond == x(33)
    assert f"0/0 to 0/1E00000, then {segment(30)} (3 segments) missing" in texts(tree)
    assert {"can be recovered", "missing", "archived, out of reach"} <= set(texts(tree))
    assert "expired" not in texts(tree)


def test_a_gap_of_a_second_in_a_year_can_be_seen() -> None:
    year = view(
        broken(0, 59, from_time=NOW - timedelta(days=365), to_time=NOW - timedelta(seconds=1)),
        gaps=(gap(59),),
        end=segment(59),
    )
    ((at_x, _, width),) = bars(parse(year), "gap")
    assert width == 5
    assert at_x + width <= RIGHT


def test_damage_has_a_sign_besides_its_colour() -> None:
    tree = parse(view(window(0), damaged=((segment(50).name, "CRC differs"),)))
    ((at_x, _, width),) = bars(tree, "damage")
    crosses = [path.attrib["d"] for path in tree.iter(f"{SVG}path") if path.get("class") == "x"]
    assert at_x == x(50)
    assert len(crosses) == 2  # in the bar, and in the legend
    assert float(crosses[0][1:].split(" ")[0]) == pytest.approx(at_x + width / 2 - 2, abs=0.1)


def test_expired_backups_do_not_squeeze_what_can_be_recovered() -> None:
    old = window(0, 0, expired=True, from_time=NOW - timedelta(days=365), to_time=NOW - timedelta(days=365))
    tree = parse(view(old, window(0, backup="new")))
    assert bars(tree, "expired")[0][0] == LEFT
    assert bars(tree, "reach")[-1][0] == x(0)


def test_now_the_newest_commit_and_the_lag() -> None:
    known = {"newest_commit": at(54), "rpo_seconds": 360.0, "insert": lsn(61)}
    tree = parse(view(window(0, 54), end=segment(53), **known))
    lines = {path.get("class"): path.attrib["d"] for path in tree.iter(f"{SVG}path")}
    assert lines["n"].startswith(f"M{RIGHT} ")
    assert lines["k commit"].startswith(f"M{x(54):g} ")
    assert [bar[0] for bar in bars(tree, "flight")] == [x(54)]
    assert "now 2026-11-23 13:00:00 UTC" in texts(tree)
    lost = (
        "lost if the source died now: at most 6 min; newest commit in the repository: 2026-11-23 12:54:00 UTC"
    )
    assert lost in texts(tree)


def test_the_received_part_is_hatched() -> None:
    known = {"newest_commit": at(58), "rpo_seconds": 120.0, "received": lsn(57.9)}
    tree = parse(view(window(0, 57), end=segment(56), **known))
    assert [bar[0] for bar in bars(tree, "received")] == [x(57)]
    patterns = {pattern.get("id") for pattern in tree.iter(f"{SVG}pattern")}
    assert {"h", "f"} == patterns


def test_forks_are_shown_where_they_are() -> None:
    history = TimelineHistory(2, (Fork(1, lsn(30), "promoted"),))
    found = view(
        window(0, 40), window(0, timeline=2), paths=(TimelineHistory(1), history), end=segment(59, 2)
    )
    tree = parse(found)
    (fork,) = [path for path in tree.iter(f"{SVG}path") if path.get("class") == "k fork"]
    assert fork.attrib["d"].startswith(f"M{x(30):g} {bars(tree, 'reach')[1][1]:g}v")
    assert [text for text in texts(tree) if text.startswith("timeline ")] == ["timeline 1", "timeline 2"]
    assert "left timeline 1 at 0/1E00000" in texts(tree)


def test_ticks_are_whole_quarters_of_an_hour() -> None:
    ticks = [text for text in texts(parse(WHOLE)) if re.fullmatch(r"\d\d:\d\d", text)]
    assert ticks == ["12:15", "12:30", "12:45", "13:00"]


@pytest.mark.parametrize(
    "span", [0.01, 1, 10, 60, 3600, 86400, 7 * 86400, 60 * 86400, 400 * 86400, 4000 * 86400]
)
def test_there_are_some_ticks_and_not_too_many(span: float) -> None:
    found = view(window(0, from_time=NOW - timedelta(seconds=span)))
    ticks = [path for path in parse(found).iter(f"{SVG}path") if path.get("class") == "l"]
    assert (1 if span >= 10 else 0) <= len(ticks) <= 7


def test_no_backup_says_so() -> None:
    assert "There is no backup: nothing can be recovered." in texts(parse(view(end=None, newest_commit=None)))


@pytest.mark.parametrize(
    "name", ['"><script>alert(1)</script>', "</svg>", "a&b<c>'", "\x00\x1b[31m\ud800", "x" * 500]
)
def test_hostile_names_are_text(name: str) -> None:
    tree = parse(view(window(0, backup=name)), title=name)
    allowed = {"svg", "title", "style", "defs", "pattern", "path", "circle", "rect", "text"}
    assert {element.tag.removeprefix(SVG) for element in tree.iter()} == allowed
    shown = "".join(
        character if character >= " " and character != "\ud800" else "\ufffd" for character in name
    )
    label = shown if len(shown) <= 24 else shown[:23] + "…"
    assert tree.findtext(f"{SVG}title") == shown
    assert [text for text in texts(tree) if text in (shown, label)] == [shown, label]


@pytest.mark.parametrize("found", [WHOLE, GAP, view()], ids=["whole", "gap", "none"])
def test_nothing_comes_from_outside(found: View) -> None:
    svg = draw("t", found)
    assert re.findall(r"(?:https?:)?//[^\s\"']+", svg) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"href|@import|@font-face|<script|<image|<foreignObject|\son\w+=", svg)
    assert set(re.findall(r"url\(([^)]*)\)", svg)) == {"#h", "#f"}


def test_it_has_its_own_ground_in_light_and_dark() -> None:
    tree = parse(WHOLE)
    ground = tree.find(f"{SVG}rect")
    assert ground is not None
    assert (ground.get("class"), ground.get("width")) == ("g", str(WIDTH))
    style = tree.findtext(f"{SVG}style") or ""
    light, _, dark = style.partition("@media(prefers-color-scheme:dark)")
    assert ".g{fill:#fff}" in light and ".g{fill:#1d1f23}" in dark


def test_forty_windows_are_low_and_the_picture_stays_small() -> None:
    many = [broken(n, 50, backup=f"202611{n:02}T013000Z-incremental") for n in range(40)]
    found = view(*many, gaps=tuple(gap(n) for n in range(50, 60, 2)))
    tree = parse(found)
    ys = [y for _, y, _ in bars(tree, "reach")]
    assert len(ys) == 40
    assert {b - a for a, b in pairwise(ys)} == {LOW}
    assert [text for text in texts(tree) if text == str(segment(50))] == [str(segment(50))]  # named once
    assert len(data_url(draw("main", found))) < 25_000


def test_thousands_of_gaps_do_not_make_it_large() -> None:
    many = [broken(0, 1, backup=f"b{n}") for n in range(40)]
    found = view(*many, gaps=tuple(gap(n) for n in range(1, 4000, 2)), end=segment(4000), newest_commit=NOW)
    assert len(data_url(draw("main", found))) < 30_000


def test_what_is_left_out_is_counted() -> None:
    found = view(*(window(n / 10, backup=f"b{n}") for n in range(300)))
    svg = draw("main", found)
    assert "252 more are in the table below" in svg
    assert len(data_url(svg)) < 30_000


def test_a_data_url_is_what_both_user_interfaces_show() -> None:
    head, _, content = data_url(draw("main", WHOLE)).partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(content).decode() == draw("main", WHOLE)
