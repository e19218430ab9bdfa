"""What a fence keeps of objects: written and read catalog by catalog, and as older versions wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from pgproof.errors import ObjectDamaged
from pgproof.timelines.lsn import LSN
from pgproof.validation.catalogs.objects import (
    CatalogContent,
    CatalogRow,
    DatabaseObjects,
    HeldObjects,
    ObjectSpool,
)
from pgproof.validation.catalogs.sequences import SequenceState
from pgproof.validation.catalogs.system_catalogs import SystemCatalog
from tests.validation.values import archive

STATE = SequenceState("7", "public.s", True, "1/1/9", 1, False, 3, True)


def contents(count: int) -> list[CatalogContent]:
    catalog = SystemCatalog("pg_proc", False, ("oid",), (("proname", "text"), ("prosrc", "text")))
    rows = {str(n): CatalogRow(f'f"{n}', '["a", "x\\n],\\"catalogs\\":["]', "ü") for n in range(count)}
    return [CatalogContent(catalog, rows, 5, "-12"), CatalogContent(catalog, {}, 0, "0")]


def spooled(path: Path, databases: Iterable[str], count: int) -> Path:
    spool, stored_in = ObjectSpool(), archive("objects")
    for name in databases:
        spool.add(name, DatabaseObjects(contents(count), LSN(16), (STATE,), (), {"a": "1"}))
    path.write_bytes(b"".join(stored_in.open_checked(spool.store(stored_in, path.name))))
    return path


@pytest.mark.parametrize("count", [0, 1, 1000, 2001])
def test_what_is_written_is_read(tmp_path: Path, count: int) -> None:
    path = spooled(tmp_path / f"objects{count}", ('a "b" ü', "second"), count)
    assert set(json.loads(path.read_bytes())) == {'a "b" ü', "second"}
    held = HeldObjects(path)
    for name in ('a "b" ü', "second"):
        found = held.of(name)
        assert found is not None
        assert (found.sequences_lsn, found.before, found.collations) == (LSN(16), (STATE,), {"a": "1"})
        assert list(found.catalogs) == contents(count)
    assert held.of("third") is None


def test_nothing_is_read_where_nothing_is(tmp_path: Path) -> None:
    assert HeldObjects(tmp_path / "none").of("a") is None
    assert HeldObjects(spooled(tmp_path / "empty", (), 0)).of("a") is None


def test_all_on_one_line_is_read_too(tmp_path: Path) -> None:
    path = spooled(tmp_path / "old", ("a", "b"), 3)
    path.write_text(json.dumps(json.loads(path.read_bytes()), separators=(",", ":")))
    found = HeldObjects(path).of("b")
    assert found is not None
    assert list(found.catalogs) == contents(3)


def test_what_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    path = spooled(tmp_path / "torn", ("a",), 3)
    path.write_bytes(path.read_bytes().replace(b'"rest":5', b'"rest":'))
    found = HeldObjects(path).of("a")
    assert found is not None
    with pytest.raises(ObjectDamaged):
        list(found.catalogs)
