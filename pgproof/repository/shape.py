"""The shape of a record: the types of its fields, which the values of a stored one must have.

A record without a seal is read as it is (``pgproof.repository.seal``), and nothing after its reading looks at types
again: one that was altered must be refused as itself, and not end what is done with all the others.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from types import GenericAlias
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")
_FIRST, _LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
_STRICT = ConfigDict(
    strict=True, arbitrary_types_allowed=True, revalidate_instances="always", allow_inf_nan=False
)
_SHOWN = 3  # faults


def shaped(record: T) -> T:
    """A record, when each of its values has the type of its field, down to the last one.

    Args:
        record: a dataclass.

    Raises:
        ValueError: with the places that have another type, never with their values.
    """
    kind: Any = type(record)
    try:
        _adapter(kind).validate_python((record,))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        told = [f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in faults[:_SHOWN]]
        more = [f"{len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise ValueError("; ".join(told + more)) from None
    return record


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    one: Any = GenericAlias(tuple, (kind,))  # a dataclass alone takes no configuration
    return TypeAdapter(one, config=_STRICT)


def moment(text: Any) -> datetime:
    """A time of a record, aware; every time that may be compared, or shown in any zone.

    Args:
        text: ISO 8601 with its offset from UTC.

    Raises:
        TypeError, ValueError: it is none.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text} has no offset from UTC")
    if not _FIRST < found < _LAST:
        raise ValueError(f"{text} is no time of a record")
    return found
