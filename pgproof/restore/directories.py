"""The directories that a restore fills: the data directory and its tablespaces, of which one may lie inside another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def entries_besides(path: Path, others: Sequence[Path]) -> list[str]:
    """What a directory holds besides other directories of the same restore, such as a mount point of a tablespace.

    Raises:
        OSError: it cannot be read.
    """
    found: list[str] = []
    for name in sorted(os.listdir(path)):
        inner = path / name
        if inner in others and inner.is_dir():
            continue
        leads = any(inner in other.parents for other in others) and inner.is_dir() and not inner.is_symlink()
        found += entries_besides(inner, others) if leads else [name]
    return found


def fault_of(path: Path, others: Sequence[Path]) -> str | None:
    """Why a restore cannot fill a directory; None when it can."""
    if not path.is_absolute():
        return "it is not an absolute path"
    if path.exists() and not path.is_dir():
        return "it is not a directory"
    if path.is_dir():
        try:
            names = entries_besides(path, others)
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        return f"it is not empty: it has {len(names)} entries, such as {names[0]}" if names else None
    parent = path
    while not parent.exists():
        parent = parent.parent
    return None if os.access(parent, os.W_OK) else f"{parent} is not writable"
