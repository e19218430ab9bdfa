"""Frames: read back by pandas with their types, also when there is nothing in them."""

from __future__ import annotations

import io
from pathlib import Path

import pandas

from pgproof.validation.expectations.data_docs import finish_docs, offline
from pgproof.validation.expectations.suite import (
    as_suite,
    changes,
    comparison_expectations,
    read_suite,
    was_changed,
    write_suite,
)
from pgproof.validation.expectations.unexpected import bounded
from pgproof.validation.frames import COLUMNS, frames_of, to_parquet
from tests.validation.values import compared, comparison

BIG = (1 << 53) + 1


def test_a_frame_is_read_back_as_it_was() -> None:
    records = comparison(compared("public.t", BIG, BIG), compared("public.u", 3, -1)).as_records()
    frame = pandas.read_parquet(io.BytesIO(to_parquet(frames_of(records, [], [], {}, [])["tables"])))
    assert frame.to_dict("records") == records


def test_targets_and_cuts_are_told_apart() -> None:
    """A target that was tried, one that was missed, and one that was not tried."""
    commit = {"lsn": "0/3000028", "xid": 740, "time": None}
    target = {
        **{
            "kind": "lsn",
            "value": "0/3000028",
            "inclusive": True,
            "timeline": 1,
            "place": "random",
            "seed": 7,
        },
        **{"last_expected": commit, "last_found": commit, "next_expected": commit, "next_found": None},
        **{"replayed": None, "canaries": 3, "ok": True, "finding": "", "seconds": 0.5},
    }
    tried = [
        target,
        {**target, "ok": False, "finding": "one late"},
        {**target, "ok": None, "last_found": None},
    ]
    frames = frames_of([], [], [], {"shop": "0/4000000"}, tried)
    back = {name: pandas.read_parquet(io.BytesIO(to_parquet(frames[name]))) for name in ("cuts", "targets")}
    assert back["cuts"].to_dict("records") == [{"database": "shop", "lsn": "0/4000000"}]
    assert list(back["targets"].result) == ["ok", "missed", "not tried"]
    assert list(back["targets"].last_found) == ["0/3000028", "0/3000028", ""]
    assert (back["targets"].next_found[0], back["targets"].finding[1]) == ("", "one late")


def test_an_empty_frame_has_its_columns_and_types() -> None:
    empty = frames_of([], [], [], {}, [])
    assert {name: list(frame.columns) for name, frame in empty.items()} == {
        name: list(columns) for name, columns in COLUMNS.items()
    }
    back = pandas.read_parquet(io.BytesIO(to_parquet(empty["tables"])))
    assert (str(back.source_rows.dtype), str(back.equal.dtype), len(back)) == ("int64", "bool", 0)


def test_a_suite_is_great_expectations_own_and_knows_what_its_user_changed(tmp_path: Path) -> None:
    import great_expectations

    path, generated = tmp_path / "suite.json", comparison_expectations()
    assert read_suite(path) is None
    write_suite(path, tree := as_suite("main", generated))
    assert len(great_expectations.ExpectationSuite(**tree).expectations) == 7
    assert read_suite(path) == generated
    assert not was_changed(path)
    tree["expectations"].pop()
    write_suite(path, tree)
    assert was_changed(path)
    found = changes(read_suite(path) or (), generated)
    assert (found.missing, found.own) == (generated[-1:], ())


def test_pages_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    remote = '<head><script src="https://x/a.js"></script><link rel="s" href="//x/a.css"></head><img src="https://x/l">'
    page = offline(remote + '<a href="https://x/n">news</a><a href="index.html">here</a>')
    assert "//x" not in page
    assert 'news<a href="index.html">here</a>' in page
    drill = tmp_path / "20261123T212715112664Z"
    drill.mkdir()
    (drill / "index.html").write_text(remote)
    assert finish_docs(drill, False, "6 of 7 & more") == drill / "index.html"
    index = (tmp_path / "index.html").read_text()
    assert '<a href="20261123T212715112664Z/index.html">2026-11-23 21:27:15</a>' in index
    assert "6 of 7 &amp; more" in index


def test_what_is_kept_of_rows_is_short_and_holds_no_secret() -> None:
    assert bounded({"password": "x", "a": [{"api_key": 1, "b": "y" * 300}]}) == {
        "password": "(not kept)",
        "a": [{"api_key": "(not kept)", "b": "y" * 200 + "... (300 characters)"}],
    }
