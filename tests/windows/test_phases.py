"""The phases of a drill, as a picture and in characters."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tasks.phases import draw_phases, sketch_phases

PHASES = {"extract": 2.0, "fence": 1.0, "replay": 4.0, "check": 1.0}
SKETCH = [
    "fence    ░░░░░ 1.0 s",
    "extract       ██████████ 2.0 s",
    "replay                  ████████████████████ 4.0 s",
    "check                                       ░░░░░ 1.0 s",
]


def test_bars_follow_each_other_in_the_order_of_a_drill() -> None:
    assert sketch_phases(PHASES).splitlines() == SKETCH


def test_the_picture_stands_by_itself() -> None:
    text = draw_phases("Drill of <a> & b", PHASES)
    ElementTree.fromstring(text)
    assert "<title>Drill of &lt;a&gt; &amp; b</title>" in text
    assert re.findall(r'<rect class="(restore|besides)" x="([\d.]+)"', text) == [
        ("besides", "96"),
        ("restore", "166.5"),
        ("restore", "307.5"),
        ("besides", "589.5"),
    ]
    assert "href" not in text
    assert "<script" not in text


def test_phases_of_no_time_are_seen() -> None:
    assert sketch_phases({"fence": 0.0, "start": 0.0}).splitlines() == [
        "fence    ░ 0.0 s",
        "start    █ 0.0 s",
    ]
    assert draw_phases("x", {"fence": 0.0}).count('width="2"') == 1
