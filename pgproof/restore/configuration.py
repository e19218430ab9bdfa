"""The configuration of a restored cluster: the files that a backup has from outside its source's data directory.

They lie below the directory of the restore record under the paths that they had, so that what they include by a
relative path is found; an absolute path is made a relative one, so that no file of this machine takes the place of one
of the source's. An acceptance puts them into the data directory, with a postgresql.conf that includes them.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pgproof.backups.configuration import ABSENT, Configuration, members
from pgproof.errors import ConfigError, ObjectDamaged, ObjectMissing
from pgproof.postgres.includes import Include, Kind, auth_includes, rewritten, settings_includes
from pgproof.postgres.rights import acting_as, owner_of
from pgproof.repository.repository import Archive
from pgproof.restore.plan import RestorePlan
from pgproof.restore.record import DIRECTORY, TREE, TakenFiles
from pgproof.restore.settings import quote
from pgproof.restore.whole_file import replace_file

ACCEPTED = "configuration"  # in the data directory
_NAME = re.compile(rb"(?m)^[ \t\r]*([A-Za-z_\x80-\xff][\w.$\x80-\xff]*)[ \t\r=]")
LOST = "the source's configuration files could not be restored"


@dataclass(frozen=True, slots=True)
class Placed:
    """What came of the configuration of a restore.

    Args:
        taken: the files; None when the backup has none.
        warnings: what is missing, a sentence each.
    """

    taken: TakenFiles | None = None
    warnings: tuple[str, ...] = ()


def place_configuration(plan: RestorePlan, archive: Archive, owner: pwd.struct_passwd | None) -> Placed:
    """Put the configuration of a backup beside the restore record; without it the data can be restored all the same.

    Args:
        plan: of the restore.
        archive: to read from.
        owner: account of the server when we are root.
    """
    found = plan.record.configuration
    if found is None or found.object is None:
        return Placed()
    tree = plan.request.destination / DIRECTORY / TREE
    try:
        content = list(archive.open_checked(found.object))
    except (ObjectDamaged, ObjectMissing, ConfigError) as error:
        return Placed(None, (f"{LOST}: {error.fact}; --config-file of pgproof start names others",))
    for path, text in members(content):
        place = tree / path.lstrip("/")
        with acting_as(owner):
            _make(place if text is None else place.parent, plan.request.destination)
        if text is not None:
            includes = (
                auth_includes(text, plan.record.major) if path in found.auth else settings_includes(text)
            )
            here = rewritten(text, includes, lambda include, file=path: _moved(found, file, include))  # type: ignore[misc]
            with acting_as(owner):
                _write(place, here)
    return Placed(TakenFiles(found.main, found.hba, found.ident))


def _moved(found: Configuration, file: str, include: Include) -> tuple[Kind, str] | None:
    """An include as it is in the restored tree; None when it may stay as it is."""
    target = include.target(file)
    unread = any(item.path == target and item.reason != ABSENT for item in found.left_out)
    kind: Kind = "include_if_exists" if unread and include.kind == "include" else include.kind
    if not os.path.isabs(include.path) and kind == include.kind:
        return None
    return kind, os.path.relpath(target, os.path.dirname(file))


def _make(directory: Path, above: Path) -> None:
    if directory == above or directory.is_dir():
        return
    _make(directory.parent, above)
    directory.mkdir(mode=0o700)


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
        os.fsync(file.fileno())


def settings_in(file: Path) -> set[str]:
    """The names of the settings that a configuration file and what it includes give; what cannot be read gives none.

    Args:
        file: absolute path of a postgresql.conf.
    """
    found: set[str] = set()
    waiting, seen = [str(file)], set[str]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        try:
            if os.path.isdir(path):
                waiting += [os.path.join(path, name) for name in os.listdir(path) if name.endswith(".conf")]
                continue
            text = Path(path).read_bytes()
        except OSError:
            continue
        waiting += [include.target(path) for include in settings_includes(text)]
        found |= {name.decode(errors="replace").lower() for name in _NAME.findall(text)}
    return found - {"include", "include_if_exists", "include_dir"}


def keep_configuration(data: Path, taken: TakenFiles) -> Path:
    """Make what a restored cluster was started with its own configuration; done again after a crash it does the same.

    Args:
        data: the restored directory.
        taken: the files, which lie in the directory of its restore record.

    Returns:
        its postgresql.conf.
    """
    tree = data / DIRECTORY / TREE
    with acting_as(owner_of(data)):
        _make(data / ACCEPTED, data)
        for path in sorted(tree.rglob("*")):
            place = data / ACCEPTED / path.relative_to(tree)
            if path.is_dir():
                _make(place, data)
            else:
                replace_file(place, path.read_bytes())
        settings = {"data_directory": str(data), **_auth_settings(data / ACCEPTED, taken)}
        assert taken.main is not None
        lines = [
            "# written by pgproof accept: the source kept its configuration outside the data directory\n",
            f"include {quote(f'{ACCEPTED}{taken.main}')}\n",
            *(f"{name} = {quote(value)}\n" for name, value in settings.items()),
        ]
        replace_file(data / "postgresql.conf", os.fsencode("".join(lines)))
    return data / "postgresql.conf"


def _auth_settings(tree: Path, taken: TakenFiles) -> Mapping[str, str]:
    files = {"hba_file": taken.hba, "ident_file": taken.ident}
    return {name: f"{tree}{path}" for name, path in files.items() if path}
