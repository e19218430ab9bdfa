"""The Markdown of the artifacts, where no run is needed to see it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pgproof.validation.fences.fence import NotChecked
from tasks import artifacts
from tasks.artifacts import count, key_for
from tasks.markdown import table as markdown_table


def test_a_key_is_one_that_prefect_takes_and_no_other_clusters() -> None:
    clusters = ["main", "shop-2", "shop_2"]
    keys = [key_for(cluster, "wal") for cluster in clusters]
    assert keys == ["pgproof-main-wal", "pgproof-shop-2-wal", "pgproof-shop--2-wal"]
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 gaps"), (1, "1 gap"), (2, "2 gaps"), (1200, "1,200 gaps")]
)
def test_count(number: int, text: str) -> None:
    assert count(number, "gap") == text


def test_cells_cannot_break_a_table() -> None:
    text = markdown_table(("a", "b"), [("x|y", "one\ntwo"), (1, None)])
    assert text.splitlines() == ["| a | b |", "|---|---|", "| x&#124;y | one two |", "| 1 | None |"]


def table(name: str, source: int, restored: int, note: str = "") -> dict[str, Any]:
    return {
        "database": "shop",
        "table": name,
        "source_rows": source,
        "restored_rows": restored,
        "source_hash": "11",
        "restored_hash": "11" if source == restored else "",
        "note": note,
        "equal": source == restored and not note,
    }


def test_a_missing_table_says_so() -> None:
    text = "\n".join(artifacts._compared([table("public.gone", 5, -1), table("public.new", -1, 7)]))
    assert text.startswith("## Different: 2 tables\n")
    assert "| shop | `public.gone` | 5 | missing | 11 |  |  |" in text
    assert "| shop | `public.new` | missing | 7 | 11 |  |  |" in text
    assert "## Equal" not in text


def test_other_columns_are_a_difference() -> None:
    text = "\n".join(artifacts._compared([table("t", 5, 5, "columns a, b became b, a")]))
    assert "| shop | `t` | 5 | 5 | 11 | 11 | columns a, b became b, a |" in text


def test_the_biggest_tables_come_first() -> None:
    text = "\n".join(artifacts._compared([table("public.a", 1, 1), table("public.b", 9, 9)]))
    assert text.index("`public.b`") < text.index("`public.a`")


def test_thousands_that_were_not_checked_are_counted() -> None:
    items = [NotChecked("shop", f"public.t{number}", "unlogged") for number in range(5000)]
    text = artifacts._left_out(items)
    assert (text[0], len(text)) == ("- shop: `public.t0`: unlogged", 501)
    assert text[-1] == "- 4,500 more; the proof record holds all"
    assert artifacts._left_out([]) == ["nothing"]


def test_thousands_of_tables_do_not_make_a_page_that_nobody_can_open() -> None:
    text = artifacts._compared([table(f"public.t{number}", 1, 1) for number in range(5000)])
    assert text[0] == "## Equal: 5,000 tables"
    assert text[-1] == "Not more than 100 of each are shown; the proof record holds all."
    assert "`public.t99`" in "\n".join(text)
    assert "`public.t100`" not in "\n".join(text)
