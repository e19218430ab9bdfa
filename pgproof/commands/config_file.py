"""The configuration file as ``init`` writes it: sections are added, and what is there stays byte for byte.

Order of the write: temporary file beside it, fsync, rename, fsync of the directory. A crash leaves the old file
or the new one, whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgproof.config import Config, load, parse
from pgproof.errors import ConfigError

_HEAD = """\
# pgproof.toml: what pgproof protects, and where. What is commented out shows the default, or an example.
# Secrets are references: "env:NAME" or "file:/path".
"""
_REPOSITORY = """\
# compression_level = 3
# age_recipients = ["age1..."]             # encrypt what is stored for these keys
# age_identity = "file:/etc/pgproof.key"   # needed to restore what is encrypted
"""
_S3 = """\
# access_key_id = "env:AWS_ACCESS_KEY_ID"  # without: environment, AWS profile, role
# secret_access_key = "env:AWS_SECRET_ACCESS_KEY"
"""
_CLUSTER = """\

# [clusters.NAME.retention]
# daily = 7
# weekly = 4
# monthly = 12
# wal_window = "7d"                        # any point in time as far back as this
# approve_above = 0.5                      # an expire of a larger share of the backups asks somebody first

# [clusters.NAME.targets]
# rpo = "5min"                             # newest commit that is not yet in the repository
# rto = "1h"                               # from the decision to restore to a server that answers
# backup_age = "26h"                       # of the newest backup; an older one is overdue

# [clusters.NAME.wal]
# workers = 2                              # WAL files stored or fetched at once
# push_timeout = "1min"
# prefetch_size = "256MB"                  # WAL fetched ahead of recovery
# slot = "pgproof"                         # of wal receive

# [clusters.NAME.backup]
# volume_size = "128MB"
# workers = 2
# checkpoint = "fast"                      # or "spread"
# max_rate = 0                             # kB/s that the server may send; 0 is no limit
# archive_timeout = "5min"                 # wait for the backup's last WAL segment

# [clusters.NAME.drill]
# scratch_directory = "~/.local/state/pgproof/scratch"   # it needs room for the whole cluster
# candidates = 6                           # fences tried at once for one exact cut
# workers = 2                              # connections that count and fingerprint
# archive_timeout = "2min"
# replay_timeout = "6h"
# statement_timeout = "1h"                 # of one table's fingerprint
# sample_above = "0kB"                     # sample larger tables by block; 0 reads every table whole
# sample_percent = 10.0
# exclude_databases = []                   # named as not checked
# exclude_tables = []                      # "database.schema.table", named as not checked
# as_restored = 1                          # one drill in so many restores as a user is told to, too; 0 none
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What ``init`` was asked to configure.

    Args:
        name: of the cluster.
        dsn: without a password.
        password: a reference, or None.
        url, endpoint, region: of the repository.
    """

    name: str
    dsn: str
    password: str | None
    url: str
    endpoint: str | None = None
    region: str | None = None


@dataclass(frozen=True, slots=True)
class Addition:
    """Sections to add to a file.

    Args:
        path: of the file, with links resolved.
        before: its bytes; None when there is no file.
        wanted: what is added.
        repository: name of the cluster's repository section.
        adds_repository: whether that section is new.
    """

    path: Path
    before: bytes | None
    wanted: Wanted
    repository: str
    adds_repository: bool

    def text(self, system_identifier: int | None) -> str:
        """The sections."""
        wanted = self.wanted
        parts = [_HEAD] if self.before is None else []
        if self.adds_repository:
            lines = [("url", wanted.url), ("endpoint", wanted.endpoint), ("region", wanted.region)]
            more = _REPOSITORY + (_S3 if wanted.url.startswith("s3:") else "")
            parts.append(_section(f"repositories.{self.repository}", lines) + more)
        lines = [("dsn", wanted.dsn), ("password", wanted.password), ("repository", self.repository)]
        section = _section(f"clusters.{wanted.name}", lines)
        if wanted.password is None:
            section += '# password = "env:NAME"                    # without: ~/.pgpass, or none\n'
        if system_identifier is not None:
            section += f"system_identifier = {system_identifier}\n"
        parts.append(section + _CLUSTER.replace("NAME.", f"{wanted.name}."))
        return "\n".join(parts)

    def content(self, system_identifier: int | None) -> bytes:
        """The whole file: what was there, and the sections."""
        text = self.text(system_identifier).encode()
        if not self.before:
            return text
        return self.before + (b"\n" if self.before.endswith(b"\n") else b"\n\n") + text

    def config(self, path: Path, system_identifier: int | None = None) -> Config:
        """What the file will say.

        Raises:
            ConfigError: the sections cannot be added to it, or a value is wrong.
        """
        try:
            return parse(tomllib.loads(self.content(system_identifier).decode()), path)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f'cannot add cluster "{self.wanted.name}" to configuration "{path}"',
                f"With the new sections it is not valid TOML: {error}.",
                "write [repositories.NAME] and [clusters.NAME] as sections, not as inline tables",
            ) from error

    def write(self, system_identifier: int) -> None:
        """Write the file; mode 0600 when it is new, else as it was.

        Raises:
            ConfigError: it changed meanwhile, or cannot be written.
        """
        try:
            with _locked(self.path.parent):
                if _bytes(self.path) != self.before:
                    raise ConfigError(
                        f'configuration "{self.path}" changed meanwhile', hint="run pgproof init again"
                    )
                _replace(self.path, self.content(system_identifier))
        except OSError as error:
            raise ConfigError(f'cannot write configuration "{self.path}"', f"{error.strerror}.") from error


def plan_addition(path: Path, wanted: Wanted) -> Addition:
    """The sections that a configuration lacks; nothing is written.

    Args:
        path: absolute.
        wanted: what to add. A repository section with the same URL is used again.

    Raises:
        ConfigError: the file is there and is not a valid configuration, or has a cluster of this name.
    """
    resolved = path.resolve()
    try:
        before = _bytes(resolved)
    except OSError as error:
        raise ConfigError(f'cannot read configuration "{path}"', f"{error.strerror}.") from error
    if before is None and not resolved.parent.is_dir():
        raise ConfigError(
            f'cannot write configuration "{path}"',
            f"There is no directory {resolved.parent}.",
            f"mkdir -p {resolved.parent}",
        )
    config = Config(path=path) if before is None else load(path)
    if wanted.name in config.clusters:
        raise ConfigError(
            f'cluster "{wanted.name}" is configured already',
            f"{path} has a section [clusters.{wanted.name}] with another dsn or repository.",
            "choose another name, or edit the section",
        )
    for name, repository in config.repositories.items():
        same = repository.url.rstrip("/") == wanted.url.rstrip("/")
        if same and wanted.endpoint in (None, repository.endpoint):
            return Addition(resolved, before, wanted, name, adds_repository=False)
    free = next(name for name in _names(wanted.name) if name not in config.repositories)
    return Addition(resolved, before, wanted, free, adds_repository=True)


def _names(cluster: str) -> Iterator[str]:
    yield from ("main", cluster)
    number = 2
    while True:
        yield f"{cluster}-{number}"
        number += 1


def _section(name: str, values: list[tuple[str, Any]]) -> str:
    lines = [f"{key} = {_quoted(value)}\n" for key, value in values if value is not None]
    return f"[{name}]\n{''.join(lines)}"


def _quoted(value: str) -> str:
    """A TOML basic string: JSON's escapes, and DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _bytes(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One ``init`` at a time in a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            with contextlib.suppress(FileNotFoundError):  # the archiver's account may have to read it
                present = path.stat()
                if (present.st_uid, present.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), present.st_uid, present.st_gid)
                os.fchmod(file.fileno(), present.st_mode & 0o7777)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
