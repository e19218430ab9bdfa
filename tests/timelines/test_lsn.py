"""LSN: what PostgreSQL prints, read, ordered and printed again."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import InvalidTarget
from pgproof.timelines.lsn import LSN
from pgproof.visible import visible

positions = st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize(
    ("text", "value", "printed"),
    [
        ("0/0", 0, "0/0"),
        ("0/1", 1, "0/1"),
        ("16/B374D848", 0x16_B374D848, "16/B374D848"),
        ("16/b374d848", 0x16_B374D848, "16/B374D848"),
        ("00000016/00000001", 0x16_00000001, "16/1"),  # PostgreSQL 18 and older print no zeros in front
        ("1/0", 1 << 32, "1/0"),
        ("FFFFFFFF/FFFFFFFF", (1 << 64) - 1, "FFFFFFFF/FFFFFFFF"),
        (" 0/3000028\n", 0x3000028, "0/3000028"),  # as psql prints a column
    ],
)
def test_lsn(text: str, value: int, printed: str) -> None:
    lsn = LSN.parse(text)
    assert lsn == value
    assert str(lsn) == f"{lsn}" == printed
    assert repr(lsn) == f"LSN('{printed}')"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/",
            "0",
            "0/",
            "/0",
            "0/0/0",
            "0-0",
            "0 / 0",
            "0x1/0",
            "+1/0",
            "-1/0",
            "G/0",
            "0/G",
            "0//0",
            "0\\0",
        ),
        *("123456789/0", "0/123456789", "0/0 x", "1_0/0", "\u0661/0", "\uff11/0", "0/0\0", "null", "0/1.5"),
    ],
    ids=repr,
)
def test_lsn_bad(text: str) -> None:
    with pytest.raises(InvalidTarget) as caught:
        LSN.parse(text)
    assert str(caught.value) == (
        f'invalid LSN "{visible(text)}"\n'
        "DETAIL: An LSN is two hexadecimal numbers of up to 8 digits with a slash between.\n"
        "HINT: such as 16/B374D848; SELECT pg_current_wal_lsn() shows one"
    )


@pytest.mark.parametrize("value", [-1, 1 << 64, -(1 << 64)])
def test_an_lsn_has_64_bits_bad(value: int) -> None:
    with pytest.raises(InvalidTarget) as caught:
        LSN(value)
    assert str(caught.value) == f"LSN {value} is out of range\nDETAIL: An LSN has 64 bits."


def test_lsns_are_ordered_as_positions_and_not_as_text() -> None:
    texts = ["0/0", "0/FFFFFFFF", "1/0", "9/0", "10/0", "A0/0", "FFFFFFFF/0"]
    assert [str(lsn) for lsn in sorted(LSN.parse(text) for text in reversed(texts))] == texts
    assert LSN.parse("9/0") < LSN.parse("10/0")


def test_without_an_argument_it_is_the_beginning() -> None:
    assert LSN() == LSN.parse("0/0")


@given(positions)
def test_what_is_printed_is_read_again(value: int) -> None:
    lsn = LSN(value)
    assert LSN.parse(str(lsn)) == lsn == value
    assert LSN.parse(str(lsn).lower()) == lsn


@given(positions)
def test_an_lsn_survives_pickle_and_copy(value: int) -> None:
    lsn = LSN(value)
    for other in (pickle.loads(pickle.dumps(lsn)), copy.deepcopy(lsn), copy.copy(lsn)):
        assert other == lsn
        assert type(other) is LSN


@given(positions, positions)
def test_the_order_is_that_of_the_numbers(one: int, other: int) -> None:
    assert (LSN(one) < LSN(other)) == (one < other)
    assert (LSN(one) == LSN(other)) == (one == other)
    assert (hash(LSN(one)) == hash(LSN(other))) or one != other
