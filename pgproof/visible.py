"""Visible text: names, values and messages of others, with what a terminal or a browser would obey written out.

A terminal obeys control characters (ECMA-48: C0, DEL and C1), every reader the directional ones of Unicode
(UAX 9: text that reads otherwise than it is), and none can show half a surrogate pair, which is how a byte that is not
UTF-8 lies in a name. Each becomes an escape as JSON writes it: ``\\u001b``, ``\\u202e``.

PostgreSQL starts us for every segment, so nothing is imported here.
"""

from __future__ import annotations

_CONTROLS = (*range(9), *range(11, 32), *range(127, 160))
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNSEEN = (0x200B, 0x2028, 0x2029, 0xFEFF, *range(0xFFF9, 0xFFFC))
_WRITTEN = {number: f"\\u{number:04x}" for number in (*_CONTROLS, *_DIRECTIONS, *_UNSEEN)}


def visible(text: str) -> str:
    """A text as every terminal and page can show it; tabs and ends of lines stay."""
    return text.encode(errors="backslashreplace").decode().translate(_WRITTEN)


def on_one_line(text: str) -> str:
    """A text without ends of lines, such as for a cell of a table."""
    return visible(text.replace("\n", " "))


def continued(text: str) -> str:
    """A text whose further lines are indented, so that a name with a line end in it begins no line of its own."""
    first, *further = visible(text).split("\n")
    return "\n".join([first, *(line if line[:1] in ("", " ") else f"    {line}" for line in further)])
