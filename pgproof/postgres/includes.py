"""An include is what a configuration file of PostgreSQL names as a part of itself, found in its text and written again.

In postgresql.conf the words are ``include``, ``include_if_exists`` and ``include_dir`` (``ParseConfigFp``); in
pg_hba.conf and pg_ident.conf the same from PostgreSQL 16 on, and ``@file`` in every version (``tokenize_auth_file``).
A relative path begins at the file that names it (``AbsoluteConfigLocation``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["include", "include_if_exists", "include_dir", "@"]

AUTH_INCLUDES = 16  # the first major version with them in pg_hba.conf
_SETTING = re.compile(
    rb"(?im)^[ \t\r]*(include_if_exists|include_dir|include)(?![\w.])[ \t\r]*=?[ \t\r]*"
    rb"('(?:[^'\\\n]|\\.|'')*'|[^\s#'=][^\s#']*)"
)
_AUTH = re.compile(rb'(?m)^[ \t]*(include_if_exists|include_dir|include)[ \t]+("[^"\n]*"|[^\s,"#]+)')
_LIST = re.compile(rb'(?<![^\s,])@("[^"\n]+"|[^\s,"#]+)')
_COMMENT = re.compile(rb'(?m)^((?:[^"#\n]|"[^"\n]*")*)#[^\n]*')
_ESCAPE = re.compile(rb"''|\\([0-7]{1,3}|.)")
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


@dataclass(frozen=True, slots=True)
class Include:
    """One include of a file.

    Args:
        kind: its word; ``@`` for a list of names.
        path: as it is written there.
        word: where the word stands: first byte, and the one after the last.
        place: where the path stands, with its quotes.
        auth: whether it stands in a file of authentication.
    """

    kind: Kind
    path: str
    word: tuple[int, int]
    place: tuple[int, int]
    auth: bool = False

    def target(self, file: str) -> str:
        """The absolute path that it means in a file.

        Args:
            file: absolute path of the file that it stands in.
        """
        return os.path.normpath(os.path.join(os.path.dirname(file), self.path))


def settings_includes(text: bytes) -> Iterator[Include]:
    """The includes of postgresql.conf or a file of its kind, in order."""
    for match in _SETTING.finditer(text):
        path = os.fsdecode(_unquoted(match[2]))
        yield Include(match[1].decode().lower(), path, match.span(1), match.span(2))  # type: ignore[arg-type]


def auth_includes(text: bytes, major: int) -> Iterator[Include]:
    """The includes of pg_hba.conf, pg_ident.conf or a file of their kind.

    Args:
        text: of the file.
        major: version of the server.
    """
    bare = _COMMENT.sub(lambda match: match[1] + b" " * (len(match[0]) - len(match[1])), text)
    if major >= AUTH_INCLUDES:
        for match in _AUTH.finditer(bare):
            path = os.fsdecode(match[2].strip(b'"'))
            yield Include(match[1].decode(), path, match.span(1), match.span(2), True)  # type: ignore[arg-type]
    for match in _LIST.finditer(bare):
        path, word = os.fsdecode(match[1].strip(b'"')), (match.start(), match.start(1))
        yield Include("@", path, word, match.span(1), True)


def _unquoted(value: bytes) -> bytes:
    """The bytes of a value as it is written (``DeescapeQuotedString``)."""
    if not value.startswith(b"'"):
        return value

    def plain(match: re.Match[bytes]) -> bytes:
        escaped = match[1]
        if escaped is None:
            return b"'"
        if escaped.isdigit() and escaped[:1] in b"01234567":
            return bytes([int(escaped, 8) & 0xFF])
        return _ESCAPES.get(escaped, escaped)

    return _ESCAPE.sub(plain, value[1:-1])


def rewritten(
    text: bytes, includes: Iterator[Include], new: Callable[[Include], tuple[Kind, str] | None]
) -> bytes:
    """A text with other words and paths in its includes.

    Args:
        text: of the file.
        includes: of it.
        new: word and path of an include; None leaves it as it is.
    """
    parts, done = [], 0
    for include in sorted(includes, key=lambda found: found.word):
        changed = new(include)
        if changed is None:
            continue
        kind, path = changed
        parts += [text[done : include.word[0]], kind.encode(), text[include.word[1] : include.place[0]]]
        parts.append(_quoted(path, include.auth))
        done = include.place[1]
    return b"".join([*parts, text[done:]])


def _quoted(path: str, auth: bool) -> bytes:
    """A path as a file takes it: in double quotes where it is of authentication, else in single ones."""
    value = os.fsencode(path)
    if auth:
        return b'"' + value + b'"'
    return b"'" + value.replace(b"\\", b"\\\\").replace(b"'", b"''") + b"'"
