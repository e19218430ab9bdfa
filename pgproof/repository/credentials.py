"""Credentials of an S3 store: an access key, and where one is looked for when the configuration names none.

The order is that of AWS's own programs: environment, web identity, profile of the shared files, role of the container
or machine. obstore knows all of them but the shared files, which are read here. What a profile can say besides a key
(a role to assume, single sign-on, a program to ask) only boto3 can follow.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pgproof.config import RepositoryConfig
from pgproof.errors import ConfigError, RepositoryReadOnly, StoreUnavailable
from pgproof.secret import resolve_secret

_READ_AGAIN = timedelta(minutes=5)  # short-lived keys are renewed in the file, by whoever put them there
_CLOCK: Callable[[], datetime] = partial(datetime.now, UTC)
_METADATA = ("/latest/api/token", "/latest/meta-data/iam/")  # what obstore asks when there is nothing else
_BEFORE_KEYS = ("role_arn", "sso_session", "sso_start_url")  # count more than a key in the same profile
_AFTER_KEYS = ("credential_process", "login_session")


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key of an S3 store."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.access_key_id!r}, '***')"


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile of the shared AWS files.

    Args:
        name: of the profile.
        named: whether AWS_PROFILE chose it, so that it has to exist.
        paths: of the credentials file and the config file.
    """

    name: str
    named: bool
    paths: tuple[Path, Path]

    @staticmethod
    def chosen() -> Profile:
        """The profile that the environment chooses, else ``default``."""
        name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
        credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
        config = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
        paths = (Path(os.path.expanduser(credentials)), Path(os.path.expanduser(config)))
        return Profile(name or "default", bool(name), paths)

    def __str__(self) -> str:
        return f'profile "{self.name}" in {self.paths[0]} and {self.paths[1]}'

    def values(self) -> dict[str, str]:
        """What both files say of the profile; a value of the credentials file counts more.

        Raises:
            ConfigError: a file cannot be read, or neither has a profile that was named.
        """
        credentials, config = (_sections(path) for path in self.paths)
        found = [config.get(f"profile {self.name}"), credentials.get(self.name)]
        if self.name == "default":
            found.insert(0, config.get("default"))
        present = [values for values in found if values is not None]
        if self.named and not present:
            raise ConfigError(
                f'AWS profile "{self.name}" does not exist',
                f"AWS_PROFILE names it, and neither {self.paths[0]} nor {self.paths[1]} has it.",
                "the files are looked for in the home directory of the account that runs pgproof",
            )
        return {key: value for values in present for key, value in values.items()}


def store_settings(config: RepositoryConfig, given: Credentials | None) -> dict[str, Any]:
    """What obstore is told of credentials and region; nothing where it finds the credentials itself.

    Args:
        config: of the repository.
        given: from a prefect-aws block.

    Raises:
        ConfigError: a reference or a profile cannot be used.
    """
    region = {"region": config.region} if config.region else {}
    credentials = given or _configured(config)
    if credentials is not None:  # by a provider: a token of the environment belongs to the environment's key
        return {"credential_provider": lambda: _answer(credentials, renewed=False), **region}
    if _environment_has_credentials():
        return region
    return {**_profile_settings(Profile.chosen()), **region}


def none_found(url: str, reason: str) -> RepositoryReadOnly | None:
    """The error when there are no credentials at all: the last place to ask was the machine's own role.

    Args:
        url: of the repository.
        reason: what obstore said.
    """
    if not any(path in reason for path in _METADATA):
        return None
    return RepositoryReadOnly(
        f'no credentials for the repository "{url}" were found',
        "Looked for access_key_id in pgproof.toml, AWS_ACCESS_KEY_ID and AWS_WEB_IDENTITY_TOKEN_FILE in the "
        f"environment, {Profile.chosen()}, and a role of this machine, which has none: {reason}",
        "set access_key_id and secret_access_key in the repository's section, as env: or file: references, "
        "or make the profile for the account that runs pgproof",
    )


def _configured(config: RepositoryConfig) -> Credentials | None:
    if config.credentials is not None:
        resolve_secret(config.credentials)  # says that a block needs a flow
    if not config.access_key_id or not config.secret_access_key:
        return None
    return Credentials(
        resolve_secret(config.access_key_id).get_secret_value(),
        resolve_secret(config.secret_access_key).get_secret_value(),
    )


def _environment_has_credentials() -> bool:
    present = {name for name, value in os.environ.items() if value}
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    return bool(keys & present) or {"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"} <= present


def _profile_settings(profile: Profile) -> dict[str, Any]:
    values = profile.values()
    provider = _provider(profile, values)
    settings: dict[str, Any] = {} if provider is None else {"credential_provider": provider}
    if "region" in values and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        settings["region"] = values["region"]
    return settings


def _provider(profile: Profile, values: dict[str, str]) -> Callable[[], dict[str, Any]] | None:
    """What obstore asks for a profile's credentials; None when the profile has none."""
    first = next((key for key in _BEFORE_KEYS if key in values), None)
    if first is None and _keys(profile, values) is not None:
        return lambda: _read_again(profile)
    other = first or next((key for key in _AFTER_KEYS if key in values), None)
    return None if other is None else _by_boto3(profile, other)


def _keys(profile: Profile, values: dict[str, str]) -> Credentials | None:
    key, secret = values.get("aws_access_key_id"), values.get("aws_secret_access_key")
    if not key and not secret:
        return None
    if not key or not secret:
        raise ConfigError(
            f'AWS profile "{profile.name}" has half an access key',
            f"aws_access_key_id and aws_secret_access_key belong together in {profile}.",
        )
    return Credentials(key, secret, values.get("aws_session_token") or None)


def _by_boto3(profile: Profile, key: str) -> Callable[[], dict[str, Any]]:
    """Credentials that only boto3 can get; it renews them itself.

    Raises:
        ConfigError: boto3 is not installed.
        StoreUnavailable: it could not get them.
    """
    try:
        from boto3 import Session
        from botocore.exceptions import BotoCoreError, ClientError
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'AWS profile "{profile.name}" cannot be used',
            f"It has {key}, which only boto3 can follow, and boto3 is not installed here: {error}.",
            "pip install boto3, or give access_key_id and secret_access_key as env: or file: references",
        ) from error

    try:
        credentials = Session(profile_name=profile.name).get_credentials()
        credentials.get_frozen_credentials()
    except (BotoCoreError, ClientError) as error:
        raise StoreUnavailable(
            f'could not get the credentials of AWS profile "{profile.name}"', f"{key}: {error}."
        ) from error

    def ask() -> dict[str, Any]:
        found = credentials.get_frozen_credentials()
        return _answer(Credentials(found.access_key, found.secret_key, found.token), renewed=True)

    return ask


def _read_again(profile: Profile) -> dict[str, Any]:
    credentials = _keys(profile, profile.values())
    if credentials is None:
        raise ConfigError(f"{profile} has no access key any more")
    return _answer(credentials, renewed=True)


def _answer(
    credentials: Credentials, *, renewed: bool, clock: Callable[[], datetime] = _CLOCK
) -> dict[str, Any]:
    """Credentials as obstore takes them from a provider, which it asks again when they are to be renewed."""
    return {
        "access_key_id": credentials.access_key_id,
        "secret_access_key": credentials.secret_access_key,
        "token": credentials.session_token,
        "expires_at": clock() + _READ_AGAIN if renewed else None,
    }


def _sections(path: Path) -> dict[str, dict[str, str]]:
    """The sections of a shared file; none when it is not there, or in a directory closed to this account.

    Raises:
        ConfigError: without the text of the file, which has secrets in it.
    """
    if not os.path.isfile(path):  # Path.is_file raises where a directory is closed
        return {}
    parser = configparser.RawConfigParser(
        default_section=""
    )  # as botocore reads it: "default" is like any other
    try:
        parser.read_string(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f'cannot read AWS file "{path}"', f"{error.strerror}.") from error
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or next(iter(getattr(error, "errors", [(None,)])))[0]
        raise ConfigError(f'AWS file "{path}" cannot be read', f"Line {line} makes no sense.") from None
    except UnicodeDecodeError:
        raise ConfigError(f'AWS file "{path}" cannot be read', "It is not UTF-8 text.") from None
    return {name: dict(parser.items(name)) for name in parser.sections()}
