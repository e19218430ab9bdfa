"""A picture of the recovery windows: an SVG that stands by itself, one bar for each backup and timeline over time.

Prefect's two UIs strip inline SVG and every style from Markdown, and show an image with a ``data:`` URL in base64.
So the picture is such an image. It has a ground of its own, because a page may be dark where the browser is light;
no script, and no font from elsewhere.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pgproof.timelines.history import Fork
from pgproof.wording import duration
from tasks.windows import Kind, Row, Stretch, View, rows_of

WIDTH, LEFT, RIGHT = 760, 178, 744
TOP, HEADING = 70, 24
TALL, LOW, MANY = 32, 15, 16  # heights of a row; low ones from so many rows on, without their sentence
_NARROWEST = {Kind.REACH: 2.0, Kind.GAP: 5.0, Kind.DAMAGE: 5.0, Kind.EXPIRED: 4.0, Kind.FLIGHT: 2.0}
_STEPS: tuple[int, ...] = (
    1,
    5,
    15,
    60,
    300,
    900,
    3600,
    3 * 3600,
    6 * 3600,
    12 * 3600,
    86400,
    2 * 86400,
    7 * 86400,
)
_STEPS += (14 * 86400, 28 * 86400, 91 * 86400, 364 * 86400)
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKS = 500  # stretches in one picture, about: it has to stay small
_LONGEST = 24  # characters of a backup's label beside its bar
_STYLE = """
text{font:11px system-ui,sans-serif;fill:#333}.m{font-family:ui-monospace,monospace;font-size:10.5px}
.s{fill:#767676;font-size:10px}.b{font-weight:600;font-size:13px}.r{fill:#b3131b}.w{fill:#fff}.e{text-anchor:end}.c{text-anchor:middle}
.g{fill:#fff}.reach{fill:#2e9e5b}.gap{fill:#e0222c}.damage{fill:#e0222c}.beyond{fill:#e0222c;opacity:.22}
.expired{fill:#b9bcc2}.flight{fill:url(#f)}.received{fill:url(#h)}.x{stroke:#fff;stroke-width:1.5}
.l{stroke:#8884}.n{stroke:#2563eb}.k{stroke:#333;stroke-dasharray:3 2}
@media(prefers-color-scheme:dark){text,.w{fill:#e6e6e6}.s{fill:#a3a3a3}.r{fill:#ff7b80}.g{fill:#1d1f23}
.expired{fill:#5d626b}.beyond{opacity:.4}.n{stroke:#7aa7ff}.k{stroke:#e6e6e6}}
"""
_HATCHES = (
    '<defs><pattern id="h" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path d="M0 0h6v6H0z" fill="#2e9e5b" opacity=".3"/><path d="M0 0h3v6H0z" fill="#2e9e5b"/></pattern>'
    '<pattern id="f" width="4" height="4" patternUnits="userSpaceOnUse">'
    '<circle cx="2" cy="2" r="1.1" fill="#d98300"/></pattern></defs>'
)
_LEGEND = (
    (Kind.REACH, "can be recovered"),
    (Kind.RECEIVED, "received, segment not finished"),
    (Kind.FLIGHT, "on the source alone"),
    (Kind.GAP, "missing"),
    (Kind.DAMAGE, "damaged"),
    (Kind.BEYOND, "archived, out of reach"),
    (Kind.EXPIRED, "expired"),
)


@dataclass(frozen=True, slots=True)
class Axis:
    """Time from left to right."""

    begin: datetime
    end: datetime

    @classmethod
    def of(cls, rows: Sequence[Row], now: datetime) -> Axis:
        """From the oldest backup to now. Expired backups do not squeeze what can still be recovered."""
        begins = [s.begin for row in rows for s in row.stretches[:1] if not row.expired]
        begins = begins or [s.begin for row in rows for s in row.stretches[:1]]
        last = max([now, *(s.end for row in rows for s in row.stretches)])
        first = min([last - timedelta(seconds=1), *begins])
        return cls(first, last)

    def x(self, time: datetime) -> float:
        part = (time - self.begin) / (self.end - self.begin)
        return round(LEFT + (RIGHT - LEFT) * min(1.0, max(0.0, part)), 1)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Whole hours, days or weeks, not more than seven; UTC."""
        span = (self.end - self.begin).total_seconds()
        step = next(
            (step for step in _STEPS if span / step <= 7), _STEPS[-1] * (1 + span // (7 * _STEPS[-1]))
        )
        form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 43200 else "%d %b" if step < 7e6 else "%b %Y"
        second = self.begin.timestamp() // step * step + step
        while second <= self.end.timestamp():
            moment = datetime.fromtimestamp(second, UTC)
            yield self.x(moment), moment.strftime(form)
            second += step


def draw(title: str, view: View) -> str:
    """The picture as the text of an SVG.

    Args:
        title: its heading; text from outside is escaped.
        view: what the gap check found.
    """
    rows, left_out = rows_of(view)
    axis, height = Axis.of(rows, view.now), LOW if len(rows) > MANY else TALL
    lines, y = _lines(rows, height)
    body = [*_bars(lines, axis, 11 if height == LOW else 13), *_names(lines, axis, height)]
    body += _forks(lines, axis, height)
    if not rows:
        body.append(_text(LEFT, TOP + 20, "There is no backup: nothing can be recovered.", "r"))
        y += HEADING + 8
    if left_out:
        body.append(_text(LEFT, y + 12, f"{left_out} more are in the table below", "s"))
        y += 18
    return _svg(title, y + 32, [*_frame(title, view, axis, y), *body, *_legend(rows, y + 18)])


@dataclass(frozen=True, slots=True)
class _Line:
    """A row, and where it is drawn; ``first`` is the first of its timeline."""

    row: Row
    y: int
    first: bool


def _lines(rows: Sequence[Row], height: int) -> tuple[list[_Line], int]:
    lines: list[_Line] = []
    y = TOP
    for row in rows:
        first = not lines or lines[-1].row.timeline != row.timeline
        y += HEADING if first else 0
        lines.append(_Line(row, y, first))
        y += height
    return lines, y


def data_url(svg: str) -> str:
    """The picture as Markdown can hold it."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    style = _STYLE.replace("\n", "")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
    head += f'height="{height}" role="img"><title>{_escape(title)}</title><style>{style}</style>{_HATCHES}'
    return head + f'<rect class="g" width="{WIDTH}" height="{height}" rx="6"/>' + "".join(parts) + "</svg>"


def _escape(text: str) -> str:
    return html.escape(_UNPRINTABLE.sub("�", text))


def _text(x: float, y: float, text: str, style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text x="{x:g}" y="{y:g}"{named}>{_escape(text)}</text>'


def _frame(title: str, view: View, axis: Axis, bottom: int) -> list[str]:
    """Heading, ticks, the newest commit, and now."""
    parts = [_text(16, 22, title, "b"), _text(RIGHT, 22, f"now {view.now.astimezone(UTC):%F %T} UTC", "e")]
    parts.append(_text(16, 38, _lost(view), "s"))
    for x, label in axis.ticks():
        parts.append(f'<path class="l" d="M{x:g} {TOP - 4}V{bottom}"/>')
        parts.append(_text(min(x, RIGHT), TOP - 8, label, "s e" if x > RIGHT - 24 else "s c"))
    now = axis.x(view.now)
    if view.newest_commit is not None and now - (newest := axis.x(view.newest_commit)) > 3:
        parts.append(f'<path class="k commit" d="M{newest:g} {TOP - 4}V{bottom}"/>')
    parts.append(f'<path class="n" d="M{now:g} {TOP - 4}V{bottom}"/>')
    return parts


def _lost(view: View) -> str:
    lost = "unknown" if view.rpo_seconds is None else f"at most {duration(view.rpo_seconds)}"
    text = f"lost if the source died now: {lost}"
    if view.newest_commit is not None:
        text += f"; newest commit in the repository: {view.newest_commit.astimezone(UTC):%F %T} UTC"
    return text


def _forks(lines: Sequence[_Line], axis: Axis, height: int) -> list[str]:
    """Where a timeline left its parent: a line through the rows that cross the fork."""
    parts, seen = [], set[tuple[int, Fork]]()
    for line in lines:
        for fork, time in line.row.forks:
            x = axis.x(time)
            parts.append(f'<path class="k fork" d="M{x:g} {line.y}v{height - 3}"/>')
            if (line.row.timeline, fork) not in seen:
                seen.add((line.row.timeline, fork))
                style, at = ("s e", x - 3) if x > (LEFT + RIGHT) / 2 else ("s", x + 3)
                parts.append(_text(at, line.y - 5, f"left timeline {fork.timeline} at {fork.lsn}", style))
    return parts


def _names(lines: Sequence[_Line], axis: Axis, height: int) -> list[str]:
    """Timelines, backups, and a sentence on each; in low rows what is missing is named once."""
    parts, named = [], set[str]()
    for line in lines:
        if line.first:
            parts.append(_text(16, line.y - 9, f"timeline {line.row.timeline}", "b"))
        parts.append(_text(16, line.y + 10, _short(line.row.backup), "m"))
        if height == TALL:
            parts.append(_sentence(line.row, axis, line.y + 24))
        else:
            parts += _beside(line.row, axis, line.y + 9, named)
    return parts


def _bars(lines: Sequence[_Line], axis: Axis, thick: int) -> list[str]:
    """All stretches, one path for each kind: an element for each bar would be four times as large."""
    shapes: dict[str, list[str]] = {}
    limit = max(_MARKS // max(1, len(lines)), 8)
    for line in lines:
        for stretch in _fewer(line.row.stretches, limit):
            x, width = _place(stretch, axis)
            if width >= 0.1:
                shapes.setdefault(stretch.kind, []).append(f"M{x:g} {line.y}h{width:g}v{thick}h-{width:g}z")
            if stretch.kind is Kind.DAMAGE:  # colour is not the only sign
                cross = f"M{round(x + width / 2 - 2, 1):g} {line.y + 3}l4 5m0-5l-4 5"
                shapes.setdefault("x", []).append(cross)
    order = [*Kind, "x"]
    return [f'<path class="{kind}" d="{"".join(shapes[kind])}"/>' for kind in order if kind in shapes]


def _place(stretch: Stretch, axis: Axis) -> tuple[float, float]:
    """x and width; what is short is made wide enough to be seen."""
    x, end = axis.x(stretch.begin), axis.x(stretch.end)
    width = round(max(end - x, _NARROWEST.get(stretch.kind, 0.0)), 1)
    return round(min(x, RIGHT - width), 1), width


def _fewer(stretches: Sequence[Stretch], limit: int) -> Sequence[Stretch]:
    """Of very many gaps the first ones: behind them nothing can be reached in any case."""
    if len(stretches) <= limit:
        return stretches
    rest = Stretch(Kind.BEYOND, stretches[limit - 1].end, stretches[-1].end)
    return [*stretches[:limit], rest]


def _sentence(row: Row, axis: Axis, y: float) -> str:
    """Below the bar, on the side where there is room for it."""
    x = axis.x(row.stretches[0].begin)
    style = "m s r" if row.broken else "m s"
    if x > RIGHT - 6.1 * len(row.text):
        return _text(RIGHT, y, row.text, style + " e")
    return _text(x, y, row.text, style)


def _beside(row: Row, axis: Axis, y: float, named: set[str]) -> list[str]:
    """In low rows a missing segment is named once, where it is met first, on the side that has room."""
    first = next((stretch for stretch in row.stretches if stretch.label and stretch.label not in named), None)
    if first is None:
        return []
    named.add(first.label)
    x = axis.x(first.end) + 8
    if x > RIGHT - 6.5 * len(first.label):
        covered = axis.x(first.begin) - axis.x(row.stretches[0].begin) > 6.5 * len(first.label)
        return [_text(axis.x(first.begin) - 4, y, first.label, "m w e" if covered else "m e")]
    return [_text(x, y, first.label, "m")]


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"


def _legend(rows: Sequence[Row], y: int) -> list[str]:
    """Only what is in the picture."""
    shown = {stretch.kind for row in rows for stretch in row.stretches}
    parts, x = [], 16.0
    for kind, text in _LEGEND:
        if kind in shown:
            parts.append(f'<rect class="{kind}" x="{x:g}" y="{y - 8}" width="14" height="9"/>')
            if kind is Kind.DAMAGE:
                parts.append(f'<path class="x" d="M{x + 5:g} {y - 6}l4 5m0-5l-4 5"/>')
            parts.append(_text(x + 18, y, text, "s"))
            x += 32 + 5.6 * len(text)
    return parts
