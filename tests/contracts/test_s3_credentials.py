"""Where the access key of an S3 store comes from, asked of a real server that checks signatures."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pgproof.config import RepositoryConfig
from pgproof.errors import ConfigError, ObjectMissing, RepositoryReadOnly, StoreUnavailable
from pgproof.repository.credentials import Credentials, store_settings
from pgproof.repository.opening import open_store
from pgproof.repository.store import read
from tests.contracts.broken_s3 import answering, fault
from tests.servers.s3 import S3Server, free_ports

Files = Callable[[str, str], None]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without any AWS file, and an environment without any AWS variable."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    (tmp_path / ".aws").mkdir()
    return tmp_path


@pytest.fixture
def files(home: Path) -> Files:
    def write(credentials: str, config: str = "") -> None:
        (home / ".aws/credentials").write_text(credentials)
        (home / ".aws/config").write_text(config)

    return write


def key_of(server: S3Server) -> str:
    return f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"


def works(server: S3Server) -> bool:
    store = open_store(server.repository("contracts", "credentials"))
    store.put("a", b"x")
    return read(store, "a") == b"x"


def head_of_request(**settings: str) -> str:
    """The head of the request that a store sends, with the key, region and token that it found."""
    with answering(fault("404 Not Found", "NoSuchKey")) as server:
        store = open_store(RepositoryConfig(url="s3://b", endpoint=server.endpoint, **settings))  # type: ignore[arg-type]
        with pytest.raises(ObjectMissing):
            read(store, "a")
    return server.requests[0]


# ---- profiles


def test_the_default_profile(seaweedfs: S3Server, files: Files) -> None:
    files(f"[default]\n{key_of(seaweedfs)}", "")
    assert works(seaweedfs)


@pytest.mark.parametrize("variable", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_a_named_profile(
    seaweedfs: S3Server, files: Files, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    wrong = "aws_access_key_id = nobody\naws_secret_access_key = mistaken\n"
    files(
        f"[default]\n{wrong}[backup]\n{key_of(seaweedfs)}", f"[profile backup]\n{wrong}region = sa-east-1\n"
    )
    with pytest.raises(RepositoryReadOnly):
        works(seaweedfs)
    monkeypatch.setenv(variable, "backup")
    assert works(seaweedfs)
    assert "/sa-east-1/s3/aws4_request" in head_of_request()


def test_a_profile_of_the_config_file_alone(
    seaweedfs: S3Server, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files("", f"[profile backup]\n{key_of(seaweedfs)}s3 =\n  max_concurrent_requests = 20\n")
    monkeypatch.setenv("AWS_PROFILE", "backup")
    assert works(seaweedfs)


def test_files_at_other_places(
    seaweedfs: S3Server, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"[default]\n{key_of(seaweedfs)}")
    (tmp_path / "rest").write_text("[default]\nregion = eu-west-3\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "~/keys")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "rest"))
    assert works(seaweedfs)
    assert "/eu-west-3/" in head_of_request()


def test_the_token_and_region_of_a_profile(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files(
        "[default]\naws_access_key_id = short\naws_secret_access_key = s\naws_session_token = ticket\n",
        "[default]\nregion = sa-east-1\n",
    )
    assert "x-amz-security-token: ticket" in head_of_request()
    assert "Credential=short/" in head_of_request()
    assert "/sa-east-1/" in head_of_request()
    assert "/eu-central-1/" in head_of_request(region="eu-central-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    assert "/us-west-2/" in head_of_request()


def test_a_key_that_is_renewed_in_the_file(files: Files) -> None:
    files("[default]\naws_access_key_id = first\naws_secret_access_key = s\n", "")
    provider = store_settings(RepositoryConfig(url="s3://b"), None)["credential_provider"]
    assert provider()["access_key_id"] == "first"
    files("[default]\naws_access_key_id = second\naws_secret_access_key = s\naws_session_token = t\n", "")
    found = provider()
    assert (found["access_key_id"], found["token"]) == ("second", "t")
    assert found["expires_at"] is not None


# ---- what counts more


def test_the_environment_counts_more_than_a_profile(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files("[default]\naws_access_key_id = of-the-file\naws_secret_access_key = s\n", "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert "Credential=of-the-environment/" in head_of_request()


def test_a_token_of_the_environment_does_not_go_with_another_key(
    home: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore would add it to any key."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-key")
    monkeypatch.setenv("OURS", "configured")
    assert "security-token" not in head_of_request(access_key_id="env:OURS", secret_access_key="env:OURS")
    files("[default]\naws_access_key_id = of-the-file\naws_secret_access_key = s\n", "")
    head = head_of_request()
    assert "Credential=of-the-file/" in head and "security-token" not in head


# ---- what only boto3 can follow


def test_a_program_that_gives_the_key(seaweedfs: S3Server, home: Path, files: Files) -> None:
    answer = {
        "Version": 1,
        "AccessKeyId": seaweedfs.access_key,
        "SecretAccessKey": seaweedfs.secret_key,
    }
    (home / "answer.json").write_text(json.dumps(answer))
    files("", f"[default]\ncredential_process = cat {home}/answer.json\n")
    assert works(seaweedfs)


def test_a_program_that_fails(seaweedfs: S3Server, files: Files) -> None:
    files("", "[default]\ncredential_process = sh -c 'echo no ticket >&2; exit 3'\n")
    with pytest.raises(StoreUnavailable) as caught:
        works(seaweedfs)
    assert caught.value.fact == 'could not get the credentials of AWS profile "default"'
    assert "credential_process: " in caught.value.detail and "no ticket" in caught.value.detail


@pytest.mark.parametrize(
    ("profile", "key"),
    [
        ("credential_process = /bin/true", "credential_process"),
        ("role_arn = arn:aws:iam::1:role/x\nsource_profile = other", "role_arn"),
        ("sso_session = work\naws_access_key_id = k\naws_secret_access_key = s", "sso_session"),
    ],
)
def test_without_boto3_it_is_said(
    seaweedfs: S3Server, files: Files, monkeypatch: pytest.MonkeyPatch, profile: str, key: str
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    files("", f"[default]\n{profile}\n")
    with pytest.raises(ConfigError) as caught:
        works(seaweedfs)
    assert caught.value.fact == 'AWS profile "default" cannot be used'
    assert caught.value.detail.startswith(
        f"It has {key}, which only boto3 can follow, and boto3 is not installed here: "
    )
    assert caught.value.hint.startswith("pip install boto3")


# ---- nothing, or nonsense


def test_no_credentials_at_all(seaweedfs: S3Server, home: Path) -> None:
    with pytest.raises(RepositoryReadOnly) as caught:
        works(seaweedfs)
    assert caught.value.fact == ('no credentials for the repository "s3://contracts/credentials" were found')
    assert caught.value.detail.startswith(
        "Looked for access_key_id in pgproof.toml, AWS_ACCESS_KEY_ID and AWS_WEB_IDENTITY_TOKEN_FILE in the "
        f'environment, profile "default" in {home}/.aws/credentials and {home}/.aws/config, and a role of this '
        "machine, which has none: "
    )
    assert "access_key_id and secret_access_key" in caught.value.hint


def test_a_profile_that_no_file_has(
    seaweedfs: S3Server, home: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(f"[default]\n{key_of(seaweedfs)}", "[profile other]\nregion = x\n")
    monkeypatch.setenv("AWS_PROFILE", "backup")
    with pytest.raises(ConfigError) as caught:
        works(seaweedfs)
    assert str(caught.value) == (
        'AWS profile "backup" does not exist\n'
        f"DETAIL: AWS_PROFILE names it, and neither {home}/.aws/credentials nor {home}/.aws/config has it.\n"
        "HINT: the files are looked for in the home directory of the account that runs pgproof"
    )


@pytest.mark.parametrize(
    ("text", "fact", "detail"),
    [
        (
            "[default]\naws_access_key_id = k\n",
            'AWS profile "default" has half an access key',
            "belong together",
        ),
        ("[default]\nhush hush\n", 'AWS file "{path}" cannot be read', "Line 2 makes no sense."),
        ("hush\n", 'AWS file "{path}" cannot be read', "Line 1 makes no sense."),
        ("[default]\na = hush\na = hush\n", 'AWS file "{path}" cannot be read', "Line 3 makes no sense."),
    ],
)
def test_a_file_that_makes_no_sense(
    seaweedfs: S3Server, home: Path, files: Files, text: str, fact: str, detail: str
) -> None:
    files(text, "")
    with pytest.raises(ConfigError) as caught:
        works(seaweedfs)
    assert caught.value.fact == fact.format(path=home / ".aws/credentials")
    assert detail in caught.value.detail
    assert "hush" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_files_that_this_account_may_not_read(seaweedfs: S3Server, home: Path, files: Files) -> None:
    files(f"[default]\n{key_of(seaweedfs)}", "")
    (home / ".aws/credentials").chmod(0)
    with pytest.raises(ConfigError) as caught:
        works(seaweedfs)
    assert str(caught.value) == (
        f'cannot read AWS file "{home}/.aws/credentials"\nDETAIL: Permission denied.'
    )
    (home / ".aws").chmod(0)  # of another account: as if it were not there, because a role may do
    try:
        with pytest.raises(RepositoryReadOnly):
            works(seaweedfs)
    finally:
        (home / ".aws").chmod(stat.S_IRWXU)


def test_credentials_show_no_secret() -> None:
    assert "hush" not in repr(Credentials("key", "hush", "hush too"))
