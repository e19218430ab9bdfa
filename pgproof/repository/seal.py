"""A seal is the SHA-256 that a JSON record carries of itself, in its last field, so that a flipped digit is noticed.

It covers the bytes before the line of that field, so ``sed '/^  "record_sha256": /,$d' RECORD | sha256sum`` computes
it by hand (docs/repository-format.md). Records of older versions have none and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from math import isfinite
from typing import Any

from pgproof.postgres.names import json_bytes

FIELD = "record_sha256"
_DEEPEST = 64  # levels; ours have seven
_LARGEST = 1 << 64  # of a whole number: LSNs and system identifiers are below it
_LINE = f'  "{FIELD}": "'.encode()
_HASH = re.compile(r"[0-9a-f]{64}")
MEND = (
    f'take the record from another copy of the repository; or look it through, mend it, and remove "{FIELD}" '
    "with the comma before it: a record without it is read as it is"
)


def sealed(content: Any) -> bytes:
    """A record as it is stored: JSON in UTF-8, two spaces of indent; an object gets its seal as its last field.

    Args:
        content: what JSON can hold; other values are stored as their text. A seal that it has is made anew.
    """
    if not isinstance(content, dict):
        return _text({}, content)
    whole = _text({FIELD: "0" * 64}, content)
    head = whole[: whole.rindex(_LINE)]
    return head + _LINE + hashlib.sha256(head).hexdigest().encode() + b'"\n}\n'


def _text(seal: dict[str, str], content: Any) -> bytes:
    tree = {**{name: value for name, value in content.items() if name != FIELD}, **seal} if seal else content
    return json_bytes(tree, indent=2, default=str) + b"\n"


def strict_json(data: bytes) -> Any:
    """JSON of others: RFC 8259 without what a reader may take in several ways, or cannot hold.

    Args:
        data: the stored bytes.

    Raises:
        ValueError: it is not JSON, a name stands twice in an object, a number is no number or beyond 64 bits, or it is
            nested too deeply.
    """
    try:
        tree = json.loads(
            data, object_pairs_hook=_object, parse_int=_whole, parse_float=_real, parse_constant=_real
        )
    except RecursionError as error:
        raise ValueError(f"It is nested more than {_DEEPEST} levels deep") from error
    level: list[Any] = [tree] if isinstance(tree, (dict, list)) else []
    for _ in range(_DEEPEST):
        if not level:
            return tree
        inside = (node.values() if isinstance(node, dict) else node for node in level)
        level = [child for children in inside for child in children if isinstance(child, (dict, list))]
    raise ValueError(f"It is nested more than {_DEEPEST} levels deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'It has "{twice[:60]}" twice')
    return tree


def _whole(text: str) -> int:
    if len(text) > 21 or not -_LARGEST < (number := int(text)) < _LARGEST:
        raise ValueError(f"{text[:30]} is beyond 64 bits")
    return number


def _real(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text[:30]} is no number")
    return number


def unsealed(data: bytes) -> Any:
    """The content of a record, without its seal.

    Args:
        data: the stored bytes.

    Raises:
        ValueError: it is not JSON, or not what was sealed.
    """
    tree = strict_json(data)
    if not isinstance(tree, dict) or not tree:
        return tree
    name, said = next(reversed(tree.items()))
    if FIELD not in tree:
        # no record ends so: the name of the field was altered
        if isinstance(said, str) and _HASH.fullmatch(said):
            raise ValueError(f'Its last field is "{name}" and was "{FIELD}"')
        return tree
    head, _, _ = data.rpartition(_LINE)
    found = hashlib.sha256(head).hexdigest()
    if name != FIELD or said != found:
        raise ValueError(f"It has SHA-256 {found}; it says {tree[FIELD]}")
    del tree[FIELD]
    return tree
