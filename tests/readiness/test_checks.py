"""What is found on a real server when something is broken, and that the mend can be pasted."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.config import ClusterConfig, Config, RepositoryConfig
from pgproof.postgres.programs import find_bin_directory
from pgproof.postgres.replication import SystemIdentity
from pgproof.postgres.wal_commands import translated
from pgproof.readiness.check import Subject
from pgproof.readiness.checks import QUESTIONS, Check, examine, stopped
from pgproof.readiness.source import look_at_source
from pgproof.repository.repository import open_repository
from tests.readiness.conftest import MakeSite
from tests.readiness.sites import Site
from tests.servers.place import give_to_server

FUNCTION = "FUNCTION pg_catalog"


def stops(check: Check, blocks: str, fact: str) -> None:
    assert (check.ok, check.blocks, check.fact) == (False, blocks, fact)


def test_a_ready_site(ready: Site) -> None:
    checks = ready.doctor()
    for name in ("alerts", "Prefect API"):  # asked where the environment names a server, as other tests' does
        checks.pop(name, None)
    assert list(checks) == [question.name for question in QUESTIONS]
    assert stopped(list(checks.values())) == ()
    assert [name for name, check in checks.items() if check.ok is None] == []
    assert all(check.mend == "" for check in checks.values() if check.ok)
    name = ready.execute("SELECT last_archived_wal FROM pg_stat_archiver")[0][0]
    assert checks["WAL arrival"].fact == (
        f'"{name}", which was archived last, is in the repository "{ready.url}"'
    )
    assert list((ready.root / "repository" / "shop").glob("*/probe-*")) == [], "the probe was removed"


@pytest.mark.parametrize(
    ("break_it", "name", "blocks", "fact", "mend"),
    [
        (
            "ALTER ROLE pgproof NOREPLICATION",
            "REPLICATION",
            "backup",
            'role "pgproof" lacks it',
            'ALTER ROLE "pgproof" REPLICATION;',
        ),
        (
            "REVOKE pg_read_all_data FROM pgproof",
            "pg_read_all_data",
            "proof",
            'role "pgproof" lacks it',
            'GRANT pg_read_all_data TO "pgproof";',
        ),
        (
            "REVOKE pg_monitor FROM pgproof",
            "pg_monitor",
            "",
            'role "pgproof" lacks it',
            'GRANT pg_monitor TO "pgproof";',
        ),
        (
            "REVOKE EXECUTE ON FUNCTION pg_switch_wal() FROM pgproof",
            "pg_switch_wal",
            "",  # archive_timeout = 60 is in time for a proof, which waits 120 s
            'role "pgproof" may not call it in database "postgres"',
            f'\\connect "postgres"\nGRANT EXECUTE ON {FUNCTION}.pg_switch_wal() TO "pgproof";',
        ),
        (
            "REVOKE EXECUTE ON FUNCTION pg_create_restore_point(text) FROM pgproof",
            "pg_create_restore_point",
            "",
            'role "pgproof" may not call it in database "postgres"',
            f'\\connect "postgres"\nGRANT EXECUTE ON {FUNCTION}.pg_create_restore_point(text) TO "pgproof";',
        ),
        (
            "REVOKE CONNECT ON DATABASE postgres FROM public; GRANT CONNECT ON DATABASE postgres TO pgproof",
            "databases",
            "",
            None,
            'GRANT CONNECT ON DATABASE "closed" TO "pgproof";',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 25 else "",
)
def test_what_is_missing_is_named_and_mended(
    ready: Site, break_it: str, name: str, blocks: str, fact: str | None, mend: str
) -> None:
    if name == "databases":
        ready.execute("CREATE DATABASE closed", "REVOKE CONNECT ON DATABASE closed FROM public")
        fact = (
            f'closed: "closed": connection failed: connection to server on socket "{ready.root}/s/.s.PGSQL.5432" '
            'failed: FATAL: permission denied for database "closed" '
            "DETAIL: User does not have CONNECT privilege.; no proof looks at them"
        )
    else:
        ready.execute(break_it)
    try:
        check = ready.doctor()[name]
        assert (check.ok, check.blocks, check.fact, check.mend) == (False, blocks, fact, mend)
        ready.paste(check.mend)
        assert ready.doctor()[name].ok
    finally:
        ready.execute("DROP DATABASE IF EXISTS closed")


def test_without_replication_nothing_opens(ready: Site) -> None:
    ready.execute("ALTER ROLE pgproof NOREPLICATION")
    check = ready.doctor()["replication connection"]
    ready.paste(check.mend)
    assert (check.ok, check.blocks, check.mend) == (False, "backup", 'ALTER ROLE "pgproof" REPLICATION;')
    assert check.fact.startswith('the role of cluster "shop" lacks a privilege: ')
    assert ready.doctor()["replication connection"].ok


def test_a_quiet_server_that_may_not_switch_stops_a_proof(ready: Site) -> None:
    ready.execute(
        "REVOKE EXECUTE ON FUNCTION pg_switch_wal() FROM pgproof",
        "ALTER SYSTEM SET archive_timeout = 0",
        "SELECT pg_reload_conf()",
        "SELECT pg_sleep(0.2)",
    )
    checks = ready.doctor()
    stops(
        checks["pg_switch_wal"],
        "proof",
        'role "pgproof" may not call it in database "postgres": '
        "a proof waits 120 s for WAL, and archive_timeout is 0",
    )
    stops(
        checks["archive_timeout"],
        "",
        "archive_timeout is 0: a quiet server archives nothing; the RPO is 300 s",
    )
    ready.paste(checks["pg_switch_wal"].mend)
    ready.paste(checks["archive_timeout"].mend)
    ready.execute("SELECT pg_sleep(0.2)")
    checks = ready.doctor()
    assert checks["pg_switch_wal"].ok
    assert checks["archive_timeout"].ok


def test_what_a_proof_would_not_check(ready: Site) -> None:
    ready.execute("CREATE DATABASE crm")
    try:
        ready.execute(
            "SELECT lo_from_bytea(0, 'x')",
            "CREATE UNLOGGED TABLE scratch (n int)",
            "CREATE TABLE secret (n int)",
            "ALTER TABLE secret ENABLE ROW LEVEL SECURITY",
            database="crm",
        )
        checks = ready.doctor()
        stops(
            checks["large objects"],
            "",
            'those in "crm" cannot be read: a proof names them as not checked',
        )
        stops(
            checks["row security"],
            "",
            'tables that hide rows: 1 in "crm"; a proof names them as not checked',
        )
        stops(checks["unlogged tables"], "", 'they come back empty from every recovery: 1 in "crm"')
        ready.paste(checks["large objects"].mend)
        ready.paste(checks["row security"].mend)
        checks = ready.doctor()
        assert checks["large objects"].fact == 'those in "crm" can be read'
        assert checks["row security"].ok
    finally:
        ready.execute(
            "DROP DATABASE crm",
            "ALTER ROLE pgproof NOBYPASSRLS",
            "REVOKE SET ON PARAMETER lo_compat_privileges FROM pgproof",
        )


def ask(subject: Subject, name: str) -> Check:
    return next(question for question in QUESTIONS if question.name == name).ask(subject)


def test_what_no_server_here_shows(ready_sites: Callable[[int], Site]) -> None:
    """Looked at for real, with one value changed."""
    site = ready_sites(17)
    source = look_at_source(site.cluster)
    repository = open_repository(site.config.repository_of(site.cluster))
    subject = Subject(site.cluster, site.config, source, repository, 0.0)

    check = ask(replace(subject, found_source=replace(source, wal_senders=10)), "WAL senders")
    stops(check, "backup", "10 of max_wal_senders = 10 are in use")
    assert check.mend == "ALTER SYSTEM SET max_wal_senders = '14';  -- then restart the server"

    newer = replace(source, facts=replace(source.facts, version=190001))
    check = ask(replace(subject, found_source=newer), "version")
    stops(check, "", "PostgreSQL 19 is newer than the newest that this pgproof is tested with, 18")

    check = ask(
        replace(subject, found_source=replace(source, waiting=3, waiting_seconds=301.0)), "archive backlog"
    )
    stops(check, "", "finished files that wait: 3, the oldest for 301 s; the RPO is 300 s")

    big = replace(source, facts=replace(source.facts, database_size=10**18))
    check = ask(replace(subject, found_source=big), "scratch directory")
    assert (check.ok, check.blocks) == (False, "proof")
    assert check.fact.endswith(" free; a restore of the databases takes 1,200,000.0 TB")

    assert isinstance(source.replication, SystemIdentity)
    elsewhere = replace(source, replication=replace(source.replication, system_identifier=7))
    check = ask(replace(subject, found_source=elsewhere), "replication connection")
    own = source.facts.system_identifier
    stops(check, "backup", f"it leads to system identifier 7, a session to {own}")

    torn = replace(source, full_page_writes="off")
    check = ask(replace(subject, found_source=torn), "full_page_writes")
    assert (check.blocks, check.mend) == (
        "",
        "ALTER SYSTEM SET full_page_writes = 'on'; SELECT pg_reload_conf();",
    )


def test_an_archive_command_that_fails(make_site: MakeSite, major: int) -> None:
    site = make_site(major, settings="archive_mode = on\narchive_command = '/bin/false pgproof %p %f'\n")
    site.init(dsn=site.admin)
    site.switch(failing=True)
    checks = site.doctor()
    name, at = site.execute(
        "SELECT last_failed_wal, to_char(last_failed_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"
        "  FROM pg_stat_archiver"
    )[0]
    archiver = checks["archiver"]
    assert (archiver.ok, archiver.blocks) == (False, "backup")
    assert archiver.fact.startswith(f'"{name}" failed at {at[:14]}')
    assert archiver.fact.endswith("; nothing was stored ever")
    assert archiver.mend == (
        "the server's log says why; or run it as the server's account, in the data directory: "
        f"/bin/false pgproof pg_wal/{name} {name}"
    )
    assert checks["archive backlog"].fact == "finished files that wait: 1"
    assert checks["WAL arrival"].ok is None
    assert stopped(list(checks.values())) == ("backup",)


def test_a_standby() -> None:
    site = Site.make(17, settings="archive_mode = on\narchive_command = 'pgproof'\n")
    (site.root / "data" / "standby.signal").touch()
    give_to_server(site.root / "data" / "standby.signal")
    with site:
        site.init(dsn=site.admin)
        checks = site.doctor()
    stops(checks["primary"], "proof", "the server is a standby, where no proof can fence the rows")
    assert checks["WAL arrival"].fact == "could not look: a standby does not say what its primary archived"
    assert stopped(list(checks.values())) == ("proof",)


def test_a_restore_command_that_any_fault_ends() -> None:
    """Of a standby it is a finding, of a primary advice; the mend keeps the command and translates its codes."""
    command = '/bin/false pgproof wal fetch --cluster shop %f "%p"'
    site = Site.make(17, settings=f"restore_command = '{command}'\n")
    signal = site.root / "data" / "standby.signal"
    signal.touch()
    give_to_server(signal)
    fact = "restore_command of the server hands any fault of pgproof to PostgreSQL as the end of the archive"
    with site:
        site.init(dsn=site.admin)
        check = site.doctor()["restore_command"]
        stops(check, "restore", fact)
        site.path.write_text(site.path.read_text() + f'standbys = ["{site.admin}"]\n')
        signal.unlink()
        site.restart()
        stops(site.doctor()["restore_command"], "", fact)
        mend = check.mend.removesuffix(" SELECT pg_reload_conf();")
        site.execute(mend, "SELECT pg_reload_conf()", "SELECT pg_sleep(0.2)")
        assert site.execute("SHOW restore_command") == [(translated(command),)]
        assert site.doctor()["restore_command"].ok


def test_pg_hba_without_a_line_for_replication(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(17)
    site.init(admin_dsn=site.admin, apply=True)
    access = site.root / "data" / "pg_hba.conf"
    text = "local all all trust\n"
    access.write_text(text)
    site.execute("SELECT pg_reload_conf()", "SELECT pg_sleep(0.2)")
    check = site.doctor()["replication connection"]
    assert (check.ok, check.blocks) == (False, "backup")
    assert check.fact.endswith(
        'FATAL: no pg_hba.conf entry for replication connection from host "[local]", user "pgproof", no encryption'
    )
    assert check.mend.splitlines()[2] == "local  replication  pgproof  peer map=pgproof"
    result = site.init(admin_dsn=site.admin)
    assert f"the replication connection does not open; {check.mend}" in result.notes
    monkeypatch.setenv("PGPROOF_TEST_PASSWORD", "not asked for")
    settings = site.cluster.model_copy(update={"password": "env:PGPROOF_TEST_PASSWORD"})
    refused = named(examine(settings, site.config), "replication connection")
    assert refused.mend == (
        "add to pg_hba.conf, then SELECT pg_reload_conf(): local  replication  pgproof  scram-sha-256"
    )


def test_pg_hba_with_peer(make_site: MakeSite) -> None:
    site = make_site(17, hba="local all pgproof peer\n")
    site.execute("CREATE ROLE pgproof LOGIN")
    site.init(admin_dsn=site.admin)
    check = site.doctor()["connection"]
    assert check.fact.endswith('FATAL: Peer authentication failed for user "pgproof"')
    account = pwd.getpwuid(os.geteuid()).pw_name
    lines = check.mend.splitlines()
    assert lines == [
        "add to pg_hba.conf, above other lines with local:",
        "local  all  pgproof  peer map=pgproof",
        "local  replication  pgproof  peer map=pgproof",
        "add to pg_ident.conf, then SELECT pg_reload_conf():",
        f"pgproof  {account}  pgproof",
    ]
    data = site.root / "data"
    (data / "pg_hba.conf").write_text(
        "\n".join([*lines[1:3], "local all pgproof peer", "local all all trust\n"])
    )
    (data / "pg_ident.conf").write_text(f"{lines[4]}\n")
    site.execute("SELECT pg_reload_conf()", "SELECT pg_sleep(0.2)", "ALTER ROLE pgproof REPLICATION")
    checks = site.doctor()
    assert checks["connection"].ok and checks["replication connection"].ok


def test_another_server_at_the_same_address(ready_sites: Callable[[int], Site]) -> None:
    site = ready_sites(15)
    mine, other = site.cluster.system_identifier, ready_sites(17).cluster.system_identifier
    cluster = site.cluster.model_copy(update={"system_identifier": other})
    check = named(examine(cluster, site.config), "system identifier")
    stops(
        check,
        "backup",
        f'server of cluster "shop" belongs to another cluster: Its system identifier is {mine}; configured is {other}',
    )
    cluster = site.cluster.model_copy(update={"system_identifier": None})
    check = named(examine(cluster, site.config), "system identifier")
    stops(check, "", 'none is configured: another server at this address would be taken for cluster "shop"')
    assert check.mend == f"add to [clusters.shop]: system_identifier = {mine}"


def test_a_dsn_without_a_database(ready_sites: Callable[[int], Site]) -> None:
    site = ready_sites(17)
    cluster = site.cluster.model_copy(
        update={"dsn": f"host={site.server.socket} port={site.server.port} user=pgproof"}
    )
    check = named(examine(cluster, site.config), "connection")
    assert check.fact.endswith('FATAL: database "pgproof" does not exist')
    assert check.mend == 'add dbname=postgres to the dsn of cluster "shop"'


def test_nobody_answers(tmp_path: Path) -> None:
    repository = RepositoryConfig(url=f"file://{tmp_path}/none")
    cluster = ClusterConfig(name="shop", dsn=f"host={tmp_path} user=pgproof dbname=postgres")
    checks = examine(cluster, Config(repositories={"main": repository}, clusters={"shop": cluster}))
    assert [check.name for check in checks] == [question.name for question in QUESTIONS]
    check = named(checks, "connection")
    assert (check.ok, check.blocks) == (False, "backup")
    assert check.fact == (
        'could not connect to cluster "shop": connection is bad: connection to server on socket '
        f'"{tmp_path}/.s.PGSQL.5432" failed: No such file or directory '
        "Is the server running locally and accepting connections on that socket?"
    )
    assert check.mend == f'psql "user=pgproof dbname=postgres host={tmp_path}" must work'
    unknown = [check for check in checks if check.ok is None]
    assert {check.fact for check in unknown} == {
        "could not look: there is no connection to the server",
        "could not look: the repository is not open",
    }
    assert stopped(checks) == ("backup", "restore")


@pytest.mark.parametrize(
    ("dsn", "fact"),
    [
        ("host=", None),
        ("=nonsense", 'the DSN of cluster "shop" cannot be read: '),
        ("host=127.0.0.1 port=1 dbname=x", 'could not connect to cluster "shop": '),
    ],
)
def test_no_dsn_makes_it_raise(tmp_path: Path, dsn: str, fact: str | None) -> None:
    repository = RepositoryConfig(url="memory://no-dsn")
    cluster = ClusterConfig(name="shop", dsn=dsn, password="env:NOT_SET" if fact is None else None)
    checks = examine(cluster, Config(repositories={"main": repository}, clusters={"shop": cluster}))
    check = named(checks, "connection")
    assert check.ok is False
    assert check.fact.startswith(fact or 'environment variable "NOT_SET" is not set')


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_programs_and_room(ready_sites: Callable[[int], Site], tmp_path: Path) -> None:
    site = ready_sites(17)
    cluster = site.cluster.model_copy(update={"bin_directory": tmp_path})
    check = named(examine(cluster, site.config), "programs")
    stops(
        check, "proof", f"the server programs of PostgreSQL 17 are not installed here: Looked in {tmp_path}"
    )
    assert check.mend == "apt-get install postgresql-17, or set bin_directory in the cluster's section"

    (tmp_path / "file").touch()
    drill = site.cluster.drill.model_copy(update={"scratch_directory": tmp_path / "file" / "scratch"})
    check = named(examine(site.cluster.model_copy(update={"drill": drill}), site.config), "scratch directory")
    stops(check, "proof", f"{tmp_path / 'file'} is not a directory")
    assert check.mend == 'set scratch_directory = "/other/place" in [clusters.shop.drill]'


def test_a_scratch_directory_of_others_and_what_killed_drills_left(
    ready_sites: Callable[[int], Site], tmp_path: Path
) -> None:
    site = ready_sites(17)
    place = tmp_path / "scratch"
    left = place / "evil-20260101T000000000000Z"
    (left / "data").mkdir(parents=True)
    (left / "data" / "x").write_bytes(bytes(2_100_000))
    drill = site.cluster.drill.model_copy(update={"scratch_directory": place})
    cluster = site.cluster.model_copy(update={"drill": drill})
    check = named(examine(cluster, site.config), "leftovers")
    assert (check.ok, check.blocks, check.mend) == (
        False,
        "",
        "the next drill removes them: pgproof drill shop",
    )
    assert re.fullmatch(r"killed commands left .* in \d+ places?: .*", check.fact)
    assert f"{left} (2.1 MB)" in check.fact

    place.chmod(0o777)
    check = named(examine(cluster, site.config), "scratch directory")
    fact = f"{place} is not ours alone: other accounts can write in {place}, so that links put there could have any"
    stops(check, "proof", f"{fact} of our files replaced")
    assert check.mend == 'set scratch_directory = "/other/place" in [clusters.shop.drill]'


def test_some_programs(ready_sites: Callable[[int], Site]) -> None:
    site = ready_sites(17)
    some = site.root / "bin"
    some.mkdir()
    shutil.copy2(find_bin_directory(17) / "postgres", some)
    for name in ("pg_controldata", "pg_verifybackup"):
        (some / name).symlink_to(find_bin_directory(17) / name)
    cluster = site.cluster.model_copy(update={"bin_directory": some})
    check = named(examine(cluster, site.config), "programs")
    stops(check, "proof", f"pg_waldump, pg_combinebackup of PostgreSQL 17 not in {some}")


def test_configuration_files_outside_the_data_directory(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from another machine, which may not; then by the role, once it has what the mend says. So says init."""
    assert ready.doctor()["configuration files"].fact == "all of them lie in the data directory"
    data = Path(ready.server.data)
    etc = ready.root / "etc"
    etc.mkdir()
    shutil.copy(data / "pg_ident.conf", etc / "pg_ident.conf")
    give_to_server(etc)
    text = (data / "postgresql.conf").read_text()
    try:
        (data / "postgresql.conf").write_text(f"{text}ident_file = '{etc}/pg_ident.conf'\n")
        ready.restart()
        taken = ready.doctor()["configuration files"]
        assert (taken.ok, taken.mend) == (True, "")
        assert taken.fact == "a backup takes 3 files from outside the data directory"
        assert f"configuration files: {taken.fact}" in ready.init().notes
        monkeypatch.setattr("pgproof.backups.configuration.runs_here", lambda data, system: False)
        found = ready.doctor()["configuration files"]
        assert (found.ok, found.blocks) == (False, "")
        assert "the role has no pg_read_server_files" in found.fact
        assert f"configuration files: {found.fact}\n{found.mend}" in ready.init().notes
        for statement in found.mend.partition("\n")[2].split("\n"):
            ready.execute(statement)
        assert ready.doctor()["configuration files"].fact == taken.fact
    finally:
        (data / "postgresql.conf").write_text(text)
        ready.restart()
