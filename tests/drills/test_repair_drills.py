"""WAL that is lost or damaged in the archive is brought back from wherever it still is, or named as lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pgproof.backups.record import BackupRecord
from pgproof.config import RepositoryConfig
from pgproof.postgres.connection import display_dsn
from pgproof.postgres.server import LocalServer
from pgproof.repository.repository import Archive, open_repository
from pgproof.timelines.segment import WalSegment
from pgproof.wal.archive import find_key
from tests.drills.damage import answer, flip_bit, tree
from tests.servers.postgres import Source, running_source
from tests.wal.files import MB, OTHER

COPY = "copies = ['offsite']"


@dataclass
class Site:
    """A source that still has its WAL, with a backup and five segments after it."""

    source: Source
    record: BackupRecord
    segments: list[str]
    kept: dict[Path, bytes] = field(default_factory=dict)

    @property
    def victim(self) -> str:
        return self.segments[2]

    @property
    def archive(self) -> Archive:
        return self.source.archive

    @property
    def offsite(self) -> Path:
        return self.source.root / "offsite"

    def configure(self, cluster: str = "", dsn: str | None = None) -> None:
        extra = f'[repositories.offsite]\nurl = "file://{self.offsite}"\n'
        self.source.write_config(cluster=cluster, extra=extra, dsn=dsn)

    def with_copy(self, **options: str) -> Path:
        """Another repository that has everything."""
        if not self.offsite.exists():
            shutil.copytree(self.source.repository_path, self.offsite)
        self.configure(COPY, **options)
        return self.offsite

    def stored(self, name: str) -> Path:
        return self.source.stored(name)

    def content(self, name: str) -> bytes:
        return b"".join(self.archive.open(find_key(self.archive, name)))

    def replace(self, name: str, content: bytes) -> None:
        self.archive.store.delete(find_key(self.archive, name))
        self.archive.write(self.archive.layout.wal_file(name), [content])

    def repair(self, *options: str) -> tuple[int, dict[str, Any]]:
        code, out, err = answer(self.source, "wal", "check", "main", "--repair", "--json", *options)
        assert err == ""
        return code, json.loads(out)

    @property
    def name(self) -> str:
        """The source as a place is named."""
        return f'source "{display_dsn(self.source.cluster.dsn)}"'


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    with running_source(17, wal_keep_size="64MB", max_wal_senders="8") as source:
        source.sql("CREATE TABLE t (g int, v text)")
        record = source.backup()
        segments = []
        for _ in range(5):
            source.sql("INSERT INTO t SELECT g, repeat(md5(g::text), 5) FROM generate_series(1, 2500) g")
            segments.append(source.archive_now())
        yield Site(source, record, segments)


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """The shared one, whose repository is put back afterwards."""
    aside = shared.source.root / "aside"
    shutil.copytree(shared.source.repository_path, aside)
    shared.configure()
    yield shared
    shutil.rmtree(shared.source.repository_path)
    aside.rename(shared.source.repository_path)
    shutil.rmtree(shared.offsite, ignore_errors=True)


def wal_tree(site: Site) -> dict[str, str]:
    return tree(site.source.repository_path / site.archive.layout.wal.rstrip("/"))


def test_missing_segments_come_back_from_the_source(site: Site) -> None:
    before = {name: site.content(name) for name in site.segments[1:3]}
    for name in before:
        site.stored(name).unlink()
    code, found = site.repair()
    assert (code, found["gaps"], found["repair"]["lost"]) == (0, [], [])
    assert found["repair"]["repaired"] == [
        {"name": name, "place": site.name, "was": "missing"} for name in before
    ]
    assert {name: site.content(name) for name in before} == before


@pytest.mark.parametrize("harms", list(product(("missing", "bit", "cut", "empty"), repeat=2)), ids="-".join)
def test_neighbours_that_are_missing_or_damaged(site: Site, harms: tuple[str, str]) -> None:
    """Two in a row, each in every way: both are named, and both come back."""
    before = {name: site.content(name) for name in site.segments[1:3]}
    for name, harm in zip(before, harms, strict=True):
        path = site.stored(name)
        if harm == "missing":
            path.unlink()
        elif harm == "bit":
            flip_bit(path)
        else:
            os.truncate(path, path.stat().st_size // 2 if harm == "cut" else 0)
    code, out, err = answer(site.source, "wal", "check", "main", "--content", "--json")
    found = json.loads(out)
    named = {name for name, _ in found["damaged"]}
    assert (code, err) == (1, "")
    assert named == {name for name, harm in zip(before, harms, strict=True) if harm != "missing"}
    assert sum(gap["segments"] for gap in found["gaps"]) == harms.count("missing")
    code, found = site.repair("--content")
    assert (code, found["gaps"], found["damaged"], found["repair"]["lost"]) == (0, [], [], [])
    assert {name: site.content(name) for name in before} == before


def test_damaged_segment_is_kept_aside(site: Site) -> None:
    content, path = site.content(site.victim), site.stored(site.victim)
    flip_bit(path)
    damaged = path.read_bytes()
    code, out, err = answer(site.source, "wal", "check", "main", "--content", "--repair")
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == f"repaired: {site.victim} was damaged, now from {site.name}"
    assert lines[1] == "no gap: 1 recovery window from 1 backup"
    assert code == 0
    assert site.content(site.victim) == content
    (aside,) = (site.source.repository_path / site.archive.layout.damaged).iterdir()
    assert aside.name.endswith(f"Z-{site.victim}.zst")
    assert aside.read_bytes() == damaged
    code, found = site.repair("--content", "--all")
    assert (code, found["damaged"], found["repair"]["repaired"]) == (0, [], [])


def test_damage_that_only_the_records_show(site: Site) -> None:
    """A record across a border: both segments are in doubt, and only the damaged one is replaced."""
    full = next(
        name
        for name, following in zip(site.segments, site.segments[1:], strict=False)
        if len(site.content(name).rstrip(b"\0")) > 8192 and following
    )
    content = site.content(full)
    at = content.find(b"0123456789abcdef"[:4], MB // 4)
    at = at if at > 0 else 9000
    site.replace(full, content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    code, found = site.repair("--content")
    assert (code, found["damaged"]) == (0, [])
    assert [one["name"] for one in found["repair"]["repaired"]] == [full]
    assert site.content(full) == content


def test_segment_of_another_cluster_is_replaced(site: Site) -> None:
    content = site.content(site.victim)
    site.replace(site.victim, content[:24] + OTHER.to_bytes(8, "little") + content[32:])
    code, found = site.repair("--content")
    assert (code, [one["was"] for one in found["repair"]["repaired"]]) == (0, ["damaged"])
    assert site.content(site.victim) == content


def test_copy_is_asked_first(site: Site) -> None:
    site.with_copy()
    content = site.content(site.victim)
    site.stored(site.victim).unlink()
    code, found = site.repair()
    assert (code, found["repair"]["repaired"]) == (
        0,
        [{"name": site.victim, "place": 'repository "offsite"', "was": "missing"}],
    )
    assert site.content(site.victim) == content


def test_damaged_copy_is_not_taken(site: Site) -> None:
    offsite = site.with_copy()
    path = offsite / site.stored(site.victim).relative_to(site.source.repository_path)
    flip_bit(path)
    content = site.content(site.victim)
    site.stored(site.victim).unlink()
    code, found = site.repair("--content")
    assert (code, found["repair"]["repaired"][0]["place"]) == (0, site.name)
    assert site.content(site.victim) == content
    assert found["repair"]["copies"][0]["mended"] == [site.victim]  # and the copy got it back
    assert site.repair("--content", "--all")[1]["repair"]["copies"][0]["mended"] == []


def test_source_that_is_away(site: Site) -> None:
    site.with_copy(dsn="host=/nowhere user=pgproof dbname=postgres")
    site.stored(site.victim).unlink()
    code, found = site.repair()
    assert found["repair"]["repaired"][0]["place"] == 'repository "offsite"'
    # it is back, and what the source has besides nobody knows
    assert (code, found["gaps"], found["findings"]) == (1, [], found["doubts"])


def test_nothing_has_it(site: Site) -> None:
    site.configure(dsn="host=/nowhere user=pgproof dbname=postgres")
    segment = WalSegment.parse(site.victim, MB)
    site.stored(site.victim).unlink()
    before = wal_tree(site)
    done = site.source.run("wal", "check", "main", "--repair")
    assert done.returncode == 1
    assert done.stdout.startswith(
        f'lost: {site.victim} missing\n  {site.name}: could not connect to cluster "main". '
    )
    assert f"gap: {site.victim} missing, LSN {segment.start} to {segment.end}\n" in done.stdout
    assert (
        f"lost recovery window: from backup {site.record.label} on timeline 1 nothing after LSN {segment.start}\n"
        in done.stdout
    )
    assert done.stdout.endswith("hint: pgproof backup main begins a new recovery window; take it now\n")
    assert wal_tree(site) == before


def test_damaged_segment_that_nothing_has_stays(site: Site) -> None:
    site.configure(dsn="host=/nowhere user=pgproof dbname=postgres")
    flip_bit(site.stored(site.victim))
    before = wal_tree(site)
    code, found = site.repair("--content")
    assert (code, [lost["was"] for lost in found["repair"]["lost"]]) == (1, ["damaged"])
    assert found["repair"]["lost_windows"] == [site.record.label]
    assert wal_tree(site) == before
    assert not (site.source.repository_path / site.archive.layout.damaged).exists()


def test_copy_with_other_valid_content_is_a_conflict(site: Site) -> None:
    """Two servers have archived to one place: a program must not choose between two futures."""
    offsite = site.with_copy()
    config = RepositoryConfig(url=f"file://{offsite}")
    copy = open_repository(config).archive("main", site.archive.system_identifier)
    newest = site.segments[-1]
    content = bytearray(site.content(newest))
    content[2] ^= 4  # XLP_BKP_REMOVABLE: valid either way, and another server's
    copy.store.delete(find_key(copy, newest))
    copy.write(copy.layout.wal_file(newest), [bytes(content)])
    site.stored(newest).unlink()
    code, found = site.repair()
    assert code == 1
    (lost,) = found["repair"]["lost"]
    assert lost["name"] == newest
    assert [one["place"] for one in lost["answers"]] == ['repository "offsite"', site.name, "conflict"]
    assert lost["answers"][0]["answer"].startswith("has it, SHA-256 ")
    assert lost["answers"][2]["answer"] == "they are all valid and not the same; none was chosen"
    with pytest.raises(FileNotFoundError):
        site.source.repository_path.joinpath(f"{site.archive.layout.wal_file(newest)}.zst").stat()


def test_copy_that_was_away_catches_up(site: Site) -> None:
    offsite = site.with_copy()
    for name in site.segments[1:4]:
        (offsite / site.stored(name).relative_to(site.source.repository_path)).unlink()
    code, found = site.repair()
    assert (code, found["repair"]["copies"]) == (
        0,
        [
            {
                "name": "offsite",
                "brought": site.segments[1:4],
                "mended": [],
                "failed": [],
                "error": "",
                "ok": True,
            }
        ],
    )
    for name in site.segments:
        path = site.stored(name)
        assert (offsite / path.relative_to(site.source.repository_path)).read_bytes() == path.read_bytes()


def test_copy_that_is_not_there(site: Site) -> None:
    site.configure(COPY)
    code, out, _ = answer(site.source, "wal", "check", "main", "--repair")
    assert code == 1
    assert 'repository "offsite" was not brought up to date: there is no repository at "file://' in out


@pytest.fixture
def standby(shared: Site) -> Iterator[LocalServer]:
    """A standby of the source, streaming from it."""
    source = shared.source
    data = source.root / "standby"
    shared.configure()
    code, _, err = answer(source, "restore", "main", "--to", str(data), "--standby")
    assert code == 0, err
    with open(data / "postgresql.auto.conf", "a") as file:
        file.write(f"\nprimary_conninfo = 'host={source.root}/s user=pgproof'\n")
    server = source.start_copy(data, "standby", wal_keep_size="64MB")
    server.wait(lambda: _streams(source), 60, "to stream")
    yield server
    server.stop("immediate")
    shutil.rmtree(data)


def _streams(source: Source) -> bool:
    return bool(source.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")[0][0])


def test_standby_has_what_the_source_has_not(site: Site, standby: LocalServer) -> None:
    source = site.source
    name = source.archive_now()
    end = WalSegment.parse(name, MB).end
    standby.wait(
        lambda: source.sql("SELECT bool_or(flush_lsn >= %s::pg_lsn) FROM pg_stat_replication", str(end))[0][
            0
        ],
        60,
        "to have the segment",
    )
    dsn = f"host={source.root}/s-standby user=pgproof dbname=postgres"
    site.configure(f"standbys = ['{dsn}']", dsn="host=/nowhere user=pgproof dbname=postgres")
    source.sql("SELECT 1")
    content = site.content(name)
    flip_bit(site.stored(name))
    code, found = site.repair("--content")
    assert (code, found["findings"]) == (1, found["doubts"]), found
    assert found["repair"]["repaired"] == [
        {"name": name, "place": f'standby "{display_dsn(dsn)}"', "was": "damaged"}
    ]
    assert site.content(name) == content


def test_standby_of_another_cluster_is_refused(site: Site) -> None:
    with running_source(17) as other:
        dsn = f"host={other.root}/s user=pgproof dbname=postgres"
        site.configure(f"standbys = ['{dsn}']", dsn="host=/nowhere user=pgproof dbname=postgres")
        site.stored(site.victim).unlink()
        code, found = site.repair()
        system = other.sql("SELECT system_identifier FROM pg_control_system()")[0][0]
    assert code == 1
    (lost,) = found["repair"]["lost"]
    assert lost["answers"][1] == {
        "place": f'standby "{display_dsn(dsn)}"',
        "answer": f'standby "{display_dsn(dsn)}" belongs to another cluster. '
        f"Its system identifier is {system}; configured is {site.archive.system_identifier}.",
    }


def test_all_without_content(site: Site) -> None:
    code, out, err = answer(site.source, "wal", "check", "main", "--all")
    assert (code, out, err) == (
        2,
        "",
        "pgproof: --all says which segments are read, and none is\nHINT: add --content\n",
    )
