"""Markdown is what Prefect's UI makes a page of: here a text becomes Markdown, once, and means what it says.

Names and values of others stand in our artifacts. What means something in Markdown or HTML is written as a character
reference, which no parser takes for structure (CommonMark 0.31, 2.5: "cannot be used in place of symbols indicating
structure"), or with a backslash where that is read as well. So such a text loads no image, forges no column, and reads
as it is. What is Markdown already is a ``Markdown``; any other text is escaped by whoever makes Markdown of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pgproof.visible import on_one_line, visible

_MEANT = re.compile(r"[&<>|\\`*\[\]~#]|://|(?<![^\W_])_|_(?![^\W_])")
_REFERENCES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "://": ":&#47;&#47;"}
_IN_CODE = re.compile(r"[`|\\\n]|^\s|\s$|^$")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def text(value: object) -> Markdown:
    """A value as Markdown that shows it as it is, on one line."""
    if isinstance(value, Markdown):
        return value
    return Markdown(
        _MEANT.sub(lambda found: _REFERENCES.get(found[0], f"\\{found[0]}"), on_one_line(str(value)))
    )


def code(value: object) -> Markdown:
    """A value in the letters of code; what could end them is shown as any other text."""
    plain = str(value)
    return text(plain) if _IN_CODE.search(plain) else Markdown(f"`{visible(plain)}`")


def strong(value: object) -> Markdown:
    """A value in bold letters."""
    return Markdown(f"**{text(value)}**")


def joined(*parts: object) -> Markdown:
    """Texts, one after the other."""
    return Markdown("".join(map(text, parts)))


def below(parts: Iterable[object]) -> Markdown:
    """Texts, one below the other in a cell."""
    return Markdown("<br>".join(map(text, parts)))


def block(lines: Iterable[str]) -> list[Markdown]:
    """Lines of code, which nothing in them can end."""
    shown = [on_one_line(line).replace("```", "` ` `") for line in lines]
    return [Markdown(line) for line in ("```", *shown, "```")]


def picture(title: str, url: str) -> Markdown:
    """An image of ours, as ``data:`` URL."""
    return Markdown(f"![{text(title)}]({url})")


def table(columns: Sequence[object], lines: Iterable[Sequence[object]]) -> Markdown:
    """A table; a cell is a value, or Markdown."""
    head = [f"| {' | '.join(map(text, columns))} |", f"|{'---|' * len(columns)}"]
    return Markdown("\n".join([*head, *(f"| {' | '.join(map(text, line))} |" for line in lines)]))
