"""Faults of a configuration: what is wrong with each value, and the key that an unknown one may have meant."""

from __future__ import annotations

import difflib
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def told(error: ValidationError, root: type[BaseModel]) -> str:
    """Every fault after its place, in one line; never with the value, which may be a secret.

    Args:
        error: of validating the whole tree.
        root: the model of it.
    """
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc'])}: {message(fault, root)}" for fault in error.errors()
    )


def message(fault: ErrorDetails, root: type[BaseModel]) -> str:
    """What is wrong at one place."""
    return _unknown(fault["loc"], root) if fault["type"] == "extra_forbidden" else fault["msg"]


def _unknown(place: tuple[int | str, ...], root: type[BaseModel]) -> str:
    """What is said of a key that nobody knows."""
    key, section = str(place[-1]), _section(place[:-1], root)
    near = difflib.get_close_matches(key, section.model_fields, n=1)
    if near:
        return f'there is no such key; did you mean "{near[0]}"?'
    inner = {name: _model(field.annotation) for name, field in section.model_fields.items()}
    below = next((name for name, model in inner.items() if model and key in model.model_fields), None)
    return f'there is no such key here; "{below}" has one' if below else "there is no such key"


def _section(place: tuple[int | str, ...], root: type[BaseModel]) -> type[BaseModel]:
    """The model of a section, found by its place in the tree."""
    section, parts = root, iter(place)
    for part in parts:
        annotation = section.model_fields[str(part)].annotation
        if _holds_many(annotation):
            next(parts, None)  # a name or a number, which is no key
        section = _model(annotation) or section
    return section


def _holds_many(annotation: Any) -> bool:
    return get_origin(annotation) in (dict, tuple, list)


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for one in get_args(annotation) if (model := _model(one))), None)
