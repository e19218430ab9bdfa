"""A sketch of the recovery windows in characters, for whoever reads the artifact in a terminal or in mail."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from tasks.picture import Axis
from tasks.windows import Kind, Row, View, rows_of

BAR = 44  # with a label and a timeline as wide as the column of a user interface
_LABEL = 24
_MARKS = {
    Kind.BEYOND: "░",
    Kind.EXPIRED: "-",
    Kind.FLIGHT: "?",
    Kind.RECEIVED: "▒",
    Kind.REACH: "█",
    Kind.DAMAGE: "!",
    Kind.GAP: "X",
}
_MEANING = {
    Kind.REACH: "can be recovered",
    Kind.RECEIVED: "received, segment not finished",
    Kind.FLIGHT: "on the source alone",
    Kind.GAP: "missing",
    Kind.DAMAGE: "damaged",
    Kind.BEYOND: "archived, out of reach",
    Kind.EXPIRED: "expired",
}


def sketch(view: View) -> str:
    """The windows as lines of characters, one for each backup and timeline."""
    rows, left_out = rows_of(view)
    if not rows:
        return "There is no backup: nothing can be recovered."
    axis = Axis.of(rows, view.now)
    first, last = (f"{moment.astimezone(UTC):%F %T}" for moment in (axis.begin, axis.end))
    wide = max(len(_name(row)) for row in rows)
    lines = [f"{'backup':{wide}} {'TL':>3} {first}{last:>{BAR - len(first)}} UTC"]
    lines += [
        f"{_name(row):{wide}} {row.timeline:>3} {_bar(row, axis)} {_fault(row)}".rstrip() for row in rows
    ]
    lines += [f"and {left_out} more"] if left_out else []
    return "\n".join([*lines, "", _legend(rows)])


def _name(row: Row) -> str:
    """A label that cannot end the block of code that it stands in."""
    text = "".join(c if c.isprintable() and c != "`" else "?" for c in row.backup)
    return text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"


def _bar(row: Row, axis: Axis) -> str:
    """What is worse covers what is better where both fall on one character."""
    cells = [" "] * BAR
    order = list(_MARKS)
    span = (axis.end - axis.begin).total_seconds()
    for stretch in sorted(row.stretches, key=lambda stretch: order.index(stretch.kind)):
        begin, end = (
            (moment - axis.begin).total_seconds() / span * BAR for moment in (stretch.begin, stretch.end)
        )
        if stretch.begin == stretch.end and stretch.kind not in (Kind.GAP, Kind.DAMAGE, Kind.REACH):
            continue
        first = min(BAR - 1, max(0, round(begin)))
        for cell in range(first, max(first + 1, min(BAR, round(end)))):
            cells[cell] = _MARKS[stretch.kind]
    return "".join(cells)


def _fault(row: Row) -> str:
    return next((s.label for s in row.stretches if s.kind in (Kind.GAP, Kind.DAMAGE)), "")


def _legend(rows: Sequence[Row]) -> str:
    shown = {stretch.kind for row in rows for stretch in row.stretches}
    return "  ".join(f"{_MARKS[kind]} {text}" for kind, text in _MEANING.items() if kind in shown)
