"""Configuration from outside the data directory is in each backup, and the restored cluster starts with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.backups.record import BackupRecord
from pgproof.backups.source_files import runs_here
from pgproof.postgres.lock_file import running_in
from pgproof.restore import acceptance, configuration
from pgproof.restore.configuration import ACCEPTED
from pgproof.restore.record import DIRECTORY, TREE
from tests.drills.damage import answer, flip_bit
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, installed, running_source

MAIN = """
data_directory = '{data}'
hba_file = '{etc}/main/pg_hba.conf'
ident_file = '{etc}/main/pg_ident.conf'
external_pid_file = '{root}/pid'
listen_addresses = ''
unix_socket_directories = '{root}/socket'
include_dir 'conf.d'
Include = '{etc}/common/all.conf'   # absolute
include_if_exists '{etc}/common/none.conf'
"""


@pytest.fixture(scope="module", params=[15, 17, 18])
def debian(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source as Debian sets it up, with every way that one file has to name another."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as source:
        etc = source.root / "etc"
        for name in ("etc/main/conf.d", "etc/main/empty.d", "etc/common", "socket"):
            (source.root / name).mkdir(parents=True)
        (etc / "main/postgresql.conf").write_text(MAIN.format(data=source.data, etc=etc, root=source.root))
        (etc / "main/conf.d/10.conf").write_text("work_mem = '11MB'\ninclude_dir '../empty.d'\n")
        (etc / "main/conf.d/20.off").write_text("nonsense\n")
        (etc / "common/all.conf").write_text("maintenance_work_mem = '77MB'\ninclude 'more.conf'\n")
        (etc / "common/more.conf").write_text("temp_buffers = 9MB\n")
        hba = "local all all trust  # @nobody\nlocal replication all trust\nlocal all @admins trust\n"
        if request.param >= 16:
            hba += f'include_if_exists "{etc}/common/rules.conf"\n'
            (etc / "common/rules.conf").write_text("local x all reject\n")
        (etc / "main/pg_hba.conf").write_text(hba)
        (etc / "main/pg_ident.conf").write_text("map a b\n")
        (etc / "main/admins").write_text("postgres, ada\n")
        give_to_server(etc, source.root / "socket")
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            (source.data / name).unlink()
        source.set(config_file=str(etc / "main/postgresql.conf"))
        source.sql("CREATE TABLE t AS SELECT 1 AS a")
        yield source


def names(source: Source, record: BackupRecord) -> set[str]:
    assert record.configuration is not None
    return {path.removeprefix(f"{source.root}/etc/") for path in record.configuration.files}


def expected(source: Source) -> set[str]:
    found = {"main/postgresql.conf", "main/conf.d/10.conf", "common/all.conf", "common/more.conf"}
    found |= {"main/pg_hba.conf", "main/pg_ident.conf", "main/admins"}
    return found | ({"common/rules.conf"} if source.major >= 16 else set())


@contextmanager
def restored(source: Source, *options: str) -> Iterator[Path]:
    data = source.root / "restored"
    code, _, err = answer(source, "restore", "main", "--to", str(data), *options)
    assert code == 0, err
    with restored_at(data):
        yield data


@contextmanager
def restored_at(data: Path) -> Iterator[None]:
    """Whatever runs there is ended, and the directory goes."""
    try:
        yield
    finally:
        if server := running_in(data):
            server.stop()
        shutil.rmtree(data, ignore_errors=True)


def start(source: Source, data: Path, *options: str) -> dict[str, Any]:
    done = answer(source, "start", str(data), "--json", "--timeout", "60s", *options)
    assert done[0] == 0, done
    found: dict[str, Any] = json.loads(done[1])
    return found


def show(data: Path, *settings: str) -> list[str]:
    server = running_in(data)
    assert server is not None
    with psycopg.connect(server.dsn, user="postgres", dbname="postgres", autocommit=True) as connection:
        rows = [connection.execute(f"SHOW {name}".encode()).fetchone() for name in settings]
    return [row[0] for row in rows if row]


def test_a_restored_cluster_starts_with_it_and_keeps_it_when_it_is_accepted(debian: Source) -> None:
    record = debian.backup()
    assert names(debian, record) == expected(debian)
    assert record.configuration is not None
    assert (record.configuration.left_out, record.warnings) == ((), ())
    debian.archive_now()
    code, out, _ = answer(debian, "restore", "main", "--to", str(debian.root / "x"), "--dry-run")
    assert code == 0
    assert f"{len(expected(debian))} configuration files of the source" in " ".join(out.split())
    with restored(debian) as data, away(debian):
        found = start(debian, data)
        assert (found["state"], found["findings"]) == ("open", [])
        settings = ("work_mem", "maintenance_work_mem", "temp_buffers", "data_directory")
        assert show(data, *settings) == ["11MB", "77MB", "9MB", str(data)]
        assert (data / DIRECTORY / TREE).stat().st_mode & 0o777 == 0o700
        plan = json.loads(answer(debian, "accept", str(data), "--dry-run", "--json")[1])
        assert any(f"keep the source's configuration in {data / ACCEPTED}" in s for s in plan["steps"])
        assert not any("data_directory" in caution for caution in plan["cautions"])
        done = answer(debian, "accept", str(data), "--yes")
        assert done[0] == 0, done
        assert not (data / DIRECTORY).exists()
        assert show(data, *settings) == ["11MB", "77MB", "9MB", str(data)]
        assert show(data, "hba_file") == [f"{data / ACCEPTED}{debian.root}/etc/main/pg_hba.conf"]
        # whoever runs servers here starts it by its directory alone
        server = running_in(data)
        assert server is not None
        server.stop()
        copy = debian.start_copy(data)
        copy.wait_ready()
        copy.stop()


@pytest.mark.parametrize("debian", [17], indirect=True)  # the order is the same in every version
@pytest.mark.parametrize("died", ["keep_configuration", "_make", "replace_file", "quote"])
def test_an_acceptance_that_dies_while_it_keeps_it_goes_on_later(
    debian: Source, monkeypatch: pytest.MonkeyPatch, died: str
) -> None:
    """Before it, and in it: before the directory, a file of it, and the postgresql.conf that includes it."""
    module = acceptance if died == "keep_configuration" else configuration
    if not read_catalog(debian.archive).entries:
        debian.backup()
    with restored(debian, "--target-immediate") as data, away(debian):
        start(debian, data)
        before = show(data, "work_mem", "archive_mode")
        with monkeypatch.context() as patched:
            patched.setattr(module, died, dies)
            with contextlib.suppress(KeyboardInterrupt):
                answer(debian, "accept", str(data), "--yes")
        assert running_in(data) is None
        code, _, err = answer(debian, "accept", str(data), "--yes")
        assert (code, err.rpartition("HINT: ")[2].strip()) == (43, f"pgproof start {data}")
        again = start(debian, data)
        assert (again["state"], again["findings"]) == ("open", [])
        assert "is isolated again" in again["again"]
        assert show(data, "work_mem", "archive_mode") == before == ["11MB", "off"]
        code, _, err = answer(debian, "accept", str(data), "--yes")
        assert code == 0, err
        assert not list(data.rglob("*.pgproof"))
        assert show(data, "work_mem", "maintenance_work_mem", "data_directory") == ["11MB", "77MB", str(data)]
        assert show(data, "hba_file") == [f"{data / ACCEPTED}{debian.root}/etc/main/pg_hba.conf"]


def dies(*_: object, **__: object) -> None:
    """What a killed process comes to."""
    raise KeyboardInterrupt


@contextmanager
def away(source: Source) -> Iterator[None]:
    """Another machine: neither the source nor its configuration is here."""
    etc, aside = source.root / "etc", source.root / "aside"
    source.server.stop()
    etc.rename(aside)
    try:
        yield
    finally:
        aside.rename(etc)
        source.server.start()
        source.server.wait_ready()


def test_it_can_be_put_back_by_hand(debian: Source) -> None:
    record = debian.backup()
    assert record.configuration is not None
    assert record.configuration.object is not None
    place = debian.root / "by-hand"
    place.mkdir()
    stored = debian.repository_path / record.configuration.object.key
    if not shutil.which("zstd"):
        pytest.skip("needs the program zstd: apt-get install zstd")
    subprocess.run(f"zstd -q -d -c '{stored}' | tar -x -C '{place}'", shell=True, check=True)
    for path in record.configuration.files:
        there = place / path.lstrip("/")
        assert (there.read_bytes(), there.stat().st_mode & 0o777) == (Path(path).read_bytes(), 0o600)
    shutil.rmtree(place)


def left_out(source: Source) -> dict[str, str]:
    record = source.backup()
    assert record.configuration is not None
    return {item.path.removeprefix(f"{source.root}/"): item.reason for item in record.configuration.left_out}


def test_what_cannot_be_read_is_named_and_a_restored_cluster_starts_without_it(debian: Source) -> None:
    path = debian.root / "etc/common/more.conf"
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    path.chmod(0)
    missing = debian.root / "etc/common/all.conf"
    text = missing.read_text()
    try:
        record = debian.backup()
        assert record.configuration is not None
        (item,) = record.configuration.left_out
        assert (item.path, item.reason) == (str(path), "Permission denied")
        said = f"configuration outside the data directory was not taken: {path} (Permission denied); keep it yourself"
        assert record.warnings == (said,)
        debian.archive_now()
        with restored(debian) as data:
            start(debian, data)
            assert show(data, "maintenance_work_mem", "temp_buffers") == ["77MB", "8MB"]
    finally:
        path.chmod(0o600)
        missing.write_text(text)


def test_from_another_machine_a_role_that_may_reads_it_through_the_server(
    debian: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = debian.backup().configuration
    monkeypatch.setattr("pgproof.backups.configuration.runs_here", lambda data, system: False)
    found = left_out(debian)
    assert set(found) == {"etc/main/postgresql.conf", "etc/main/pg_hba.conf", "etc/main/pg_ident.conf"} | {
        "etc/main/conf.d/10.conf",
        "etc/common/all.conf",
        "etc/common/more.conf",
    }
    assert found["etc/main/pg_hba.conf"] == (
        "it cannot be read from here, and the role has no pg_read_server_files"
    )
    functions = "FUNCTION pg_read_binary_file(text, bigint, bigint), pg_ls_dir(text)"
    debian.sql(f"GRANT pg_read_server_files TO pgproof; GRANT EXECUTE ON {functions} TO pgproof")
    try:
        there = debian.backup().configuration
    finally:
        debian.sql(f"REVOKE pg_read_server_files FROM pgproof; REVOKE EXECUTE ON {functions} FROM pgproof")
    assert here is not None
    assert there is not None
    assert there.object is not None
    assert here.object is not None
    assert replace(there, object=None) == replace(here, object=None)
    assert there.object.sha256 == here.object.sha256


def test_a_server_of_another_machine_is_not_taken_for_ours(debian: Source, tmp_path: Path) -> None:
    system = debian.archive.system_identifier
    assert runs_here(debian.data, system)
    assert not runs_here(debian.data, system + 1)
    assert not runs_here(tmp_path, system)


def test_a_damaged_one_is_found_by_verify_and_stops_no_restore(debian: Source) -> None:
    record = debian.backup()
    debian.archive_now()
    assert record.configuration is not None
    stored = record.configuration.object
    assert stored is not None
    flip_bit(debian.repository_path / stored.key)
    try:
        code, out, _ = answer(debian, "verify", "main")
        assert code == 1
        assert f'object "{stored.key}" is damaged' in " ".join(out.split())
        data = debian.root / "restored"
        code, out, _ = answer(debian, "restore", "main", "--to", str(data), "--backup", record.label)
        assert code == 0
        assert f'configuration files could not be restored: object "{stored.key}" is damaged' in " ".join(
            out.split()
        )
        with restored_at(data):
            start(debian, data)
            assert show(data, "work_mem") == ["4MB"]
    finally:
        flip_bit(debian.repository_path / stored.key)


@pytest.fixture
def inside() -> Iterator[Source]:
    with running_source(17) as source:
        yield source


def test_one_that_lies_inside_is_in_the_backup_anyway(inside: Source) -> None:
    assert inside.backup().configuration is None
    outside = inside.root / "more.conf"
    outside.write_text("work_mem = '12MB'\n")
    with open(inside.data / "postgresql.conf", "a") as file:
        file.write(f"include '{outside}'\n")
    record = inside.backup()
    assert record.configuration is not None
    assert str(outside) in record.configuration.files
    inside.archive_now()
    with restored(inside) as data:
        outside.unlink()
        start(inside, data)
        assert show(data, "work_mem") == ["12MB"]


def test_a_closed_socket_of_the_source_closes_nothing_here(inside: Source) -> None:
    inside.backup()
    inside.archive_now()
    with restored(inside) as data:
        with open(data / "postgresql.conf", "a") as file:
            file.write("unix_socket_permissions = 0000\n")
        assert start(inside, data)["state"] == "open"
