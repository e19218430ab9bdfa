"""The flow ``restore-cluster``: the plan alone, a restore that starts, and a directory that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.restore_cluster import restore_cluster
from pgproof.backups.record import BackupRecord
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
    assert f"pg_ctl -D {destination} -l {destination}.log start" in steps[0]
    text = done.artifact(KEY)
    assert text.startswith("# Restore of main\n\n1. backup ")
    assert text.endswith("\n".join(["## Next", "", "```", *steps, "```"]))
    with shop.copy(destination) as connection:
        rows = connection.execute("SELECT name FROM customers WHERE id = 999").fetchall()
    assert rows == [("after the backup",)]


def test_a_target(shop: Source, config: str, backup: BackupRecord) -> None:
    destination = shop.root / "consistent"
    done = run(
        restore_cluster, "main", str(destination), config, target_immediate=True, target_action="promote"
    )
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
    ("parameters", "message"),
    [
        ({"target_time": "2026-11-23 20:00"}, "InvalidTarget: "),
        ({"target_lsn": "0/1", "target_name": "x"}, "InvalidTarget: "),
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
