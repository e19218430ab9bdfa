"""WAL commands are how PostgreSQL calls this program for each WAL file: ``archive_command`` and ``restore_command``.

PostgreSQL takes **every** exit code from 1 to 125 of a restore_command for "the archive does not have it", and ends
recovery there (``RestoreArchivedFile``, ``wait_result_is_any_signal``). A Python that cannot import, has no memory or
no file descriptors ends with 1, a shell that cannot fork with 2. So "not archived" has a code of its own that neither
ever uses, and the shell that PostgreSQL starts translates: that code to 1, any other one to over 125.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from pgproof.errors import NOT_ARCHIVED
from pgproof.postgres.programs import running_program

# A trap, because it also runs when the shell itself fails. Nothing in it needs quotes, in no file and no SQL.
_TRANSLATION = (
    f"end() {{ c=$?; case $c in 0) ;; {NOT_ARCHIVED}) c=1 ;; *) [ $c -gt 125 ] || c=254 ;; esac; exit $c; }}; "
    "trap end EXIT; "
)
_WAL_FETCH = re.compile(r"pgproof.*\bwal\s+fetch\b", re.DOTALL)
_TRANSLATED = re.compile(rf"\b{NOT_ARCHIVED}\s*\)")


def archive_command(config: Path) -> str:
    """The archive_command of a server that pgproof protects.

    Args:
        config: path of pgproof.toml.
    """
    return f"{_call(config)} wal push %p"


def restore_command(config: Path, cluster: str, *options: str) -> str:
    """The restore_command of a restored cluster.

    Args:
        config: path of pgproof.toml.
        cluster: its name there.
        options: more words for ``wal fetch``, quoted as the shell and PostgreSQL take them.
    """
    words = [_call(config), "wal fetch", f"--cluster {cluster}", *options, '%f "%p"']
    return translated(" ".join(words))


def translated(command: str) -> str:
    """A restore_command of PostgreSQL, which no fault can make look like the end of the archive.

    Args:
        command: that calls ``wal fetch``.
    """
    return _TRANSLATION + command


def hides_faults(command: str) -> bool:
    """Whether a restore_command hands the exit codes of ``wal fetch`` to PostgreSQL as they are."""
    return bool(_WAL_FETCH.search(command)) and not _TRANSLATED.search(command)


def _call(config: Path) -> str:
    """This program as a shell starts it from anywhere; PATH and working directory of a server are others."""
    words = [*running_program(), "--config", str(config.absolute())]
    return shlex.join(words).replace("%", "%%")
