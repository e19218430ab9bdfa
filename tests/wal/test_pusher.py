"""The pusher: every file that is ready is archived ahead, acknowledged only when durable, and never forgotten."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgproof.config import RepositoryConfig
from pgproof.repository.repository import Archive, create_repository
from pgproof.wal.archive import find_key
from pgproof.wal.push import push
from tests.drills.damage import tree
from tests.repository.conftest import recipient_of
from tests.servers.postgres import PROJECT
from tests.servers.s3 import S3Server
from tests.wal.files import OTHER, make_archive
from tests.wal.spooled import MB, SYSTEM, Spooled, content, processes, until


def archived(archive: Archive, name: str) -> bytes:
    return b"".join(archive.open(find_key(archive, name)))


def test_one_command_archives_every_ready_file(site: Spooled) -> None:
    names = [site.ready(number) for number in range(5, 25)]
    site.mark(site.data.write("00000002.history", b"1\t0/500000\tno reason\n").name)
    assert site.push("00000002.history") == (0, "")
    until(lambda: not processes(site.root))
    assert site.stored() == {"00000002.history", *names}
    for number, name in enumerate(names, 5):
        assert archived(site.archive, name) == content(number)
    assert set(site.spool.names("pushed")) == {"00000002.history", *names}


def test_the_following_commands_find_the_acknowledgement(site: Spooled) -> None:
    """Not even the repository is looked at any more."""
    names = [site.ready(number) for number in range(5, 9)]
    assert site.push(names[0]) == (0, "")
    until(lambda: len(site.spool.names("pushed")) == 4)
    shutil.move(site.root / "repository", site.root / "away")
    assert [site.push(name) for name in names] == [(0, "")] * 4


def test_an_acknowledgement_counts_for_that_very_file_alone(site: Spooled) -> None:
    """As when the data directory was restored: another file has the name."""
    name = site.ready(5)
    assert site.push(name) == (0, "")
    site.data.segment(5, seed="another history")
    code, message = site.push(name)
    assert code == 35
    assert message.startswith(f'pgproof: WAL file "{name}" is archived already with other content\nDETAIL: ')
    assert archived(site.archive, name) == content(5)


def test_an_acknowledgement_counts_for_that_configuration_alone(site: Spooled) -> None:
    """Another repository was configured: it must get the file, too."""
    name = site.ready(5)
    assert site.push(name) == (0, "")
    other = make_archive(site.root / "other")
    site.configure(url=other.store.url)
    assert site.push(name) == (0, "")
    assert site.stored(other) == {name}


def test_what_was_stored_encrypted_is_known_again_without_the_key(site: Spooled, identity: str) -> None:
    """The configuration was touched while the server had not asked yet: the archiver must not stop at it."""
    site.configure(extra=f'age_recipients = ["{recipient_of(identity)}"]')
    name = site.ready(5)
    assert site.push(name) == (0, "")
    site.configure("wal.workers = 3", extra=f'age_recipients = ["{recipient_of(identity)}"]')
    assert site.push(name) == (0, "")
    assert site.stored() == {f"{name}.zst.age"}
    site.data.segment(5, seed="another history")
    code, message = site.push(name)
    assert code == 2
    assert "is encrypted and no age identity is configured" in message


def test_a_running_pusher_gives_way_to_another_configuration(site: Spooled) -> None:
    with site.serving():
        name = site.ready(5)
        assert site.push(name) == (0, "")
        (first,) = processes(site.root)
        other = make_archive(site.root / "other")
        site.configure(url=other.store.url)
        assert site.push(name) == (0, "")
        assert site.stored(other) == {name}
        assert first not in processes(site.root)


def test_the_pusher_stays_while_the_server_runs(site: Spooled) -> None:
    """It is there already when the next file is ready, and archives it before anybody asks."""
    with site.serving():
        assert site.push(site.ready(5)) == (0, "")
        (process,) = processes(site.root)
        name = site.ready(6)
        until(lambda: name in site.spool.names("pushed"))
        assert processes(site.root) == [process]
        site.done(name)
        site.ready(7)
        until(lambda: name not in site.spool.names("pushed"), what="an answer that nobody needs is removed")
    until(lambda: not processes(site.root), 5, "the server is gone")


def test_it_ends_when_there_is_nothing_to_do(site: Spooled) -> None:
    site.configure('wal.linger = "1s"')
    with site.serving():
        assert site.push(site.ready(5)) == (0, "")
        assert processes(site.root)
        until(lambda: not processes(site.root), 10)


def test_a_conflict_holds_up_no_other_file(site: Spooled) -> None:
    names = [site.ready(number) for number in range(5, 9)]
    push(site.archive, site.data.wal / names[1])
    site.data.segment(6, seed="another history")
    assert site.push(names[0]) == (0, "")
    until(lambda: not processes(site.root))
    assert site.stored() == set(names)
    code, message = site.push(names[1])
    assert code == 35
    assert "is archived already with other content" in message
    assert archived(site.archive, names[1]) == content(6)


def test_invariant_6_file_of_another_cluster(site: Spooled) -> None:
    name = site.ready(5, system=OTHER)
    code, message = site.push(name)
    assert code == 24
    assert message == (
        f'pgproof: WAL file "{name}" belongs to another cluster\n'
        f"DETAIL: Its system identifier is {OTHER}; the archive's is {SYSTEM}.\n"
    )
    assert site.stored() == set()


def test_configuration_that_is_wrong(site: Spooled) -> None:
    name = site.ready(5)
    site.config.write_text("[clusters")
    code, message = site.push(name)
    assert code == 2
    assert message.startswith(f'pgproof: configuration "{site.config}" is not valid TOML\nDETAIL: ')
    site.configure()
    assert site.push(name) == (0, "")


def test_repository_that_is_not_mounted(site: Spooled) -> None:
    """Neither before the pusher opened it nor after: nothing is written where the disk should be."""
    with site.serving():
        assert site.push(site.ready(5)) == (0, "")
        (site.root / "repository").rename(site.root / "away")
        name = site.ready(6)
        code, message = site.push(name)
        assert code in (30, 77)
        assert f"{site.root}/repository" in message
        assert not (site.root / "repository").exists()
        (site.root / "away").rename(site.root / "repository")
        assert site.push(name) == (0, "")
    assert site.stored() == {"000000010000000000000005", name}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_repository_that_is_read_only(site: Spooled) -> None:
    names = [site.ready(number) for number in range(5, 8)]
    directory = site.root / "repository"
    directory.chmod(0o500)
    try:
        code, message = site.push(names[0])
        assert code == 31
        assert message.startswith('pgproof: cannot access "shop/')
    finally:
        directory.chmod(0o700)
    assert [site.push(name) for name in names] == [(0, "")] * 3
    assert site.stored() == set(names)


def test_no_spool_is_no_reason_not_to_archive(site: Spooled) -> None:
    """As where the account has no home: each command does its own work."""
    names = [site.ready(number) for number in range(5, 7)]
    (site.root / "spool").write_text("in the way")
    assert site.push(names[0]) == (0, "")
    assert site.stored() == {names[0]}


def test_pusher_that_cannot_start_is_no_reason_either(site: Spooled) -> None:
    """Its log cannot be written: the disk of the spool is full, say."""
    name = site.ready(5)
    site.spool.make()
    os.mkdir(site.spool.path("push.log"))
    code, message = site.push(name)
    assert code == 0
    assert message.startswith("pgproof: no background process: [Errno 21] Is a directory")
    assert site.stored() == {name}


def test_file_without_a_mark_is_pushed_at_once(site: Spooled) -> None:
    """By hand, from anywhere, as the runbook says."""
    name = site.data.segment(5).name
    assert site.push(name) == (0, "")
    assert site.stored() == {name}
    assert not processes(site.root)


@pytest.mark.parametrize("moment", [0.0, 0.15, 0.4, 0.6])
def test_pusher_killed(site: Spooled, moment: float) -> None:
    """What was acknowledged is archived; what was not is pushed again."""
    names = [site.ready(number, 4 * MB) for number in range(5, 35)]
    command = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pgproof.cli",
            "--config",
            str(site.config),
            "wal",
            "push",
            f"pg_wal/{names[0]}",
        ],
        cwd=site.data.root,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "PGPROOF_SPOOL": str(site.root / "spool")},
    )
    until(lambda: processes(site.root), what="the pusher runs")
    time.sleep(moment)
    for process in processes(site.root):
        os.kill(process, signal.SIGKILL)
    assert command.wait(60) == 0  # it starts another
    acknowledged = set(site.spool.names("pushed"))
    assert acknowledged <= site.stored()
    for name in names:
        assert site.push(name) == (0, "")
    assert site.stored() == set(names)
    for number, name in enumerate(names, 5):
        assert archived(site.archive, name) == content(number, 4 * MB)


def test_memory_does_not_grow_with_the_segments(site: Spooled) -> None:
    """64 MB segments, eight of them: far less than one of them in memory."""
    site.configure("wal.workers = 2")
    for number in range(5, 13):
        site.ready(number, 64 * MB)
    site.spool.make()
    lock = site.spool.try_lock("push")
    assert lock is not None
    words = ["push", str(lock), site.spool.directory, str(site.data.root), str(site.config), "", "", ""]
    process = subprocess.Popen(
        [sys.executable, "-m", "pgproof.commands.wal_background", *words],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        pass_fds=[lock],
    )
    peaks = [0]
    while process.poll() is None:
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peaks.append(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]))
        time.sleep(0.01)
    os.close(lock)
    assert process.returncode == 0
    assert len(site.stored()) == 8
    assert 20_000 < max(peaks) < 90_000  # kB; some 40,000 of it are Python and its libraries


class TestSeveralRepositories:
    @pytest.fixture
    def copy(self, site: Spooled) -> Archive:
        """A second repository, and a configuration that asks for both."""
        config = RepositoryConfig(url=f"file://{site.root}/copy")
        archive = create_repository(config).archive("shop", SYSTEM)
        self.configure(site)
        return archive

    def configure(self, site: Spooled, quorum: int = 0) -> None:
        site.configure(
            f'copies = ["copy"]\nwal.quorum = {quorum}',
            f'[repositories.copy]\nurl = "file://{site.root}/copy"',
        )

    def test_all_of_them_get_every_file(self, site: Spooled, copy: Archive) -> None:
        names = {site.ready(number) for number in range(5, 15)}
        assert site.push(min(names)) == (0, "")
        until(lambda: not processes(site.root))
        assert site.stored() == site.stored(copy) == names

    def test_all_of_them_must_have_it(self, site: Spooled, copy: Archive) -> None:
        name = site.ready(5)
        (site.root / "copy").rename(site.root / "away")
        code, message = site.push(name)
        assert code == 30
        assert message.startswith(f'pgproof: there is no repository at "file://{site.root}/copy"\n')
        assert site.spool.names("pushed") == []
        (site.root / "away").rename(site.root / "copy")
        assert site.push(name) == (0, "")
        assert site.stored(copy) == {name}

    def test_without_a_spool_all_of_them_get_it_too(self, site: Spooled, copy: Archive) -> None:
        name = site.data.segment(5).name
        assert site.push(name) == (0, "")
        assert site.stored() == site.stored(copy) == {name}

    def test_a_quorum_does_without_one_that_is_away_and_it_catches_up(
        self, site: Spooled, copy: Archive
    ) -> None:
        self.configure(site, quorum=1)
        (site.root / "copy").rename(site.root / "away")
        names = [site.ready(number) for number in range(5, 10)]
        with site.serving():
            assert [site.push(name) for name in names] == [(0, "")] * 5
            assert site.stored() == set(names)
            until(lambda: site.spool.owed("copy") == names, what="what the copy lacks is remembered")
            for name in names:  # PostgreSQL recycles them
                site.done(name)
                (site.data.wal / name).unlink()
            (site.root / "away").rename(site.root / "copy")
            assert site.push(site.ready(10)) == (0, "")
            until(lambda: site.spool.owed("copy") == [], 60, "the copy has caught up")
        assert {*names, "00000001000000000000000A"} == site.stored(copy)
        for number, name in enumerate(names, 5):
            assert archived(copy, name) == content(number)

    def test_one_that_hangs_holds_up_no_other(self, site: Spooled, seaweedfs: S3Server) -> None:
        """A stopped S3 server takes the connection and never answers."""
        bucket = seaweedfs.make_bucket(f"hangs-{site.root.name.replace('_', '-')}"[:60].lower())
        create_repository(seaweedfs.repository(bucket), seaweedfs.credentials)
        keys = f'access_key_id = "file:{site.root}/id"\nsecret_access_key = "file:{site.root}/secret"'
        (site.root / "id").write_text(seaweedfs.access_key)
        (site.root / "secret").write_text(seaweedfs.secret_key)
        site.configure(
            'copies = ["copy"]\nwal.quorum = 1\nwal.push_timeout = "10s"',
            f'[repositories.copy]\nurl = "s3://{bucket}"\nendpoint = "{seaweedfs.endpoint}"\n{keys}',
        )
        names = [site.ready(number) for number in range(5, 10)]
        os.kill(seaweedfs.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with site.serving():
                assert [site.push(name) for name in names] == [(0, "")] * 5
            assert time.monotonic() - started < 10
            assert site.stored() == set(names)
        finally:
            os.kill(seaweedfs.pid, signal.SIGCONT)

    def test_a_store_that_hangs_never_hangs_the_archiver(self, site: Spooled, seaweedfs: S3Server) -> None:
        bucket = seaweedfs.make_bucket(f"alone-{site.root.name.replace('_', '-')}"[:60].lower())
        create_repository(seaweedfs.repository(bucket), seaweedfs.credentials)
        (site.root / "id").write_text(seaweedfs.access_key)
        (site.root / "secret").write_text(seaweedfs.secret_key)
        keys = f'access_key_id = "file:{site.root}/id"\nsecret_access_key = "file:{site.root}/secret"'
        site.configure(
            'wal.push_timeout = "2s"', f'endpoint = "{seaweedfs.endpoint}"\n{keys}', url=f"s3://{bucket}"
        )
        name = site.ready(5)
        with site.serving():
            os.kill(seaweedfs.pid, signal.SIGSTOP)
            try:
                started = time.monotonic()
                code, message = site.push(name)
                assert time.monotonic() - started < 8
            finally:
                os.kill(seaweedfs.pid, signal.SIGCONT)
            assert code == 79
            assert message == (
                f'pgproof: WAL file "{name}" did not reach the archive within the time limit\n'
                "DETAIL: It is still being tried; PostgreSQL keeps the file and asks again.\n"
                f"HINT: {site.spool.path('push.log')} says what the pusher met; "
                "pgproof doctor looks at the repository\n"
            )
            until(lambda: site.push(name) == (0, ""), 60)


def test_what_was_stored_is_not_touched_again(site: Spooled) -> None:
    names = [site.ready(number) for number in range(5, 10)]
    assert [site.push(name) for name in names] == [(0, "")] * 5
    until(lambda: not processes(site.root))
    before = tree(site.root / "repository")
    shutil.rmtree(site.root / "spool")
    assert [site.push(name) for name in names] == [(0, "")] * 5
    until(lambda: not processes(site.root))
    assert tree(site.root / "repository") == before
