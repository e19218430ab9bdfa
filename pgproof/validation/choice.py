"""A choice is the backup that a drill proves: one that is named, or one by a policy."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pgproof.backups.catalog import Catalog
from pgproof.repository.repository import Archive

Policy = Literal["newest", "oldest", "random", "least recently proven"]


def choose_label(
    catalog: Catalog,
    policy: Policy,
    drilled: Mapping[str, str],
    pick: Callable[[Sequence[str]], str] = random.choice,
) -> str:
    """The label of the backup to prove.

    Args:
        catalog: of the archive.
        policy: ``least recently proven`` takes the one whose last drill is the longest ago, whatever came of it, and
            first of all one that had none: so every backup has its turn, also behind one that fails each time.
        drilled: label to when its last drill was, as text that sorts.
        pick: one of several, for ``random``.

    Raises:
        NoBackup: there is none.
    """
    newest, labels = catalog.newest.label, [entry.label for entry in catalog.entries]
    if policy == "newest":
        return newest
    if policy == "oldest":
        return labels[0]
    if policy == "random":
        return pick(labels)
    return min(labels, key=lambda label: (drilled.get(label, ""), label))


def last_drills(archive: Archive) -> dict[str, str]:
    """When each backup was last drilled, by the keys of the proofs alone: they begin with a time.

    The proof of another tool's backup has the kind of the tool before the label, so it is of another name.
    """
    found: dict[str, str] = {}
    prefix = archive.layout.proofs
    for info in archive.store.list(prefix):
        time, _, label = info.key.removeprefix(prefix).removesuffix(".json").partition("-")
        if info.key.endswith(".json") and "/" not in label:
            found[label] = max(time, found.get(label, ""))
    return found
