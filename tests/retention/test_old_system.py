"""What is left of a cluster from before initdb or pg_upgrade: named by commands, and removed when somebody says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgproof.backups.catalog import Hold
from pgproof.repository.layout import Layout
from pgproof.repository.repository import Archive
from pgproof.retention.hold import remove_hold
from tests.drills.damage import answer, tree
from tests.retention import archives
from tests.retention.archives import NOON, SYSTEM, archive_on, entry, wal
from tests.servers.postgres import Source


@pytest.fixture
def old(source: Source, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """The cluster has a backup, and two of a system identifier that it had before; one of these is held."""
    monkeypatch.setattr(archives, "LAYOUT", Layout("main", SYSTEM))
    made = archive_on(source.archive.store, archives.LAYOUT)
    entries = [
        entry("one", NOON, 3),
        entry("two", NOON, 5, parent="one", hold=Hold("two", "before the upgrade")),
    ]
    archives.store_facts(made, archives.facts(entries, wal(1, range(3, 7))))
    return made


@pytest.fixture
def source(source: Source) -> Source:
    source.backup()
    source.write_config(cluster=f"system_identifier = {source.archive.system_identifier}")
    return source


def test_commands_name_it(source: Source, old: Archive) -> None:
    for words in (["list", "main"], ["expire", "main", "--dry-run"]):
        code, out, err = answer(source, *words)
        assert code == 0, err
        assert f"pgproof expire main --old-system {SYSTEM} --dry-run" in out


def test_it_goes_when_somebody_says_so(source: Source, old: Archive) -> None:
    words = ("expire", "main", "--old-system", str(SYSTEM))
    place = Path(source.repository_path / old.layout.root)
    before = tree(place)
    code, out, _ = answer(source, *words, "--dry-run")
    assert (code, "2 backups, the newest of 2026-11-23" in out) == (0, True)
    code, _, err = answer(source, *words)
    assert (code, "without an approval" in err) == (48, True)
    code, _, err = answer(source, *words, "--yes")
    assert (code, "two is held: before the upgrade. Nothing was removed." in err) == (10, True)
    assert tree(place) == before

    remove_hold(old, "two")
    code, out, err = answer(source, *words, "--yes")
    assert (code, out.startswith("removed 2 backups")) == (0, True), err
    assert [info for info in old.store.list(f"{old.layout.root}/")] == []
    assert answer(source, "verify", "main")[0] == 0  # of the cluster as it is
    assert answer(source, *words, "--dry-run")[0] == 2


def test_the_one_that_the_source_has_stays(source: Source, old: Archive) -> None:
    """Also where pgproof.toml names the old one."""
    current = source.archive.system_identifier
    code, _, err = answer(source, "expire", "main", "--old-system", str(current), "--yes")
    assert (code, "has no other system identifier" in err) == (2, True)
    source.write_config(cluster=f"system_identifier = {SYSTEM}")
    code, _, err = answer(source, "expire", "main", "--old-system", str(current), "--yes")
    assert (code, "is the system identifier that cluster" in err) == (2, True)
