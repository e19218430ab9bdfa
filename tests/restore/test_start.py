"""A restored cluster is started as itself, says where it stands, and becomes the server when it is accepted."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgproof.postgres.lock_file import running_in
from pgproof.postgres.programs import account, as_account, environment
from pgproof.postgres.server import LocalServer
from pgproof.restore import acceptance
from pgproof.restore.command_line import by_hand
from pgproof.restore.record import DIRECTORY
from pgproof.restore.restored import log_of
from pgproof.restore.settings import LEAKING
from pgproof.wal.archive import list_wal
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import PGPROOF, PROJECT, Source, installed, running_source

# As Debian has it in /etc, and as some have it in the data directory: read by pg_ctl -D, it is another cluster
CONFIGURATION = """
data_directory = '{source}'
external_pid_file = '{root}/pid'
unix_socket_directories = '{root}/accepted'
listen_addresses = ''
port = 6000
archive_mode = 'on'
archive_command = '/bin/true'
shared_preload_libraries = 'pg_prewarm'
hba_file = '{etc}/pg_hba.conf'
"""


@pytest.fixture(scope="module", params=[15, 17])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source with rows on both sides of a restore point, whose configuration names its data directory."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as made:
        etc = made.root / "etc"
        for directory in (etc, made.root / "accepted"):
            directory.mkdir()
        text = CONFIGURATION.format(source=made.data, root=made.root, etc=etc)
        (etc / "postgresql.conf").write_text((made.data / "postgresql.conf").read_text() + text)
        (etc / "pg_hba.conf").write_text("local all all trust\nlocal replication all trust\n")
        give_to_server(etc, made.root / "accepted")
        with open(made.data / "postgresql.conf", "a") as file:
            file.write(text)
        made.sql("ALTER SYSTEM SET archive_timeout = '10min'")
        made.sql("ALTER SYSTEM SET archive_command = '/bin/true x'")
        made.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g")
        made.backup()
        made.sql("INSERT INTO t VALUES (11)")
        made.sql("SELECT pg_create_restore_point('eleven')")
        made.sql("INSERT INTO t VALUES (12)")
        made.archive_now()
        yield made


@contextmanager
def restored(source: Source, *options: str) -> Iterator[Path]:
    """A restored directory; whatever runs there is ended."""
    data = source.root / "restored"
    code, _, err = answer(source, "restore", "main", "--to", str(data), *options)
    assert code == 0, err
    try:
        yield data
    finally:
        if server := running_in(data):
            server.stop()
        shutil.rmtree(data)


def start(source: Source, data: Path, *options: str, code: int = 0) -> dict[str, Any]:
    done = answer(source, "start", str(data), "--json", "--timeout", "60s", *options)
    assert done[0] == code, done
    found: dict[str, Any] = json.loads(done[1])
    return found


def stop(source: Source, data: Path) -> str:
    code, out, err = answer(source, "stop", str(data))
    assert code == 0, err
    return out


def ask(data: Path, query: str) -> Any:
    server = running_in(data)
    assert server is not None
    with psycopg.connect(server.dsn, user="postgres", dbname="postgres", autocommit=True) as connection:
        found = connection.execute(query.encode())
        row = found.fetchone() if found.description else None
        return row and row[0]


ROWS = "SELECT max(g) FROM t"


def test_it_is_the_restored_cluster_whatever_its_files_say(source: Source) -> None:
    with restored(source, "--target-name", "eleven") as data:
        done = source.run("start", str(data), "--json")  # the server stays when this process ends
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert (found["findings"], found["state"]) == ([], "paused")
        assert found["plan"]["last"].startswith("transaction ")
        assert ask(data, "SHOW data_directory") == str(data)
        assert ask(data, ROWS) == 11
        server, named = running_in(data), source.root / "pid"
        assert server is not None
        assert not named.exists() or str(server.pid) not in named.read_text()
        assert start(source, data)["state"] == "paused"  # it runs already
        stop(source, data)
        assert running_in(data) is None

        # as Debian has it: the configuration lies elsewhere
        (data / "postgresql.conf").unlink()
        start(source, data, "--config-file", str(source.root / "etc" / "postgresql.conf"))
        assert (ask(data, "SHOW data_directory"), ask(data, ROWS)) == (str(data), 11)
        assert source.sql(ROWS) == [(12,)]
        assert stop(source, data) == f"stopped {data}\n"

        # or nowhere
        (data / "pg_hba.conf").unlink()
        record = json.loads((data / DIRECTORY / "record.json").read_text())
        (data / DIRECTORY / "record.json").write_text(json.dumps({**record, "config_file": None}))
        assert start(source, data)["state"] == "paused"


def test_the_line_without_pgproof_does_the_same(source: Source) -> None:
    data = source.root / "restored"
    words = ["restore", "main", "--to", str(data), "--target-name", "eleven", "--json"]
    code, out, err = answer(source, *words)
    assert code == 0, err
    line = json.loads(out)["next"][-1]
    try:
        done = subprocess.run(
            ["bash", "-c", line],
            env=environment(),
            timeout=60,
            **as_account(account(None)),  # type: ignore[call-overload]
        )
        assert done.returncode == 0
        assert (ask(data, "SHOW data_directory"), ask(data, "SHOW archive_mode")) == (str(data), "off")
        assert start(source, data)["state"] == "paused"
    finally:
        answer(source, "stop", str(data))
        shutil.rmtree(data)


def test_recovery_that_ends_early_is_a_finding(source: Source) -> None:
    with restored(source) as data:
        path = data / "postgresql.auto.conf"
        newest = list_wal(source.archive, 1 << 20).newest(1)
        lying = f"restore_command = '[ %f = {newest} ] && exit 1; "
        path.write_text(path.read_text().replace("restore_command = '", lying))
        found = start(source, data, code=1)
        (finding,) = found["findings"]
        assert finding.startswith("WAL was replayed up to LSN 0/")
        assert finding.endswith(f"only; the plan reaches {found['plan']['least']} at least")


def test_accepted_it_is_a_cluster_as_any_other(source: Source) -> None:
    """No recovery setting is left, which would keep a standby that pg_basebackup makes from following."""
    with restored(source, "--target-name", "eleven") as data:
        start(source, data)
        code, _, err = answer(source, "accept", str(data), "--yes")
        assert (code, err) == (
            49,
            f'pgproof: cannot accept "{data}": the old server runs\n'
            f"DETAIL: Process {source.server.pid} serves the same cluster in {source.data}.\n"
            f"HINT: stop it for good: {source.bin / 'pg_ctl'} -D {source.data} stop; "
            "or by what started it, such as systemctl\n",
        )
        with source.away():
            accepted(source, data)


def prewarms(data: Path) -> bool:
    """Whether the worker of the extension runs in a directory; it is in no view, as it asks no database."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            title = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"autoprewarm leader" in title and (entry / "cwd").resolve() == data:
                return True
    return False


def accepted(source: Source, data: Path) -> None:
    before = (data / "postgresql.auto.conf").read_text()
    planned = json.loads(answer(source, "accept", str(data), "--dry-run", "--json")[1])
    assert (data / "postgresql.auto.conf").read_text() == before
    assert planned["begins"] == [
        "its socket has port 6000",
        "archive_mode = 'on'",
        "archive_command = '/bin/true x'",
        "shared_preload_libraries = 'pg_prewarm': their workers start, and scheduled jobs run",
        f"external_pid_file = '{source.root}/pid'",
        *(["event triggers fire"] if source.major >= 17 else []),
    ]
    assert len(planned["cautions"]) == 2, planned["cautions"]
    assert not prewarms(data)
    unsaid = answer(source, "accept", str(data))
    assert (unsaid[0], running_in(data) is None) == (48, False)
    done = source.run("accept", str(data), "--yes")  # the server stays when this process ends
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (data / DIRECTORY).exists()
    assert ask(data, "SHOW data_directory") == str(data)
    assert prewarms(data)
    assert ask(data, "SELECT current_setting('archive_mode') || current_setting('archive_command')") == (
        "on/bin/true x"
    )
    assert ask(data, "INSERT INTO t VALUES (13) RETURNING g") == 13
    written = (data / "postgresql.auto.conf").read_text()
    assert not [name for name in (*LEAKING, "max_connections") if name in written]
    assert "archive_timeout = '10min'" in written
    assert answer(source, "start", str(data))[0] == 43
    follow(source, data)


def follow(source: Source, data: Path) -> None:
    """A standby made with pg_basebackup -R follows it onto the new timeline."""
    server, standby = running_in(data), source.root / "standby"
    assert server is not None
    command = [
        "pg_basebackup",
        "-h",
        server.socket,
        "-p",
        str(server.port),
        "-U",
        "postgres",
        "-R",
        "-D",
        standby,
    ]
    subprocess.run(
        [source.bin / command[0], *command[1:]],
        env=environment(),
        check=True,
        **as_account(account(None)),  # type: ignore[call-overload]
    )
    options = {"data_directory": str(standby), "external_pid_file": ""}
    follower = LocalServer(
        source.bin, standby, source.root / "f", source.root / "f.log", options, account(None)
    )
    with follower.run():
        ask(data, "INSERT INTO t VALUES (14) RETURNING g")
        follower.wait(lambda: ask(standby, ROWS) == 14, 30, "to follow")


# each of accept(), in its order; it dies before the first one, or after one, which is before the next
STEPS = {
    "_open": acceptance,
    "stop": acceptance,
    "reserve": acceptance,
    "end_note": acceptance,
    "mark_history": acceptance,
    "close": acceptance,
    "take_out": acceptance,
    "forget": acceptance,
    "rmtree": shutil,
    "_start": acceptance,
}
RUNS, ACCEPTED = ("_open", "stop"), ("rmtree", "_start")


def test_every_step_of_an_acceptance_is_here() -> None:
    source = inspect.getsource(acceptance.accept) + inspect.getsource(acceptance._change)
    called = re.findall(r"(?:^ +|= |else )(\w+)\(", source, re.MULTILINE)
    assert set(called) - set(STEPS) == {"ask_for_room", "_change", "keep_configuration"}


@pytest.mark.parametrize("step", STEPS)
def test_an_acceptance_that_dies_goes_on_later(
    source: Source, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Killed before each of its steps; what is printed then leads to an accepted cluster, isolated on the way."""
    with restored(source, "--target-name", "eleven") as data, source.away():
        assert answer(source, "start", str(data))[0] == 0
        ask(data, "ALTER SYSTEM SET work_mem = '7MB'")
        with monkeypatch.context() as patched:
            patched.setattr(STEPS[step], step, dies)
            with contextlib.suppress(KeyboardInterrupt):
                answer(source, "accept", str(data), "--yes")
        code, _, err = answer(source, "accept", str(data), "--yes")
        if step in ACCEPTED:  # whoever starts servers here starts it
            assert (code, "was accepted is started as any other cluster" in err) == (43, True)
            return
        if step not in RUNS:
            hint = err.rpartition("HINT: ")[2].strip()
            assert (code, hint) == (43, f"pgproof start {data}")
            code, out, err = answer(source, *shlex.split(hint)[1:])
            assert code == 0, out + err
            assert ("is isolated again" in " ".join(out.split())) == (step in ("take_out", "forget"))
            assert [ask(data, f"SHOW {name}") for name in ("archive_mode", "shared_preload_libraries")] == [
                "off",
                "",
            ]
            code, _, err = answer(source, "accept", str(data), "--yes")
        assert code == 0, err
        assert ask(data, "INSERT INTO t VALUES (13) RETURNING g") == 13
        written = (data / "postgresql.auto.conf").read_text()
        assert not [name for name in LEAKING if name in written]
        assert [line for line in written.split("\n") if "=" in line and "timeout" not in line] == [
            "work_mem = '7MB'",
            "archive_command = '/bin/true x'",
        ]


def test_no_line_starts_a_cluster_that_is_half_accepted(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It archived, and ran the workers of extensions, though nobody had accepted it."""
    with restored(source, "--target-name", "eleven") as data, source.away():
        assert answer(source, "start", str(data))[0] == 0
        with monkeypatch.context() as patched:
            patched.setattr(acceptance, "forget", dies)
            with contextlib.suppress(KeyboardInterrupt):
                answer(source, "accept", str(data), "--yes")
        done = subprocess.run(
            ["bash", "-c", by_hand(data, source.bin).replace(" start", " -w start")],
            env=environment(),
            timeout=60,
            **as_account(account(None)),  # type: ignore[call-overload]
        )
        assert (done.returncode, running_in(data)) == (1, None)
        assert re.search(r"FATAL:  could not load .*pg_hba\.conf", log_of(data).read_text())


REFUSALS = {
    "full": ("ulimit -f 0; ", 44, "no room left to write"),
    "read-only": ("", 43, "cannot write"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_cannot_be_written_changes_nothing(source: Source, kind: str) -> None:
    """A full disk or a read-only directory was a traceback, after the server was stopped; record.json was cut off."""
    before, expected, fact = REFUSALS[kind]
    with restored(source, "--target-name", "eleven") as data, source.away():
        assert answer(source, "start", str(data))[0] == 0
        path = data / DIRECTORY / "record.json"
        record, settings = path.read_bytes(), (data / "postgresql.auto.conf").read_bytes()
        file = str(source.root / "etc" / "postgresql.conf")
        if kind == "read-only":
            for directory in (data, path.parent):
                directory.chmod(0o500)
        try:
            for words in (["accept", str(data), "--yes"], ["start", str(data), "--config-file", file]):
                line = before + shlex.join([*PGPROOF, "--config", str(source.config_path), *words])
                done = subprocess.run(
                    ["bash", "-c", line],
                    env=environment() | {"PYTHONPATH": str(PROJECT)},
                    capture_output=True,
                    text=True,
                )
                assert (done.returncode, fact in done.stderr) == (expected, True), done.stderr
                assert "Traceback" not in done.stderr
        finally:
            for directory in (data, path.parent):
                directory.chmod(0o700)
        assert (path.read_bytes(), (data / "postgresql.auto.conf").read_bytes()) == (record, settings)
        assert ask(data, ROWS) == 11
        assert not list(data.rglob("*.pgproof"))


def test_one_that_somebody_let_act_says_so(source: Source) -> None:
    with restored(source, "--target-name", "eleven") as data:
        assert start(source, data)["not_isolated"] == {}
        ask(data, "ALTER SYSTEM SET archive_mode = 'on'")
        stop(source, data)
        assert start(source, data)["not_isolated"] == {"archive_mode": "on"}
        assert (
            "it is not isolated as it was restored: archive_mode = 'on'"
            in answer(source, "start", str(data))[1]
        )


def dies(*_: object, **__: object) -> None:
    """What a killed process comes to."""
    raise KeyboardInterrupt


def test_accepted_with_a_configuration_that_lies_elsewhere(source: Source) -> None:
    """As on Debian: it starts with that file, as the restored cluster, and is told to change its data_directory."""
    with restored(source, "--target-name", "eleven") as data, source.away():
        for name in ("postgresql.conf", "pg_hba.conf"):
            (data / name).unlink()
        refused = answer(source, "accept", str(data))
        assert refused[0] == 43
        file = source.root / "etc" / "postgresql.conf"
        start(source, data, "--config-file", str(file))
        code, out, err = answer(source, "accept", str(data), "--yes", "--json")
        assert code == 0, err
        assert any(f"{file} names data_directory" in text for text in json.loads(out)["cautions"])
        assert (ask(data, "SHOW data_directory"), ask(data, "SHOW config_file")) == (str(data), str(file))
        assert ask(data, "INSERT INTO t VALUES (13) RETURNING g") == 13


@pytest.mark.parametrize(
    ("options", "state", "rows"),
    [
        (["--target-immediate"], "paused", 10),
        (["--target-name", "eleven", "--target-action", "promote"], "open", 11),
        (["--take-over"], "open", 12),
        (["--standby"], "following", 12),
        (["--target-name", "eleven", "--target-action", "shutdown"], "shut down", None),
    ],
    ids=str,
)
def test_every_end_of_a_recovery(source: Source, options: list[str], state: str, rows: int | None) -> None:
    with restored(source, *options) as data:
        found = start(source, data)
        assert (found["findings"], found["state"]) == ([], state)
        if rows is not None:
            assert ask(data, ROWS) == rows
            assert ask(data, "SHOW listen_addresses") == ""


def test_the_steps_after_a_shutdown_at_the_target(source: Source) -> None:
    """Each start would end there again; the printed steps look at it, and accept it."""
    data = source.root / "restored"
    words = ["restore", "main", "--to", str(data), "--target-name", "eleven", "--target-action", "shutdown"]
    code, out, err = answer(source, *words, "--json")
    assert code == 0, err
    steps = [shlex.split(step, comments=True)[1:] for step in json.loads(out)["next"][:-1]]
    assert [step[0] for step in steps] == ["start", "start", "accept"]
    try:
        first = json.loads(answer(source, *steps[0], "--json")[1])
        assert (first["state"], first["findings"]) == ("shut down", [])
        assert shlex.split(first["next"][0].partition(" -- ")[0])[1:] == steps[1]
        code, _, err = answer(source, *steps[2])
        assert code == 43
        assert err.endswith(f"HINT: pgproof start {data} --pause\n")
        for words in (steps[1], ["start", str(data)]):  # also when it is asked again
            found = json.loads(answer(source, *words, "--json")[1])
            assert (found["state"], found["findings"]) == ("paused", [])
        assert ask(data, ROWS) == 11
        with source.away():
            code, out, err = answer(source, *steps[2], "--yes")
            assert code == 0, err
            assert ask(data, "INSERT INTO t VALUES (13) RETURNING g") == 13
    finally:
        if server := running_in(data):
            server.stop()
        shutil.rmtree(data)


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (lambda data: shutil.rmtree(data / DIRECTORY), "is not a cluster that pgproof restored"),
    (
        lambda data: (data / DIRECTORY / "record.json").write_text("{"),
        "is not a cluster that pgproof restored",
    ),
]


@pytest.mark.parametrize(("harm", "fact"), REFUSED)
def test_a_directory_that_is_refused(source: Source, harm: Callable[[Path], object], fact: str) -> None:
    with restored(source, "--target-name", "eleven") as data:
        assert answer(source, "accept", str(data))[0] == 43  # nobody has started it
        harm(data)
        for command in ("start", "stop", "accept"):
            code, _, err = answer(source, command, str(data))
            assert code == 43
            assert fact in err
