"""A name is bytes: PostgreSQL keeps those of databases, roles and tablespaces in whichever encoding they were given.

Here a name is text in UTF-8, and a byte that is none stays as it is (``surrogateescape``), so that the name can be
compared, stored, and given back to the server. What shows it escapes such a byte.
"""

from __future__ import annotations

import json
from typing import Any

from pgproof.visible import on_one_line

_KEEP, _SHOW = "surrogateescape", "backslashreplace"


def name_of(data: bytes) -> str:
    """The text of a name's bytes."""
    return data.decode(errors=_KEEP)


def bytes_of(name: str) -> bytes:
    """The bytes of a name, as the server has them."""
    return name.encode(errors=_KEEP)


def shown(text: str) -> str:
    """A text that holds a name, as UTF-8 can hold it; ``pgproof.visible`` is for what is shown."""
    return text.encode(errors=_SHOW).decode()


def shown_tree(tree: Any) -> Any:
    """A tree of plain values, every text of which is one line that can be shown."""
    if isinstance(tree, str):
        return on_one_line(tree)
    if isinstance(tree, dict):
        return {shown_tree(key): shown_tree(value) for key, value in tree.items()}
    return [shown_tree(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def json_bytes(tree: Any, **options: Any) -> bytes:
    """JSON in UTF-8. A byte that is none becomes an escape of JSON's own, ``\\udce9``, and comes back from it."""
    return json.dumps(tree, ensure_ascii=False, **options).encode(errors=_SHOW)


def in_bytes(column: str) -> str:
    """SQL for a name's bytes, whatever the encodings of session and database: a conversion could fail."""
    return rf"pg_catalog.replace({column}::text, E'\\', E'\\\\')::bytea"
