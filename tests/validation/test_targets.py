"""Recovery targets of a drill on real servers: chosen at random, recovered to, and asked for canary commits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pgproof.backups.catalog import PROVEN
from pgproof.validation.drill import compare_restored
from tests.servers.postgres import Source, installed, running_source
from tests.validation.drilling import Drill, drill, fence_of, restored_copy
from tests.validation.writers import TABLES, writers

VERSIONS = [
    pytest.param(major, marks=pytest.mark.skipif(bool(installed(major)), reason=installed(major)))
    for major in (15, 17, 18)
]


def targets_of(found: Drill) -> list[dict[str, object]]:
    return [dict(record) for record in found.proof.targets]


@pytest.mark.parametrize("major", VERSIONS)
def test_targets_amid_busy_writers(major: int) -> None:
    with running_source(major, max_prepared_transactions="20") as source:
        source.sql(TABLES)
        source.write_config("drill.targets = 8")
        with writers(source, 6, prepare=True):
            source.backup()
            source.sql("SELECT pg_create_restore_point('noon')")
            source.archive_now()
            found = drill(source)
    print(found.proof.phases, found.proof.summary)
    for t in found.proof.targets:
        print(t)
    assert found.proof.verdict == PROVEN, found.proof.summary
    assert [t["finding"] for t in found.proof.targets] == [""] * 8
