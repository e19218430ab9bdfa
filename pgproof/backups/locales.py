"""The locales of a backup: what the operating system must give a server, so that it starts and sorts as it did.

A database whose locale is not installed cannot be opened (``CheckMyDatabase``), a server with such a setting does not
start, and where the C library sorts in another way, indexes over text find less than there is.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import psycopg

_LIBC = ctypes.CDLL(None)
_EVERY_CATEGORY = 0x1FBF  # LC_ALL_MASK of glibc
_QUERY = """
SELECT name, max(version)
  FROM (SELECT datcollate, CASE WHEN datlocprovider = 'c' THEN pg_database_collation_actual_version(oid) END
          FROM pg_database
         WHERE datallowconn
        UNION SELECT datctype, NULL FROM pg_database WHERE datallowconn
        UNION SELECT setting, NULL FROM pg_settings
               WHERE name IN ('lc_messages', 'lc_monetary', 'lc_numeric', 'lc_time')) AS used (name, version)
 WHERE name NOT IN ('', 'C', 'POSIX')
 GROUP BY name ORDER BY name"""


@dataclass(frozen=True, slots=True)
class Locale:
    """A locale of the operating system, and the version of the C library that sorted text by it, if any did."""

    name: str
    version: str | None = None


def read_locales(connection: psycopg.Connection) -> tuple[Locale, ...]:
    """The locales that databases and settings of a server name, but for C and POSIX."""
    return tuple(Locale(*row) for row in connection.execute(_QUERY).fetchall())


def missing_here(locales: tuple[Locale, ...]) -> list[str]:
    """The names of those that this machine does not have."""
    return [locale.name for locale in locales if not _is_installed(locale.name)]


def sorted_otherwise(locales: tuple[Locale, ...]) -> str | None:
    """The C library's version that sorted text on the source, where this machine has another one; else None."""
    here = library_version()
    versions = {locale.version for locale in locales if locale.version}
    return min(versions - {here}, default=None) if here else None


def library_version() -> str | None:
    """The version of glibc, as PostgreSQL records it; None where there is another C library."""
    try:
        version = _LIBC.gnu_get_libc_version
    except AttributeError:
        return None
    version.restype = ctypes.c_char_p
    return str(version().decode())


def _is_installed(name: str) -> bool:
    _LIBC.newlocale.restype = ctypes.c_void_p
    found = _LIBC.newlocale(_EVERY_CATEGORY, name.encode(), None)
    if found:
        _LIBC.freelocale(ctypes.c_void_p(found))
    return bool(found)
