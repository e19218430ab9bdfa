"""docs/what-a-restore-does.md names every setting by which a restored cluster is kept from acting, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgproof.restore.command_line import forced
from pgproof.restore.isolation import isolation, recovery_defaults
from pgproof.restore.settings import LEAKING
from tests.docs.pages import PROJECT, blocks, table_under
from tests.restore.test_isolation import RAISED

PAGE = PROJECT / "docs" / "what-a-restore-does.md"
BY_HAND = PROJECT / "docs" / "runbooks" / "restore-by-hand.md"
ALWAYS = {*LEAKING, *recovery_defaults(15), *recovery_defaults(18), *RAISED}
ISOLATED = {*isolation(15), *isolation(18)}
STARTED = {*forced(Path("/d"), Path("/d")), "config_file"}


def named(heading: str) -> set[str]:
    """The settings that the rows of a table begin with."""
    return {name for row in table_under(PAGE, heading) for name in re.findall(r"`(\w+)`", row[0])}


@pytest.mark.parametrize(
    ("heading", "settings"),
    [
        ("Of every restore", ALWAYS),
        ("Of an isolated cluster", ISOLATED),
        ("Of every start until it is accepted", STARTED - ISOLATED),
    ],
)
def test_every_setting_is_in_its_table(heading: str, settings: set[str]) -> None:
    assert named(heading) == settings


@pytest.mark.parametrize(
    "heading", ["Of every restore", "Of an isolated cluster", "Of every start until it is accepted"]
)
def test_every_row_names_a_test_that_is_there(heading: str) -> None:
    for row in table_under(PAGE, heading):
        assert (PROJECT / row[-1]).is_file(), row


def test_restoring_by_hand_isolates_as_well() -> None:
    text = "".join(block.text for block in blocks(BY_HAND))
    missing = [
        f"{name} = '{value}'"
        for name, value in {**isolation(15), **recovery_defaults(16)}.items()
        if f"{name} = '{value}'" not in text
    ]
    assert missing == []


def test_a_name_that_a_version_does_not_know_is_not_given_to_it() -> None:
    assert "promote_trigger_file" in recovery_defaults(15)
    assert "promote_trigger_file" not in recovery_defaults(16)
    assert not {"event_triggers", "sync_replication_slots"} & set(isolation(16))
    assert {"event_triggers", "sync_replication_slots"} <= set(isolation(17))
