"""Text as Markdown: what a parser of CommonMark makes of it is the text again, and nothing else."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pgproof.visible import on_one_line
from tasks.markdown import block, code, joined, strong, table, text

SPECIAL = st.text(st.sampled_from("\\`*_{}[]()<>#+-.!|~&;:/ab1\n \x1b\u202e\udce9"), max_size=30)


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


def cells(page: str) -> list[str]:
    return [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page, re.DOTALL)]


@pytest.mark.parametrize(
    "name",
    [
        "![a](https://e/x)", "<img src=//e/x>", "x\\|y", "x\\\\|y", "a_b", "_a_", "**a**", "`a`", "a`b|c",
        "&lt;", "~~a~~", "[a](b)", "public.orders",
    ],
)  # fmt: skip
def test_a_cell_is_the_text(name: str) -> None:
    page = rendered(table(("one", "two"), [(name, code(name)), (strong("x"), 1)]))
    found = [cell.removeprefix("<code>").removesuffix("</code>") for cell in cells(page)]
    assert found == [name, name, "<strong>x</strong>", "1"]


@given(SPECIAL)
def test_any_cell(name: str) -> None:
    page = rendered(table(("a", "b"), [(joined("(", name, ")"), "end")]))
    assert cells(page) == [f"({on_one_line(name)})", "end"]
    assert len(cells(rendered(table(("a", "b"), [(code(name), "end")])))) == 2


@given(st.lists(SPECIAL, max_size=3))
def test_nothing_ends_a_block(lines: list[str]) -> None:
    page = rendered("\n".join([*block(lines), "", text("after")]))
    assert page.startswith("<pre><code>")
    assert page.endswith("</code></pre>\n<p>after</p>\n")


def test_names_read_as_they_are() -> None:
    assert text("public.account_history: 3 rows (equal)") == "public.account_history: 3 rows (equal)"
    assert code("public.t") == "`public.t`"
