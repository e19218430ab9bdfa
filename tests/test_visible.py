"""Visible text: no control character, and no line of somebody else's."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import PgproofError
from pgproof.visible import continued, on_one_line, visible


@given(st.text())
def test_nothing_is_obeyed(text: str) -> None:
    shown = visible(text)
    assert {char for char in shown if unicodedata.category(char) in ("Cc", "Cs")} <= {"\n", "\t"}
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    assert "\n" not in on_one_line(text)
    assert visible(shown) == shown
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text


def test_what_is_harmless_stays() -> None:
    assert visible("café 数据 😀 [/b] a\tb\n") == "café 数据 😀 [/b] a\tb\n"
    assert visible("\x1b[31m\x9b\u202e\udce9") == "\\u001b[31m\\u009b\\u202e\\udce9"


def test_a_line_of_a_name_is_indented() -> None:
    assert continued("a\nPROVEN\n\nPROVEN\n  b") == "a\n    PROVEN\n\n    PROVEN\n  b"
    error = PgproofError('no table "a\nHINT: rm"', "b\x1b[2J", "c")
    assert str(error) == 'no table "a\n    HINT: rm"\nDETAIL: b\\u001b[2J\nHINT: c'
