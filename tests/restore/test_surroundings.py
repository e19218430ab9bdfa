"""Whatever the shell and the name of the directory are: it is the restored cluster that is asked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgproof.postgres.lock_file import running_in
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, running_source

SHELL = {
    "PGHOST": "192.0.2.1",
    "PGHOSTADDR": "127.0.0.1",
    "PGPORT": "1",
    "PGUSER": "nobody",
    "PGDATABASE": "nothing",
    "PGDATA": "/nowhere",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PGTARGETSESSIONATTRS": "read-write",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGREQUIREPEER": "root",
    "PGSSLMODE": "require",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLCERTMODE": "require",
    "PGCHANNELBINDING": "require",
    "PGGSSENCMODE": "require",
    "PGCLIENTENCODING": "LATIN1",
}


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with running_source(17) as made:
        made.sql("CREATE TABLE t AS SELECT 1 AS g")
        made.backup()
        yield made


@pytest.fixture
def data(source: Source) -> Iterator[Path]:
    data = source.root / "restored"
    code, _, err = answer(source, "restore", "main", "--to", str(data), "--target-immediate")
    assert code == 0, err
    yield data
    if server := running_in(data):
        server.stop()
    shutil.rmtree(data)


def test_no_variable_of_the_environment_leads_to_another_server(
    source: Source, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With PGHOSTADDR it was production that was asked, and would have been opened by ``accept``."""
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    code, out, err = answer(source, "start", str(data), "--timeout", "30s", "--json")
    assert code == 0, out + err
    assert json.loads(out)["state"] == "paused"
    with psycopg.connect(source.server.dsn, user="postgres", dbname="postgres") as connection:
        assert connection.execute("SHOW data_directory").fetchone() == (str(source.data),)


def test_formats_of_the_shell_are_not_ours(source: Source, data: Path) -> None:
    """PGDATESTYLE ended the command with a traceback; it stands before every option of a connection."""
    variables = {"PGDATESTYLE": "German", "PGTZ": "Asia/Tokyo", "TZ": "Asia/Tokyo", "LC_ALL": "tr_TR.UTF-8"}
    done = source.run("start", str(data), "--timeout", "60s", "--json", environment=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["state"] == "paused"


@pytest.mark.parametrize("name", ["it's", "a,b", "back\\slash", 'q"'], ids=ascii)
def test_a_directory_of_any_name(source: Source, name: str) -> None:
    data = source.root / name
    try:
        for words in (["restore", "main", "--to", str(data), "--target-immediate"], ["start", str(data)]):
            code, out, err = answer(
                source, *words, "--json", *(["--timeout", "30s"] if "start" in words else [])
            )
            assert code == 0, out + err
        assert json.loads(out)["state"] == "paused"
        assert answer(source, "stop", str(data))[0] == 0
        assert running_in(data) is None
    finally:
        if server := running_in(data):
            server.stop()
        shutil.rmtree(data, ignore_errors=True)


@pytest.mark.parametrize("name", ["a\nb", os.fsdecode(b"\xff\xfe")], ids=ascii)
def test_a_name_that_no_server_could_say_is_refused(source: Source, name: str) -> None:
    code, _, err = answer(source, "restore", "main", "--to", str(source.root / name))
    assert code == 43
    assert "its name has a line break or is not UTF-8" in err
    assert not (source.root / name).exists()


def test_a_directory_that_is_part_of_something_else_is_refused(source: Source) -> None:
    """A restore into the live data directory ended well, and the next backup had all of it twice."""
    for place, what in (
        (source.data, "the data directory of another cluster"),
        (source.repository_path, "a repository"),
    ):
        code, _, err = answer(source, "restore", "main", "--to", str(place / "new" / "restored"))
        assert (code, err.splitlines()[1]) == (
            43,
            f"DETAIL: Reason: it lies in {place}, which is {what}. Nothing was written.",
        )


def test_a_directory_whose_parent_is_not_ours(source: Source) -> None:
    """Such as a mount point: the log beside it was a traceback."""
    parent = source.root / "parent"
    data = parent / "data"
    data.mkdir(parents=True)
    give_to_server(parent)
    assert answer(source, "restore", "main", "--to", str(data), "--target-immediate")[0] == 0
    parent.chmod(0o555)
    try:
        code, out, err = answer(source, "start", str(data), "--timeout", "30s")
        assert code == 0, out + err
        assert (data / "restored.log").exists()
        assert answer(source, "stop", str(data))[0] == 0
    finally:
        parent.chmod(0o755)
        shutil.rmtree(parent)
