"""Skipped is what the server left out of a base backup, and said so in a warning alone: symbolic links, special files.

A database, a relation or a tablespace that was moved to another disk and linked is served happily, and is in no backup:
that fails. A linked configuration file is named, in the record and wherever a restore is planned.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from pgproof.errors import BackupFailed
from pgproof.postgres.notices import Notice

# What a server cannot be recovered without; other directories of its own it makes again, or sends empty anyway
_ESSENTIAL = (
    "base",
    "global",
    "pg_tblspc",
    "pg_xact",
    "pg_multixact",
    "pg_twophase",
    "pg_commit_ts",
    "pg_logical",
)
_MOST = 10  # that an error names


def check_skipped(cluster: str, notices: Iterable[Notice]) -> tuple[str, ...]:
    """What a base backup left out and can be restored without, such as ``conf.d``.

    Args:
        cluster: its name.
        notices: the warnings of BASE_BACKUP.

    Raises:
        BackupFailed: a part of the data was left out.
    """
    paths = sorted({notice.left_out for notice in notices if notice.left_out})
    lost = [path for path in paths if _is_essential(path)]
    if lost:
        more = f" and {len(lost) - _MOST} more" if len(lost) > _MOST else ""
        raise BackupFailed(
            f'cluster "{cluster}" has data that no base backup holds',
            f"The server left out {', '.join(lost[:_MOST])}{more}: a symbolic link or special file, which it does not "
            "follow.",
            f"stop the server, then bring it back: {_bring_back(lost[0])}; for another disk: CREATE TABLESPACE",
        )
    return tuple(paths)


def warning_of(skipped: tuple[str, ...]) -> str:
    """A sentence about what a backup lacks."""
    return (
        f"{', '.join(skipped)} of the data directory {'is' if len(skipped) == 1 else 'are'} not in it: symbolic links "
        "or special files, which PostgreSQL leaves out; keep them yourself, and put them back before the server starts"
    )


def _is_essential(path: str) -> bool:
    return path.startswith("/") or path.split("/", 1)[0] in _ESSENTIAL


def _bring_back(path: str) -> str:
    """The commands that put the content of a link in its place, in the data directory of a stopped server."""
    link, new = shlex.quote(path), shlex.quote(f"{path}.new")
    return f"cp -aL {link} {new} && rm {link} && mv {new} {link}"
