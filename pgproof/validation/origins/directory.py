"""A directory of base backups as pg_basebackup makes them, plain or tar, beside a directory of WAL files."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from pgproof.config import DirectoryConfig
from pgproof.errors import DestinationRefused, NoBackup, NoRoom, ObjectDamaged, ObjectMissing, PgproofError
from pgproof.postgres.rights import acting_as, make_directory, own_tree
from pgproof.restore.execute import make_startable
from pgproof.restore.extract import extract_member, link_tablespaces
from pgproof.restore.whole_file import replace_file
from pgproof.timelines.lsn import LSN
from pgproof.validation.origins.origin import ForeignBackup
from pgproof.validation.origins.stored import copy_stored, find_stored, opened, plain_name, size_of_files


class Directory:
    """Backups that pg_basebackup made, and WAL that a script kept."""

    kind = "directory"

    def __init__(self, config: DirectoryConfig, owner: pwd.struct_passwd | None = None) -> None:
        self._config, self._owner = config, owner

    @property
    def title(self) -> str:
        return f'directory "{self._config.backups}"'

    def version(self) -> str:
        return ""

    def backups(self) -> Sequence[ForeignBackup]:
        """The directory itself when it is one backup, else each of its directories that is one.

        Raises:
            NoBackup: it cannot be read.
        """
        root = self._config.backups
        try:
            places = [root] if _is_backup(root) else sorted(p for p in root.iterdir() if _is_backup(p))
        except OSError as error:
            raise NoBackup(f'cannot read directory "{root}"', f"{error.strerror}.") from error
        return sorted(
            (_describe(place) for place in places), key=lambda one: (one.stop_lsn or LSN(0), one.label)
        )

    def restore(self, backup: ForeignBackup, data: Path, tablespaces: Path) -> tuple[str, ...]:
        place = self._place(backup.label)
        try:
            if (place / "PG_VERSION").is_file():
                self._copy(place, data, tablespaces)
            else:
                self._extract(place, data, tablespaces)
        except shutil.Error as error:
            raise ObjectDamaged(f'backup "{place}" cannot be copied', f"{error.args[0][0][2]}.") from error
        except OSError as error:
            kind = NoRoom if error.errno in (28, 122) else DestinationRefused
            raise kind(f'cannot copy backup "{place}"', f"{error}.") from error
        return ()

    def fetch(self, name: str, destination: Path, data: Path) -> None:
        path = find_stored(self._config.wal, name)
        if path is None:
            if not self._config.wal.is_dir():  # an unmounted disk is no missing segment
                raise DestinationRefused(
                    f'WAL directory "{self._config.wal}" does not exist',
                    hint="set wal in the cluster's directory section",
                )
            raise ObjectMissing(f'WAL file "{name}" is not in directory "{self._config.wal}"')
        copy_stored(path, destination)

    def _place(self, label: str) -> Path:
        root = self._config.backups
        return root if _is_backup(root) else root / label

    def _copy(self, place: Path, data: Path, tablespaces: Path) -> None:
        """A plain backup; its tablespaces lie where its links lead."""
        if self._owner is not None:  # nobody else writes there until all of it is the account's
            for made in (data, tablespaces):
                os.chown(made, 0, 0, follow_symlinks=False)
        shutil.copytree(place, data, symlinks=True, dirs_exist_ok=True)
        if (place / "pg_wal").is_symlink():  # pg_basebackup --waldir
            (data / "pg_wal").unlink()
            shutil.copytree(place / "pg_wal", data / "pg_wal")
        found: dict[int, Path] = {}
        for link in sorted((place / "pg_tblspc").iterdir()) if (place / "pg_tblspc").is_dir() else ():
            if link.is_symlink() and link.name.isdigit():
                found[int(link.name)] = tablespaces / link.name
                (data / "pg_tblspc" / link.name).unlink()
                shutil.copytree(link, tablespaces / link.name, symlinks=True)
        own_tree(data, self._owner)
        own_tree(tablespaces, self._owner)
        link_tablespaces(data, found, self._owner)

    def _extract(self, place: Path, data: Path, tablespaces: Path) -> None:
        """A tar backup: base.tar, <OID>.tar of each tablespace, pg_wal.tar, and the manifest beside them."""
        tars = {plain_name(path).removesuffix(".tar"): path for path in place.iterdir() if _is_tar(path)}
        found: dict[int, Path] = {}
        for name in sorted(tars, key=lambda name: name != "base"):
            root = data if name == "base" else data / "pg_wal" if name == "pg_wal" else tablespaces / name
            if name.isdigit():
                found[int(name)] = root
                make_directory(root, self._owner)
            elif root != data and name != "pg_wal":
                continue
            self._extract_tar(tars[name], root, is_data=name == "base")
        link_tablespaces(data, found, self._owner)
        manifest = find_stored(place, "backup_manifest")
        if manifest is not None:
            with opened(manifest) as file:
                replace_file(data / "backup_manifest", file.read(), self._owner)
        with acting_as(self._owner):
            make_startable(data, sync=False)

    def _extract_tar(self, path: Path, root: Path, *, is_data: bool) -> None:
        with opened(path) as file, tarfile.open(fileobj=file, mode="r|", bufsize=1 << 20) as tar:
            for member in tar:
                extract_member(tar, member, root, is_data, self._owner)


def _is_tar(path: Path) -> bool:
    return plain_name(path).endswith(".tar") and path.is_file()


def _is_backup(path: Path) -> bool:
    return path.is_dir() and ((path / "PG_VERSION").is_file() or find_stored(path, "base.tar") is not None)


def _describe(place: Path) -> ForeignBackup:
    """What the manifest and the files say."""
    manifest = find_stored(place, "backup_manifest")
    stop, system = None, None
    if manifest is not None:
        stop, system = _manifest_facts(manifest)
    return ForeignBackup(place.name, stop_lsn=stop, system_identifier=system, size=size_of_files(place))


def _manifest_facts(path: Path) -> tuple[LSN | None, int | None]:
    """End of its WAL, and the system identifier, which manifests have from PostgreSQL 17 on.

    A manifest that cannot be read says nothing here: pg_verifybackup judges it after the restore.
    """
    try:
        with opened(path) as file:
            tree = json.loads(file.read())
        end = max((LSN.parse(item["End-LSN"]) for item in tree["WAL-Ranges"]), default=None)
        return end, tree.get("System-Identifier")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, PgproofError):
        return None, None
