"""The configuration: what is read, what is refused and in which words, and that no secret is shown."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from textwrap import dedent

import pytest
from pydantic import ValidationError

from pgproof.config import Config, RepositoryConfig, find_path, load
from pgproof.errors import ConfigError
from pgproof.secret import resolve_secret

GOOD = """
[repositories.main]
url = "file:///srv/pgproof"

[clusters.shop]
dsn = "host=db1 user=pgproof"
"""
UNITS = 'needs a number and a unit of s, min, h, d, such as "5min"'
SIZES = 'needs a number and a unit of kB, MB, GB, such as "64MB"'
TOGETHER = "access_key_id and secret_access_key are given together, or neither"
REFERENCE = 'a secret is given by reference: "env:NAME", "file:/path" or "block:type/name"'
EXTRA = "there is no such key"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pgproof.toml"


def loaded(path: Path, text: str) -> Config:
    path.write_text(dedent(text), encoding="utf-8")
    return load(path)


def refused(path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(path, text)
    return str(caught.value)


# ---- what is read


def test_the_least_configuration(path: Path) -> None:
    config = loaded(path, GOOD)
    cluster = config.cluster("shop")
    assert cluster is config.cluster()
    assert cluster.name == "shop"
    assert config.repository_of(cluster) == RepositoryConfig(url="file:///srv/pgproof")
    assert config.path == path
    assert (cluster.retention.daily, cluster.retention.wal_window) == (7, 7 * 86400)
    assert (cluster.backup.volume_size, cluster.backup.checkpoint) == (128 << 20, "fast")
    assert cluster.drill.sample_above == 0


def test_a_full_configuration(path: Path) -> None:
    config = loaded(
        path,
        """
        state_directory = "/var/lib/pgproof"

        [repositories.offsite]
        url = "s3://bucket/prefix"
        endpoint = "https://s3.example.com"
        region = "eu-central-1"
        access_key_id = "env:KEY"
        secret_access_key = "file:/run/secrets/key"
        compression_level = 9
        age_recipients = ["age1one", "age1two"]
        age_identity = "file:/etc/pgproof/key.txt"

        [clusters.shop-1]
        dsn = "host=db1"
        password = "block:secret/pgproof"
        repository = "offsite"
        system_identifier = 7412345678901234567

        [clusters.shop-1.retention]
        daily = 0
        wal_window = "36 h"

        [clusters.shop-1.backup]
        volume_size = "1GB"
        archive_timeout = 90

        [[clusters.shop-1.expectations]]
        database = "shop"
        type = "expect_column_values_to_not_be_null"
        table = "orders"
        kwargs = { column = "id" }
        """,
    )
    cluster = config.cluster("shop-1")
    assert cluster.retention.wal_window == 36 * 3600
    assert cluster.backup.volume_size == 1 << 30
    assert cluster.backup.archive_timeout == 90
    assert cluster.expectations[0].kwargs == {"column": "id"}
    assert config.repository_of(cluster).age_recipients == ("age1one", "age1two")
    assert config.state == Path("/var/lib/pgproof")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ('"7s"', 7), ('"5min"', 300), ('"2 h"', 7200), ('" 3d "', 259200), ("0", 0), ('"0s"', 0)],
)
def test_durations(path: Path, text: str, seconds: int) -> None:
    assert loaded(path, f"{GOOD}\n[clusters.shop.targets]\nrpo = {text}").cluster().targets.rpo == seconds


@pytest.mark.parametrize(
    ("text", "size"), [('"1kB"', 1024), ('"64MB"', 64 << 20), ('"2 GB"', 2 << 30), ("77", 77)]
)
def test_sizes(path: Path, text: str, size: int) -> None:
    cluster = loaded(path, f"{GOOD}\n[clusters.shop.backup]\nvolume_size = {text}").cluster()
    assert cluster.backup.volume_size == size


def test_text_is_utf_8_whatever_the_locale(path: Path) -> None:
    config = loaded(path, GOOD.replace("/srv/pgproof", "/srv/Größe"))
    assert config.repositories["main"].url == "file:///srv/Größe"


def test_the_configuration_is_frozen(path: Path) -> None:
    config = loaded(path, GOOD)
    with pytest.raises(ValidationError):
        config.cluster().retention.daily = 1  # type: ignore[misc]


def test_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGPROOF_CONFIG", raising=False)
    assert find_path() == tmp_path / "pgproof.toml"
    monkeypatch.setenv("PGPROOF_CONFIG", "/etc/pgproof.toml")
    assert find_path() == Path("/etc/pgproof.toml")
    assert find_path("given.toml") == tmp_path / "given.toml"


# ---- the file


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == (
        f'cannot read configuration "{path}"\n'
        "DETAIL: No such file or directory.\n"
        "HINT: pgproof init NAME --dsn ... --repository file:///... writes one"
    )


def test_a_directory_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert "DETAIL: Is a directory." in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_that_may_not_be_read(path: Path) -> None:
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "DETAIL: Permission denied." in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[clusters", "Expected ']' at the end of a table declaration (at end of document)"),
        ("a = ", "Invalid value (at end of document)"),
        ("a = 1\na = 2", "Cannot overwrite a value (at end of document)"),
        ("dsn = host=db1", "Invalid value (at line 1, column 7)"),
        ("password: hush", "Expected '=' after a key in a key/value pair (at line 1, column 9)"),
    ],
)
def test_toml_bad(path: Path, text: str, reason: str) -> None:
    assert refused(path, text) == f'configuration "{path}" is not valid TOML\nDETAIL: {reason}.'


def test_a_file_that_is_no_text_bad(path: Path) -> None:
    path.write_bytes(b"[clusters.shop]\ndsn = '\xff\xfe'\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f'configuration "{path}" is not valid TOML\nDETAIL: It is not UTF-8 text.'


# ---- values


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("extra = 1", f"extra: {EXTRA}"),
        ("[cluster.shop]\ndsn = 'x'", f'cluster: {EXTRA}; did you mean "clusters"?'),
        (f"{GOOD}dns = 'x'", f'clusters.shop.dns: {EXTRA}; did you mean "dsn"?'),
        (
            f"{GOOD}[clusters.shop.retension]\nx = 1",
            f'clusters.shop.retension: {EXTRA}; did you mean "retention"?',
        ),
        (
            f"{GOOD}[clusters.shop.retention]\ndayly = 3",
            f'clusters.shop.retention.dayly: {EXTRA}; did you mean "daily"?',
        ),
        (
            "[clusters.backup]\ndsn = 'x'\n[clusters.backup.wal]\nworker = 3",
            f'clusters.backup.wal.worker: {EXTRA}; did you mean "workers"?',
        ),
        (
            f"{GOOD}[[clusters.shop.checks]]\nname = 'x'\ndatabase = 'x'\nsql = 'x'\nexpected = 1",
            f'clusters.shop.checks.0.expected: {EXTRA}; did you mean "expect"?',
        ),
        (f"{GOOD}[clusters.shop.barman]\nserver = 'x'\nzzz = 1", f"clusters.shop.barman.zzz: {EXTRA}"),
        (
            "[repositories.main]\nurl = 'x'\nregoin = 'y'",
            f'repositories.main.regoin: {EXTRA}; did you mean "region"?',
        ),
        (f"{GOOD}rpo = '1min'", f'clusters.shop.rpo: {EXTRA} here; "targets" has one'),
        ("url = 'x'", f'url: {EXTRA} here; "repositories" has one'),
        ("[clusters.shop]\nrepository = 'main'", "clusters.shop.dsn: Field required"),
        ("[repositories.main]\nregion = 'x'", "repositories.main.url: Field required"),
        *(
            (
                f"{GOOD}[clusters.shop.targets]\nrpo = {text}",
                f'clusters.shop.targets.rpo: Value error, "{shown}" {UNITS}',
            )
            for text, shown in [
                ("'5 minutes'", "5 minutes"),
                ("'5m'", "5m"),
                ("'5'", "5"),
                ("'-5min'", "-5min"),
                ("'1.5h'", "1.5h"),
                ("'5MIN'", "5MIN"),
                ("''", ""),
                ("'5 min 3 s'", "5 min 3 s"),
                ("'64MB'", "64MB"),
                ("1.5", "1.5"),
                ("true", "True"),
                ("'\u0665min'", "\u0665min"),
            ]
        ),
        (
            f"{GOOD}[clusters.shop.targets]\nrto = -1",
            'clusters.shop.targets.rto: Value error, "-1" is negative',
        ),
        *(
            (
                f"{GOOD}[clusters.shop.backup]\nvolume_size = '{text}'",
                f'clusters.shop.backup.volume_size: Value error, "{text}" {SIZES}',
            )
            for text in ("64M", "64mb", "64KB", "5min", "MB")
        ),
        (
            f"{GOOD}[clusters.shop.retention]\ndaily = -1",
            "clusters.shop.retention.daily: Input should be greater than or equal to 0",
        ),
        (
            f"{GOOD}[clusters.shop.drill]\nsample_percent = 101",
            "clusters.shop.drill.sample_percent: Input should be less than or equal to 100",
        ),
        (
            f"{GOOD}[clusters.shop.backup]\ncheckpoint = 'slow'",
            "clusters.shop.backup.checkpoint: Input should be 'fast' or 'spread'",
        ),
        (
            "[repositories.main]\nurl = 'file:///x'\ncompression_level = 20",
            "repositories.main.compression_level: Input should be less than or equal to 19",
        ),
        (
            "[repositories.main]\nurl = 's3://x'\naccess_key_id = 'env:A'",
            f"repositories.main: Value error, {TOGETHER}",
        ),
        (
            f"{GOOD}[[clusters.shop.expectations]]\ndatabase = 'd'\ntype = 't'",
            "clusters.shop.expectations.0: Value error, an expectation names either a table or a query",
        ),
        ("clusters = 1", None),
        ("clusters = ['shop']", None),
        ("[[clusters]]\nname = 'shop'", None),
        ("clusters.shop = 'host=db1'", None),
        ("clusters.shop = 7", None),
        ("clusters.shop = ['x']", None),
        ("repositories = 3", "repositories: Input should be a valid dictionary"),
        (
            "repositories.main = 'file:///x'",
            "repositories.main: Input should be a valid dictionary or instance of RepositoryConfig",
        ),
    ],
)
def test_values_bad(path: Path, text: str, fault: str | None) -> None:
    fault = fault or "clusters and repositories are tables of tables"
    assert refused(path, text) == f'configuration "{path}" has wrong values\nDETAIL: {fault}.'


def test_every_wrong_value_is_named_at_once(path: Path) -> None:
    text = f"{GOOD}wrong = 1\n[clusters.shop.targets]\nrpo = '5m'\nrto = '9'"
    assert refused(path, text) == (
        f'configuration "{path}" has wrong values\n'
        f'DETAIL: clusters.shop.targets.rpo: Value error, "5m" {UNITS}; '
        f'clusters.shop.targets.rto: Value error, "9" {UNITS}; clusters.shop.wrong: {EXTRA}.'
    )


# ---- names


@pytest.mark.parametrize(
    "name", ["Shop", "shop.one", "../shop", "shop/one", "-shop", "_shop", "", "sh op", "größe", "s" * 64]
)
def test_cluster_names_bad(path: Path, name: str) -> None:
    text = f"[repositories.main]\nurl = 'file:///x'\n[clusters.\"{name}\"]\ndsn = 'host=db1'"
    assert refused(path, text) == (
        f'cluster name "{name}" is not usable\n'
        "DETAIL: A name has lower-case letters, digits, _ and -, and starts with a letter or digit."
    )


@pytest.mark.parametrize("name", ["shop", "7", "shop-1_b", "s" * 63])
def test_cluster_names(path: Path, name: str) -> None:
    text = f"[repositories.main]\nurl = 'file:///x'\n[clusters.\"{name}\"]\ndsn = 'host=db1'"
    assert loaded(path, text).cluster(name).name == name


def test_a_repository_that_is_not_configured_bad(path: Path) -> None:
    assert refused(path, "[clusters.shop]\ndsn = 'host=db1'") == (
        'cluster "shop" names repository "main", which is not configured\n'
        f"DETAIL: {path} has: none.\n"
        'HINT: add a section [repositories.main] with url = "file:///..."'
    )
    assert refused(path, f"{GOOD}repository = 'offsite'\n[repositories.other]\nurl = 'file:///y'") == (
        'cluster "shop" names repository "offsite", which is not configured\n'
        f"DETAIL: {path} has: main, other.\n"
        'HINT: add a section [repositories.offsite] with url = "file:///..."'
    )


TWO = f"{GOOD}[clusters.billing]\ndsn = 'host=db2'"


@pytest.mark.parametrize(
    ("name", "fact", "hint"),
    [
        ("shpo", 'cluster "shpo" is not configured', 'did you mean "shop"?'),
        ("Billing", 'cluster "Billing" is not configured', 'did you mean "billing"?'),
        ("xyz", 'cluster "xyz" is not configured', "pgproof init xyz --dsn ... --repository ..."),
        ("", 'cluster "" is not configured', "pgproof init  --dsn ... --repository ..."),
        (None, "no cluster was named", "name one with --cluster"),
    ],
)
def test_clusters_that_are_not_configured_bad(path: Path, name: str | None, fact: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(path, TWO).cluster(name)
    assert str(caught.value) == f'{fact}\nDETAIL: {path} has: "shop", "billing".\nHINT: {hint}'


def test_without_any_cluster_bad(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(path, "").cluster()
    assert str(caught.value) == (
        f"no cluster was named\nDETAIL: {path} has: none.\nHINT: name one with --cluster"
    )


# ---- secrets


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (
            "[repositories.main]\nurl = 's3://x'\naccess_key_id = 'env:A'\nsecret_access_key = 'hush'",
            "secret_access_key",
        ),
        ("[repositories.main]\nurl = 'file:///x'\nage_identity = 'AGE-SECRET-KEY-hush'", "age_identity"),
        ("[repositories.main]\nurl = 's3://x'\ncredentials = 'hush'", "credentials"),
    ],
)
def test_a_secret_that_is_written_out_is_refused_and_not_repeated(path: Path, text: str, where: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == (
        f'configuration "{path}" has wrong values\n'
        f"DETAIL: repositories.main.{where}: Value error, {REFERENCE}."
    )
    shown = "".join(traceback.format_exception(caught.value))
    assert "hush" not in shown


@pytest.mark.parametrize("line", ["password = 'hush'", "password = 7412", "extra = 'hush'"])
def test_no_value_of_a_cluster_is_repeated(path: Path, line: str) -> None:
    path.write_text(f"{GOOD.replace('user=pgproof', 'password=hush')}{line}")
    with pytest.raises(ConfigError) as caught:
        load(path)
    shown = "".join(traceback.format_exception(caught.value))
    assert "hush" not in shown
    assert "7412" not in shown


def test_a_configuration_shows_no_secret(path: Path) -> None:
    config = loaded(path, GOOD.replace("user=pgproof", "password=hush"))
    assert "hush" in config.cluster().dsn
    for shown in (repr(config), str(config), repr(config.cluster())):
        assert "hush" not in shown


def test_a_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPROOF_TEST_SECRET", "hush ")
    secret = resolve_secret("env:PGPROOF_TEST_SECRET")
    assert secret.get_secret_value() == "hush "
    assert "hush" not in repr(secret) + str(secret)


def test_a_secret_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush, größe\n", encoding="utf-8")
    secret = resolve_secret(f"file:{tmp_path}/secret")
    assert secret.get_secret_value() == "hush, größe"
    assert "hush" not in repr(secret) + str(secret)


def test_secrets_that_are_not_there_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPROOF_TEST_SECRET", raising=False)
    (tmp_path / "binary").write_bytes(b"hush\xff")
    for reference, message in {
        "env:PGPROOF_TEST_SECRET": (
            'environment variable "PGPROOF_TEST_SECRET" is not set\nHINT: export PGPROOF_TEST_SECRET=...'
        ),
        **{
            f"file:{place}": f'cannot read secret file "{place}"\nDETAIL: {reason}.'
            for place, reason in (
                (tmp_path / "none", "No such file or directory"),
                (tmp_path, "Is a directory"),
                (tmp_path / "binary", "It is not UTF-8 text"),
            )
        },
        "block:aws-credentials/backup": (
            'secret "block:aws-credentials/backup" is a Prefect block\n'
            "DETAIL: Only a flow run can read blocks; this command runs without Prefect.\n"
            'HINT: use "env:NAME" or "file:/path", or run the flow'
        ),
    }.items():
        with pytest.raises(ConfigError) as caught:
            resolve_secret(reference)
        assert str(caught.value) == message
        assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            'copies = ["main"]',
            'cluster "shop" names one repository twice\n'
            "DETAIL: repository and copies lead to: file:///srv/pgproof, file:///srv/pgproof.\n"
            "HINT: copies names repositories at other places",
        ),
        (
            "wal.quorum = 2",
            'cluster "shop" has a quorum that it cannot reach\n'
            "DETAIL: quorum is 2, and there are 1 repositories.\nHINT: 0 is every one of them",
        ),
    ],
    ids=["twice", "quorum"],
)
def test_copies_that_make_no_sense_bad(path: Path, lines: str, message: str) -> None:
    text = f'[repositories.main]\nurl = "file:///srv/pgproof"\n[clusters.shop]\ndsn = "host=db"\n{lines}\n'
    with pytest.raises(ConfigError) as caught:
        loaded(path, text)
    assert str(caught.value) == message


def test_copies(path: Path) -> None:
    text = (
        '[repositories.main]\nurl = "file:///a"\n[repositories.offsite]\nurl = "s3://b/c"\n'
        '[clusters.shop]\ndsn = "host=db"\ncopies = ["offsite"]\nwal.quorum = 1\n'
    )
    config = loaded(path, text)
    assert {name: c.url for name, c in config.copies_of(config.cluster("shop")).items()} == {
        "offsite": "s3://b/c"
    }
