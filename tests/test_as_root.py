"""As root: PostgreSQL refuses to run, so its programs run as an unprivileged account, and own what they need."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psycopg
import pytest

from pgproof.backups.source_files import Unreadable, here_of
from pgproof.postgres.grants import peer_lines
from pgproof.postgres.lock_file import running_in
from pgproof.postgres.programs import account
from tests.servers.place import give_to_server
from tests.servers.postgres import Source

pytestmark = pytest.mark.as_root


def test_drill_and_restore_run_the_server_as_an_unprivileged_account(source: Source, tmp_path: Path) -> None:
    owner = account(None)
    assert owner is not None
    assert owner.pw_uid != 0
    source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g")

    done = source.run("backup", "main", "--json")
    assert done.returncode == 0, done.stderr
    done = source.run("drill", "main", "--json")
    assert done.returncode == 10, (
        "root's pages are not written where another account could exchange their directory"
    )
    assert f'DETAIL: {source.root} belongs to account "{owner.pw_name}".' in done.stderr
    config = source.config_path.read_text()
    source.config_path.write_text(config.replace(f'"{source.root}/state"', f'"{tmp_path}/state"'))
    done = source.run("drill", "main", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    proof = json.loads(done.stdout)
    assert proof["verdict"] == "proven"
    assert [table["source_rows"] for table in proof["tables"]] == [1000]

    data = source.root / "restored"
    done = source.run(
        "restore", "main", "--to", str(data), "--target-action", "promote", "--target-immediate"
    )
    assert done.returncode == 0, done.stderr
    assert {entry.stat().st_uid for entry in [data, *data.rglob("*")]} == {owner.pw_uid}
    with source.copy(data) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1000,)


def test_a_restored_cluster_with_a_later_tablespace_is_started_and_accepted(source: Source) -> None:
    owner = account(None)
    assert owner is not None
    source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g")
    with open(source.data / "postgresql.conf", "a") as file:
        file.write(f"listen_addresses = ''\nunix_socket_directories = '{source.root}/accepted'\n")
    (source.root / "accepted").mkdir()
    give_to_server(source.root / "accepted")
    assert source.run("backup", "main").returncode == 0
    for name in ("later", "mapped"):
        (source.root / name).mkdir()
        give_to_server(source.root / name)
        source.sql(f"CREATE TABLESPACE {name} LOCATION '{source.root}/{name}'")
        source.sql(f"CREATE TABLE in_{name} TABLESPACE {name} AS SELECT g FROM generate_series(1, 10) g")
    source.sql("SELECT pg_create_restore_point('here')")
    source.archive_now()
    data = source.root / "restored"
    words = ("--target-name", "here", "--tablespace", f"{source.root}/mapped={source.root}/elsewhere")
    done = source.run("restore", "main", "--to", str(data), *words)
    assert done.returncode == 0, done.stderr
    with source.away():
        for step in (("start",), ("accept", "--yes")):
            done = source.run(step[0], str(data), *step[1:])
            assert done.returncode == 0, done.stdout + done.stderr
        server = running_in(data)
        assert server is not None
        try:
            with psycopg.connect(
                server.dsn, user="postgres", dbname="postgres", autocommit=True
            ) as connection:
                for name in ("later", "mapped"):
                    connection.execute(f"INSERT INTO in_{name} VALUES (-1)".encode())
                    row = connection.execute(f"SELECT count(*) FROM in_{name}".encode()).fetchone()
                    assert row == (11,)
            places = {path.resolve() for path in (data / "pg_tblspc").iterdir()}
            assert source.root / "elsewhere" in places
            assert places - {source.root / "elsewhere"} == {
                path for path in (data / "tablespaces").iterdir() if path.is_dir()
            }
            for place in (data, *places):
                assert {entry.lstat().st_uid for entry in [place, *place.rglob("*")]} == {owner.pw_uid}
        finally:
            server.stop()


def test_what_root_writes_into_a_repository_belongs_to_its_owner(source: Source) -> None:
    source.run("backup", "main")
    owner = account(None)
    assert owner is not None
    entries = [
        Path(directory) / name for directory, _, names in os.walk(source.repository_path) for name in names
    ]
    assert any(path.name == "backup.json" for path in entries)
    assert {path.stat().st_uid for path in entries} == {owner.pw_uid}


def test_peer_authentication_is_not_changed_for_root(source: Source) -> None:
    """The server's account gets in by pg_ident.conf, and root does not: its hint must not break that."""
    owner = account(None)
    assert owner is not None
    lines, ident = peer_lines("pgproof", owner.pw_name)
    with (source.data / "pg_ident.conf").open("a") as file:
        file.write(f"{ident}\n")
    access = source.data / "pg_hba.conf"
    access.write_text("\n".join([*lines, "local all all trust\n"]))
    source.sql("SELECT pg_reload_conf()")
    source.sql("SELECT pg_sleep(0.3)")
    done = source.run("doctor", "main")
    assert "Peer authentication failed" in done.stdout
    assert f"you are root, and peer lets in the server's account: sudo -iu {owner.pw_name}" in done.stdout
    assert "scram-sha-256" not in done.stdout and "peer map" not in done.stdout


def test_a_restored_cluster_is_accepted(source: Source) -> None:
    """Its log was root's, so that pg_ctl, which runs as the server's account, could not go on with it."""
    data, accepted = source.root / "to-accept", source.root / "accepted"
    accepted.mkdir()
    give_to_server(accepted)
    source.backup()
    assert source.run("restore", "main", "--to", str(data), "--target-immediate").returncode == 0
    with open(data / "postgresql.conf", "a") as file:
        file.write(f"unix_socket_directories = '{accepted}'\nlisten_addresses = ''\n")
    started = source.run("start", str(data), "--timeout", "60s")
    assert started.returncode == 0, started.stdout + started.stderr
    with source.away():
        done = source.run("accept", str(data), "--yes")
        server = running_in(data)
        assert server is not None, done.stdout + done.stderr
        server.stop()
        assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_is_read_with_no_more_rights_than_the_server_has(source: Source) -> None:
    """Who writes it may name any file: root's would be in the backup, and in each restored cluster."""
    place = source.root / "etc"
    place.mkdir()
    for name, owned in (("own.conf", True), ("of root.conf", False)):
        (place / name).write_text(f"# {name}\n")
        (place / name).chmod(0o600)
        if owned:
            give_to_server(place / name)
    os.mkfifo(place / "pipe.conf")
    here = here_of(str(source.data))
    assert here.content(str(place / "own.conf")) == b"# own.conf\n"
    assert here.content(str(place / "none.conf")) is None
    assert sorted(here.names(str(place)) or []) == ["of root.conf", "own.conf", "pipe.conf"]
    assert here.names(str(place / "none")) is None
    for name, reason in (("of root.conf", "Permission denied"), ("pipe.conf", "no regular file")):
        with pytest.raises(Unreadable, match=reason):
            here.content(str(place / name))


def test_a_place_that_somebody_else_made_first_is_refused(source: Source) -> None:
    """Its maker put a link there in time: a 0600 file of root then was the server's account's, with other content."""
    source.scratch.mkdir()
    source.scratch.chmod(0o777)
    os.chown(source.scratch, 65534, 65534)
    reason = f'{source.scratch} belongs to account "nobody"'
    done = source.run("doctor", "main")
    assert f"{source.scratch} is not ours alone: {reason}, so that links" in " ".join(done.stdout.split())
    assert source.run("backup", "main").returncode == 0
    done = source.run("drill", "main")
    assert done.returncode != 0
    assert f'scratch directory "{source.scratch}" is not ours alone' in done.stderr + done.stdout
    assert os.listdir(source.scratch) == []
    os.chown(source.scratch, 0, 0)
    done = source.run("drill", "main")
    assert "other accounts can write in" in (done.stderr + done.stdout).lower()
