"""Whatever is wrong with what was asked, or with where it points: one clear error, its exit code, nothing written."""

from __future__ import annotations

import json

import pytest

from pgproof.errors import UnsupportedVersion
from pgproof.postgres.versions import check_supported
from pgproof.repository.seal import sealed
from tests.drills.damage import answer, assert_command_refused, assert_refused
from tests.drills.shop import Shop


def test_unreachable_server(shop: Shop) -> None:
    socket = f"{shop.source.root}/nowhere"
    shop.source.write_config(dsn=f"host={socket} user=pgproof dbname=postgres password=not-to-be-shown")
    assert_command_refused(
        shop.source,
        ["backup", "main"],
        76,
        'could not connect to cluster "main"\n'
        f'DETAIL: connection is bad: connection to server on socket "{socket}/.s.PGSQL.5432" failed: No such file '
        "or directory Is the server running locally and accepting connections on that socket?\n"
        f'HINT: psql "user=pgproof dbname=postgres host={socket}" must work',
    )


def test_unreachable_server_does_not_stand_in_the_way_of_a_check_or_a_restore_plan(shop: Shop) -> None:
    shop.source.write_config(dsn="host=/nowhere user=pgproof dbname=postgres")
    code, out, err = answer(shop.source, "wal", "check", "main")
    assert code == 1, err
    said = " ".join(out.split())
    assert "recovery windows" in said
    assert "finding: the source did not answer, and nobody knows what it has that is not archived: " in said
    assert answer(shop.source, *shop.restore("--dry-run"))[0] == 0


def test_wrong_password(shop: Shop) -> None:
    source = shop.source
    hba = source.data / "pg_hba.conf"
    before = hba.read_text()
    source.sql("ALTER ROLE pgproof PASSWORD 'right'")
    try:
        hba.write_text("local all pgproof scram-sha-256\n" + before)
        source.sql("SELECT pg_reload_conf()")
        source.write_config(cluster='password = "env:SHOP_PASSWORD"')
        done = source.run("backup", "main", environment={"SHOP_PASSWORD": "wr0ng-secret"})
        assert done.stderr == (
            'pgproof: cannot log in to cluster "main"\n'
            f'DETAIL: connection failed: connection to server on socket "{source.root}/s/.s.PGSQL.5432" failed: '
            'FATAL: password authentication failed for user "pgproof"\n'
            f'HINT: psql "user=pgproof dbname=postgres host={source.root}/s" must work; '
            "the password comes from env:SHOP_PASSWORD\n"
        )
        assert (done.returncode, done.stdout) == (20, "")
        done = source.run("backup", "main", environment={"PGPASSFILE": "/dev/null"})
        assert done.stderr == (
            'pgproof: environment variable "SHOP_PASSWORD" is not set\nHINT: export SHOP_PASSWORD=...\n'
        )
        assert done.returncode == 2
    finally:
        hba.write_text(before)
        source.sql("SELECT pg_reload_conf()")


def test_role_without_replication(shop: Shop) -> None:
    shop.source.sql("ALTER ROLE pgproof NOREPLICATION")
    try:
        assert_refused(
            shop.source,
            ["backup", "main"],
            21,
            'role "pgproof" of cluster "main" cannot take base backups\n'
            "DETAIL: It lacks the REPLICATION attribute.\n"
            "HINT: psql -c 'ALTER ROLE \"pgproof\" REPLICATION'",
        )
    finally:
        shop.source.sql("ALTER ROLE pgproof REPLICATION")


@pytest.mark.parametrize("version", [90624, 140013])
def test_server_too_old(version: int) -> None:
    with pytest.raises(UnsupportedVersion) as caught:
        check_supported(version)
    assert str(caught.value) == (
        f"PostgreSQL {version // 10000} is not supported\n"
        "DETAIL: pgproof supports 15 and later, and is tested up to 18."
    )
    assert caught.value.exit_code == 23


@pytest.mark.parametrize(
    "words",
    [["backup", "main"], ["list", "main"], ["verify", "main"], ["wal", "check", "main"], ["expire", "main"]],
    ids=" ".join,
)
def test_repository_missing(shop: Shop, words: list[str]) -> None:
    url = f"file://{shop.source.root}/unmounted"
    shop.source.write_config(repository=url)
    assert_refused(
        shop.source,
        words,
        30,
        f'there is no repository at "{url}"\n'
        'DETAIL: "pgproof.json" is missing there. Is its file system mounted, its bucket the right one?\n'
        "HINT: pgproof init makes a new repository",
    )
    assert not (shop.source.root / "unmounted").exists()


def test_repository_read_only(shop: Shop) -> None:
    directory = shop.source.repository_path / shop.prefix
    directory.chmod(0o500)
    try:
        assert_refused(
            shop.source,
            ["backup", "main"],
            31,
            f'cannot access "{shop.prefix}/lease.json" in the repository "file://{shop.source.repository_path}"\n'
            "DETAIL: Permission denied.\n"
            f"HINT: ls -ld {shop.source.repository_path}; "
            "the account that runs pgproof must be able to write there",
        )
    finally:
        directory.chmod(0o750)


def test_repository_of_a_newer_format(shop: Shop) -> None:
    root = shop.source.repository_path / "pgproof.json"
    before = root.read_text()
    root.write_bytes(sealed({**json.loads(before), "format": 2}))
    try:
        for words in (["backup", "main"], ["list", "main"], shop.restore()):
            assert_refused(
                shop.source,
                words,
                32,
                f'repository "file://{shop.source.repository_path}" has format 2\n'
                "DETAIL: This pgproof knows formats up to 1.\n"
                "HINT: pip install --upgrade pgproof",
            )
    finally:
        root.write_text(before)


def test_invariant_6_server_of_another_system_identifier(shop: Shop) -> None:
    shop.source.write_config(cluster="system_identifier = 7412345678901234567")
    message = (
        'server of cluster "main" belongs to another cluster\n'
        f"DETAIL: Its system identifier is {shop.record.system_identifier}; configured is 7412345678901234567.\n"
        "HINT: after pg_upgrade or initdb, set system_identifier to the new one in pgproof.toml; "
        "the old backups stay beside the new"
    )
    assert_refused(shop.source, ["backup", "main"], 24, message)
    assert_refused(shop.source, ["wal", "check", "main"], 24, message)


def test_invariant_6_repository_with_two_system_identifiers(shop: Shop) -> None:
    other = shop.source.repository_path / "main" / "42" / "wal"
    other.mkdir(parents=True)
    (other / "object").touch()
    try:
        for words in (["list", "main"], shop.restore()):
            assert_refused(
                shop.source,
                words,
                24,
                'cluster "main" has 2 system identifiers in the repository\n'
                f"DETAIL: They are 42, {shop.record.system_identifier}.\n"
                "HINT: set system_identifier in the cluster's section to the one that is meant",
            )
    finally:
        (other / "object").unlink()
        other.rmdir()
        other.parent.rmdir()


def test_repository_without_this_cluster(shop: Shop) -> None:
    path = shop.source.config_path
    path.write_text(path.read_text().replace("[clusters.main]", "[clusters.other]"))
    assert_refused(
        shop.source,
        ["list", "other"],
        41,
        f'repository "file://{shop.source.repository_path}" has nothing of cluster "other"\n'
        "HINT: pgproof backup other",
    )


def test_unknown_cluster(shop: Shop) -> None:
    detail = f'DETAIL: {shop.source.config_path} has: "main".\n'
    for words in (
        ["backup", "mian"],
        ["restore", "mian", "--to", "/tmp/pgproof-nowhere"],
        ["wal", "check", "mian"],
    ):
        assert_refused(
            shop.source, words, 2, f'cluster "mian" is not configured\n{detail}HINT: did you mean "main"?'
        )
    assert_refused(
        shop.source,
        ["backup", "zzz"],
        2,
        f'cluster "zzz" is not configured\n{detail}HINT: pgproof init zzz --dsn ... --repository ...',
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[clusters.main\n",
            'configuration "{path}" is not valid TOML\n'
            "DETAIL: Expected ']' at the end of a table declaration (at line 1, column 15).",
        ),
        (
            '[clusters.main]\ndsn = "host=/tmp"\nbackup.volume_size = "4 parsecs"\n',
            'configuration "{path}" has wrong values\n'
            'DETAIL: clusters.main.backup.volume_size: Value error, "4 parsecs" needs a number and a unit of '
            'kB, MB, GB, such as "64MB".',
        ),
        (
            '[clusters.main]\ndsn = "host=/tmp"\nrepository = "cellar"\n',
            'cluster "main" names repository "cellar", which is not configured\n'
            "DETAIL: {path} has: none.\n"
            'HINT: add a section [repositories.cellar] with url = "file:///..."',
        ),
    ],
    ids=["TOML", "value", "repository"],
)
def test_malformed_configuration(shop: Shop, text: str, message: str) -> None:
    shop.source.config_path.write_text(text)
    assert_refused(shop.source, ["backup", "main"], 2, message.format(path=shop.source.config_path))


def test_missing_configuration(shop: Shop) -> None:
    shop.source.config_path.unlink()
    assert_refused(
        shop.source,
        ["list", "main"],
        2,
        f'cannot read configuration "{shop.source.config_path}"\n'
        "DETAIL: No such file or directory.\n"
        "HINT: pgproof init NAME --dsn ... --repository file:///... writes one",
    )


def test_errors_as_json(shop: Shop) -> None:
    code, out, _ = answer(shop.source, "backup", "mian", "--json")
    assert json.loads(out) == {
        "error": "ConfigError",
        "fact": 'cluster "mian" is not configured',
        "detail": f'{shop.source.config_path} has: "main".',
        "hint": 'did you mean "main"?',
        "exit_code": 2,
    }
    assert code == 2
