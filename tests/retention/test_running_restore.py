"""A restore that runs, or whose recovery may, keeps what it needs from an expire."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.errors import PermanentError, RepositoryReadOnly
from pgproof.repository.lease import hold_lease
from pgproof.repository.repository import Archive
from pgproof.restore.plan import RestoreRequest
from pgproof.restore.procedure import make_plan
from pgproof.restore.running import TERM, noted, read_running
from pgproof.retention.expire import expire, gather_facts
from pgproof.retention.plan import plan_expire
from tests.drills.damage import answer
from tests.repository.passing import Passing
from tests.retention.archives import archive_on
from tests.servers.postgres import Source, now

NEWEST_ONLY = 'retention = { daily = 1, weekly = 0, monthly = 0, wal_window = "0s", approve_above = 1 }'


class ReadOnly(Passing):
    """A store that may only be read."""

    def put(self, key: str, *_: object, **__: object) -> None:
        raise RepositoryReadOnly(f'cannot write "{key}"')


@pytest.fixture
def lived(source: Source) -> tuple[Source, str, str]:
    """A source with an old backup, five rows after it, and a newest backup; the old one's label and a position."""
    source.sql("CREATE TABLE t (g int)")
    old = source.backup().label
    for row in range(5):
        source.sql("INSERT INTO t VALUES (%s)", row)
        source.archive_now()
    lsn = str(source.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0])
    source.archive_now()
    time.sleep(1)
    newest = source.backup().label
    proof = {"backup": newest, "verdict": "proven", "at": now().isoformat(), "summary": ""}
    source.archive.write_json(f"{source.archive.layout.proofs}x-{newest}.json", proof)
    source.write_config(cluster=NEWEST_ONLY)
    return source, old, lsn


def test_expire_between_the_restore_and_the_replay(lived: tuple[Source, str, str], tmp_path: Path) -> None:
    source, old, lsn = lived
    data = tmp_path / "restored"
    words = ("restore", "main", "--to", str(data), "--backup", old)
    code, _, err = answer(source, *words, "--target-lsn", lsn, "--target-action", "promote")
    assert code == 0, err
    assert answer(source, "expire", "main")[0] == 0
    (running,) = read_running(source.archive)
    assert old in [entry.label for entry in read_catalog(source.archive).entries]
    plan = plan_expire(gather_facts(source.archive, source.cluster.retention, now()))
    assert plan.verdicts[0].reasons == (
        f"restored into {running.destination}: needed until {running.until.isoformat(timespec='seconds')}",
    )
    with source.copy(data) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (5,)

    later = now() + TERM + timedelta(minutes=1)
    plan = plan_expire(gather_facts(source.archive, source.cluster.retention, later))
    assert plan.remove_backups == (old,) and plan.remove_wal


def test_a_restore_that_begins_while_an_expire_works(lived: tuple[Source, str, str], tmp_path: Path) -> None:
    """The plan of the expire does not know it: nothing more goes."""
    source, old, _ = lived
    archive = source.archive
    plan = plan_expire(gather_facts(archive, source.cluster.retention, now()))
    assert plan.remove_backups == (old,)
    restore = make_plan(
        source.config, source.cluster, archive, RestoreRequest(tmp_path / "x", label=old), now()
    )
    with (
        noted(archive, restore, now),
        hold_lease(archive.store, archive.layout.lease, "expire") as lease,
        pytest.raises(PermanentError, match="out of date") as caught,
    ):
        expire(archive, plan, lease)
    assert f'Backup "{old}" is being restored into ' in caught.value.detail
    assert len(read_catalog(archive).entries) == 2
    with pytest.raises(PermanentError, match="expired before it was restored"):
        archive.store.delete(archive.layout.backup_record(old))
        with noted(archive, restore, now):
            raise AssertionError("it began")


def test_a_repository_that_takes_no_note(lived: tuple[Source, str, str], tmp_path: Path) -> None:
    source, old, _ = lived
    plan = make_plan(
        source.config, source.cluster, source.archive, RestoreRequest(tmp_path / "x", label=old), now()
    )
    reading: Archive = archive_on(ReadOnly(source.archive.store), source.archive.layout)
    with noted(reading, plan, now) as note:
        pass
    assert note.fault.startswith("the repository takes no note of this restore, so that an expire may remove")
    assert read_running(source.archive) == ()
    with pytest.raises(OSError), noted(source.archive, plan, now):
        raise OSError
    assert read_running(source.archive) == ()  # of a restore that failed


def test_a_long_restore_writes_it_again(lived: tuple[Source, str, str], tmp_path: Path) -> None:
    source, old, _ = lived
    plan = make_plan(
        source.config, source.cluster, source.archive, RestoreRequest(tmp_path / "x", label=old), now()
    )
    times = [now()]
    with noted(source.archive, plan, lambda: times[-1]) as note:
        times.append(times[0] + TERM / 4)
        note.keep()
        (running,) = read_running(source.archive)
        assert running.until == times[0] + TERM
        times.append(times[0] + TERM * 0.6)
        note.keep()
        (again,) = read_running(source.archive)
        assert again == replace(running, until=times[-1] + TERM)
