"""A record carries the checksum of itself: no bit of it changes without being noticed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pgproof.repository.seal import sealed, unsealed
from tests.backups.test_record import RECORD

CONTENTS: list[Any] = [
    {},
    {"label": "x"},
    {"ends in a hash": "a" * 63},
    {"größe": [1, {"sha256": "b" * 64, "record_sha256": "c" * 64}], "text": '\n  "record_sha256": "'},
    RECORD.as_dict(),
    [1, 2],
    7,
    None,
]


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_what_was_sealed_comes_back(content: Any) -> None:
    assert unsealed(sealed(content)) == json.loads(json.dumps(content, default=str))


@pytest.mark.parametrize("content", CONTENTS[:5], ids=range(5))
def test_every_single_bit_is_noticed(content: Any) -> None:
    """Every one: of the content, of the name of the field, of the checksum, of the brackets and line ends."""
    whole = sealed(content)
    for at in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            with pytest.raises(ValueError):
                unsealed(bytes(flipped))


def test_the_field_is_named_with_both_values() -> None:
    whole = sealed({"size": 1000}).replace(b"1000", b"1001")
    with pytest.raises(ValueError) as caught:
        unsealed(whole)
    said = json.loads(whole)["record_sha256"]
    found = sealed({"size": 1001})
    assert str(caught.value) == f"It has SHA-256 {json.loads(found)['record_sha256']}; it says {said}"


def test_a_field_whose_name_changed() -> None:
    with pytest.raises(ValueError) as caught:
        unsealed(sealed({"size": 1}).replace(b"record_sha256", b"record_sha252"))
    assert str(caught.value) == 'Its last field is "record_sha252" and was "record_sha256"'


def test_a_record_that_was_written_again_with_other_spaces_is_refused() -> None:
    again = json.dumps(json.loads(sealed({"size": 1, "label": "x"}))).encode()
    with pytest.raises(ValueError, match=r"^It has SHA-256 [0-9a-f]{64}; it says [0-9a-f]{64}$"):
        unsealed(again)


def test_a_record_of_an_older_version_is_read_as_it_is() -> None:
    assert unsealed(b'{\n  "label": "x",\n  "until": null\n}\n') == {"label": "x", "until": None}


def test_sealing_again_makes_the_seal_anew() -> None:
    content = json.loads(sealed({"a": 1, "b": 2}))
    assert sealed({**content, "a": 3}) == sealed({"a": 3, "b": 2})


def test_the_seal_is_checked_by_hand(tmp_path: Path) -> None:
    (tmp_path / "backup.json").write_bytes(sealed(RECORD.as_dict()))
    script = """sed '/^  "record_sha256": /,$d' backup.json | sha256sum"""
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{json.loads((tmp_path / 'backup.json').read_text())['record_sha256']}  -\n"
