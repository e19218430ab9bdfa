"""A picture of a drill's phases: one bar for each, one after the other, those of a restore apart from the others.

It is an image by itself for the reasons that ``tasks.picture`` gives; beside it stand the same bars in characters.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pgproof.validation.speeds import RESTORING
from pgproof.wording import duration

_WIDTH, _LEFT, _RIGHT = 760, 96, 660  # beside the last bar there is room for its seconds
_TOP, _HEIGHT, _THICK = 52, 20, 12
_NARROWEST = 2.0
_CHARACTERS = 40
# As PostgreSQL and the drill go through them; what is not named here comes last
_ORDER = ("fence", "extract", "combine", "verify", "fetch", "targets", "start", "replay", "count", "compare")
_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#333}.b{font-weight:600;font-size:13px}.s{fill:#767676}"
    ".g{fill:#fff}.restore{fill:#2e9e5b}.besides{fill:#b9bcc2}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e6e6}.s{fill:#a3a3a3}.g{fill:#1d1f23}.besides{fill:#5d626b}}"
)


@dataclass(frozen=True, slots=True)
class _Bar:
    """A phase; begin and end are parts of the whole drill."""

    name: str
    seconds: float
    begin: float
    end: float

    @property
    def kind(self) -> str:
        return "restore" if self.name in RESTORING else "besides"


def draw_phases(title: str, phases: Mapping[str, float]) -> str:
    """The phases as the text of an SVG.

    Args:
        title: its heading; text from outside is escaped.
        phases: seconds of each.
    """
    bars = list(_bars(phases))
    height = _TOP + _HEIGHT * len(bars) + 8
    parts = [f'<text x="16" y="22" class="b">{html.escape(title)}</text>']
    parts.append('<text x="16" y="38" class="s">green: what a restore would take, too</text>')
    for number, bar in enumerate(bars):
        y = _TOP + _HEIGHT * number
        x = round(_LEFT + (_RIGHT - _LEFT) * bar.begin, 1)
        width = round(max((_RIGHT - _LEFT) * (bar.end - bar.begin), _NARROWEST), 1)
        parts.append(f'<text x="16" y="{y + 10}">{html.escape(bar.name)}</text>')
        parts.append(f'<rect class="{bar.kind}" x="{x:g}" y="{y}" width="{width:g}" height="{_THICK}"/>')
        parts.append(f'<text x="{x + width + 5:g}" y="{y + 10}" class="s">{duration(bar.seconds)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
    head += f'height="{height}" role="img"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'{head}<rect class="g" width="{_WIDTH}" height="{height}" rx="6"/>{"".join(parts)}</svg>'


def sketch_phases(phases: Mapping[str, float]) -> str:
    """The phases as lines of characters; █ is what a restore would take, too."""
    lines = []
    for bar in _bars(phases):
        first = min(_CHARACTERS - 1, round(bar.begin * _CHARACTERS))
        wide = max(1, round(bar.end * _CHARACTERS) - first)
        mark = "█" if bar.kind == "restore" else "░"
        lines.append(f"{bar.name:8} {' ' * first}{mark * wide} {duration(bar.seconds)}")
    return "\n".join(lines)


def _bars(phases: Mapping[str, float]) -> Iterator[_Bar]:
    total, begin = sum(phases.values()) or 1.0, 0.0
    names = [name for name in _ORDER if name in phases]
    for name in [*names, *(name for name in phases if name not in names)]:
        yield _Bar(name, phases[name], begin / total, (begin + phases[name]) / total)
        begin += phases[name]
