"""`pgproof expectations`: the suite is made once, is its user's from then on, and decides the verdict of a drill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drills.damage import answer
from tests.servers.postgres import Source, running_source


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with running_source(17) as made:
        made.sql("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        made.sql("INSERT INTO orders SELECT g, 'x' FROM generate_series(1, 500) g")
        made.backup()
        yield made


def test_the_suite_is_written_once_and_then_is_its_users(source: Source) -> None:
    code, out, err = answer(source, "expectations", "main", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    path = Path(shown["path"])
    assert not path.exists()
    assert (shown["exists"], shown["changed_by_user"], shown["written"]) == (False, False, False)
    assert any("orders" in text for text in shown["missing"])

    code, out, err = answer(source, "expectations", "main", "--write")
    assert (code, err) == (0, "")
    assert out.startswith(f"wrote {path}: ")
    assert answer(source, "expectations", "main")[1] == f"{path} holds what would be generated now\n"

    code, out, err = answer(source, "drill", "main", "--json")
    proof = json.loads(out)
    assert (code, err, proof["verdict"]) == (0, "", "proven"), proof["summary"]
    assert any("orders" in suite for suite in proof["expectations"]["suites"])

    tree = json.loads(path.read_text())
    tree["expectations"] = tree["expectations"][1:]
    path.write_text(json.dumps(tree))
    mine = path.read_bytes()
    code, out, err = answer(source, "expectations", "main", "--write")
    assert (code, err) == (1, "")
    assert out.startswith(f"{path} was changed by its user and stays as it is\n")
    assert path.read_bytes() == mine
