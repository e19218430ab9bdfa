"""The backup record: written and read back the same, and refused when it cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pgproof.backups.record import BackupRecord, Tablespace
from pgproof.errors import ObjectDamaged
from tests.retention.archives import NOON, entry

RECORD = replace(
    entry("20261123T120000Z-full", NOON, 3, last=5).record,
    tablespaces=(Tablespace(16385, "/srv/ünïcode space"),),
    software={"pgproof": "0.1.0"},
    data_checksums=True,
)


def test_round_trip_as_json() -> None:
    tree = json.loads(json.dumps(RECORD.as_dict()))
    assert BackupRecord.from_dict(tree) == RECORD
    assert (tree["start_lsn"], tree["stop_lsn"], tree["kind"]) == ("0/300028", "0/501000", "full")
    assert tree["stopped_at"] == "2026-11-23T12:00:00+00:00"


def test_what_follows_from_it() -> None:
    assert (RECORD.kind, replace(RECORD, parent="x").kind) == ("full", "incremental")
    assert [str(RECORD.first_segment), str(RECORD.last_segment)] == [
        "000000010000000000000003",
        "000000010000000000000005",
    ]
    assert RECORD.stored_size == 110
    assert RECORD.major == 17
    assert RECORD.stopped_at - RECORD.started_at == timedelta(minutes=5)


def _without(name: str) -> dict[str, Any]:
    tree = RECORD.as_dict()
    del tree[name]
    return tree


@pytest.mark.parametrize(
    "tree",
    [
        _without("label"),
        _without("volumes"),
        _without("stop_lsn"),
        {**RECORD.as_dict(), "started_at": "yesterday"},
        {**RECORD.as_dict(), "volumes": [{"object": {}}]},
        {**RECORD.as_dict(), "manifest": None},
        {**RECORD.as_dict(), "a field of a later version": 1},
        [],
        None,
    ],
    ids=["label", "volumes", "lsn", "time", "volume", "manifest", "field", "list", "null"],
)
def test_records_bad(tree: Any) -> None:
    with pytest.raises(ObjectDamaged, match=r'^backup record "(20261123T120000Z-full|\?)" cannot be read'):
        BackupRecord.from_dict(tree)
