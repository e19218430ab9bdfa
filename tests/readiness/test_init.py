"""``init`` on real servers: what it shows, what it applies, and what it leaves alone when it refuses."""

from __future__ import annotations

import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgproof.backups.base_backup import take_backup
from pgproof.commands import init
from pgproof.commands.console import Console
from pgproof.commands.init import InitResult, initialise, render, script
from pgproof.config import RepositoryConfig
from pgproof.errors import (
    AuthenticationFailed,
    ConfigError,
    PgproofError,
    PrivilegeMissing,
    RepositoryFormat,
    RepositoryReadOnly,
    ServerUnreachable,
    WrongSystem,
)
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import read_facts
from pgproof.postgres.programs import running_program
from pgproof.postgres.replication import ReplicationConnection
from pgproof.readiness.checks import stopped
from pgproof.repository.repository import create_repository, open_repository
from tests.readiness.conftest import MakeSite
from tests.readiness.sites import Site

SCRAM = "local all,replication pgproof scram-sha-256\n"


def states(result: InitResult) -> dict[str, str]:
    """What became of each step, by the words that tell it apart."""
    return {r.step.sql.split(" = ")[0].removeprefix("ALTER SYSTEM SET "): r.state for r in result.steps}


def server_state(site: Site) -> list[object]:
    """Everything on the server that init could change."""
    return site.execute(
        """SELECT (SELECT array_agg(rolname ORDER BY 1) FROM pg_roles), (SELECT array_agg(name || sourcefile ORDER BY 1)
             FROM pg_settings WHERE sourcefile LIKE '%auto.conf'), pg_read_file('postgresql.auto.conf')"""
    )


def test_the_role_that_it_makes_is_enough(make_site: MakeSite, major: int) -> None:
    site = make_site(major)
    before = server_state(site)
    shown = site.init(admin_dsn=site.admin)
    assert (shown.written, shown.applied, shown.exit_code) == (True, False, 0)
    assert set(states(shown).values()) == {"to do"}
    assert server_state(site) == before, "without --apply nothing changes on the server"

    applied = site.init(admin_dsn=site.admin, apply=True)
    summaries = {"summarize_wal": "left out"} if major >= 17 else {}
    assert states(applied) == {
        'CREATE ROLE "pgproof" LOGIN REPLICATION': "done",
        '\\password "pgproof"': "left out",
        'GRANT pg_read_all_data TO "pgproof"': "done",
        'GRANT pg_monitor TO "pgproof"': "done",
        'GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO "pgproof"': "done",
        'GRANT EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text) TO "pgproof"': "done",
        'GRANT SET ON PARAMETER lo_compat_privileges TO "pgproof"': "left out",
        "archive_mode": "needs restart",
        "archive_command": "needs restart",
        "archive_timeout": "done",
        **summaries,
    }
    assert "restart the server: archive_mode and archive_command wait for it" in applied.notes
    assert not applied.written, "the second run found its own section"

    waiting = site.doctor()["archiving"]
    assert (waiting.ok, waiting.blocks, waiting.fact, waiting.mend) == (
        False,
        "backup",
        "archive_mode is off",
        "restart the server: archive_mode and archive_command wait for it",
    )
    site.restart()
    with connect(site.cluster) as connection:
        facts = read_facts(connection)
    assert (facts.role.superuser, facts.role.replication) == (False, True)
    assert (facts.role.missing_roles, facts.role.missing_functions) == ((), ())
    assert facts.archiving
    with ReplicationConnection(site.cluster) as replication:
        assert replication.identify_system().system_identifier == applied.system_identifier
    repository = open_repository(site.config.repository_of(site.cluster))
    take_backup(site.cluster, repository, lambda: datetime.now(UTC))
    checks = site.doctor()
    assert stopped(list(checks.values())) == ()
    assert [name for name, check in checks.items() if check.ok is None] == []

    again = site.init(admin_dsn=site.admin, apply=True, optional=True)
    assert states(again) == ({"summarize_wal": "done"} if major >= 17 else {})


def test_wal_level_minimal(make_site: MakeSite, major: int) -> None:
    site = make_site(major, settings="wal_level = minimal\nmax_wal_senders = 0\n")
    result = site.init(dsn=site.admin, apply=True, optional=True)
    assert states(result) == {
        "wal_level": "needs restart",
        "max_wal_senders": "needs restart",
        "archive_mode": "needs restart",
        "archive_command": "needs restart",
        "archive_timeout": "done",
    }
    checks = site.doctor()
    assert checks["wal_level"].fact == "wal_level is minimal: such WAL cannot be archived or recovered from"
    assert checks["wal_level"].mend == "restart the server: wal_level waits for it"
    assert checks["WAL senders"].fact == "0 of max_wal_senders = 0 are in use"
    assert checks["WAL senders"].mend == "restart the server: max_wal_senders waits for it"
    site.restart()
    assert stopped(list(site.doctor().values())) == ()


def test_another_archive_command_is_left_alone(make_site: MakeSite, major: int) -> None:
    other = "test -n %p"
    site = make_site(major, settings=f"archive_mode = on\narchive_command = '{other}'\n")
    result = site.init(admin_dsn=site.admin, apply=True)
    assert states(result)["archive_command"] == "left out"
    assert site.execute("SHOW archive_command") == [(other,)]
    site.switch()
    checks = site.doctor()
    wanted = f"{' '.join(running_program())} --config {site.path} wal push %p"
    command = checks["archive_command"]
    assert (command.ok, command.blocks) == (False, "")
    assert command.fact == f"archive_command is: {other}; pgproof is not in it"
    assert command.mend == f"ALTER SYSTEM SET archive_command = '{wanted}'; SELECT pg_reload_conf();"
    arrival = checks["WAL arrival"]
    name = site.execute("SELECT last_archived_wal FROM pg_stat_archiver")[0][0]
    assert (arrival.ok, arrival.blocks) == (False, "backup")
    assert arrival.fact == f'"{name}" was archived last and is not in the repository "{site.url}"'
    assert arrival.mend == (
        f"SELECT pg_switch_wal(); if the next is missing too, archive_command must be: {wanted}"
    )
    site.paste(command.mend)
    site.switch()
    assert stopped(list(site.doctor().values())) == ()


def test_functions_are_granted_in_the_database_of_the_dsn(make_site: MakeSite) -> None:
    site = make_site(17)
    site.execute('CREATE DATABASE "the shop"')
    dsn = f"host={site.server.socket} port={site.server.port} user=pgproof dbname='the shop'"
    result = site.init(dsn=dsn, admin_dsn=f"{site.admin} dbname=template1", apply=True)
    assert result.database == "the shop"
    with connect(site.cluster) as connection:
        assert read_facts(connection).role.missing_functions == ()


def test_the_shown_script_can_be_pasted(make_site: MakeSite) -> None:
    site = make_site(17)
    result = site.init(admin_dsn=site.admin)
    for line in script(result).splitlines():
        if not line.startswith(("--", "\\")):
            site.execute(line.removesuffix(";"))
    site.restart()
    assert site.init(admin_dsn=site.admin).steps == ()


def test_a_password_by_reference(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(17, hba=SCRAM)
    monkeypatch.setenv("SHOP_PASSWORD", "träumt 'schön'")
    result = site.init(admin_dsn=site.admin, apply=True, password="env:SHOP_PASSWORD")
    assert states(result)['\\password "pgproof"'] == "done"
    assert site.execute(
        "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'pgproof'"
    ) == [(True,)]
    with connect(site.cluster) as connection:
        assert read_facts(connection).role.name == "pgproof"
    assert "träumt" not in site.path.read_text() + repr(result) + json.dumps(result.as_dict())

    monkeypatch.setenv("SHOP_PASSWORD", "wrong")
    check = site.doctor()["connection"]
    said = (
        f'connection failed: connection to server on socket "{site.root}/s/.s.PGSQL.5432" failed: '
        'FATAL: password authentication failed for user "pgproof"'
    )
    assert (check.ok, check.blocks) == (False, "backup")
    assert check.fact == f'cannot log in to cluster "shop": {said}'
    assert check.mend == (
        f'psql "user=pgproof dbname=postgres host={site.root}/s port=5432" must work; '
        "the password comes from env:SHOP_PASSWORD"
    )
    assert site.doctor()["pg_monitor"].fact == "could not look: there is no connection to the server"


def test_a_role_without_a_password_is_told(make_site: MakeSite) -> None:
    site = make_site(17, hba=SCRAM)
    result = site.init(admin_dsn=site.admin, apply=True)
    (note,) = [note for note in result.notes if "cannot log in" in note]
    assert note.startswith('cannot log in to cluster "shop": ')
    assert note.endswith("""; psql -c '\\password "pgproof"' sets a password""")


def test_nobody_may_apply(make_site: MakeSite) -> None:
    site = make_site(15)
    site.execute("CREATE ROLE pgproof LOGIN")
    before = server_state(site)
    with pytest.raises(PrivilegeMissing) as caught:
        site.init(apply=True)
    assert str(caught.value) == (
        'role "pgproof" cannot change the server of cluster "shop"\n'
        "DETAIL: It is no superuser. Nothing was written.\n"
        'HINT: give --admin-dsn "host=... user=postgres", or leave out --apply to see the SQL'
    )
    assert nothing_written(site)
    assert server_state(site) == before


def test_an_administrator_who_may_not(make_site: MakeSite) -> None:
    site = make_site(17)
    site.execute("CREATE ROLE clerk LOGIN CREATEROLE")
    result = site.init(admin_dsn=f"host={site.server.socket} port={site.server.port} user=clerk", apply=True)
    assert result.exit_code == 1
    failed = {r.step.sql: r.detail for r in result.steps if r.state == "failed"}
    assert failed['CREATE ROLE "pgproof" LOGIN REPLICATION'].startswith("permission denied to create role")
    assert "ALTER SYSTEM SET archive_mode = 'on'" in failed


def test_a_setting_on_the_command_line_is_seen(make_site: MakeSite) -> None:
    site = make_site(17)
    site.server.settings = {"archive_timeout": "0"}
    site.restart()
    result = site.init(admin_dsn=site.admin, apply=True)
    (step,) = [r for r in result.steps if r.step.setting == "archive_timeout"]
    assert (step.state, step.detail) == ("failed", "the server keeps the value of its command line")


def test_the_role_is_unknown_and_so_is_an_administrator(make_site: MakeSite) -> None:
    site = make_site(17)
    with pytest.raises(AuthenticationFailed) as caught:
        site.init()
    assert caught.value.fact == 'cannot log in to cluster "shop"'
    assert caught.value.detail.endswith('FATAL: role "pgproof" does not exist')
    assert caught.value.hint.endswith(
        '; --admin-dsn "host=... user=postgres" --apply makes the role and grants what it needs'
    )
    assert nothing_written(site)


def test_two_servers(make_site: MakeSite) -> None:
    site, other = make_site(15), make_site(17)
    site.execute("CREATE ROLE pgproof LOGIN")
    with pytest.raises(WrongSystem) as caught:
        site.init(admin_dsn=other.admin)
    assert caught.value.fact == "the server of --admin-dsn belongs to another cluster"
    assert nothing_written(site)


def test_one_server_under_two_names(make_site: MakeSite) -> None:
    site = make_site(15)
    site.init(dsn=site.admin)
    before = site.path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        initialise("crm", site.admin, site.url, config_path=site.path)
    assert caught.value.fact == 'this server is configured already as cluster "shop"'
    with pytest.raises(ConfigError) as caught:
        site.init(dsn=f"{site.admin} application_name=x")
    assert str(caught.value) == (
        'cluster "shop" is configured already\n'
        f"DETAIL: {site.path} has a section [clusters.shop] with another dsn or repository.\n"
        "HINT: choose another name, or edit the section"
    )
    assert site.path.read_bytes() == before


@pytest.mark.parametrize(
    "dsn", ["host=db password=geheim", "postgresql://pgproof:geheim@db/shop", "host=db sslpassword=geheim"]
)
def test_a_password_in_the_dsn(tmp_path: Path, dsn: str) -> None:
    path = tmp_path / "pgproof.toml"
    with pytest.raises(ConfigError) as caught:
        initialise("shop", dsn, "file:///nowhere", config_path=path)
    assert str(caught.value) == (
        'the DSN of cluster "shop" holds a password\n'
        f"DETAIL: It would be written into {path}.\n"
        'HINT: leave it out, and use ~/.pgpass or password = "env:NAME"'
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("dsn", ["host=db password=ge heim", "postgresql://pgproof:geheim@[db/shop"])
def test_a_broken_dsn_does_not_show_its_password(tmp_path: Path, dsn: str) -> None:
    with pytest.raises(ConfigError) as caught:
        initialise("shop", dsn, "file:///nowhere", config_path=tmp_path / "pgproof.toml")
    assert caught.value.fact == 'the DSN of cluster "shop" cannot be read'
    assert "heim" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_broken_admin_dsn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        initialise(
            "shop", "host=/no", f"file://{tmp_path}/r", config_path=tmp_path / "p", admin_dsn="ge heim"
        )
    assert (
        str(caught.value) == '--admin-dsn cannot be read\nHINT: such as "host=db.example.com user=postgres"'
    )


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable) as caught:
        initialise(
            "shop", f"host={tmp_path} user=pgproof", f"file://{tmp_path}/r", config_path=tmp_path / "p.toml"
        )
    assert str(caught.value) == (
        'could not connect to cluster "shop"\n'
        f'DETAIL: connection is bad: connection to server on socket "{tmp_path}/.s.PGSQL.5432" failed: '
        "No such file or directory Is the server running locally and accepting connections on that socket?\n"
        f'HINT: psql "user=pgproof dbname=postgres host={tmp_path}" must work'
    )
    assert os.listdir(tmp_path) == []


def test_a_malformed_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "pgproof.toml"
    path.write_bytes(b"[clusters.shop\n")
    with pytest.raises(ConfigError):
        initialise("shop", "host=/nowhere", f"file://{tmp_path}/r", config_path=path)
    assert path.read_bytes() == b"[clusters.shop\n"


@pytest.mark.parametrize("url", ["/var/lib/pgproof", "ftp://a/b", "file:var"])
def test_a_url_that_cannot_be_used(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="repository URL"):
        initialise("shop", "host=/nowhere", url, config_path=tmp_path / "pgproof.toml")
    assert os.listdir(tmp_path) == []


def test_a_repository_that_refuses(make_site: MakeSite) -> None:
    site = make_site(17)
    newer = site.root / "newer"
    create_repository(RepositoryConfig(url=f"file://{newer}"))
    (newer / "pgproof.json").write_text('{"format": 99, "repository": "x"}')
    cases: list[tuple[Path, type[PgproofError]]] = [(newer, RepositoryFormat)]
    if os.geteuid() != 0:  # root may write everywhere
        readonly = site.root / "readonly"
        readonly.mkdir(mode=0o555)
        cases.append((readonly, RepositoryReadOnly))
    for place, kind in cases:
        with pytest.raises(kind):
            site.init(dsn=site.admin, repository_url=f"file://{place}")
        assert not site.path.exists()


def test_a_remote_store_is_told_of_the_archivers_environment(make_site: MakeSite) -> None:
    site = make_site(15)
    result = site.init(dsn=site.admin, repository_url="memory://far-away")
    assert [note for note in result.notes if "environment" in note] == [
        "archive_command has the server's environment, not yours: the store's credentials must be found there, "
        'by an instance role, or by "file:..." in the repository\'s section'
    ]
    assert site.config.repository_of(site.cluster).url == "memory://far-away"


@pytest.mark.as_root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_made_is_closed_to_the_archiver(make_site: MakeSite) -> None:
    site = make_site(17)
    result = initialise("shop", site.admin, site.url, config_path=site.path)
    place = site.root / "repository"
    assert result.notes[-1] == (
        f'archive_command runs as account "postgres", which cannot use {site.path} or {place}: '
        f"chown -R postgres: {site.path} {place}"
    )


def test_the_page(make_site: MakeSite) -> None:
    site = make_site(17, settings="archive_mode = on\narchive_command = 'true'\n")
    shown = page(site.init(admin_dsn=site.admin))
    wanted = f"{' '.join(running_program())} --config {site.path} wal push %p"
    assert f'cluster "shop" written to {site.path}, with repository "main" at {site.url}\n' in shown
    assert (
        "-- stores every finished WAL segment\n"
        f"ALTER SYSTEM SET archive_command = '{wanted}';\n"
        "-- seconds after which a quiet server archives what it has; it is 0, which means never\n"
        "ALTER SYSTEM SET archive_timeout = '60';\n"
        "-- optional: asked for, never written; not needed where pg_hba.conf says peer or cert\n"
        '\\password "pgproof"\n'
    ) in shown
    assert shown.endswith("next: pgproof doctor shop\n")
    applied = page(site.init(admin_dsn=site.admin, apply=True))
    assert "done      ALTER SYSTEM SET archive_timeout = '60'" in applied
    site.init(admin_dsn=site.admin, apply=True, optional=True)
    assert "\nThe server lacks nothing.\n" in page(site.init(admin_dsn=site.admin))


def page(result: InitResult) -> str:
    console = Console(file=io.StringIO(), width=200)
    render(console, result)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def nothing_written(site: Site) -> bool:
    return not site.path.exists() and not (site.root / "repository").exists()


@pytest.mark.parametrize(
    ("dsn", "environment", "written"),
    [
        ("host=/s user=u", "", "host=/s user=u dbname=postgres"),
        ("", "the shop", "dbname='the shop'"),
        ("dbname=x", "y", "dbname=x"),
        ("service=s", "", "service=s"),
        ("postgresql://u@h/x", "", "postgresql://u@h/x"),
        ("postgresql://u@h", "", "user=u host=h dbname=postgres"),
    ],
)
def test_the_dsn_names_its_database(
    monkeypatch: pytest.MonkeyPatch, dsn: str, environment: str, written: str
) -> None:
    monkeypatch.setenv("PGDATABASE", environment)
    assert init._checked_dsn("shop", dsn, Path("p")) == written


@pytest.mark.parametrize(
    ("dsn", "environment", "written"),
    [
        ("host=/s user=u", {"PGPORT": "6432"}, "host=/s user=u dbname=postgres port=6432"),
        ("port=5433", {"PGPORT": "6432", "PGDATABASE": "shop"}, "port=5433 dbname=shop"),
        (
            "user=u",
            {"PGHOST": "db1", "PGSSLMODE": "verify-full", "PGPASSWORD": "hush", "PGAPPNAME": "x"},
            "user=u dbname=postgres host=db1 sslmode=verify-full",
        ),
        ("user=u", {"PGSERVICE": "s", "PGPORT": "6432"}, "user=u service=s"),
        ("service=s", {"PGPORT": "6432"}, "service=s"),
    ],
)
def test_what_the_environment_says_of_the_server_is_written(
    monkeypatch: pytest.MonkeyPatch, dsn: str, environment: dict[str, str], written: str
) -> None:
    for name in [name for name in os.environ if name.startswith("PG") and name.isalpha()]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert init._checked_dsn("shop", dsn, Path("p")) == written


def test_asked_again_it_makes_the_repositories_of_copies(make_site: MakeSite) -> None:
    site = make_site(17)
    site.init(admin_dsn=site.admin, apply=True)
    text = site.path.read_text()
    added = text.replace("repository = ", 'copies = ["offsite"]\nrepository = ', 1)
    site.path.write_text(f'{added}\n[repositories.offsite]\nurl = "{site.url}-copy"\n')
    result = site.init()
    assert result.as_dict()["copies"] == {"offsite": f"{site.url}-copy"}
    assert (Path(f"{site.url}-copy".removeprefix("file://")) / "pgproof.json").exists()
    assert site.path.read_text().startswith(added)
    console = Console(file=io.StringIO(), width=200)
    render(console, result)
    assert f'its WAL goes to repository "offsite" at {site.url}-copy, too\n' in console.file.getvalue()  # type: ignore[attr-defined]
