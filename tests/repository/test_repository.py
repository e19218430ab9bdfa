"""Opening a repository: never made by mistake, never in a format that is not known."""

from __future__ import annotations

import os
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgproof.config import RepositoryConfig
from pgproof.errors import ConfigError, RepositoryFormat, RepositoryMissing, RepositoryReadOnly, WrongSystem
from pgproof.repository.credentials import Credentials
from pgproof.repository.objects import ObjectStore
from pgproof.repository.opening import open_store
from pgproof.repository.posix import PosixStore
from pgproof.repository.repository import check_system, create_repository, open_repository
from pgproof.repository.seal import unsealed
from pgproof.repository.store import Store, read
from tests.repository.conftest import recipient_of


def config(url: str, **settings: object) -> RepositoryConfig:
    return RepositoryConfig(url=url, **settings)  # type: ignore[arg-type]


# ---- create and open


def test_what_was_created_is_opened(url: str) -> None:
    made = create_repository(config(url))
    assert str(uuid.UUID(made.identifier)) == made.identifier
    assert open_repository(config(url)).identifier == made.identifier
    content = unsealed(read(made.store, "pgproof.json"))
    assert content == {"format": 1, "repository": made.identifier}


def test_creating_again_opens_what_is_there(url: str) -> None:
    first = create_repository(config(url))
    before = read(first.store, "pgproof.json")
    assert create_repository(config(url)).identifier == first.identifier
    assert read(first.store, "pgproof.json") == before


def test_of_many_creators_all_open_the_same(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: create_repository(config(url)).identifier, range(8)))
    assert len(set(made)) == 1


def test_a_missing_repository_is_not_made_by_opening_it(url: str, store: Store) -> None:
    with pytest.raises(RepositoryMissing) as caught:
        open_repository(config(url))
    assert str(caught.value) == (
        f'there is no repository at "{url}"\n'
        'DETAIL: "pgproof.json" is missing there. Is its file system mounted, its bucket the right one?\n'
        "HINT: pgproof init makes a new repository"
    )
    assert list(store.list()) == []


def test_an_unmounted_disk_is_no_empty_repository(tmp_path: Path) -> None:
    """What stays behind is the empty directory that it was mounted on."""
    disk = tmp_path / "disk"
    create_repository(config(f"file://{disk}"))
    disk.rename(tmp_path / "elsewhere")
    disk.mkdir()
    with pytest.raises(RepositoryMissing):
        open_repository(config(f"file://{disk}"))
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"not json", b"\xff\xfe", b"[]", b"null", b"7", b'"1"', b"{}", b'{"format": 1}'),
        *(
            b'{"repository": "x"}',
            b'{"format": "one", "repository": "x"}',
            b'{"format": null, "repository": "x"}',
        ),
    ],
    ids=repr,
)
def test_a_root_object_that_is_garbage_bad(url: str, store: Store, content: bytes) -> None:
    store.put("pgproof.json", content)
    for attempt in (open_repository, create_repository):
        with pytest.raises(RepositoryFormat) as caught:
            attempt(config(url))
        assert caught.value.fact == f'"pgproof.json" in the repository "{url}" cannot be read'
    assert read(store, "pgproof.json") == content


def test_a_newer_format_is_refused(url: str, store: Store) -> None:
    store.put("pgproof.json", b'{"format": 2, "repository": "x", "more": []}')
    for attempt in (open_repository, create_repository):
        with pytest.raises(RepositoryFormat) as caught:
            attempt(config(url))
        assert str(caught.value) == (
            f'repository "{url}" has format 2\n'
            "DETAIL: This pgproof knows formats up to 1.\n"
            "HINT: pip install --upgrade pgproof"
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_repository_that_may_not_be_read_is_not_missing(tmp_path: Path) -> None:
    create_repository(config(f"file://{tmp_path}/r"))
    (tmp_path / "r").chmod(0)
    try:
        for attempt in (open_repository, create_repository):
            with pytest.raises(RepositoryReadOnly):
                attempt(config(f"file://{tmp_path}/r"))
    finally:
        (tmp_path / "r").chmod(0o755)


# ---- URLs


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("file:///srv/pgproof", "/srv/pgproof"),
        ("file:///srv/with%20space", "/srv/with space"),
        ("file:///srv/a%23b%3Fc", "/srv/a#b?c"),
        ("FILE:///srv/pgproof", "/srv/pgproof"),
        ("file:///srv/pgproof/", "/srv/pgproof"),
        ("file:///srv/d%C3%A4ten", "/srv/däten"),
    ],
)
def test_file_urls(url: str, root: str) -> None:
    store = open_store(config(url))
    assert isinstance(store, PosixStore)
    assert store.root == Path(root)


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", None),
        ("s3://bucket/", "bucket", None),
        ("s3://bucket/a/b", "bucket", "a/b"),
        ("s3://bucket/a/b/", "bucket", "a/b"),
        ("s3://bucket/a%20b", "bucket", "a b"),
    ],
)
def test_s3_urls(url: str, bucket: str, prefix: str | None) -> None:
    store = open_store(config(url), Credentials("key", "secret"))
    assert isinstance(store, ObjectStore)
    assert store.inner.config["bucket"] == bucket
    assert store.inner.prefix == prefix
    assert store.url == url


def test_a_memory_url_names_one_store() -> None:
    first, second = f"memory://{uuid.uuid4()}", f"memory://{uuid.uuid4()}"
    open_store(config(first)).put("a", b"x")
    assert read(open_store(config(first)), "a") == b"x"
    assert list(open_store(config(second)).list()) == []


def test_a_google_url_is_known() -> None:
    assert isinstance(open_store(config("gs://bucket/prefix")), ObjectStore)


KNOWN = (
    "pgproof knows file:///path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix and memory://."
)
ESCAPED = "? and # in a path are written %3F and %23; nothing follows it."
ABSOLUTE = "HINT: file:///var/lib/pgproof has three slashes"


@pytest.mark.parametrize(
    ("url", "fact", "rest"),
    [
        *(
            (url, "cannot be used", f"DETAIL: {KNOWN}")
            for url in (
                "",
                "/srv/pgproof",
                "srv",
                "s3://",
                "s3:",
                "s3:///x",
                "gs://",
                "az://",
                "http://h/p",
                "ftp://x",
            )
        ),
        *(
            (url, "is not absolute", ABSOLUTE)
            for url in ("file://srv/pgproof", "file:srv", "file:", "file://host/a")
        ),
        *(
            (url, "cannot be used", f"DETAIL: {ESCAPED}")
            for url in ("file:///a#b", "file:///a?b", "s3://b/p?x=1", "file:///a#")
        ),
        ("s3://[bucket", "cannot be used", "DETAIL: Invalid IPv6 URL."),
        (
            "s3://bucket/a//b",
            "cannot be used",
            'DETAIL: Could not parse path: Path "a//b" contained empty path segment.',
        ),
        (
            "az://container/p",
            "cannot be used",
            "DETAIL: Generic MicrosoftAzure error: Account must be specified.",
        ),
    ],
)
def test_urls_bad(url: str, fact: str, rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError) as caught:
        open_store(config(url))
    assert str(caught.value) == f'repository URL "{url}" {fact}\n{rest}'


# ---- secrets


def test_a_key_by_environment_or_file_is_read_when_the_store_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("hush-from-file\n")
    monkeypatch.setenv("PGPROOF_TEST_KEY", "key-from-environment")
    found = config(
        "s3://bucket", access_key_id="env:PGPROOF_TEST_KEY", secret_access_key=f"file:{tmp_path}/secret"
    )
    store = open_store(found)
    assert isinstance(store, ObjectStore)
    key = store.inner.credential_provider()
    assert (key["access_key_id"], key["secret_access_key"]) == ("key-from-environment", "hush-from-file")
    for shown in (repr(found), repr(store), repr(store.inner), str(found)):
        assert "hush" not in shown


def test_a_key_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPROOF_TEST_KEY", raising=False)
    with pytest.raises(ConfigError) as caught:
        open_store(
            config("s3://b", access_key_id="env:PGPROOF_TEST_KEY", secret_access_key="env:PGPROOF_TEST_KEY")
        )
    assert str(caught.value) == (
        'environment variable "PGPROOF_TEST_KEY" is not set\nHINT: export PGPROOF_TEST_KEY=...'
    )


def test_credentials_of_a_block_need_a_flow() -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(config("s3://bucket", credentials="block:aws-credentials/backup"))
    assert caught.value.fact == 'secret "block:aws-credentials/backup" is a Prefect block'
    store = open_store(
        config("s3://bucket", credentials="block:aws-credentials/backup"), Credentials("a", "b", "c")
    )
    assert isinstance(store, ObjectStore)
    assert store.inner.credential_provider()["token"] == "c"


def test_credentials_show_no_secret() -> None:
    assert repr(Credentials("key", "hush", "hush too")) == "Credentials('key', '***')"
    assert "hush" not in str(Credentials("key", "hush", "hush too"))


def test_an_opened_repository_shows_no_identity(
    url: str, identity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPROOF_TEST_IDENTITY", identity)
    create_repository(config(url))
    found = config(url, age_recipients=(recipient_of(identity),), age_identity="env:PGPROOF_TEST_IDENTITY")
    opened = open_repository(found)
    assert callable(opened.codec.identity)
    assert opened.codec.identity() == identity
    for shown in (repr(opened), repr(found), repr(opened.archive("shop", 7))):
        assert not re.search("AGE-SECRET-KEY", shown)


# ---- system identifiers


def test_system_identifiers_of_a_cluster(url: str) -> None:
    made = create_repository(config(url))
    for key in (
        "shop/7/wal/a",
        "shop/6/backups/x/backup.json",
        "shop/not-one/x",
        "shopping/5/wal/a",
        "shop/6/b",
    ):
        made.store.put(key, b"x")
    assert made.system_identifiers("shop") == [6, 7]
    assert made.system_identifiers("bank") == []


def test_another_system_identifier_is_refused() -> None:
    check_system(None, 7, 'server "shop"')
    check_system(7, 7, 'server "shop"')
    with pytest.raises(WrongSystem) as caught:
        check_system(7, 8, 'server "shop"')
    assert str(caught.value) == (
        'server "shop" belongs to another cluster\n'
        "DETAIL: Its system identifier is 8; configured is 7.\n"
        "HINT: after pg_upgrade or initdb, set system_identifier to the new one in pgproof.toml; "
        "the old backups stay beside the new"
    )
