"""The flow ``retention-pruning``: the plan is shown first, and a dry run ends there."""

from __future__ import annotations

import re
import time

import pytest

from flows.retention_pruning import retention_pruning
from pgproof.backups.catalog import read_catalog
from pgproof.repository.lease import hold_lease
from tests.flows.runs import run
from tests.servers.postgres import Source

KEY = "pgproof-main-retention"
SHORT = 'retention = { daily = 0, weekly = 0, monthly = 0, wal_window = "0s", approve_above = 1 }'


@pytest.fixture
def labels(shop: Source) -> list[str]:
    """Five backups, none proven: the policy below would keep one, and without a proof three stay."""
    shop.write_config(cluster=SHORT)
    made: list[str] = []
    while len(made) < 5:
        made.append(shop.backup().label)
        time.sleep(1)  # a label has seconds
    return made


def test_dry_run_and_run(shop: Source, labels: list[str]) -> None:
    config = str(shop.config_path)
    plan = run(retention_pruning, "main", config, dry_run=True)

    assert plan.name == "retention pruning of main"
    assert plan.tasks == ["plan retention"]
    removed = plan.state.result()["planned"]
    assert plan.state.result() == {"planned": removed, "removed": [], "approval": ""}
    assert removed and set(removed) < set(labels)
    assert [entry.label for entry in read_catalog(shop.archive).entries] == labels  # nothing is gone
    text = plan.artifact(KEY)
    assert text.startswith("# Retention of main\n\n| what | verdict | why |\n")
    for label in labels:
        verdict = "expire" if label in removed else "keep"
        assert re.search(rf"\| backup {label}<br>full, complete, [0-9.]+ MB \| {verdict} \| ", text)
    assert text.count("| warning | ") == 1
    assert "; " not in text  # one reason a line
    kept = len(labels) - len(removed)
    assert plan.artifacts[KEY]["description"].startswith(
        f"Retention of main: keeps {kept} of 5 backups, frees "
    )

    archive = shop.archive
    with hold_lease(archive.store, archive.layout.lease, "a base backup"):
        refused = run(retention_pruning, "main", config)
    assert "LeaseHeld: could not take the lease" in refused.message
    assert refused.attempts == {"plan retention": 1, "expire": 4}
    assert [entry.label for entry in read_catalog(shop.archive).entries] == labels

    done = run(retention_pruning, "main", config)

    assert done.tasks == ["plan retention", "expire"]
    assert done.state.result() == {"planned": removed, "removed": removed, "approval": ""}
    assert done.artifact(KEY).splitlines()[:-1] == text.splitlines()[:-1]  # what the dry run said
    left = [entry.label for entry in read_catalog(shop.archive).entries]
    assert left == [label for label in labels if label not in removed]


def test_more_than_usual_is_not_removed_where_nobody_can_be_asked(shop: Source, labels: list[str]) -> None:
    shop.write_config(cluster=SHORT.replace("above = 1", "above = 0"))

    done = run(retention_pruning, "main", str(shop.config_path))

    assert 'ApprovalMissing: cannot expire backups of cluster "main" without an approval' in done.message
    assert done.attempts == {"plan retention": 1, "expire": 1}  # trying again cannot help
    assert done.artifact(KEY).splitlines()[2].startswith("**Waits for an approval.** It removes ")
    assert set(labels) <= {entry.label for entry in read_catalog(shop.archive).entries}
