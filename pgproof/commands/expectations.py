"""``expectations``: make the cluster's suite once; show how the user's file differs from what would be made now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgproof.commands.console import Console, Session
from pgproof.validation.expectations.suite import (
    Changes,
    Expected,
    as_suite,
    changes,
    comparison_expectations,
    configured,
    read_suite,
    was_changed,
    write_suite,
)
from pgproof.validation.expectations.suite_tables import table_expectations
from pgproof.wording import counted


def expectations(session: Session, name: str, wanted: Sequence[str], write: bool) -> int:
    """Show what a suite would hold, or write it; a file that its user changed is never written."""
    cluster = session.cluster(name)
    path = session.config.suite_of(cluster)
    generated = [*comparison_expectations(), *configured(cluster), *table_expectations(cluster, wanted)]
    file = read_suite(path)
    found = changes(file or (), generated)
    own = file is not None and was_changed(path)
    written = write and not own and bool(found)
    if written:
        write_suite(path, as_suite(name, generated))
    content = {
        "path": str(path),
        "exists": file is not None or written,
        "changed_by_user": own,
        "written": written,
        "missing": [str(expected) for expected in found.missing],
        "own": [str(expected) for expected in found.own],
    }
    session.show(content, lambda console: _render(console, content, generated, found))
    return 1 if write and own and found else 0


def _render(console: Console, content: dict[str, Any], generated: Sequence[Expected], found: Changes) -> None:
    path = content["path"]
    if content["written"]:
        console.print(f"wrote {path}: {counted(len(generated), 'expectation')}")
        return
    if not content["exists"]:
        console.print(f"{path} does not exist; --write would write:")
    elif not found:
        console.print(f"{path} holds what would be generated now")
    elif content["changed_by_user"]:
        console.print(f"{path} was changed by its user and stays as it is")
    else:
        console.print(f"{path} is as it was generated; --write would write it anew")
    for expected in found.missing:
        console.print(f"  not in the file: {expected}")
    for expected in found.own:
        console.print(f"  only in the file: {expected}")
