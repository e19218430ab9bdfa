"""A configuration is the files that set a source: postgresql.conf, pg_hba.conf, pg_ident.conf and what they include.

A base backup has those inside the data directory alone; Debian, Patroni and most containers keep them elsewhere. So a
backup takes all of them as soon as one lies outside, from this machine when the server runs here and lets us read them,
else with ``pg_read_binary_file`` where the role may. What cannot be taken is named in the record and fails no backup.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from pgproof.backups.source_files import Reader, There, Unreadable, here_of, runs_here
from pgproof.config import ClusterConfig
from pgproof.errors import PgproofError
from pgproof.postgres.connection import connect
from pgproof.postgres.includes import Include, auth_includes, settings_includes
from pgproof.postgres.names import bytes_of, in_bytes, name_of
from pgproof.repository.codec import bounded
from pgproof.repository.repository import Archive, StoredObject

Found = TypeVar("Found")
ABSENT = "it is not there"
_LARGEST = 256 << 20  # bytes of all files
_MAINS = ("config_file", "hba_file", "ident_file")
_SETTINGS = f"SELECT name, {in_bytes('setting')} FROM pg_settings WHERE name = ANY(%s)"
_SOURCES = f"SELECT DISTINCT {in_bytes('sourcefile')} FROM pg_settings WHERE sourcefile IS NOT NULL"


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A file or directory that the source's configuration names and the backup does not have, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration of a backup's source, of which some files lie outside the data directory.

    Args:
        object: a tar of the files under their paths on the source, without the first slash; None when none was taken.
        files: their paths on the source.
        main: path of postgresql.conf, or whatever it is called, when it was taken; ``hba`` and ``ident`` likewise.
        auth: those of the files that ``hba`` and ``ident`` consist of.
        left_out: what was not taken.
    """

    object: StoredObject | None = None
    files: tuple[str, ...] = ()
    main: str | None = None
    hba: str | None = None
    ident: str | None = None
    auth: tuple[str, ...] = ()
    left_out: tuple[NotTaken, ...] = ()

    @property
    def lacks(self) -> str:
        """What was not taken, the first of it by name; empty when all was."""
        more = f" and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else ""
        return "; ".join(map(str, self.left_out[:3])) + more

    @property
    def warning(self) -> str:
        """What whoever restores the backup should know; empty when all of it was taken."""
        if not self.left_out:
            return ""
        return f"configuration outside the data directory was not taken: {self.lacks}; keep it yourself"

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Configuration:
        """Read it as a backup record holds it."""
        stored = StoredObject(**tree["object"]) if tree["object"] else None
        left_out = tuple(NotTaken(**item) for item in tree["left_out"])
        files, auth = tuple(tree["files"]), tuple(tree["auth"])
        return cls(**{**tree, "object": stored, "files": files, "auth": auth, "left_out": left_out})


@dataclass(slots=True)
class FoundConfiguration:
    """The configuration of a source as it was read.

    Args:
        files: path to content.
        directories: that ``include_dir`` names.
        mains: setting to path: config_file, hba_file, ident_file.
        auth: those of the files that are of authentication.
        left_out: what could not be read.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)
    mains: dict[str, str] = field(default_factory=dict)
    auth: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def stored_as(self, stored: StoredObject | None) -> Configuration:
        """It, with the object that holds its files."""
        main, hba, ident = (self._taken(name) for name in _MAINS)
        left_out = tuple(NotTaken(path, reason) for path, reason in self.left_out.items())
        return Configuration(
            stored, tuple(sorted(self.files)), main, hba, ident, tuple(sorted(self.auth)), left_out
        )

    def _taken(self, name: str) -> str | None:
        path = self.mains.get(name)
        return path if path in self.files else None

    def tar(self) -> bytes:
        """The files as a tar, each under its path without the first slash, for their owner alone."""
        into = io.BytesIO()
        with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(set(self.directories)):
                member = tarfile.TarInfo(path.lstrip("/"))
                member.type, member.mode = tarfile.DIRTYPE, 0o700
                tar.addfile(member)
            for path, content in sorted(self.files.items()):
                member = tarfile.TarInfo(path.lstrip("/"))
                member.size, member.mode = len(content), 0o600
                tar.addfile(member, io.BytesIO(content))
        return into.getvalue()


def store_configuration(
    cluster: ClusterConfig, archive: Archive, prefix: str, skipped: Iterable[str]
) -> Configuration | None:
    """Take the configuration of a source, and store it with a backup.

    Args:
        cluster: whose source is asked.
        archive: to store it in.
        prefix: of the backup's objects.
        skipped: paths below the data directory that the server left out of the base backup.

    Returns:
        what was taken and what was not; None where all of it lies inside the data directory.

    Raises:
        StoreUnavailable, NoRoom: it cannot be stored.
    """
    try:
        with connect(cluster) as connection:
            found = find_configuration(connection, archive.system_identifier, skipped)
    except PgproofError as error:  # hours of work must not be lost for it
        found = FoundConfiguration(left_out={"postgresql.conf": error.fact})
    if found is None:
        return None
    if not found.files:
        return found.stored_as(None)
    return found.stored_as(archive.write(f"{prefix}configuration.tar", [found.tar()]))


def find_configuration(
    connection: psycopg.Connection, system_identifier: int, skipped: Iterable[str]
) -> FoundConfiguration | None:
    """Read the configuration of a source; None where all of it lies inside the data directory.

    Args:
        connection: to the source.
        system_identifier: of its cluster.
        skipped: paths below the data directory that the server left out of the base backup: links.
    """
    rows = connection.execute(_SETTINGS.encode(), ([*_MAINS, "data_directory"],)).fetchall()
    settings = {name: name_of(value) for name, value in rows if value}
    data = settings.pop("data_directory", None)
    if data is None or "config_file" not in settings:
        reason = "the role may not see where it is; GRANT pg_monitor"
        return FoundConfiguration(left_out={"postgresql.conf": reason})
    here = here_of(data) if runs_here(Path(data), system_identifier) else None
    there = There(connection, data, tuple(skipped))
    found = FoundConfiguration(mains=settings)
    _Reading(found, here, there, connection.info.server_version // 10000).read()
    sources = {name_of(path) for (path,) in connection.execute(_SOURCES.encode()).fetchall()}
    known = {*found.files, *found.left_out, *found.directories, *settings.values(), *sources}
    if not any((here or there).outside(path) for path in known):
        return None
    for path in sorted(sources - found.files.keys() - found.left_out.keys()):
        if (here or there).outside(path):
            found.left_out[path] = "no file that was read includes it"
    return found


class _Reading:
    """The closure of the includes of three files."""

    def __init__(self, found: FoundConfiguration, here: Reader | None, there: There, major: int) -> None:
        self._found, self._here, self._there, self._major = found, here, there, major

    def read(self) -> None:
        for name, path in self._found.mains.items():
            self._file(os.path.normpath(path), name == "config_file", required=True)

    def _file(self, path: str, settings: bool, *, required: bool) -> None:
        if path in self._found.files or path in self._found.left_out:
            return
        try:
            content = self._ask(lambda reader: reader.content(path))
        except Unreadable as error:
            self._found.left_out[path] = str(error)
            return
        if content is None:
            if required:
                self._found.left_out[path] = ABSENT
            return
        self._found.files[path] = content
        if not settings:
            self._found.auth.append(path)
        for include in settings_includes(content) if settings else auth_includes(content, self._major):
            self._include(path, include, settings)

    def _include(self, file: str, include: Include, settings: bool) -> None:
        target = include.target(file)
        if include.kind != "include_dir":
            self._file(target, settings, required=include.kind != "include_if_exists")
            return
        try:
            names = self._ask(lambda reader: reader.names(target))
        except Unreadable as error:
            self._found.left_out[target] = str(error)
            return
        if names is None:
            self._found.left_out[target] = ABSENT
            return
        self._found.directories.append(target)
        for name in sorted(names, key=bytes_of):
            if name.endswith(".conf") and not name.startswith("."):  # GetConfFilesInDir
                self._file(os.path.join(target, name), settings, required=True)

    def _ask(self, question: Callable[[Reader], Found | None]) -> Found | None:
        """Ask where the server runs, if that is here; else, and where that may not be read, the server itself."""
        if self._here is not None:
            try:
                return question(self._here)
            except Unreadable:
                if not self._there.may:
                    raise
        return question(self._there)


def members(content: Iterable[bytes]) -> Iterator[tuple[str, bytes | None]]:
    """Path and content of each file of a stored configuration; of a directory None.

    Args:
        content: of the tar.

    Raises:
        ObjectDamaged: it is larger than any configuration.
    """
    whole = b"".join(bounded("configuration.tar", content, _LARGEST))
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as tar:
        for member in tar:
            path = f"/{os.path.normpath(member.name)}"
            if ".." in Path(path).parts:
                continue
            file = tar.extractfile(member) if member.isreg() else None
            yield path, file.read() if file else None
