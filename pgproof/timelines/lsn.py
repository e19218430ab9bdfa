"""An LSN is a position in the write-ahead log, a 64-bit number printed as PostgreSQL prints it."""

from __future__ import annotations

import re

from pgproof.errors import InvalidTarget

_FORM = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class LSN(int):
    """A log sequence number; ordered as a number, so that ``9/0`` is before ``10/0``.

    The textual form is that of ``pg_lsn`` (PostgreSQL manual, 8.20).
    """

    def __new__(cls, value: int = 0) -> LSN:
        if not 0 <= value < 1 << 64:
            raise InvalidTarget(f"LSN {value} is out of range", "An LSN has 64 bits.")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> LSN:
        """Read an LSN such as ``16/B374D848``.

        Raises:
            InvalidTarget: the text is not an LSN.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise InvalidTarget(
                f'invalid LSN "{text}"',
                "An LSN is two hexadecimal numbers of up to 8 digits with a slash between.",
                "such as 16/B374D848; SELECT pg_current_wal_lsn() shows one",
            )
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{int(self) >> 32:X}/{int(self) & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"LSN('{self}')"

    def __reduce__(self) -> tuple[type[LSN], tuple[int]]:
        return (LSN, (int(self),))
