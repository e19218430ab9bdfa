"""Counts, bytes and seconds in the words of our pages, messages and artifacts."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and its noun: 1 volume, 2 volumes."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(count: float) -> str:
    """Bytes for a person: 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def load_of(files: int, wal: int) -> str:
    """What a restore has to do: bytes of files to put back, and of WAL to replay."""
    return f"{size(files)} and {size(wal)} of WAL"


def duration(seconds: float) -> str:
    """Seconds for a person: 3.2 s, 4 min 5 s, 2 h 3 min, 5 d 2 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, below, below_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{whole} s"
