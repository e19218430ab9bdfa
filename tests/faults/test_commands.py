"""Commands on a store that is bad for seconds: no work is lost, and what waits is said."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator

import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.repository.repository import Archive
from tests.faults.site import Site, site_in_bucket
from tests.servers.background import end_background
from tests.servers.proxy import BEFORE, LOST, SLOW
from tests.servers.s3 import S3Server

WAITS = r"pgproof: the store answers 503 SlowDown; trying again until \d\d:\d\d:\d\d\n"


@pytest.fixture(scope="module")
def shared(seaweedfs: S3Server) -> Iterator[Site]:
    with site_in_bucket(seaweedfs) as made:
        made.commit(20)
        code, _, err = made.run("backup", "main")
        assert code == 0, err
        yield made


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    shared.configure()
    yield shared
    shared.heal()


def test_a_backup_whose_volume_is_refused_for_seconds(site: Site) -> None:
    """It ended after 5 s, and all that was stored was thrown away: the retries of the library last for a second."""
    before = site.labels
    site.front.break_(BEFORE, method="PUT|POST", key=r"base-\d+\.tar", seconds=4)
    code, _, err = site.run("backup", "main")
    assert code == 0, err
    assert re.match(WAITS, err)
    assert len(site.labels) == len(before) + 1


def test_a_restore_whose_volume_is_refused_for_seconds(site: Site) -> None:
    place = site.source.root / "restored"
    site.front.break_(BEFORE, method="GET", key=r"base-\d+\.tar", seconds=4)
    try:
        code, _, err = site.run("restore", "main", "--to", str(place))
        assert code == 0, err
        assert re.match(WAITS, err)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_a_wal_file_that_is_refused_for_seconds(site: Site) -> None:
    """An error of restore_command stops recovery, and the store answered again a moment later."""
    site.commit()
    name = site.source.archive_now()
    path = site.source.data / "pg_wal" / "RECOVERYXLOG"
    site.front.break_(BEFORE, method="GET", key=name, seconds=4)
    try:
        code, _, err = site.run("wal", "fetch", name, str(path))
        assert code == 0, err
        assert path.read_bytes() == (path.parent / name).read_bytes()
    finally:
        end_background(site.source.root)
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("key", ["lease.json", "backup.json"])
def test_a_backup_that_gets_no_answer_to_a_create(site: Site, key: str) -> None:
    """Its own lease was another's, and its own record was there already: the complete backup was removed."""
    before = site.labels
    fault = site.front.break_(LOST, method="PUT", key=key, times=1)
    code, _, err = site.run("backup", "main")
    assert (code, fault.met) == (0, 1), err
    assert len(site.labels) == len(before) + 1


def test_a_backup_that_cannot_read_its_record_back_stays(site: Site) -> None:
    before = site.labels
    site.configure(patience='"1s"')
    site.front.break_(BEFORE, method="GET|HEAD", key="backup.json")
    code, _, err = site.run("backup", "main")
    site.heal()
    assert code == 77
    assert 'could not make sure that backup "' in err
    assert "All of it but perhaps its record is stored, and nothing was removed." in err
    assert len(site.labels) == len(before) + 1


def test_a_backup_whose_volume_is_refused_for_good_says_how_long(site: Site) -> None:
    site.configure(patience='"2s"')
    site.front.break_(BEFORE, method="PUT|POST", key=r"base-\d+\.tar")
    code, _, err = site.run("backup", "main")
    site.heal()
    assert code == 77
    assert re.search(r"503 .*SlowDown.* Tried \d+ times in [\d.]+ s\.", err)
    assert read_catalog(site.source.archive).torn == ()


@pytest.mark.parametrize("limit", ["config", "option"])
def test_a_list_of_a_store_that_trickles_ends(site: Site, limit: str) -> None:
    """A byte a second came, and no time limit was reached."""
    keys = {"patience": '"1s"', "answer_timeout": '"1s"'} if limit == "config" else {"least_rate": "0"}
    site.configure(**keys)
    site.front.break_(SLOW, method="GET", key="backup.json", rate=5)
    began = time.monotonic()
    words = ["list", "main"] if limit == "config" else ["--deadline", "3s", "list", "main"]
    code, _, err = site.run(*words)
    assert time.monotonic() - began < 30
    assert code == 77
    said = "bytes a second" if limit == "config" else "the time limit of 3.0 s is over"
    assert said in err


# ---- the catalog


def many(archive: Archive, count: int) -> None:
    """So many backups like the one that is there, and a proof of each."""
    entry = read_catalog(archive).entries[0]
    for number in range(count):
        label = f"20260101T{number:06d}Z-full"
        tree = {**entry.record.as_dict(), "label": label}
        assert BackupRecord.from_dict(tree).label == label
        archive.write_json(archive.layout.backup_record(label), tree)
        proof = {"backup": label, "verdict": "proven", "at": "2026-01-02T00:00:00+00:00", "summary": "s"}
        archive.write_json(f"{archive.layout.proofs}20260102T{number:06d}Z-{label}.json", proof)


def test_a_catalog_is_read_at_once(seaweedfs: S3Server) -> None:
    """500 backups took 22 s with 20 ms of latency: one request came after the other."""
    with site_in_bucket(seaweedfs) as site:
        assert site.run("backup", "main")[0] == 0
        archive, proxy = site.source.archive, site.proxy
        assert proxy is not None
        many(archive, 40)
        archive.store.at_once = 1  # type: ignore[attr-defined]
        one_by_one = read_catalog(archive)
        archive = site.source.archive
        proxy.requests.clear()
        proxy.latency = 0.1
        began = time.monotonic()
        at_once = read_catalog(archive)
        took = time.monotonic() - began
        proxy.latency = 0.0
        assert len(proxy.requests) > 80
        assert took < len(proxy.requests) * 0.1 / 3
        assert at_once == one_by_one
        assert [entry.state for entry in at_once.entries].count("proven") == 40

        broken = archive.layout.backup_record("20260101T000007Z-full")
        archive.store.put(broken, b"no JSON")
        assert [label for label, _ in read_catalog(archive).damaged] == ["20260101T000007Z-full"]
