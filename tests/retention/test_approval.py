"""The share above which somebody must agree to an expire, and to which backups."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from datetime import timedelta

import pytest

from pgproof.backups.catalog import read_catalog
from pgproof.config import RetentionConfig
from pgproof.errors import ApprovalMissing
from pgproof.retention.approval import Removal, needs_approval, refuse_unapproved
from pgproof.retention.plan import ExpirePlan, plan_expire
from tests.drills.damage import answer
from tests.retention import archives
from tests.retention.archives import NOON, entry
from tests.servers.postgres import PGPROOF, PROJECT, Source

NEWEST_ONLY = 'retention = { daily = 0, weekly = 0, monthly = 0, wal_window = "0s" }'


def plan(count: int, kept: int) -> ExpirePlan:
    """A plan that keeps so many of so many backups, all of one size."""
    entries = [
        entry(f"{n:02}-full", NOON - timedelta(days=count - n), n + 5, proven=True) for n in range(count)
    ]
    return plan_expire(archives.facts(entries, daily=kept))


@pytest.mark.parametrize(
    ("count", "kept", "above", "needed"),
    [
        (4, 2, 0.5, False),
        (4, 1, 0.5, True),
        (4, 1, 0.75, False),
        (4, 1, 1, False),
        (4, 3, 0, True),
        (4, 4, 0, False),
    ],
)
def test_when_somebody_must_agree(count: int, kept: int, above: float, needed: bool) -> None:
    made = plan(count, kept)
    assert len(made.kept) == kept
    assert needs_approval(made, RetentionConfig(approve_above=above)) is needed


def test_a_plan_without_backups_needs_none() -> None:
    assert not needs_approval(plan_expire(archives.facts([])), RetentionConfig(approve_above=0))


def test_a_few_large_backups_count_by_their_bytes() -> None:
    assert Removal(1, 10, 900, 1000).share == 0.9
    assert Removal(9, 10, 100, 1000).share == 0.9
    assert str(Removal(1, 10, 900, 1000)) == "1 of 10 backups, 900 of their 1,000 bytes: 90%"


def test_an_approval_is_of_these_backups() -> None:
    made, policy = plan(4, 1), RetentionConfig()
    refuse_unapproved("shop", made, policy, made.remove_backups)
    refuse_unapproved("shop", made, policy, (*made.remove_backups, "another"))
    with pytest.raises(ApprovalMissing) as caught:
        refuse_unapproved("shop", made, policy, made.remove_backups[1:])
    assert f"Nobody agreed to remove {made.remove_backups[0]}." in caught.value.detail


def test_a_typing_error_in_the_window_asks_although_every_backup_stays() -> None:
    """7min for 7d: the backups have their slots, and only WAL goes."""
    entries = [entry(f"{n:02}-full", NOON - timedelta(days=8 - n), 10 * n + 5, proven=True) for n in range(9)]
    objects = archives.wal(1, range(1, 90))
    usual = plan_expire(archives.facts(entries, objects, daily=9, wal_window=7 * 86400))
    assert not needs_approval(usual, RetentionConfig())
    assert (usual.cut_off, len(usual.reaching)) == (("00-full",), 9)
    wrong = plan_expire(archives.facts(entries, objects, daily=9, wal_window=7 * 60))
    assert wrong.remove_backups == ()
    assert str(Removal.of(wrong)) == (
        "0 of 9 backups, 0 of their 990 bytes, the WAL after 7 of 9 backups: 78%"
    )
    with pytest.raises(ApprovalMissing) as caught:
        refuse_unapproved("shop", wrong, RetentionConfig(), wrong.remove_backups)
    assert "and above 50% somebody must agree" in caught.value.detail
    refuse_unapproved("shop", wrong, RetentionConfig(), wrong.to_agree)


def test_the_command(source: Source) -> None:
    """Not without a person or --yes; and what a person at a terminal answers counts."""

    labels = []
    for _ in range(4):
        labels.append(source.backup().label)
        time.sleep(1)  # a label has seconds
    source.write_config(cluster=NEWEST_ONLY.replace("}", ", approve_above = 0.2 }"))

    code, out, err = answer(source, "expire", "main")

    sizes = [entry.record.stored_size for entry in read_catalog(source.archive).entries]
    gone = sum(sizes[:2])
    assert err == (
        'pgproof: cannot expire backups of cluster "main" without an approval\n'
        f"DETAIL: The plan removes 2 of 4 backups, {gone:,} of their {sum(sizes):,} bytes, the WAL after 2 of 4 "
        f"backups: {gone / sum(sizes):.0%}, and above 20% somebody must agree (retention.approve_above). "
        "Nothing was removed.\n"
        "HINT: pgproof expire main --dry-run shows the plan; pgproof expire main --yes carries it out\n"
    )
    assert (code, out) == (48, "")
    assert answer(source, "expire", "main", "--dry-run")[0] == 0

    said = at_a_terminal(source, "no")
    assert "Remove them? yes or no:" in said and "without an approval" in said
    assert [e.label for e in read_catalog(source.archive).entries] == labels
    assert "removed 2 backups" in at_a_terminal(source, "yes")
    assert [e.label for e in read_catalog(source.archive).entries] == labels[2:]

    labels.append(source.backup().label)
    code, out, err = answer(source, "expire", "main", "--yes", "--json")
    assert (code, err) == (0, "")
    assert '"approved_by": "' in out
    assert [e.label for e in read_catalog(source.archive).entries] == labels[3:]


def at_a_terminal(source: Source, reply: str) -> str:
    """What the command says to somebody who types this."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PGPROOF, "--config", str(source.config_path), "expire", "main"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "140", "TERM": "dumb"},
    ):
        os.close(theirs)
        os.write(ours, f"{reply}\n".encode())
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # its end of the terminal is closed
            pass
    os.close(ours)
    return said.decode()
