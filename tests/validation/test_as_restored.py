"""A drill restores as a user is told to, with the source's own configuration; what keeps that from working is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pgproof.backups.record import BackupRecord
from pgproof.restore.running import read_running
from pgproof.validation import as_restored, memory
from pgproof.validation.as_restored import AsRestored, in_short, restore_as_user
from pgproof.validation.drill import make_proof
from pgproof.validation.fences.fence import Fence
from tests.drills.damage import answer
from tests.servers.background import processes
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, installed, now, running_source
from tests.validation.drilling import fence_of

MAIN = """
data_directory = '{data}'
hba_file = '{etc}/pg_hba.conf'
ident_file = '{etc}/pg_ident.conf'
include_dir = 'conf.d'
"""
# what is not the source's own data: settings that nobody's list names, and that a restored cluster must come up with
HARMLESS = """
shared_preload_libraries = 'not_there'
session_preload_libraries = 'not_there'
ssl = on
ssl_cert_file = '/nowhere/server.crt'
ssl_key_file = '/nowhere/server.key'
log_directory = '/nowhere/log'
logging_collector = on
unix_socket_directories = '/nowhere/socket'
unix_socket_permissions = 0000
external_pid_file = '/nowhere/pid'
listen_addresses = '192.0.2.1'
huge_pages = on
shared_buffers = '200GB'
min_dynamic_shared_memory = '50GB'
recovery_min_apply_delay = '2h'
hot_standby = off
archive_cleanup_command = 'false'
recovery_end_command = 'exit 3'
primary_conninfo = 'host=/nowhere'
recovery_target_name = 'nothing'
statement_timeout = 1
default_transaction_isolation = serializable
log_min_messages = fatal
"""


@pytest.fixture(scope="module", params=[15, 17, 18])
def debian(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source with its configuration outside the data directory; what it runs with is on its command line."""
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as source:
        etc = source.root / "etc"
        (etc / "conf.d").mkdir(parents=True)
        (etc / "postgresql.conf").write_text(MAIN.format(data=source.data, etc=etc))
        (etc / "pg_hba.conf").write_text("local all all trust\nlocal replication all trust\n")
        (etc / "pg_ident.conf").write_text("")
        give_to_server(etc)
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            (source.data / name).unlink()
        source.set(config_file=str(etc / "postgresql.conf"))
        source.write_config(cluster=LINES.format(every=1))
        source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g")
        yield source


LINES = """
drill.as_restored = {every}
drill.replay_timeout = "15s"
drill.targets = 0
drill.checks = []
"""


def local(source: Source) -> Path:
    return source.root / "etc/conf.d/local.conf"


@pytest.fixture(autouse=True)
def quick(without_expectations: None) -> None:
    """Great Expectations is no subject here."""


@contextmanager
def configured(source: Source, text: str) -> Iterator[Path]:
    """A file of conf.d that the running server never reads."""
    path = local(source)
    path.write_text(text)
    give_to_server(path)
    try:
        yield path
    finally:
        path.unlink()


BROKEN = [
    ("work_mem = 4kitten\n", 'invalid value for parameter "work_mem": "4kitten"'),
    ("no such line\n", 'syntax error in file "{file}" line 1, near token "line"'),
    ("wrok_mem = '4MB'\n", 'unrecognized configuration parameter "wrok_mem" in file "{file}" line 1'),
    ("include 'gone.conf'\n", 'could not open configuration file "{directory}/gone.conf": No such file'),
    (
        "include '/nowhere/gone.conf'\n",
        'could not open configuration file "/nowhere/gone.conf": No such file',
    ),
    ("wal_level = minimal\nmax_wal_senders = 9\n", "WAL streaming"),
    ("superuser_reserved_connections = 5000\n", "superuser_reserved_connections"),
]
LACKING = [
    ("lc_monetary = 'xx_XX.UTF-8'\n", 'invalid value for parameter "lc_monetary": "xx_XX.UTF-8"'),
    ("timezone = 'Mars/Olympus'\n", 'invalid value for parameter "TimeZone": "Mars/Olympus"'),
]
HANGS, PLAIN = "pre_auth_delay = 60\n", "# nothing\n"


@dataclass
class Taken:
    """A backup with each of the configurations above, and one fence after all of them."""

    records: dict[str, BackupRecord]
    fence: Fence


@pytest.fixture(scope="module")
def taken(debian: Source) -> Taken:
    records = {}
    for text in (*(text for text, _ in BROKEN + LACKING), HANGS, PLAIN):
        with configured(debian, text):
            records[text] = debian.backup()
    return Taken(records, fence_of(debian))


def tried(source: Source, record: BackupRecord, fence: Fence) -> AsRestored:
    found = restore_as_user(source.config, source.cluster, source.archive, fence, record.label, now)
    assert read_running(source.archive) == ()
    assert not list((source.root / "scratch").glob("main-*"))
    assert not processes(source.root / "scratch")
    return found


def test_expire_leaves_alone_what_recovery_reads(
    debian: Source, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, noted = as_restored.launch, list[str]()

    def looked(*words: Any, **more: Any) -> Any:
        noted.extend(running.backup for running in read_running(debian.archive))
        return launch(*words, **more)

    monkeypatch.setattr(as_restored, "launch", looked)
    record = taken.records[PLAIN]
    assert tried(debian, record, taken.fence).findings == ()
    assert noted == [record.label]


def test_a_drill_measures_the_restore_of_a_user(debian: Source) -> None:
    with configured(debian, HARMLESS):
        debian.backup()
    debian.sql("INSERT INTO t SELECT g FROM generate_series(101, 200) g")
    code, out, err = answer(debian, "drill", "main", "--json")
    assert code == 0, out + err
    proof: dict[str, Any] = json.loads(out)
    found = proof["as_restored"]
    assert (proof["verdict"], found["ok"], found["findings"], found["configuration_files"]) == (
        "proven",
        True,
        [],
        4,
    )
    assert proof["rto_way"] == "as a user restores"
    assert {"extract", "start", "replay", "copy"} <= proof["phases"].keys()
    assert "fetch" not in proof["phases"]  # it is a part of replay
    restoring = sum(proof["phases"][name] for name in ("extract", "start", "replay"))
    assert proof["rto_seconds"] == pytest.approx(restoring, abs=0.002)
    reasons = [n["reason"] for n in proof["not_checked"] if n["what"].startswith("the restore as a user")]
    assert [reason.split(" of the source")[0] for reason in reasons] == [
        "shared_buffers = 214.7 GB",
        "min_dynamic_shared_memory = 53.7 GB",
    ]
    code, out, _ = answer(debian, "objectives", "main", "--json")
    assert json.loads(out)["rto"]["forecast"]["seconds"] is not None


def test_what_the_restore_warns_of_is_in_the_proof(debian: Source) -> None:
    """It was dropped, and whoever restored heard it first in the night."""
    record, fence = debian.backup(), fence_of(debian)
    place = debian.repository_path / debian.archive.layout.restores
    place.mkdir(exist_ok=True)
    place.chmod(0o555)
    try:
        found = tried(debian, record, fence)
    finally:
        place.chmod(0o755)
    (warning,) = found.warnings
    assert warning.startswith("the repository takes no note of this restore")
    assert found.findings == ()
    proof = make_proof(
        debian.archive, fence, record.label, now, as_restored=replace(found, warnings=(warning,) * 2)
    )
    assert proof.warnings == (warning,)


@pytest.mark.parametrize(("text", "finding"), BROKEN, ids=[text.split("\n")[0] for text, _ in BROKEN])
def test_what_keeps_it_from_starting_is_named(debian: Source, taken: Taken, text: str, finding: str) -> None:
    path = local(debian)
    found = tried(debian, taken.records[text], taken.fence)
    (said,) = found.findings
    assert said.startswith("the server ended: ")
    assert finding.format(file=path, directory=path.parent) in said
    assert (found.phases, found.measured, found.not_checked) == ({}, False, ())


def test_a_proven_backup_that_does_not_start_for_a_user_is_no_success(debian: Source) -> None:
    with configured(debian, "wrok_mem = '4MB'\n"):
        debian.backup()
    code, out, _ = answer(debian, "drill", "main")
    text = " ".join(out.split())
    assert code == 1
    assert "PROVEN: " in text
    assert "WARNING: restored as a user is told to, it is not what was proven: the server ended: " in text
    assert 'unrecognized configuration parameter "wrok_mem"' in text
    assert "RTO not counted: a restore as a user is told to make it does not work" in text
    code, out, _ = answer(debian, "list", "main", "--json")
    assert json.loads(out)["backups"][-1]["state"] == "proven"  # the data is good, and retention follows it


def test_one_that_hangs_is_given_up_and_told(debian: Source, taken: Taken) -> None:
    debian.write_config(cluster=LINES.format(every=1).replace("15s", "3s"))
    try:
        (said,) = tried(debian, taken.records[HANGS], taken.fence).findings
        assert said.startswith(
            "the server has not recovered within 3 s: It does not answer yet. Its configuration sets pre_auth_delay."
        )
    finally:
        debian.write_config(cluster=LINES.format(every=1))


def test_it_is_started_from_its_own_data_whatever_the_file_names(debian: Source, taken: Taken) -> None:
    """The live server's directory is named, and the live server runs in it."""
    before = debian.sql("SELECT pg_postmaster_start_time()")
    assert tried(debian, taken.records[PLAIN], taken.fence).measured
    assert debian.sql("SELECT pg_postmaster_start_time()") == before


@pytest.mark.parametrize(("text", "reason"), LACKING, ids=["locale", "time zone"])
def test_what_this_machine_lacks_is_not_checked(debian: Source, taken: Taken, text: str, reason: str) -> None:
    found = tried(debian, taken.records[text], taken.fence)
    assert (found.findings, found.measured) == ((), False)
    (said,) = found.not_checked
    assert said.startswith("this machine, or its PostgreSQL, does not know a value of the source: ")
    assert reason in said


def test_one_drill_in_so_many(debian: Source) -> None:
    debian.backup()
    debian.write_config(cluster=LINES.format(every=2))
    try:
        proofs = [json.loads(answer(debian, "drill", "main", "--json")[1]) for _ in range(3)]
    finally:
        debian.write_config(cluster=LINES.format(every=1))
    ways = [proof["rto_way"] == "as a user restores" for proof in proofs]
    assert ways in ([True, False, True], [False, True, False])
    other = next(proof for proof in proofs if proof["rto_way"] != "as a user restores")
    assert other["as_restored"]["skipped"].startswith("one drill in 2 does, as drill.as_restored says: ")


def test_a_repository_that_nobody_else_can_read_is_not_checked(
    debian: Source, taken: Taken, tmp_path: Path
) -> None:
    fence, label = taken.fence, taken.records[PLAIN].label
    config = debian.config.model_copy(update={"path": tmp_path / "none.toml"})
    found = restore_as_user(config, debian.cluster, debian.archive, fence, label, now)
    assert found.not_checked == (f'"{tmp_path}/none.toml" is no file that restore_command could read',)
    found = restore_as_user(debian.config, debian.cluster, debian.archive, fence, label, now, "a block")
    assert found.not_checked == ("a block",)


def test_memory_is_given_as_far_as_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    class Restored:
        pass

    values = {"shared_buffers": (2 << 30) // 8192, "min_dynamic_shared_memory": 0}
    monkeypatch.setattr(memory, "_configured", lambda restored, name: values[name])
    monkeypatch.setattr(memory, "free", lambda: 16 << 30)
    assert memory.lowered(Restored()) == memory.Lowered({"huge_pages": "off"}, ())  # type: ignore[arg-type]
    monkeypatch.setattr(memory, "free", lambda: 1 << 30)
    given = memory.lowered(Restored())  # type: ignore[arg-type]
    assert given.settings == {"huge_pages": "off", "shared_buffers": "128MB"}
    assert given.said == (
        "shared_buffers = 2.1 GB of the source: this machine has 1.1 GB free, so it was 128MB",
    )


def test_a_log_in_short() -> None:
    data = Path("/x/data")
    path = "/x/data/pgproof.restore/configuration/etc/a"
    early = f'2026-12-01 08:00:00 UTC [1] LOG:  syntax error in file "{path}" line 1\n'
    assert in_short(early, data) == 'LOG:  syntax error in file "/etc/a" line 1'
    late = "LOG:  starting PostgreSQL 17\nLOG:  redo starts\n[1] FATAL:  no /x/data/a\n[1] HINT:  make it\nLOG:  down\n"
    assert in_short(late, data) == "FATAL:  no the data directory/a | HINT:  make it"


def test_several_cuts_stop_at_the_first(debian: Source, taken: Taken) -> None:
    (database,) = [d for d in taken.fence.databases if d.cut is not None][:1]
    assert database.cut is not None
    fence = replace(taken.fence, databases=(database,))
    assert tried(debian, taken.records[PLAIN], fence).measured
