"""A quantity of pgproof.toml or the command line: a number with a unit, as PostgreSQL writes them."""

from __future__ import annotations

import re

from pgproof.errors import UsageError

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_SIZES = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def _quantity(text: object, units: dict[str, int], example: str) -> int:
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError(f'"{text}" is negative')
        return text
    match = re.fullmatch(r"([0-9]+)\s*([A-Za-z]+)", str(text).strip())
    if match is None or match[2] not in units:
        raise ValueError(f'"{text}" needs a number and a unit of {", ".join(units)}, such as "{example}"')
    return int(match[1]) * units[match[2]]


def duration(text: object) -> int:
    """Seconds; a ValueError says what is wrong."""
    return _quantity(text, _UNITS, "5min")


def parse_duration(text: str) -> int:
    """A duration of the command line, in seconds: ``90``, ``15min``, ``24h``.

    Raises:
        UsageError: it is none.
    """
    try:
        return duration(int(text) if text.isdigit() else text)
    except ValueError as error:
        raise UsageError(f'invalid duration "{text}"', f"{error}.") from error


def size(text: object) -> int:
    """Bytes; a ValueError says what is wrong."""
    return _quantity(text, _SIZES, "64MB")
