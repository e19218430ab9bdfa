"""Coverage is whether a comparison looked at enough to prove a backup: comparing nothing proves nothing.

A cluster may have no table at all. Then its catalogs, sequences and roles are all that there is, and a comparison of
those is complete; one that left something out is not.
"""

from __future__ import annotations

from pgproof.validation.catalogs.objects import CLUSTER
from pgproof.validation.comparison import Comparison
from pgproof.validation.fences.fence import OBJECTS, WHOLE_DATABASE, Fence, NotChecked

NOTHING = "nothing was compared"
CATALOG = "catalog "  # how the name of a catalog begins that could not be read


def gap_in(fence: Fence, comparison: Comparison | None) -> str:
    """Why a comparison without a single table proves nothing; empty where it has one, or the source has none.

    Args:
        fence: what the source held.
        comparison: None when none was made.
    """
    if comparison is None:
        return NOTHING
    if comparison.tables:
        return ""
    left_out = [*fence.not_checked, *comparison.not_checked]
    there = {database.database for database in fence.databases if database.listed != 0}
    missed = [item for item in left_out if item.database in there or _stands_for_much(item)]
    if missed:
        more = f" (and {len(missed) - 1} more)" if len(missed) > 1 else ""
        return f"{NOTHING}: {missed[0].database}: {missed[0].what}: {missed[0].reason}{more}"
    looked_at = {kind.database for kind in comparison.objects}
    names = {database.database for database in fence.databases}
    return NOTHING if there or not names or {*names, CLUSTER} - looked_at else ""


def expected_tables(fence: Fence, comparison: Comparison) -> int:
    """How many tables a comparison must have: those that the fence counted, but for those not checked in the copy."""
    counted = {(database.database, table.title) for database in fence.databases for table in database.tables}
    left_out = {(item.database, item.what) for item in comparison.not_checked}
    return sum(
        (database, title) not in left_out and (database, WHOLE_DATABASE) not in left_out
        for database, title in counted
    )


def _stands_for_much(item: NotChecked) -> bool:
    """Whether something that was left out would be missed where no table is compared."""
    return item.what in (WHOLE_DATABASE, OBJECTS) or item.what.startswith(CATALOG)
