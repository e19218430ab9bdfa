"""The flow ``restore-cluster``: the plan alone, a restore that starts, and a directory that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.restore_cluster import TargetKind, recovery_target, restore_cluster
from pgproof.backups.record import BackupRecord
from pgproof.errors import InvalidTarget
from tests.flows.runs import run
from tests.servers.postgres import Source

KEY = "pgproof-main-restore"


@pytest.fixture(scope="module")
def backup(shop: Source) -> BackupRecord:
    record = shop.backup()
    shop.sql("INSERT INTO customers VALUES (999, 'after the backup')")
    shop.archive_now()
    return record


def test_a_dry_run_writes_nothing(shop: Source, config: str, backup: BackupRecord) -> None:
    destination = shop.root / "planned"
    done = run(restore_cluster, "main", str(destination), config, dry_run=True)
    assert done.state.result() == []
    assert done.name == f"restore main into {destination}"
    assert done.tasks == ["plan restore"]
    assert not destination.exists()
    text = done.artifact(KEY)
    assert text.startswith(
        f"# Plan of a restore of main: nothing was written\n\n1. backup {backup.label} (full, "
    )
    assert "move pg_control into place, which makes the directory startable" in text
    assert "## Next" not in text


def test_a_restore_starts(shop: Source, config: str, backup: BackupRecord) -> None:
    destination = shop.root / "restored"
    done = run(restore_cluster, "main", str(destination), config)
    assert done.tasks == ["plan restore", "restore files"]
    steps = done.state.result()
    assert steps[0] == f"pgproof start {destination}"
    assert f"pg_ctl -D {destination} -l {destination}.log -o " in steps[-1]
    text = done.artifact(KEY)
    assert text.startswith("# Restore of main\n\n1. backup ")
    assert text.endswith("\n".join(["## Next", "", "```", *steps, "```"]))
    with shop.copy(destination) as connection:
        rows = connection.execute("SELECT name FROM customers WHERE id = 999").fetchall()
    assert rows == [("after the backup",)]


def test_a_target(shop: Source, config: str, backup: BackupRecord) -> None:
    destination = shop.root / "consistent"
    done = run(restore_cluster, "main", str(destination), config, target="immediate", target_action="promote")
    assert done.state.is_completed(), done.message
    with shop.copy(destination) as connection:
        rows = connection.execute("SELECT count(*) FROM customers").fetchall()
    assert rows == [(200,)]


def test_a_directory_in_use_is_refused(shop: Source, config: str, backup: BackupRecord) -> None:
    destination = shop.root / "used"
    destination.mkdir()
    (destination / "precious").write_text("mine")
    done = run(restore_cluster, "main", str(destination), config)
    assert f'DestinationRefused: cannot restore into "{destination}"' in done.message
    assert "it is not empty: it has 1 entries, such as precious. Nothing was written." in done.message
    assert done.attempts == {"plan restore": 1}
    assert [path.name for path in destination.iterdir()] == ["precious"]
    assert not done.artifacts


@pytest.mark.parametrize(
    ("kind", "value", "printed"),
    [
        ("end", None, "the end of the archived WAL"),
        ("end", "", "the end of the archived WAL"),
        ("immediate", None, "the end of the backup"),
        ("time", "2026-11-23 20:15:00+01:00", "time 2026-11-23 19:15:00+00:00"),
        ("lsn", "1/6f0000A8", "lsn 1/6F0000A8"),
        ("xid", "742", "xid 742"),
        ("name", "before_migration", "name before_migration"),
    ],
)
def test_what_the_form_means(kind: TargetKind, value: str | None, printed: str) -> None:
    assert str(recovery_target(kind, value)) == printed


@pytest.mark.parametrize("kind", ["time", "lsn", "xid", "name"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_kind_without_its_value_bad(kind: TargetKind, value: str | None) -> None:
    """Taken for no target, it would recover to the end: over the mistake that somebody wants to undo."""
    with pytest.raises(InvalidTarget) as caught:
        recovery_target(kind, value)
    assert str(caught.value).startswith(f"recovery target {kind} needs a value\nHINT: target_value such as ")


@pytest.mark.parametrize("kind", ["end", "immediate"])
def test_a_value_without_its_kind_bad(kind: TargetKind) -> None:
    with pytest.raises(InvalidTarget) as caught:
        recovery_target(kind, "2026-11-23 20:15:00Z")
    assert str(caught.value) == (
        f'recovery target {kind} takes no value\nDETAIL: Given was "2026-11-23 20:15:00Z".\n'
        "HINT: choose target time, lsn, xid, name, or leave target_value out"
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"target": "time", "target_value": "2026-11-23 20:00"},
            'InvalidTarget: target time "2026-11-23 20:00" has no time zone',
        ),
        (
            {"target": "latest"},
            "target: Input should be 'end', 'time', 'lsn', 'xid', 'name' or 'immediate'",
        ),
        ({"target_value": "0/1"}, "InvalidTarget: recovery target end takes no value"),
        ({"target_action": "explode"}, "target_action: Input should be 'pause', 'promote' or 'shutdown'"),
        ({"backup": "none"}, 'NoBackup: backup "none" does not exist'),
    ],
)
def test_bad_parameters(
    shop: Source, config: str, backup: BackupRecord, parameters: dict[str, str], message: str, tmp_path: Path
) -> None:
    done = run(restore_cluster, "main", str(tmp_path / "new"), config, **parameters)
    assert done.state.is_failed()
    assert message in done.message
    assert not (tmp_path / "new").exists()
