"""The pages of the documentation, taken apart: sections, code blocks, tables, inline code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGES = sorted([PROJECT / "README.md", PROJECT / "CHANGELOG.md", *(PROJECT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)$")
_INLINE = re.compile(r"`([^`\n]+)`")


def title(page: Path) -> str:
    return str(page.relative_to(PROJECT))


@dataclass(frozen=True)
class Block:
    """One fenced block: the heading it stands under, its language, its text."""

    section: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    section, language, lines = "", None, []
    for line in page.read_text().splitlines():
        fence = _FENCE.match(line)
        if fence and language is None:
            language, lines = fence[1], []
        elif fence and language is not None:
            found.append(Block(section, language, "\n".join(lines) + "\n"))
            language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("#"):
            section = line.lstrip("# ")
    assert language is None, f"a block of {page} does not end"
    return found


def prose(page: Path) -> str:
    """The text outside fenced blocks."""
    kept, inside = [], False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def inline_code(page: Path) -> list[str]:
    return _INLINE.findall(prose(page))


def headings(page: Path) -> list[str]:
    return [line.lstrip("#").strip() for line in prose(page).splitlines() if line.startswith("#")]


def tables(page: Path) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Each table: the heading it stands under, its columns, its rows."""
    section, rows = "", []
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip() for cell in cells])
            continue
        if rows:
            yield section, rows[0], rows[2:]
            rows = []
        if line.startswith("#"):
            section = line.lstrip("#").strip()


def table_under(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading."""
    for section, _, rows in tables(page):
        if section == heading:
            return rows
    raise AssertionError(f'{title(page)} has no table under "{heading}"')
