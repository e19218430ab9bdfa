"""A fault is an error of a server: it tells of damage in what is stored, of a shortage of its machine, or of neither.

A shortage is what the machine lacks to answer: a library, a locale, memory, room. It says nothing of the data, and
another machine may answer. The codes are those of the manual's appendix A; the file is that of PostgreSQL's source.
"""

from __future__ import annotations

import re

import psycopg

_LOADER = "dfmgr.c"  # finds and loads the libraries of extensions
_LOCALES = "pg_locale"  # pg_locale.c, and from 18 on a file for each provider
_QUOTED = re.compile(r'"([^"]+)"')
# What a server, or a program of PostgreSQL, says of its machine where it gives no code; a server of ours says it in
# English (lc_messages). Each pattern with what is lacking. "out of memory while trying to decode a record" is said of a
# damaged length in WAL (``XLogDecodeNextRecord``).
_SAID = {
    re.compile(
        r'could not (?:access file|load library) "|could not find function "[^"]*" in file|incompatible library "'
    ): "a library that fits",
    re.compile(
        r"not recognized by setlocale|incompatible with operating system|could not create locale|"
        r"could not open collator|ICU is not supported in this build"
    ): "a locale of the source",
    re.compile(r"No space left on device|Disk quota exceeded"): "room on a disk",
    re.compile(
        r"Cannot allocate memory|out of (?:shared )?memory(?! while)|could not fork|"
        r"could not (?:map anonymous shared memory|create (?:shared memory|semaphores))"
    ): "memory",
    re.compile(r"Too many open files|out of file descriptors"): "file descriptors",
    re.compile(r"too many clients|remaining connection slots"): "a free connection",
}


def said_by(error: psycopg.Error) -> str:
    """What the server said, or psycopg where it said nothing, on one line."""
    return error.diag.message_primary or " ".join(str(error).split())


def tells_of_damage(error: psycopg.Error) -> bool:
    """Whether a server could not read what is stored: data_corrupted, index_corrupted, a fault of a file.

    A length that makes no sense is found only when memory is asked for it (``palloc``), and that is an internal
    error, whose text is never translated. The text of a sound value can be too long, too: see ``too_long``.
    """
    state = error.sqlstate or ""
    damage = state.startswith(("XX001", "XX002", "58")) or _refused_length(error)
    return damage and not shortage(error)


def too_long(error: psycopg.Error) -> bool:
    """Whether a server refused to make a value of more than 1 GB: a length is damaged, or a sound text is that long.

    ``palloc`` refuses with an internal error, ``enlargeStringInfo`` with program_limit_exceeded.
    """
    return error.sqlstate == "54000" or _refused_length(error)


def _refused_length(error: psycopg.Error) -> bool:
    return error.sqlstate == "XX000" and "alloc request" in str(error)


def shortage(error: psycopg.Error) -> str:
    """What the server's machine lacks to answer, in a sentence; empty when the error may be one of the data.

    Args:
        error: of a query, or of a connection that was refused.
    """
    state, file, said = error.sqlstate or "", error.diag.source_file or "", said_by(error)
    if file == _LOADER:
        return _library(said)
    if file.startswith(_LOCALES):
        return f"this machine lacks a locale of the source: {said}"
    if state == "F0000":  # config_file_error, such as of a text search dictionary
        return f"this machine lacks a configuration file, or has another one: {said}"
    if state == "0A000" and "to be built with" in (detail := error.diag.message_detail or ""):
        return f"this machine's PostgreSQL lacks what the source's has: {said}. {detail}"
    if state.startswith("53") or state == "54001":  # insufficient_resources, statement_too_complex
        return f"this machine is short of memory, room or the like: {said}"
    return "" if state else shortage_in(said)


def shortage_in(text: str) -> str:
    """What a machine lacks by the words of a server or a program of PostgreSQL; empty when they tell of none.

    Args:
        text: one or more lines, in English.
    """
    for line in text.split("\n"):
        for pattern, what in _SAID.items():
            if pattern.search(line):
                said = " ".join(line.split())
                return _library(said) if "library" in what else f"this machine lacks {what}: {said}"
    return ""


def _library(said: str) -> str:
    names = _QUOTED.findall(said)
    name = f' "{names[-1]}"' if names else ""
    return f"this machine lacks library{name} of an extension, or has another version; install its package: {said}"
