"""The choice of a backup: each policy, and that every backup has its turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pgproof.backups.catalog import BackupEntry, Catalog
from pgproof.validation.choice import Policy, choose_label, last_drills
from tests.validation.values import archive

LABELS = [f"2026010{number}T000000Z-full" for number in range(3)]
RECORDS: list[Any] = [SimpleNamespace(label=label) for label in LABELS]
CATALOG = Catalog(tuple(BackupEntry(record) for record in RECORDS))


@pytest.mark.parametrize(
    ("drilled", "policy", "chosen"),
    [
        ((), "newest", 2),
        ((), "oldest", 0),
        ((), "random", 1),
        ((), "least recently proven", 0),
        ((0,), "least recently proven", 1),
        ((2, 0, 1), "least recently proven", 2),
    ],
)
def test_each_policy(drilled: tuple[int, ...], policy: Policy, chosen: int) -> None:
    times = {LABELS[number]: f"2026020{order}" for order, number in enumerate(drilled)}
    assert choose_label(CATALOG, policy, times, lambda labels: labels[1]) == LABELS[chosen]


def test_every_backup_has_its_turn_whatever_comes_of_the_drills() -> None:
    store = archive("turns")
    turns = []
    for number in range(6):
        label = choose_label(CATALOG, "least recently proven", last_drills(store))
        turns.append(label)
        store.write_json(f"{store.layout.proofs}2026030{number}T000000000000Z-{label}.json", {})
    assert turns == LABELS * 2
