"""What was unexpected, as it is kept: few rows, short values, and none of what is named as a secret is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MOST = 20  # unexpected rows of one expectation
_LONGEST = 200  # characters of one value
_SHOWN = 3  # rows in the one line that the proof record has
_SECRET = re.compile(r"(?i)passw|passphrase|secret|token|api_?key|credential|private_?key|\bpin\b|\bcvv?2?\b")
_HIDDEN = "(not kept)"
_COLUMNS = ("column", "column_A", "column_B", "column_list", "column_set")


def holds_secret(kwargs: Mapping[str, Any]) -> bool:
    """Whether an expectation looks at a column whose name says that it holds secrets."""
    named = [kwargs.get(name) or () for name in _COLUMNS]
    flat = [column for part in named for column in ([part] if isinstance(part, str) else part)]
    return any(_SECRET.search(str(column)) for column in flat)


def bounded(tree: Any) -> Any:
    """A tree of JSON values with short texts, and without values under names of secrets."""
    if isinstance(tree, dict):
        return {
            name: _HIDDEN if _SECRET.search(name) and not isinstance(value, dict | list) else bounded(value)
            for name, value in tree.items()
        }
    if isinstance(tree, list):
        return [bounded(item) for item in tree]
    if isinstance(tree, str) and len(tree) > _LONGEST:
        return f"{tree[:_LONGEST]}... ({len(tree)} characters)"
    return tree


def failure_of(outcome: Any) -> str:
    """Why one expectation was not met; empty when it was. One that raised was not met."""
    config = outcome.expectation_config
    raised = outcome.exception_info or {}
    details = [raised] if "raised_exception" in raised else list(raised.values())
    for detail in details:
        if isinstance(detail, dict) and detail.get("raised_exception"):
            return f"{config.type} raised: {bounded(str(detail.get('exception_message')))}"
    if outcome.success:
        return ""
    kwargs = {k: v for k, v in config.kwargs.items() if k not in ("batch_id", "value_set")}
    result = outcome.to_json_dict().get("result") or {}
    if holds_secret(config.kwargs):
        return f"{config.type} {kwargs} found {result.get('unexpected_count', 'other')} that are not shown"
    rows = result.get("partial_unexpected_index_list") or []  # numbers of rows where no columns name them
    found = rows if rows and isinstance(rows[0], dict) else result.get("partial_unexpected_list") or []
    shown = bounded(found[:_SHOWN]) or result.get("observed_value")
    return f"{config.type} {kwargs} found {shown}"
